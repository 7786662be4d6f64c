"""A run's Overview: its metrics per round and live, this silo beside the federation."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets.charts import ChartGrid, LivePoint
from octopus_desktop.gui.widgets.parts import Card, EmptyState, scroll
from octopus_desktop.wire.pb import local_pb2 as pb

FRAME_PX = 26  # the card's margins above and below the charts


class OverviewTab(QWidget):
    """Attributes: ``grid``: the charts, by the metric's name."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.grid = ChartGrid()
        card = Card()
        card.body.addWidget(self.grid)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, GRID, GRID, GRID)
        column.addWidget(card)
        column.addStretch(1)
        self._stack = QStackedWidget()
        self._stack.addWidget(
            EmptyState(
                context.theme,
                "timeline",
                self.tr("No numbers yet"),
                self.tr("Metrics appear here with the first steps of training, and per round once a round is over."),
            )
        )
        self._area = scroll(content)
        self._stack.addWidget(self._area)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._stack)

    def clear(self) -> None:
        self.grid.clear()
        self._stack.setCurrentIndex(0)

    def take(self, rounds: Iterable[pb.RunRound], points: Iterable[pb.Point]) -> None:
        """Rounds replace what was known of them; points that are known already are passed over."""
        for row in rounds:
            self.grid.set_round(row.round, dict(row.local), dict(row.federation))
        live = [
            (point.name, LivePoint(point.source, point.round, point.step, point.value))
            for point in points
            if point.source != "federation" and point.step
        ]
        self.grid.add_live(live)
        if self.grid.charts:
            self._stack.setCurrentIndex(1)
            self._share_room()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._share_room()

    def _share_room(self) -> None:
        self.grid.set_room(self.height() - 2 * FRAME_PX)
