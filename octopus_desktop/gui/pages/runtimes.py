"""Runtimes: the Python environments that jobs may train in. Add, look at again, remove."""

from __future__ import annotations

from PySide6.QtWidgets import QHBoxLayout, QVBoxLayout, QWidget

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.add_runtime import AddRuntime, LookAtBuiltIn
from octopus_desktop.gui.dialogs.form import confirm
from octopus_desktop.gui.pages.list_detail import ListDetailPage
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, Facts, button, label
from octopus_desktop.gui.widgets.status import StatusBadge, look
from octopus_desktop.gui.widgets.steps import StepLines
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


class RuntimesPage(ListDetailPage):
    kind, icon = "runtime", "code"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        tr = self.tr
        self.lay_out(
            title=tr("Runtimes"),
            subtitle=tr("Python environments that jobs may train in, beside the built-in one"),
            act=(tr("Add an environment…"), self.add),
            more=(tr("Look at the built-in one…"), self.look_at_built_in),
            columns=[
                Column(key="name", title=tr("NAME"), text=lambda r: r.name, width=0),
                Column(
                    key="state",
                    title=tr("STATE"),
                    text=lambda r: look("runtime", r.state).text,
                    look=lambda r: look("runtime", r.state),
                    tooltip=lambda r: r.error,
                    width=112,
                ),
                Column(key="python", title=tr("PYTHON"), text=lambda r: r.python or formats.DASH, width=88),
                Column(key="torch", title=tr("TORCH"), text=lambda r: r.torch or formats.DASH, width=128),
                Column(key="cuda", title=tr("CUDA"), text=lambda r: r.cuda or tr("none"), width=72),
                Column(
                    key="packages",
                    title=tr("PACKAGES"),
                    text=lambda r: formats.integer(len(r.packages)),
                    sort=lambda r: len(r.packages),
                    number=True,
                    width=96,
                    searched=False,
                ),
            ],
            empty=(
                tr("No environment is registered"),
                tr(
                    "Jobs train in the built-in environment. For jobs that need more packages, make a virtual "
                    "environment with PyTorch and those packages, and add it here; you choose it at the approval."
                ),
            ),
            placeholder=tr("Filter runtimes"),
            detail=_Detail(context, self),
            sizes=(640, 480),
        )
        if self._more:
            context.theme.bind_icon(self._more, "search", "text")

    def add(self) -> None:
        """Choose an environment, look at it, register it."""
        AddRuntime(self._context, self).open()

    def look_at_built_in(self) -> None:
        LookAtBuiltIn(self._context, self).open()

    def remove(self, runtime: pb.Runtime) -> None:
        text = self.tr("Jobs can no longer be approved for “{0}”. Nothing on disk is touched.").format(runtime.name)
        title, act = self.tr("Remove from the list?"), self.tr("Remove")
        dialog = confirm(self._context.theme, self, title, text, act)
        request = pb.ById(id=runtime.id)
        dialog.accepted.connect(
            lambda: self._context.client.call("Runtimes.Remove", request, failed=self._context.show_error, owner=self)
        )
        dialog.open()

    def _on_reset(self) -> None:
        super()._on_reset()
        if self._more:
            self._more.setVisible(True)  # the built-in one is always there


class _Detail(QWidget):
    """One environment: facts, what a look at it finds, and its packages."""

    def __init__(self, context: Context, page: RuntimesPage) -> None:
        super().__init__()
        self._context, self._runtime = context, pb.Runtime()
        self._looking: Subscription | None = None
        tr, theme = self.tr, context.theme
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2 * GRID)
        card = Card()
        top = QHBoxLayout()
        self._name = label("", "heading")
        self._badge = StatusBadge(theme)
        top.addWidget(self._name)
        top.addWidget(self._badge)
        top.addStretch(1)
        self.again = button(theme, tr("Look again"), self._on_look, icon="refresh")
        top.addWidget(self.again)
        top.addWidget(button(theme, tr("Remove…"), lambda: page.remove(self._runtime)))
        card.body.addLayout(top)
        self._problem = label("", wrap=True, selectable=True)
        self._problem.setProperty("tone", "danger")
        card.body.addWidget(self._problem)
        self._facts = Facts(name_width=96)
        card.body.addWidget(self._facts)
        column.addWidget(card)
        self.look = Card(tr("What is in it"))
        self.lines = StepLines(theme)
        self.look.body.addWidget(self.lines)
        self.look.hide()
        column.addWidget(self.look)
        packages = Card(tr("Packages"))
        self.packages = Table(
            theme,
            context.settings,
            "packages",
            [
                Column(key="name", title=tr("NAME"), text=lambda row: row[0], width=0),
                Column(key="version", title=tr("VERSION"), text=lambda row: row[1], width=144),
            ],
            lambda row: row[0],
            placeholder=tr("Filter packages"),
            row_px=28,
        )
        self.packages.setMinimumHeight(240)
        packages.body.addWidget(self.packages)
        column.addWidget(packages, 1)

    def show_item(self, runtime: pb.Runtime) -> None:
        tr = self.tr
        if runtime.id != self._runtime.id:
            self._end()
            self.look.hide()
        if runtime.packages != self._runtime.packages or runtime.id != self._runtime.id:
            self.packages.set_rows(sorted(runtime.packages.items()))
        self._runtime = runtime
        self._name.setText(runtime.name)
        self._badge.set_state("runtime", runtime.state)
        self._problem.setText(runtime.error)
        self._problem.setVisible(bool(runtime.error))
        self._facts.set_facts(
            [
                (tr("Python"), f"{runtime.python}\n{runtime.path}"),
                (tr("PyTorch"), runtime.torch),
                (tr("GPUs"), tr("CUDA {0} can be used").format(runtime.cuda) if runtime.cuda else tr("none")),
                (tr("Workers read"), "\n".join(runtime.paths)),
                (tr("Added"), formats.instant(runtime.added_at)),
                (tr("Looked at"), formats.age(runtime.checked_at)),
            ]
        )

    def _on_look(self) -> None:
        """Look at it now, line by line, and let the daemon keep what it finds."""
        self._end()
        self.again.setEnabled(False)
        self.look.show()
        self.lines.begin()
        client, wanted = self._context.client, self._runtime.id
        self._looking = client.stream(
            "Runtimes.Look", pb.LookRuntimeRequest(id=wanted), self.lines.add, self._on_ended, owner=self
        )
        client.call("Runtimes.Check", pb.ById(id=wanted), failed=self._context.show_error, owner=self)

    def _on_ended(self, error: UserError | None) -> None:
        self._end()
        if error is not None:
            self._context.show_error(error)

    def _end(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self.lines.end()
        self.again.setEnabled(True)
