"""A run's Logs: what runner and workers said, live while the tab is shown."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QEvent, QTimer
from PySide6.QtGui import QColor, QTextCharFormat, QTextCursor
from PySide6.QtWidgets import QCheckBox, QComboBox, QHBoxLayout, QLineEdit, QPlainTextEdit, QVBoxLayout, QWidget

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import label
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

MOST_LINES = 20_000
PAGE_LINES = 1000
LEVELS = ("debug", "info", "warning", "error")


class LogsTab(QWidget):
    """Attributes: ``view``: the text. ``set_live`` follows the log while it holds."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._run_id, self._live = "", False
        self._tail: Subscription | None = None
        self._seen = 0
        self.view = QPlainTextEdit(readOnly=True)
        self.view.setFont(context.theme.font("body", monospace=True))
        self.view.setMaximumBlockCount(MOST_LINES)
        self.view.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
        self.view.setAccessibleName(self.tr("Log of the run"))
        self.level = QComboBox()
        self.level.setAccessibleName(self.tr("Least level"))
        for key, text in zip(
            LEVELS,
            (self.tr("All"), self.tr("Info and above"), self.tr("Warnings and errors"), self.tr("Errors")),
            strict=True,
        ):
            self.level.addItem(text, key)
        self.level.setCurrentIndex(1)
        self.search = QLineEdit(placeholderText=self.tr("Only lines with this text"), clearButtonEnabled=True)
        self.search.setMaximumWidth(320)
        self.follow = QCheckBox(self.tr("Follow"), checked=True)
        self._told = label("", "caption")
        bar = QHBoxLayout()
        bar.setSpacing(GRID)
        bar.addWidget(self.search, 2)
        bar.addWidget(self.level)
        bar.addWidget(self.follow)
        bar.addStretch(1)
        bar.addWidget(self._told)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.setSpacing(GRID)
        column.addLayout(bar)
        column.addWidget(self.view, 1)
        self._pause = QTimer(self, singleShot=True, interval=200)
        self._pause.timeout.connect(self._start)
        self.search.textChanged.connect(lambda _text: self._pause.start())
        self.level.currentIndexChanged.connect(lambda _index: self._start())

    def show_run(self, run_id: str) -> None:
        self._run_id = run_id
        self._start()

    def set_live(self, live: bool) -> None:
        if live != self._live:
            self._live = live
            self._start()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and self._live and self._run_id:
            self._start()  # the lines carry their colours with them

    def _start(self) -> None:
        """Begin anew: the newest page of what the filters let through, then what comes."""
        if self._tail is not None:
            self._tail.cancel()
            self._tail = None
        if not (self._live and self._run_id):
            return
        self.view.clear()
        self._seen = 0
        self._told.setText("")
        request = pb.LogPageRequest(
            limit=PAGE_LINES, level=self.level.currentData(), run_id=self._run_id, text=self.search.text().strip()
        )
        tail = self._tail = self._context.client.stream(
            "Logs.Tail", request, lambda page: self._on_page(page), self._on_ended, owner=self
        )
        self._context.client.call(
            "Logs.Page", request, lambda page: self._on_first(tail, page), self._on_ended, owner=self
        )

    def _on_first(self, tail: Subscription, page: pb.LogPageReply) -> None:
        if tail is self._tail:
            self._on_page(page)
            if not page.lines and not self._seen:
                self._told.setText(self.tr("No line yet"))

    def _on_page(self, page: pb.LogPageReply) -> None:
        new = [line for line in page.lines if line.seq > self._seen and self._fits(line)]
        if new:
            self._seen = max(line.seq for line in new)
            self._append(new)
            self._told.setText("")

    def _fits(self, line: pb.LogLine) -> bool:
        return line.run_id == self._run_id

    def _on_ended(self, error: UserError | None) -> None:
        if error is not None:
            self._told.setText(error.what)

    def _append(self, lines: Iterable[pb.LogLine]) -> None:
        theme, bar = self._context.theme, self.view.verticalScrollBar()
        before = bar.value()
        cursor = QTextCursor(self.view.document())
        cursor.movePosition(QTextCursor.MoveOperation.End)
        cursor.beginEditBlock()
        colours = {"debug": "muted", "warning": "warning", "error": "danger", "critical": "danger"}
        for line in lines:
            if not self.view.document().isEmpty():
                cursor.insertBlock()
            for text, role in (
                (f"{formats.clock(line.at)}  ", "muted"),
                (f"{line.level.upper():<8}", colours.get(line.level, "muted")),
                (f"{line.source:<12} ", "muted"),
                (line.text, colours.get(line.level, "text") if line.level != "debug" else "muted"),
            ):
                form = QTextCharFormat()
                form.setForeground(QColor(theme.name(role)))
                cursor.insertText(text, form)
        cursor.endEditBlock()
        bar.setValue(bar.maximum() if self.follow.isChecked() else before)
