"""The page Runs: every run of this silo in a table, and the detail of the opened one. How does it go, what left?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeySequence, QShortcut
from PySide6.QtWidgets import QComboBox, QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.rows import Column
from octopus_desktop.gui.models.store import ACTIVE_RUNS
from octopus_desktop.gui.pages.runs_compare import RunsCompare
from octopus_desktop.gui.pages.runs_detail import RunDetail
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name, carrier_words
from octopus_desktop.gui.widgets.parts import EmptyState, PageHeader, button, page_layout
from octopus_desktop.gui.widgets.status import look
from octopus_desktop.gui.widgets.table import Table
from octopus_desktop.wire.pb import local_pb2 as pb


class RunsPage(QWidget):
    """Attributes: ``table``, ``detail``. ``show_item(id)`` opens a run."""

    icon = "runs"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Runs")
        self._header = PageHeader(self.title)
        self.table = Table(
            context.theme,
            context.settings,
            "runs",
            self._columns(),
            lambda run: run.id,
            empty=EmptyState(
                context.theme,
                "runs",
                self.tr("Nothing has run here yet"),
                self.tr(
                    "A run appears here as soon as you approve an offered job, and stays with what it did and sent."
                ),
                self.tr("Go to Approvals"),
                lambda: context.open("page", "approvals"),
            ),
            placeholder=self.tr("Filter by job, federation, reason or id"),
            sort_by="started",
            descending=True,
        )
        self.which = QComboBox()
        self.which.setAccessibleName(self.tr("Which runs are shown"))
        choices: tuple[tuple[str, Callable[[Any], bool] | None], ...] = (
            (self.tr("All states"), None),
            (self.tr("Under way"), lambda run: run.state in ACTIVE_RUNS),
            (self.tr("Completed"), lambda run: run.state == "completed"),
            (self.tr("Failed or stopped"), lambda run: run.state in ("failed", "stopped")),
        )
        for text, _accepts in choices:
            self.which.addItem(text)
        self.which.currentIndexChanged.connect(lambda index: self.table.accept(choices[index][1]))
        self._open = button(context.theme, self.tr("Open"), lambda: self.show_item(self.table.current_id()))
        self._open.setEnabled(False)
        self.table.tools.addWidget(self.which)
        self._compare = button(context.theme, self.tr("Compare"), self.show_compare)
        self._compare.setToolTip(self.tr("Select two or more runs (Ctrl or Shift and a click) to see them together"))
        self._compare.setEnabled(False)
        self.table.tools.addWidget(self._open)
        self.table.tools.addWidget(self._compare)
        self.table.chosen.connect(lambda run_id: self._open.setEnabled(bool(run_id)))
        self.table.selected.connect(lambda count: self._compare.setEnabled(count > 1))
        self.table.opened.connect(self.show_item)
        listing = QWidget()
        column: QVBoxLayout = page_layout(listing)
        column.addWidget(self._header)
        column.addWidget(self.table, 1)
        self.detail = RunDetail(context)
        self.detail.closed.connect(self.show_list)
        self._stack = QStackedWidget()
        self._stack.addWidget(listing)
        self._stack.addWidget(self.detail)
        self.compare = RunsCompare(context)
        self.compare.closed.connect(self.show_list)
        self._stack.addWidget(self.compare)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._stack)
        back = QShortcut(QKeySequence("Alt+Left"), self, self.show_list)
        back.setContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
        self.setFocusProxy(self.table.view)
        store = context.store
        store.reset.connect(self._refresh)
        store.changed.connect(self._on_changed)
        store.removed.connect(self._on_removed)
        context.client.connected.connect(self.detail.reload)
        self._refresh()

    def show_item(self, run_id: str) -> None:
        if run_id not in self._context.store.runs:
            self._context.toast("warning", self.tr("This run is not here. It may not have begun yet."))
            return
        self.table.choose(run_id)
        self.detail.show_run(run_id)
        self._stack.setCurrentWidget(self.detail)

    def show_compare(self) -> None:
        """Show the selected runs beside each other."""
        chosen = self.table.selected_ids()
        if len(chosen) > 1:
            self.compare.show_runs(chosen)
            self._stack.setCurrentWidget(self.compare)
            self.compare.which_metric.setFocus()

    def show_list(self) -> None:
        self._stack.setCurrentIndex(0)
        self.detail.leave()
        self.table.view.setFocus()

    @property
    def shows_detail(self) -> bool:
        return self._stack.currentWidget() is self.detail

    def _columns(self) -> list[Column]:
        store = self._context.store

        def federation(run: pb.Run) -> str:
            found = store.federations.get(run.federation_id)
            return found.name if found else run.federation_id

        def seconds(run: pb.Run) -> float:
            return (run.ended_at or run.updated_at) - run.started_at if run.started_at else 0.0

        return [
            Column(
                key="job",
                title=self.tr("Job"),
                text=lambda r: f"{r.job_name} {r.job_version}",
                tooltip=lambda r: f"{r.job_name} {r.job_version}\n{r.id}",
                width=0,
            ),
            Column(
                key="state",
                title=self.tr("State"),
                text=lambda r: look("run", r.state).text,
                look=lambda r: look("run", r.state),
                tooltip=lambda r: r.reason,
                width=128,
            ),
            Column(
                key="round",
                title=self.tr("Round"),
                text=lambda r: f"{r.round} / {r.rounds}",
                sort=fraction_of,
                progress=fraction_of,
                width=168,
            ),
            Column(key="federation", title=self.tr("Federation"), text=federation, tooltip=federation, width=150),
            Column(
                key="carrier",
                title=self.tr("Carrier"),
                text=lambda r: carrier_name(r.carrier),
                tooltip=carrier_words,
                width=104,
                muted=True,
            ),
            Column(
                key="started",
                title=self.tr("Started"),
                text=lambda r: formats.clock(r.started_at or r.approved_at),
                sort=lambda r: r.started_at or r.approved_at,
                tooltip=lambda r: formats.instant_utc(r.started_at),
                width=152,
            ),
            Column(
                key="took",
                title=self.tr("Took"),
                text=lambda r: formats.duration(seconds(r)) if r.started_at else formats.DASH,
                sort=seconds,
                number=True,
                width=104,
            ),
            Column(
                key="out",
                title=self.tr("Left"),
                text=lambda r: formats.size(r.bytes_out),
                sort=lambda r: r.bytes_out,
                number=True,
                width=96,
            ),
        ]

    def _on_changed(self, kind: str, item_id: str) -> None:
        if kind == "run":
            self.table.model.put(self._context.store.runs[item_id])
            self._tell()
            self.detail.run_changed(item_id)
            self.compare.run_changed(item_id)

    def _on_removed(self, kind: str, item_id: str) -> None:
        if kind == "run":
            self.table.model.remove(item_id)
            self._tell()
            if self.detail.run_id == item_id or self.compare.run_removed(item_id):
                self.show_list()

    def _refresh(self) -> None:
        self.table.set_rows(list(self._context.store.runs.values()))
        self._tell()
        if self.detail.run_id:
            if self.detail.run_id in self._context.store.runs:
                self.detail.run_changed(self.detail.run_id)
            else:
                self.show_list()

    def _tell(self) -> None:
        active = len(self._context.store.active_runs())
        self._header.set_subtitle(
            self.tr("Under way: {0}").format(active) if active else self.tr("Nothing runs at the moment.")
        )


def fraction_of(run: pb.Run) -> float:
    """How much of a run is done, 0 to 1: whole rounds, and the share of the round under way."""
    if run.state == "completed":
        return 1.0
    if not run.rounds:
        return 0.0
    done = max(0, run.round - 1) + (run.fraction if run.round else 0.0)
    return min(1.0, done / run.rounds)
