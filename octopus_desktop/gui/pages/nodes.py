"""Nodes: what machines we have, what is free. Register this machine; add, accept and remove further ones; drain."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from PySide6.QtCore import Qt, Signal
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLineEdit, QPlainTextEdit, QProgressBar, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog, confirm
from octopus_desktop.gui.pages.list_detail import ListDetailPage
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.node_codes import NodeCodesCard
from octopus_desktop.gui.widgets.parts import (
    Card,
    Facts,
    button,
    clear,
    label,
)
from octopus_desktop.gui.widgets.status import StatusBadge, look
from octopus_desktop.gui.widgets.table import Column
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


class NodesPage(ListDetailPage):
    kind, icon = "node", "nodes"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        tr = self.tr
        self.lay_out(
            title=tr("Nodes"),
            subtitle=tr("The machines that train here: what we have, and what is free"),
            act=(tr("Register this machine…"), self.register),
            more=(tr("Add node…"), self.add),
            columns=[
                Column(key="name", title=tr("NODE"), text=lambda n: n.name, width=164),
                Column(
                    key="state",
                    title=tr("STATE"),
                    text=lambda n: look("node", n.state).text,
                    look=lambda n: look("node", n.state),
                    width=120,
                ),
                Column(
                    key="cpu",
                    title=tr("CPU"),
                    text=lambda n: formats.DASH if n.state == "offline" else formats.percent(n.cpu_load),
                    sort=lambda n: n.cpu_load,
                    progress=lambda n: 0.0 if n.state == "offline" else n.cpu_load,
                    width=120,
                    searched=False,
                ),
                Column(
                    key="ram",
                    title=tr("RAM FREE"),
                    text=lambda n: formats.size(n.ram_total - n.ram_used) if n.ram_used else formats.DASH,
                    sort=lambda n: n.ram_total - n.ram_used,
                    number=True,
                    width=100,
                    searched=False,
                ),
                Column(key="gpu", title=tr("GPUS"), text=_gpus, sort=lambda n: len(n.gpus), width=0),
                Column(
                    key="workers",
                    title=tr("WORKERS"),
                    text=lambda n: str(n.workers_running),
                    sort=lambda n: n.workers_running,
                    number=True,
                    width=96,
                    searched=False,
                ),
            ],
            empty=(
                tr("No machine is registered"),
                tr("A node is a workstation or server of yours that trains. Register this "
                    "machine to begin: its processors, "
                   "memory and GPUs are read, nothing is installed."),
            ),
            placeholder=tr("Filter nodes"),
            detail=_Detail(context, self._drain, self._accept, self._remove),
        )  # fmt: skip
        self.codes = NodeCodesCard(context.theme, self._withdraw)
        self.layout().addWidget(self.codes)
        context.store.reset.connect(self.load_codes)
        context.store.changed.connect(self._on_node)
        self.load_codes()

    def load_codes(self) -> None:
        """Ask which codes are open; they are no part of what the daemon tells by itself."""
        if self._context.client.is_connected:
            self._context.client.call("Nodes.Codes", pb.Empty(), self._on_codes, lambda _error: None, owner=self)

    def _on_codes(self, told: pb.NodeCodeList) -> None:
        self.codes.set_codes(told.codes)

    def _on_node(self, kind: str, node_id: str) -> None:
        if kind == "node" and self._context.store.nodes[node_id].name in (code.name for code in self.codes.codes):
            self.load_codes()  # a machine joined with one

    def _withdraw(self, code: pb.NodeCode) -> None:
        text = self.tr("A machine that was to join as {0} needs a new code then.").format(code.name)
        title, act = self.tr("Withdraw the code?"), self.tr("Withdraw")
        dialog = confirm(self._context.theme, self, title, text, act)
        client, request = self._context.client, pb.ById(id=code.id)
        dialog.accepted.connect(
            lambda: client.call("Nodes.Withdraw", request, self._on_withdrawn, self._on_withdraw_failed, owner=self)
        )
        dialog.open()

    def _on_withdrawn(self, _ack: pb.Ack) -> None:
        self.load_codes()

    def _on_withdraw_failed(self, error: UserError) -> None:
        self.load_codes()  # it may have been used meanwhile
        self._context.show_error(error)

    def add(self) -> None:
        """Give the line that a further machine joins with."""
        dialog = AddNode(self._context, self)
        dialog.invited.connect(self.load_codes)
        dialog.open()

    def register(self) -> None:
        """Ask for a name and register this machine."""
        RegisterNode(self._context, self).open()

    def first(self, items: Sequence[pb.Node]) -> str:
        return next((node.id for node in items if node.local), items[0].id)

    def offers_act(self, items: Sequence[pb.Node]) -> bool:
        return bool(items) and not any(node.local for node in items)

    def _drain(self, node: pb.Node) -> None:
        drain = node.state == "ready"
        self._context.client.call(
            "Nodes.Drain", pb.DrainRequest(id=node.id, drain=drain), failed=self._context.show_error, owner=self
        )

    def _accept(self, node: pb.Node) -> None:
        text = self.tr(
            "Compare this with what 'octopus node join' showed on that machine: {0}. Accepted, it may be given work."
        )
        title = self.tr("Accept {0}?").format(node.name)
        dialog = FormDialog(self._context.theme, self, title, text.format(node.fingerprint), self.tr("Accept"))
        dialog.accepted.connect(lambda: self._call("Nodes.Accept", node))
        dialog.open()

    def _remove(self, node: pb.Node) -> None:
        text = self.tr("{0} is cut off at once. To come back, it needs a new code.").format(node.name)
        dialog = confirm(self._context.theme, self, self.tr("Remove the node?"), text, self.tr("Remove"))
        dialog.accepted.connect(lambda: self._call("Nodes.Remove", node))
        dialog.open()

    def _call(self, method: str, node: pb.Node) -> None:
        self._context.client.call(method, pb.ById(id=node.id), failed=self._context.show_error, owner=self)


class RegisterNode(FormDialog):
    """Registers this machine under a name."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(
            context.theme,
            parent,
            parent.tr("Register this machine"),
            parent.tr("Its processors, memory, disks and GPUs are read. The name is seen in your own records only."),
            parent.tr("Register"),
        )
        self._context = context
        self.name = QLineEdit(platform.node().split(".")[0])
        self.form.addRow(self.tr("&Name"), self.name)

    def _on_act(self) -> None:
        self.set_busy(self.tr("Reading the machine…"))
        request = pb.RegisterNodeRequest(name=self.name.text().strip())
        self._context.client.call("Nodes.Register", request, lambda _node: self.accept(), self.tell, owner=self)


