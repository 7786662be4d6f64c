"""Use of the approver's own key: opened off the GUI thread, with a passphrase asked for where one seals it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from PySide6.QtWidgets import QWidget

from octopus_desktop.gui.dialogs.background import run_task
from octopus_desktop.gui.dialogs.signing import PassphraseDialog
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.identity.keys import SigningKey

T = TypeVar("T")


def use_key(
    parent: QWidget,
    home: Path,
    name: str,
    use: Callable[[SigningKey], T],
    then: Callable[[T], None],
    failed: Callable[[UserError], None],
    given_up: Callable[[], None] = lambda: None,
    passphrase: str | None = None,
) -> None:
    """Open the key of the approver ``name`` (made when there is none), let ``use`` work with it, hand its result on.

    ``use`` runs on a pool thread; the callbacks on the GUI thread. A wrong or missing passphrase is asked for again.
    """

    def work(given: str | None) -> T:
        from octopus_desktop.identity.secrets import approver_key, open_store

        return use(approver_key(open_store(silo_home(home).secrets, passphrase=given), name))

    def start(given: str | None) -> None:
        run_task(lambda: work(given), then, lambda error: on_failed(error, given), owner=parent)

    def on_failed(error: UserError, tried: str | None) -> None:
        if error.code != "OCT-SECRET-PASSPHRASE":
            failed(error)
            return
        dialog = PassphraseDialog(parent, error.what if tried else "")
        dialog.accepted.connect(lambda: start(dialog.take()))
        dialog.rejected.connect(given_up)
        dialog.open()

    start(passphrase)
