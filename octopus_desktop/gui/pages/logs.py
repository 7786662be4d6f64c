"""Logs: what happened. The daemon's and the runs' lines, by level, run and text, following as they come."""

from __future__ import annotations

from typing import Any, Final

from PySide6.QtCore import QTimer
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QCheckBox, QComboBox, QWidget

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import EmptyState, PageHeader, page_layout
from octopus_desktop.gui.widgets.status import look
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

LEVELS: Final = ("debug", "info", "warning", "error")
FIRST_LINES, MOST_LINES, TRIM_LINES = 1000, 20_000, 2_000
RETRY_MS = 1000


class LogsPage(QWidget):
    """Follows while it is seen, and only then."""

    icon = "logs"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Logs")
        tr, theme = self.tr, context.theme
        self._tail: Subscription | None = None
        column = page_layout(self)
        column.addWidget(PageHeader(self.title, tr("What the daemon and the runs say, as it happens")))
        self.table = Table(
            theme,
            context.settings,
            "logs",
            [
                Column(
                    key="at",
                    title=tr("WHEN"),
                    text=lambda line: formats.clock(line.at),
                    sort=lambda line: line.seq,
                    tooltip=lambda line: formats.instant_utc(line.at),
                    width=130,
                    muted=True,
                    searched=False,
                ),
                Column(
                    key="level",
                    title=tr("LEVEL"),
                    text=lambda line: look("level", line.level).text,
                    look=lambda line: look("level", line.level),
                    width=112,
                ),
                Column(key="source", title=tr("FROM"), text=lambda line: line.source, width=120, muted=True),
                Column(
                    key="run",
                    title=tr("RUN"),
                    text=self._run_name,
                    copy=lambda line: line.run_id,
                    width=130,
                    muted=True,
                ),
                Column(
                    key="text", title=tr("TEXT"), text=lambda line: line.text, tooltip=lambda line: line.text, width=0
                ),
            ],
            lambda line: str(line.seq),
            empty=EmptyState(theme, "logs", tr("Nothing was logged yet"), tr("Lines appear here as they are written.")),
            placeholder=tr("Filter by text"),
            sort_by="at",
            row_px=28,
        )
        self.level = QComboBox()
        self.level.setAccessibleName(tr("Least level"))
        for level in LEVELS:
            self.level.addItem(tr("{0} and above").format(look("level", level).text) if level != "error"
                               else look("level", level).text, level)  # fmt: skip
        saved = context.settings.get("filters/logs_level")
        self.level.setCurrentIndex(LEVELS.index(saved) if saved in LEVELS else 1)
        self.run = QComboBox()
        self.run.setAccessibleName(tr("Run"))
        self.run.setMinimumWidth(180)
        self._fill_runs()
        self.follow = QCheckBox(tr("Follow"))
        self.follow.setChecked(True)
        self.follow.toggled.connect(lambda on: self.table.view.scrollToBottom() if on else None)
        for tool in (self.level, self.run, self.follow):
            self.table.tools.addWidget(tool)
        column.addWidget(self.table, 1)
        self.level.currentIndexChanged.connect(self._on_level)
        self.run.currentIndexChanged.connect(lambda _at: self.reload())
        self._retry = QTimer(self)
        self._retry.setSingleShot(True)
        self._retry.setInterval(RETRY_MS)
        self._retry.timeout.connect(self.reload)
        self.table.view.verticalScrollBar().sliderMoved.connect(lambda _at: self._on_scrolled())
        context.store.reset.connect(self._on_reset)
        context.store.changed.connect(lambda kind, _id: self._fill_runs() if kind == "run" else None)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.reload()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._stop()

    def show_run(self, run_id: str) -> None:
        """Only this run's lines."""
        at = self.run.findData(run_id)
        if at >= 0:
            self.run.setCurrentIndex(at)

    def reload(self) -> None:
        """Begin anew with the last lines that fit the filters, and go on from there."""
        self._stop()
        if not self.isVisible() or not self._context.client.is_connected:
            return
        self.table.set_rows([])
        request = pb.LogPageRequest(limit=FIRST_LINES, level=self.level.currentData(), run_id=self.run.currentData())
        self._tail = self._context.client.stream("Logs.Tail", request, self._on_lines, self._on_ended, owner=self)

    def _stop(self) -> None:
        self._retry.stop()
        if self._tail is not None:
            self._tail.cancel()
            self._tail = None

    def _on_lines(self, reply: pb.LogPageReply) -> None:
        model = self.table.model
        model.put_many(reply.lines)
        if model.total > MOST_LINES:
            newest = sorted(model.rows(), key=lambda line: line.seq)[-(MOST_LINES - TRIM_LINES) :]
            self.table.set_rows(newest)
        if self.follow.isChecked():
            self.table.view.scrollToBottom()

    def _on_ended(self, error: UserError | None) -> None:
        self._tail = None
        if self.isVisible() and self._context.client.is_connected:
            self._retry.start()

    def _on_scrolled(self) -> None:
        bar = self.table.view.verticalScrollBar()
        self.follow.setChecked(bar.value() >= bar.maximum() - 2)

    def _on_level(self, _at: int) -> None:
        self._context.settings.put("filters/logs_level", self.level.currentData())
        self.reload()

    def _on_reset(self) -> None:
        self._fill_runs()
        self.reload()

    def _fill_runs(self) -> None:
        runs = sorted(self._context.store.runs.values(), key=lambda run: -run.approved_at)
        wanted: list[tuple[str, str]] = [(self.tr("Daemon and all runs"), "")]
        wanted += [(f"{run.job_name} {run.job_version}, {formats.clock(run.started_at)}", run.id) for run in runs[:200]]
        if [self.run.itemData(at) for at in range(self.run.count())] == [run_id for _text, run_id in wanted]:
            return
        chosen = self.run.currentData()
        self.run.blockSignals(True)
        self.run.clear()
        for text, run_id in wanted:
            self.run.addItem(text, run_id)
        self.run.setCurrentIndex(max(0, self.run.findData(chosen)))
        self.run.blockSignals(False)

    def _run_name(self, line: Any) -> str:
        if not line.run_id:
            return formats.DASH
        run = self._context.store.runs.get(line.run_id)
        return run.job_name if run is not None else formats.short_id(line.run_id.removeprefix("run-"))