class AddNode(FormDialog):
    """Asks for a name, then shows the line to run on the further machine. The line is secret, and shown once.

    Signals:
        invited(): there is a line.
    """

    invited = Signal()

    def __init__(self, context: Context, parent: QWidget) -> None:
        tr = parent.tr
        super().__init__(
            context.theme,
            parent,
            tr("Add a node"),
            tr(
                "A further machine of yours joins with a line that you run there, once. This silo then listens for its "
                "machines on one more port, with certificates of its own."
            ),
            tr("Make the line"),
        )
        self._context = context
        self.name, self.listen, self.address = QLineEdit(), QLineEdit(), QLineEdit()
        self.listen.setPlaceholderText(tr("as before; at first 127.0.0.1:7470, this machine alone"))
        self.address.setPlaceholderText(tr("the same, unless the machine sees this one by another name"))
        self.form.addRow(tr("&Name of the machine"), self.name)
        self.form.addRow(tr("&Listen on"), self.listen)
        self.form.addRow(tr("It &dials"), self.address)
        self.line = QPlainTextEdit()
        self.line.setReadOnly(True)
        self.line.setAccessibleName(tr("The line to run on the further machine"))
        self.line.hide()
        self.body.addWidget(self.line)

    def _on_act(self) -> None:
        if self.line.toPlainText():
            QGuiApplication.clipboard().setText(self.line.toPlainText())
            self._status.setText(self.tr("Copied."))
            return
        self.problem.tell(None)
        self.set_busy(self.tr("Making the line…"))
        request = pb.InviteNodeRequest(
            name=self.name.text().strip(), listen=self.listen.text().strip(), address=self.address.text().strip()
        )
        self._context.client.call("Nodes.Invite", request, self._on_invited, self.tell, owner=self)

    def _on_invited(self, reply: pb.InviteNodeReply) -> None:
        until = self.tr("Run it there before {0}, then accept the machine here. Keep it secret.")
        for field in (self.name, self.listen, self.address):
            field.setEnabled(False)
        self.line.setPlainText(f"octopus node join {reply.code}")
        self.line.show()
        self.set_busy("")
        self._status.setText(until.format(formats.instant(reply.expires_at)))
        self.act.setText(self.tr("Copy"))
        self.cancel.setText(self.tr("Close"))
        self.fit()
        self.invited.emit()


