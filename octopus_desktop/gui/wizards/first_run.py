"""The first run: set up this silo step by step, or try a demo federation on this machine.

Every step but the first may be left for later; the pages offer the same again. Knows the dialogs' parts, no page.
"""

from __future__ import annotations

import getpass
import platform

from PySide6.QtCore import Qt
from PySide6.QtGui import QCloseEvent
from PySide6.QtWidgets import QDialog, QFormLayout, QHBoxLayout, QLabel, QLineEdit, QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.daemon_starter import restart_daemon
from octopus_desktop.gui.dialogs.background import run_task
from octopus_desktop.gui.dialogs.enrol import InvitationBox, silo_name
from octopus_desktop.gui.dialogs.form import Problem
from octopus_desktop.gui.dialogs.keys import use_key
from octopus_desktop.gui.dialogs.register_dataset import RegisterDataset
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, button, clear, label, scroll
from octopus_desktop.gui.wizards.demo import DemoStarter
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

PASSPHRASE_LEAST = 8
STEPS = ("welcome", "organisation", "federation", "node", "dataset", "done")


class FirstRun(QDialog):
    """Attributes: ``step`` (the key of the step that is seen), ``next`` and ``skip`` (the buttons)."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._context = context
        self.setWindowTitle(self.tr("Set up this silo"))
        self.setWindowModality(Qt.WindowModality.WindowModal)
        self.resize(760, 600)
        theme, tr = context.theme, self.tr
        column = QVBoxLayout(self)
        column.setContentsMargins(4 * GRID, 3 * GRID, 4 * GRID, 2 * GRID)
        column.setSpacing(2 * GRID)
        self._trail = label("", "caption")
        column.addWidget(self._trail)
        self._stack = QStackedWidget()
        column.addWidget(self._stack, 1)
        self.problem = Problem()
        column.addWidget(self.problem)
        row = QHBoxLayout()
        row.setSpacing(GRID)
        self.back = button(theme, tr("Back"), self._on_back, kind="quiet")
        self._status = label("", "muted")
        self.skip = button(theme, tr("Later"), self._on_skip)
        self.next = button(theme, tr("Continue"), self._on_next, kind="primary")
        self.next.setDefault(True)
        row.addWidget(self.back)
        row.addWidget(self._status, 1)
        row.addWidget(self.skip)
        row.addWidget(self.next)
        column.addLayout(row)
        self.step = ""
        for build in (
            self._welcome,
            self._organisation,
            self._federation,
            self._node,
            self._dataset,
            self._done,
        ):
            self._stack.addWidget(build())
        self._demo = DemoStarter(self)
        self._demo.said.connect(self._status.setText)
        self._demo.ready.connect(self._on_demo_ready)
        self._demo.failed.connect(self._tell)
        self._show("organisation" if context.store.daemon.configured else "welcome")

    # Steps

    def _welcome(self) -> QWidget:
        tr = self.tr
        page, column = _page(tr("Welcome to Octopus Desktop"))
        column.addWidget(
            label(
                tr(
                    "Here your organisation takes part in federated learning: models travel to "
                    "your data and train here; the "
                    "data stays. You see each job before it may run, and everything that leaves."
                ),
                "muted",
                wrap=True,
            )
        )
        column.addSpacing(GRID)
        self.set_up = self._door(
            column,
            "home",
            tr("Set up this silo"),
            tr("Your organisation, your key, an invitation, this machine and a first dataset. About five minutes."),
            tr("Set up"),
            lambda: self._show("organisation"),
            True,
        )
        self.try_demo = self._door(
            column,
            "demo",
            tr("Try a demo federation on this machine"),
            tr(
                "A local server and four hospitals with public data, so that everything can "
                "be seen before anyone is asked."
            ),
            tr("Start the demo"),
            self._on_demo,
            False,
        )
        column.addStretch(1)
        return page

    def _organisation(self) -> QWidget:
        tr, daemon = self.tr, self._context.store.daemon
        page, column = _page(tr("Who are you?"))
        column.addWidget(
            label(
                tr(
                    "Other members of a federation see the organisation's name; your own name "
                    "stands in each decision. A key is "
                    "made for you now: what you approve is signed with it, and it never leaves this machine."
                ),
                "muted",
                wrap=True,
            )
        )
        form = QFormLayout()
        form.setHorizontalSpacing(2 * GRID)
        form.setVerticalSpacing(GRID)
        self.organisation = QLineEdit(daemon.organisation)
        self.organisation.setPlaceholderText(tr("Cleveland Clinic"))
        self.administrator = QLineEdit(daemon.administrator or getpass.getuser())
        self.secrets = label("", wrap=True)
        form.addRow(tr("&Organisation"), self.organisation)
        form.addRow(tr("&Administrator"), self.administrator)
        form.addRow(tr("Your key is kept in"), self.secrets)
        self.passphrase, self.again = QLineEdit(), QLineEdit()
        for text, field in ((tr("&Passphrase"), self.passphrase), (tr("Passphrase &again"), self.again)):
            field.setEchoMode(QLineEdit.EchoMode.Password)
            form.addRow(text, field)
        self._form = form
        column.addLayout(form)
        column.addStretch(1)
        for line in (self.organisation, self.administrator, self.passphrase, self.again):
            line.textChanged.connect(lambda _text: self._update())
        return page

    def _federation(self) -> QWidget:
        page, column = _page(self.tr("Join a federation"))
        self.box = InvitationBox(self._context)
        self.box.changed.connect(self._update)
        column.addWidget(self.box)
        column.addStretch(1)
        return scroll(page)

    def _node(self) -> QWidget:
        tr = self.tr
        page, column = _page(tr("Register this machine"))
        column.addWidget(
            label(
                tr("Approved jobs train on it. Its processors, memory and GPUs are read; nothing is installed."),
                "muted",
                wrap=True,
            )
        )
        form = QFormLayout()
        self.node_name = QLineEdit(platform.node().split(".")[0])
        form.addRow(tr("&Name"), self.node_name)
        column.addLayout(form)
        self._found = Card(tr("Found"))
        self._found.hide()
        column.addWidget(self._found)
        column.addStretch(1)
        return page

    def _dataset(self) -> QWidget:
        tr = self.tr
        page, column = _page(tr("Register a first dataset"))
        column.addWidget(
            label(
                tr(
                    "A CSV, Parquet or NPZ file, or a folder. It stays where it is; jobs that "
                    "you approve read it under its "
                    "alias, and cannot write to it."
                ),
                "muted",
                wrap=True,
            )
        )
        row = QHBoxLayout()
        self.choose_data = button(self._context.theme, tr("Choose the data…"), self._on_dataset, icon="folder")
        row.addWidget(self.choose_data)
        row.addStretch(1)
        column.addLayout(row)
        self._datasets = label("", wrap=True)
        column.addWidget(self._datasets)
        column.addStretch(1)
        self._context.store.changed.connect(self._on_store_changed)
        return page

    def _done(self) -> QWidget:
        page, column = _page(self.tr("This silo is ready"))
        self._summary = label("", wrap=True)
        column.addWidget(self._summary)
        column.addWidget(
            label(
                self.tr(
                    "When a federation offers a job, it waits on the page Approvals. Nothing "
                    "of it runs before you approve."
                ),
                "muted",
                wrap=True,
            )
        )
        column.addStretch(1)
        return page

    # Moving

    def _show(self, step: str) -> None:
        self.step = step
        self._stack.setCurrentIndex(STEPS.index(step))
        self.problem.tell(None)
        self._set_busy("")
        number = STEPS.index(step)
        self._trail.setText(self.tr("STEP {0} OF {1}").format(number, len(STEPS) - 2) if 0 < number < 5 else "")
        tr = self.tr
        self.back.setVisible(step in ("federation", "node", "dataset"))
        self.skip.setVisible(step in ("welcome", "federation", "node", "dataset"))
        self.skip.setText(tr("Close") if step == "welcome" else tr("Later"))
        self.next.setVisible(step != "welcome")
        self.next.setText(
            {"federation": tr("Enrol"), "node": tr("Register"), "done": tr("Open the window")}.get(step, tr("Continue"))
        )
        kind = self._context.store.daemon.secrets
        locked = kind.startswith("locked")
        self._form.setRowVisible(self.passphrase, locked)
        self._form.setRowVisible(self.again, locked)
        if locked:
            kind = "passphrase file"
        self.secrets.setText(
            {
                "keyring": tr("the keyring of the operating system"),
                "systemd credential": tr("a systemd credential"),
                "passphrase file": tr("a file sealed by a passphrase, as this machine has no keyring"),
            }.get(kind, kind or formats.DASH)
        )
        if step == "done":
            self._summary.setText(self._said())
        self._update()

    def _update(self) -> None:
        ready = {
            "organisation": bool(self.organisation.text().strip() and self.administrator.text().strip())
            and (self.passphrase.isHidden() or self._passphrases_fit()),
            "federation": self.box.is_compared,
            "node": bool(self.node_name.text().strip()),
            "dataset": bool(self._context.store.datasets),
        }
        self.next.setEnabled(ready.get(self.step, True))

    def _passphrases_fit(self) -> bool:
        return len(self.passphrase.text()) >= PASSPHRASE_LEAST and self.passphrase.text() == self.again.text()

    def _on_back(self) -> None:
        self._show(STEPS[STEPS.index(self.step) - 1])

    def _on_skip(self) -> None:
        if self.step == "welcome":
            self.reject()
        else:
            self._advance()

    def _advance(self) -> None:
        self._show(STEPS[STEPS.index(self.step) + 1])

    def _on_next(self) -> None:
        self.problem.tell(None)
        client, step = self._context.client, self.step
        if step == "organisation":
            self._configure()
        elif step == "federation":
            self._set_busy(self.tr("Enrolling…"))
            request = pb.EnrolLocalRequest(
                text=self.box.invitation(), name=silo_name(self._context.store.daemon.organisation)
            )
            client.call("Federations.Enrol", request, lambda _f: self._advance(), self._tell, owner=self)
        elif step == "node":
            self._set_busy(self.tr("Reading the machine…"))
            node = pb.RegisterNodeRequest(name=self.node_name.text().strip())
            client.call("Nodes.Register", node, self._on_node, self._tell, owner=self)
        elif step == "done":
            self.accept()
        else:
            self._advance()

    def _configure(self) -> None:
        organisation, administrator = self.organisation.text().strip(), self.administrator.text().strip()
        self._set_busy(self.tr("Making your key…"))

        passphrase = self.passphrase.text() if self._context.store.daemon.secrets.startswith("locked") else None
        client = self._context.client

        def configure(public: bytes) -> None:
            request = pb.ConfigureRequest(organisation=organisation, administrator=administrator, approver_key=public)
            client.call("Setup.Configure", request, lambda _s: self._advance(), self._tell, owner=self)

        def made(public: bytes) -> None:
            if passphrase is None:
                configure(public)
                return
            self._set_busy(self.tr("Opening the daemon's secrets…"))
            # The daemon that runs has no passphrase: it is started anew, and greets again.
            client.connected.connect(lambda: configure(public), Qt.ConnectionType.SingleShotConnection)
            run_task(
                lambda: restart_daemon(self._context.home, passphrase),
                lambda _pid: client.retry(),
                self._tell,
                owner=self,
            )

        use_key(
            self,
            self._context.home,
            administrator,
            lambda key: key.public,
            made,
            self._tell,
            lambda: self._set_busy(""),
            passphrase,
        )

    def _on_node(self, node: pb.Node) -> None:
        clear(self._found.body)
        gpus = ", ".join(gpu.name for gpu in node.gpus) or self.tr("no GPU: training uses the processor")
        lines = (
            self.tr("{0}, {1} logical cores").format(node.cpu_model, node.cpu_count),
            self.tr("{0} of memory").format(formats.size(node.ram_total)),
            gpus,
        )
        for line in lines:
            self._found.body.addWidget(label(line))
        self._found.show()
        self._advance()

    def _on_dataset(self) -> None:
        RegisterDataset(self._context, self).open()

    def _on_store_changed(self, kind: str, _item_id: str) -> None:
        if kind == "dataset":
            names = ", ".join(dataset.alias for dataset in self._context.store.datasets.values())
            self._datasets.setText(self.tr("Registered: {0}").format(names))
            self._update()

    def _said(self) -> str:
        store = self._context.store
        federations = ", ".join(f.name for f in store.federations.values()) or self.tr("none yet")
        nodes = ", ".join(n.name for n in store.nodes.values()) or self.tr("none yet")
        datasets = ", ".join(d.alias for d in store.datasets.values()) or self.tr("none yet")
        return self.tr("Organisation: {0}\nFederations: {1}\nNodes: {2}\nDatasets: {3}").format(
            store.daemon.organisation, federations, nodes, datasets
        )

    def _door(
        self, column: QVBoxLayout, icon: str, title: str, text: str, act: str, go: object, primary: bool
    ) -> QWidget:
        theme = self._context.theme
        card = Card()
        row = QHBoxLayout()
        row.setSpacing(2 * GRID)
        picture = QLabel()
        theme.bind_pixmap(picture, icon, 40, "accent")
        words = QVBoxLayout()
        words.setSpacing(GRID // 2)
        words.addWidget(label(title, "heading"))
        words.addWidget(label(text, "muted", wrap=True))
        row.addWidget(picture)
        row.addLayout(words, 1)
        made = button(theme, act, go, kind="primary" if primary else "")  # type: ignore[arg-type]
        row.addWidget(made)
        card.body.addLayout(row)
        column.addWidget(card)
        return made

    # The other door

    def _on_demo(self) -> None:
        self.problem.tell(None)
        self.set_up.setEnabled(False)
        self.try_demo.setEnabled(False)
        self._set_busy(self.tr("Starting the demo; this takes about half a minute…"))
        self._demo.start()

    def _on_demo_ready(self, _home: str) -> None:
        self._context.toast("ok", self.tr("The demo's window opens beside this one"))
        self.accept()

    def _set_busy(self, words: str) -> None:
        self._status.setText(words)
        self.next.setEnabled(not words)

    def _tell(self, error: UserError) -> None:
        self._set_busy("")
        self.set_up.setEnabled(True)
        self.try_demo.setEnabled(True)
        self.problem.tell(error)

    def closeEvent(self, event: QCloseEvent) -> None:
        self._demo.stop()
        super().closeEvent(event)


def _page(title: str) -> tuple[QWidget, QVBoxLayout]:
    page = QWidget()
    column = QVBoxLayout(page)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(2 * GRID)
    column.addWidget(label(title, "title"))
    return page, column
