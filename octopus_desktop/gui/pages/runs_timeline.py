"""A run's Timeline: who works and who waits, with the sums of each step."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtWidgets import QFrame, QHBoxLayout, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets.parts import ElidedLabel, button, tool_button
from octopus_desktop.gui.widgets.spans import Bar
from octopus_desktop.gui.widgets.timeline import Timeline, duration, step_name
from octopus_desktop.wire.pb import local_pb2 as pb


class TimelineTab(QWidget):
    """Attributes: ``view``: the painted timeline."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.view = Timeline()
        self._told = ElidedLabel("", "caption")
        frame = QFrame()
        set_role(frame, look="card")
        inner = QVBoxLayout(frame)
        inner.setContentsMargins(1, 1, 1, 1)
        inner.addWidget(self.view)
        theme = context.theme
        bar = QHBoxLayout()
        bar.setSpacing(GRID // 2)
        bar.addWidget(self._told, 1)
        bar.addWidget(tool_button(theme, "minus-circle", self.tr("Zoom out (−)"), lambda: self.view.zoom(1 / 1.5)))
        bar.addWidget(tool_button(theme, "plus", self.tr("Zoom in (+)"), lambda: self.view.zoom(1.5)))
        bar.addWidget(button(theme, self.tr("Last round"), self.show_last_round))
        bar.addWidget(button(theme, self.tr("Show all"), self.view.fit))
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.setSpacing(GRID)
        column.addLayout(bar)
        column.addWidget(frame, 1)

    def clear(self) -> None:
        self.view.clear()
        self._told.set_text("")

    def take(self, spans: Iterable[pb.RoundSpan]) -> None:
        new = self.view.add(Bar(row.span.lane, row.span.step, row.round, row.span.start, row.span.end) for row in spans)
        if new:
            self._tell()

    def show_last_round(self) -> None:
        """Show the newest round that has begun, whole."""
        spans = self.view.spans
        if spans.rounds:
            self.view.show_between(spans.rounds[max(spans.rounds)], spans.last)

    def _tell(self) -> None:
        sums = sorted(self.view.spans.totals.items(), key=lambda item: -item[1])
        parts = [f"{step_name(self, step)} {duration(seconds)}" for step, seconds in sums]
        self._told.set_text(self.tr("In all: {0}").format(", ".join(parts)))
