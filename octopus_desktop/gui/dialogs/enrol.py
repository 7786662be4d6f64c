"""The dialog that enrols this silo: paste or open an invitation, compare the CA's fingerprint, choose a name, enrol."""

from __future__ import annotations

import re
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import QCheckBox, QFileDialog, QHBoxLayout, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog, Problem
from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, Facts, button, label
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

INVITATION_MOST_BYTES = 64 << 10


class InvitationBox(QWidget):
    """A place for the invitation and the view of what it says; used by the dialog and by the wizard.

    Signals: ``changed()`` when ``view`` (InvitationView or None) or ``is_compared`` may be another.
    """

    changed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.view: pb.InvitationView | None = None
        theme: Theme = context.theme
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        self.text = QPlainTextEdit()
        self.text.setPlaceholderText(self.tr("Paste the invitation or an octopus:// link here"))
        self.text.setAccessibleName(self.tr("Invitation"))
        self.text.setFixedHeight(88)
        self.text.setFont(theme.font("body", monospace=True))
        self.text.setTabChangesFocus(True)
        column.addWidget(self.text)
        row = QHBoxLayout()
        self._read = button(theme, self.tr("Read it"), self.inspect)
        row.addWidget(self._read)
        row.addWidget(button(theme, self.tr("Open a file…"), self._on_pick, icon="folder"))
        row.addStretch(1)
        column.addLayout(row)
        self.problem = Problem()
        column.addWidget(self.problem)
        self._card = Card(self.tr("What it says"))
        self._facts = Facts(name_width=144)
        self._card.body.addWidget(self._facts)
        self._fingerprint = label("", "heading", selectable=True)
        self._fingerprint.setFont(theme.font("heading", monospace=True, bold=True))
        self._card.body.addWidget(
            label(
                self.tr(
                    "Compare this fingerprint with the coordinator by telephone. If it "
                    "differs, somebody else wrote the "
                    "invitation: do not enrol."
                ),
                "muted",
                wrap=True,
            )
        )
        self._card.body.addWidget(self._fingerprint)
        self.compared = QCheckBox(self.tr("I have compared the fingerprint, and it is the same"))
        self.compared.toggled.connect(lambda _on: self.changed.emit())
        self._card.body.addWidget(self.compared)
        self._card.hide()
        column.addWidget(self._card)
        self.text.textChanged.connect(self._on_edited)

    @property
    def is_compared(self) -> bool:
        return self.view is not None and self.compared.isChecked()

    def invitation(self) -> str:
        return self.text.toPlainText().strip()

    def set_invitation(self, text: str) -> None:
        self.text.setPlainText(text)
        self.inspect()

    def inspect(self) -> None:
        """Ask the daemon what the invitation says. Nothing is sent to the federation."""
        self.problem.tell(None)
        request = pb.InspectRequest(text=self.invitation())
        self._context.client.call("Federations.Inspect", request, self._on_view, self._on_unreadable, owner=self)

    def _on_view(self, view: pb.InvitationView) -> None:
        self.view = view
        self._facts.set_facts(
            [
                (self.tr("Federation"), view.federation),
                (self.tr("Server"), view.server),
                (self.tr("For"), {"silo": self.tr("a silo"), "author": self.tr("an author")}.get(view.role, view.role)),
                (self.tr("Valid"), f"{formats.instant(view.expires_at)} ({formats.until(view.expires_at)})"),
            ]
        )
        self._fingerprint.setText(view.ca_fingerprint)
        self.compared.setChecked(False)
        self._card.show()
        self.changed.emit()

    def _on_unreadable(self, error: UserError) -> None:
        self.view = None
        self._card.hide()
        self.problem.tell(error)
        self.changed.emit()

    def _on_edited(self) -> None:
        if self.view is not None:
            self.view = None
            self._card.hide()
            self.changed.emit()

    def _on_pick(self) -> None:
        chooser = QFileDialog(self, self.tr("Open an invitation"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(self.open_file)
        chooser.open()

    def open_file(self, path: str) -> None:
        """Take the invitation out of a file."""
        try:
            if Path(path).stat().st_size > INVITATION_MOST_BYTES:
                raise ValueError(self.tr("The file is too large for an invitation."))
            self.set_invitation(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            self._on_unreadable(
                UserError(
                    "OCT-ENROL-INVALID",
                    self.tr("The file {0} cannot be read as an invitation.").format(path),
                    str(error),
                    self.tr("Open the file that the coordinator sent."),
                )
            )


class EnrolDialog(FormDialog):
    """``invitation``: already known, from a link."""

    def __init__(self, context: Context, parent: QWidget, invitation: str = "") -> None:
        super().__init__(
            context.theme,
            parent,
            parent.tr("Enrol in a federation"),
            parent.tr(
                "The coordinator of a federation sends you an invitation. It works once. This "
                "silo makes its own key, which "
                "never leaves it, and gets a certificate for it."
            ),
            parent.tr("Enrol"),
        )
        self._context = context
        self.setMinimumWidth(640)
        self.box = InvitationBox(context)
        self.body.insertWidget(0, self.box)
        self.name = QLineEdit(silo_name(context.store.daemon.organisation))
        self.contact = QLineEdit()
        self.contact.setPlaceholderText(self.tr("How the coordinator reaches you (optional)"))
        self.form.addRow(self.tr("&Name of this silo"), self.name)
        self.form.addRow(self.tr("&Contact"), self.contact)
        self.box.changed.connect(self._on_view)
        self.name.textChanged.connect(lambda _text: self._update())
        self._update()
        if invitation:
            self.box.set_invitation(invitation)

    def _on_view(self) -> None:
        self._update()
        self.fit()

    def _update(self) -> None:
        self.act.setEnabled(self.box.is_compared and bool(self.name.text().strip()))

    def _on_act(self) -> None:
        self.problem.tell(None)
        self.set_busy(self.tr("Enrolling…"))
        request = pb.EnrolLocalRequest(
            text=self.box.invitation(), name=self.name.text().strip(), contact=self.contact.text().strip()
        )
        self._context.client.call("Federations.Enrol", request, self._on_enrolled, self.tell, owner=self)

    def _on_enrolled(self, federation: pb.Federation) -> None:
        self._context.toast("ok", self.tr("Enrolled in {0} as {1}").format(federation.name, federation.silo_name))
        self.accept()


def silo_name(organisation: str) -> str:
    """A name as federations want it: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", organisation.lower()).strip("-")
