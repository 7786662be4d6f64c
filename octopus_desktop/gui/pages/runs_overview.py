"""A run's Overview: its metrics per round and live, each silo beside the federation, and how the run is held."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QTimer
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QHBoxLayout, QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.pages.runs_silos import PANEL_PX, SilosPanel, config_of
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.charts import ChartGrid, LivePoint, chart_order
from octopus_desktop.gui.widgets.parts import Card, EmptyState, scroll
from octopus_desktop.gui.widgets.series import newest
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.silos import best_round, standings
from octopus_desktop.wire.pb import local_pb2 as pb

FRAME_PX = 26  # the card's margins above and below the charts
TELL_MS = 200  # silos' words follow a burst of rounds once


class OverviewTab(QWidget):
    """Attributes: ``grid``: the charts, by the metric's name; ``silos``: the panel beside them."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._run = pb.Run()
        self._own = ""
        self._config: RunConfig | None = None
        self._rounds: dict[int, pb.RunRound] = {}
        self.grid = ChartGrid()
        self.silos = SilosPanel(context.theme)
        self.grid.pointed.connect(self._on_pointed)
        self.silos.looked_at.connect(self.grid.look_at)
        card = Card()
        card.body.addWidget(self.grid)
        charts = QWidget()
        column = QVBoxLayout(charts)
        column.setContentsMargins(0, GRID, GRID, GRID)
        column.addWidget(card)
        column.addStretch(1)
        self._empty = EmptyState(
            context.theme,
            "timeline",
            self.tr("No numbers yet"),
            self.tr("Metrics appear here with the first steps of training, and per round once a round is over."),
        )
        self._stack = QStackedWidget()
        self._stack.addWidget(self._empty)
        self._stack.addWidget(scroll(charts))
        beside = QWidget()
        column = QVBoxLayout(beside)
        column.setContentsMargins(0, GRID, GRID, GRID)
        column.addWidget(self.silos)
        self._side = scroll(beside)
        self._side.setFixedWidth(PANEL_PX + 2 * GRID)
        outer = QHBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.setSpacing(GRID)
        outer.addWidget(self._stack, 1)
        outer.addWidget(self._side)
        self._soon = QTimer(self, singleShot=True, interval=TELL_MS)
        self._soon.timeout.connect(self._tell)

    def clear(self) -> None:
        self.grid.clear()
        self.silos.clear()
        self._config, self._rounds = None, {}
        self._stack.setCurrentIndex(0)

    def set_run(self, run: pb.Run, own: str, config_json: str = "") -> None:
        """``own``: this silo's name in the federation; ``config_json``: the run's configuration, once it is known."""
        self._run, self._own = run, own
        self._config = config_of(config_json) or self._config
        self.silos.set_silos(own, list(run.silos))
        self.grid.set_silos([silo for silo in run.silos if silo != own])
        self._tell()

    def take(self, rounds: Iterable[pb.RunRound], points: Iterable[pb.Point]) -> None:
        """Rounds replace what was known of them; points that are known already are passed over."""
        new = False
        for row in rounds:
            self._rounds[row.round], new = row, True
            others = {silo: dict(told.values) for silo, told in row.silos.items() if silo != self._own}
            self.grid.set_round(row.round, dict(row.local), dict(row.federation), others)
        live = [
            (point.name, LivePoint(point.source, point.round, point.step, point.value))
            for point in points
            if point.source != "federation" and point.step
        ]
        self.grid.add_live(live)
        if self.grid.charts:
            self._stack.setCurrentIndex(1)
            self._share_room()
        if new and not self._soon.isActive():
            self._soon.start()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._share_room()

    def _share_room(self) -> None:
        self.grid.set_room(self.height() - 2 * FRAME_PX)

    def _on_pointed(self, key: str) -> None:
        self.silos.point(key)

    def _tell(self) -> None:
        """The silos' words and values, and the best round, from all rounds."""
        rounds = list(self._rounds.values())
        self.silos.set_standings(standings(list(self.silos.rows), rounds))
        best, value = self._run.best_round, self._run.best_value
        if not best:
            best, value = best_round(self._config.best if self._config else "", rounds)
        self.grid.set_best(best)
        more = []
        if best and self._config:
            metric = self._config.best.partition(" ")[2]
            ended = self._run.state == "completed"
            said = self.tr("Round {0}: {1} {2}.") if ended else self.tr("Round {0} so far: {1} {2}.")
            more.append((self.tr("Best model"), said.format(best, metric, formats.number(value))))
        if self._config and not self._config.share_metrics and len(self.silos.rows) > 1:
            text = self.tr("This run shows each silo its own numbers and the federation's, not the other silos'.")
            more.append((self.tr("Other silos"), text))
        self.silos.set_ways(self._config, more)
        self._tell_values()

    def _tell_values(self) -> None:
        names = sorted(self.grid.charts, key=chart_order)
        if not names:
            return
        series = self.grid.charts[names[0]].series
        values = {silo: newest(kept) for silo, kept in series.silos.items()} | {self._own: newest(series.local)}
        self.silos.set_values(names[0], {silo: value for silo, value in values.items() if value is not None})
