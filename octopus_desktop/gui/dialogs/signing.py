"""From what the administrator chose to a signed decision. The key store is opened off the GUI thread; a passphrase is
asked for only when the store is a file that one seals, and is kept no longer than it takes to open it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import QDialog, QDialogButtonBox, QLabel, QLineEdit, QVBoxLayout, QWidget

from octopus_desktop.gui.dialogs.background import run_task
from octopus_desktop.gui.theme import set_role
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Decision
from octopus_desktop.wire.pb.local_pb2 import SiloOffer


def make_statement(
    offer: SiloOffer,
    verdict: str,
    who: str,
    *,
    reason: str = "",
    conditions: Conditions | None = None,
    data_scope: dict[str, str] | None = None,
) -> Statement:
    """What will be signed. ``verdict``: approved | rejected | changes_requested | revoked; ``data_scope``: the job's
    alias to the content digest of the dataset that serves it."""
    return Statement(
        run_id=offer.id,
        verdict=verdict,
        package_digest=offer.offer.package.digest,
        config_digest=offer.offer.config_digest,
        data_scope=data_scope or {},
        conditions=conditions or Conditions(),
        reason=reason,
        decided_by=who,
        decided_at=time.time(),
    )


def sign(home: Path, statement: Statement, passphrase: str | None = None) -> Decision:
    """The decision that the daemon takes, signed by the approver's own key. Slow (scrypt, the OS keyring): not for the
    GUI thread. Raises OCT-SECRET-PASSPHRASE and OCT-SECRET-STORE as ``identity.secrets`` does."""
    from octopus_desktop.identity.secrets import approver_key, open_store

    store = open_store(silo_home(home).secrets, passphrase=passphrase)
    key = approver_key(store, statement.decided_by)
    raw = statement.to_bytes()
    return Decision(
        verdict=statement.verdict.upper(),
        reason=statement.reason,
        statement=raw,
        signature=key.sign(raw),
        approver_key=key.public,
        decided_by=statement.decided_by,
        decided_at=statement.decided_at,
    )


def sign_with_prompt(
    parent: QWidget,
    home: Path,
    statement: Statement,
    then: Callable[[Decision], None],
    failed: Callable[[UserError], None],
    given_up: Callable[[], None],
) -> None:
    """Sign off the GUI thread, asking for the passphrase when the store wants one, again while it is wrong."""

    def start(passphrase: str | None) -> None:
        run_task(
            lambda: sign(home, statement, passphrase), then, lambda error: on_failed(error, passphrase), owner=parent
        )

    def on_failed(error: UserError, tried: str | None) -> None:
        if error.code != "OCT-SECRET-PASSPHRASE":
            failed(error)
            return
        dialog = PassphraseDialog(parent, error.what if tried else "")
        dialog.accepted.connect(lambda: start(dialog.take()))
        dialog.rejected.connect(given_up)
        dialog.open()

    start(None)


class PassphraseDialog(QDialog):
    """Asks for the key store's passphrase. ``problem``: why the last one was not accepted, "" at the first asking."""

    def __init__(self, parent: QWidget, problem: str = "") -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        tr = QCoreApplication.translate
        self.setWindowTitle(tr("signing", "Open your key"))
        self.setMinimumWidth(440)
        heading = QLabel(tr("signing", "Passphrase of your key store"))
        set_role(heading, type="heading")
        text = QLabel(
            tr("signing", "Your signing key lies in a file that a passphrase seals. It is used for this one decision."),
            wordWrap=True,
        )
        set_role(text, type="muted")
        self.field = QLineEdit(echoMode=QLineEdit.EchoMode.Password)
        self.field.setAccessibleName(tr("signing", "Passphrase"))
        self._problem = QLabel(problem, wordWrap=True, visible=bool(problem))
        set_role(self._problem, tone="danger")
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self._open = buttons.addButton(tr("signing", "Open and sign"), QDialogButtonBox.ButtonRole.AcceptRole)
        set_role(self._open, kind="primary")
        self._open.setEnabled(False)
        self.field.textChanged.connect(lambda value: self._open.setEnabled(bool(value)))
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(24, 24, 24, 16)
        layout.setSpacing(12)
        for widget in (heading, text, self.field, self._problem, buttons):
            layout.addWidget(widget)
        self.field.setFocus()

    def take(self) -> str:
        """The passphrase, once; the field is emptied."""
        value = self.field.text()
        self.field.clear()
        return value