class _Detail(QWidget):
    """One node: facts, and each GPU with its load."""

    def __init__(self, context: Context, drain: object, accept: object, remove: object) -> None:
        super().__init__()
        self._context, self._node = context, pb.Node()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2 * GRID)
        card = Card()
        top = QHBoxLayout()
        self._name = label("", "heading")
        self._badge = StatusBadge(context.theme)
        top.addWidget(self._name)
        top.addWidget(self._badge)
        top.addStretch(1)
        self._drain = button(context.theme, "", lambda: drain(self._node))  # type: ignore[operator]
        self._accept = button(context.theme, self.tr("Accept…"), lambda: accept(self._node), kind="primary")  # type: ignore[operator]
        self._remove = button(context.theme, self.tr("Remove…"), lambda: remove(self._node))  # type: ignore[operator]
        for act in (self._accept, self._drain, self._remove):
            top.addWidget(act)
        card.body.addLayout(top)
        self._facts = Facts()
        card.body.addWidget(self._facts)
        column.addWidget(card)
        self._gpus = Card(self.tr("GPUs"))
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(GRID)
        self._grid.setVerticalSpacing(GRID // 2)
        self._grid.setColumnStretch(1, 1)
        self._gpus.body.addLayout(self._grid)
        column.addWidget(self._gpus)
        column.addStretch(1)

    def show_item(self, node: pb.Node) -> None:
        tr = self.tr
        self._node = node
        self._name.setText(node.name)
        self._badge.set_state("node", node.state)
        self._drain.setText(tr("Drain") if node.state == "ready" else tr("Use again"))
        self._drain.setToolTip(
            tr("Finish what runs here, then take no new work") if node.state == "ready" else tr("Take new work again")
        )
        self._drain.setVisible(node.state != "asking")
        self._accept.setVisible(node.state == "asking")
        self._remove.setVisible(not node.local)
        self._drain.setEnabled(node.state in ("ready", "draining", "drained"))
        self._facts.set_facts(
            [
                (tr("Processor"), f"{node.cpu_model}\n{tr('{0} logical cores').format(node.cpu_count)}"),
                (tr("Memory"), f"{formats.size(node.ram_used)} / {formats.size(node.ram_total)}"),
                (tr("Disk free"), f"{formats.size(node.disk_free)} / {formats.size(node.disk_total)}"),
                (tr("System"), node.os),
                (tr("Runtime"), " · ".join(p for p in (node.python and f"Python {node.python}",
                                                        node.torch and f"torch {node.torch}") if p)),
                *([(tr("Agent"), node.version), (tr("Its key"), node.fingerprint)] if not node.local else []),
                *([(tr("Not usable"), node.fault)] if node.fault else []),
                (tr("Registered"), formats.instant(node.registered_at)),
                (tr("Seen"), formats.age(node.seen_at)),
            ]
        )  # fmt: skip
        clear(self._grid)
        if not node.gpus:
            self._grid.addWidget(label(tr("None: training uses the processor."), "muted", wrap=True), 0, 0, 1, 3)
        for at, gpu in enumerate(node.gpus):
            row = 3 * at
            self._grid.addWidget(label(f"{gpu.index} · {gpu.name}", "strong"), row, 0, 1, 3)
            used = f"{formats.size(gpu.memory_used)} / {formats.size(gpu.memory_total)}"
            for line, (name, share, text) in enumerate(
                (
                    (tr("Load"), gpu.utilisation, f"{formats.percent(gpu.utilisation)}, {gpu.temperature_c:.0f} °C"),
                    (tr("Memory"), gpu.memory_used / gpu.memory_total if gpu.memory_total else 0.0, used),
                )
            ):
                bar = QProgressBar()
                bar.setTextVisible(False)
                bar.setRange(0, 100)
                bar.setValue(round(100 * share))
                bar.setAccessibleName(f"{gpu.name} {name}")
                value = label(text, "caption")
                value.setAlignment(Qt.AlignmentFlag.AlignRight)
                value.setMinimumWidth(150)
                self._grid.addWidget(label(name, "caption"), row + 1 + line, 0)
                self._grid.addWidget(bar, row + 1 + line, 1)
                self._grid.addWidget(value, row + 1 + line, 2)


def _gpus(node: pb.Node) -> str:
    if not node.gpus:
        return formats.DASH
    names = {gpu.name for gpu in node.gpus}
    return f"{len(node.gpus)} × {next(iter(names))}" if len(names) == 1 else ", ".join(g.name for g in node.gpus)
