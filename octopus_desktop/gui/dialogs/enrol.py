"""The dialog that enrols this silo: paste or open an invitation, compare the CA's fingerprint, choose a name and a way
(directly, through a proxy, or by files where there is no route), enrol."""

from __future__ import annotations

import json
import re
from pathlib import Path

from PySide6.QtCore import Qt, Signal
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFileDialog,
    QHBoxLayout,
    QLineEdit,
    QPlainTextEdit,
    QSizePolicy,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog, Problem
from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, Facts, button, label
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

INVITATION_MOST_BYTES = 64 << 10
ANSWER_MOST_BYTES = 1 << 20


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
        self.text.setFixedHeight(56)
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
    """``invitation``: already known, from a link.

    Attributes: ``way`` (one of WAYS, as a combo box), ``proxy``, ``user``, ``password``: for the way through a proxy;
    ``answer``: the button that takes the coordinator's answer file.
    """

    WAYS = ("direct", "proxy", "files")

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
        self.way = QComboBox()
        self.way.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        for text in (
            self.tr("Directly"),
            self.tr("Through an HTTP proxy"),
            self.tr("Not at all from here: by a request file and its answer"),
        ):
            self.way.addItem(text)
        self.proxy, self.user, self.password = QLineEdit(), QLineEdit(), QLineEdit()
        self.proxy.setPlaceholderText("http://proxy.example.org:3128")
        self.user.setPlaceholderText(self.tr("User, where it wants a login"))
        self.password.setPlaceholderText(self.tr("Password"))
        self.user.setAccessibleName(self.tr("User at the proxy"))
        self.password.setAccessibleName(self.tr("Password at the proxy"))
        self.password.setEchoMode(QLineEdit.EchoMode.Password)
        self.form.addRow(self.tr("&Name of this silo"), self.name)
        self.form.addRow(self.tr("&Contact"), self.contact)
        self.form.addRow(self.tr("&Server is reached"), self.way)
        self.form.addRow(self.tr("&Proxy"), self.proxy)
        self._login = QWidget()
        login = QHBoxLayout(self._login)
        login.setContentsMargins(0, 0, 0, 0)
        login.addWidget(self.user, 1)
        login.addWidget(self.password, 1)
        self.form.addRow(self.tr("&Login"), self._login)
        self._files = QWidget()
        files = QHBoxLayout(self._files)
        files.setContentsMargins(0, 0, 0, 0)
        files.setSpacing(2 * GRID)
        words = self.tr(
            "The request is a file for the coordinator; it holds no secret. Their answer is a file too. Control then "
            "goes by a broker that the federation offers."
        )
        files.addWidget(label(words, "muted", wrap=True), 1)
        self.answer = button(self.theme, self.tr("Open the answer…"), self._on_answer, icon="folder")
        files.addWidget(self.answer)
        self.body.addWidget(self._files)
        self.box.changed.connect(self._on_view)
        self.name.textChanged.connect(lambda _text: self._update())
        self.proxy.textChanged.connect(lambda _text: self._update())
        self.way.currentIndexChanged.connect(lambda _index: self._on_way())
        self._on_way()
        if invitation:
            self.box.set_invitation(invitation)

    @property
    def chosen_way(self) -> str:
        return self.WAYS[self.way.currentIndex()]

    def _on_way(self) -> None:
        for field in (self.proxy, self._login):
            self.form.setRowVisible(field, self.chosen_way == "proxy")
        self._files.setVisible(self.chosen_way == "files")
        self.act.setText(self.tr("Write the request…") if self.chosen_way == "files" else self.tr("Enrol"))
        self._update()
        self.fit()

    def _on_view(self) -> None:
        self._update()
        self.fit()

    def _update(self) -> None:
        ready = self.box.is_compared and bool(self.name.text().strip())
        self.act.setEnabled(ready and (self.chosen_way != "proxy" or bool(self.proxy.text().strip())))

    def request(self) -> pb.EnrolLocalRequest:
        """What is asked of the daemon, as the form stands."""
        made = pb.EnrolLocalRequest(
            text=self.box.invitation(), name=self.name.text().strip(), contact=self.contact.text().strip()
        )
        if self.chosen_way == "proxy":
            own = {"proxy": self.proxy.text().strip(), "username": self.user.text().strip()}
            made.own_json, made.secret = json.dumps(own), self.password.text().encode()
        return made

    def _on_act(self) -> None:
        self.problem.tell(None)
        client = self._context.client
        if self.chosen_way == "files":
            self.set_busy(self.tr("Making the request…"))
            client.call("Federations.EnrolRequestFile", self.request(), self._on_request, self.tell, owner=self)
            return
        self.set_busy(self.tr("Enrolling…"))
        client.call("Federations.Enrol", self.request(), self._on_enrolled, self.tell, owner=self)

    def _on_request(self, reply: pb.FileReply) -> None:
        self.set_busy("")
        chooser = QFileDialog(self, self.tr("Write the request"), reply.name)
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        chooser.fileSelected.connect(lambda path: self.write_request(path, reply.file))
        chooser.open()

    def write_request(self, path: str, content: bytes) -> None:
        """Put the request into a file."""
        try:
            Path(path).write_bytes(content)
        except OSError as error:
            self.tell(
                _unusable(self.tr("The file {0} cannot be written.").format(path), error, self.tr("Choose another."))
            )
            return
        self._context.toast("ok", self.tr("{0} is written: send it to the coordinator").format(Path(path).name))

    def _on_answer(self) -> None:
        chooser = QFileDialog(self, self.tr("Open the coordinator's answer"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setFileMode(QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(self.take_answer)
        chooser.open()

    def take_answer(self, path: str) -> None:
        """Enrol by the coordinator's answer."""
        self.problem.tell(None)
        try:
            if Path(path).stat().st_size > ANSWER_MOST_BYTES:
                raise ValueError(self.tr("It is too large for an answer."))
            content = Path(path).read_bytes()
        except (OSError, ValueError) as error:
            words = self.tr("The file {0} cannot be read as an answer.").format(path)
            self.tell(_unusable(words, error, self.tr("Open the file that the coordinator sent.")))
            return
        self.set_busy(self.tr("Enrolling…"))
        request = pb.EnrolFileLocalRequest(file=content)
        self._context.client.call("Federations.EnrolFile", request, self._on_enrolled, self.tell, owner=self)

    def _on_enrolled(self, federation: pb.Federation) -> None:
        self._context.toast("ok", self.tr("Enrolled in {0} as {1}").format(federation.name, federation.silo_name))
        self.accept()


def _unusable(what: str, error: Exception, next_step: str) -> UserError:
    return UserError("OCT-ENROL-INVALID", what, str(error), next_step)


def silo_name(organisation: str) -> str:
    """A name as federations want it: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", organisation.lower()).strip("-")
