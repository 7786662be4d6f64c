"""Metrics over rounds: this silo beside the federation's aggregate, and the points of the round that is under way.

pyqtgraph and numpy are imported when the first chart is made, so that a window without a chart starts without them. A
chart paints at most ten times a second, and only when it is visible and something changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QEvent, Qt, QTimer
from PySide6.QtGui import QFontMetrics, QShowEvent
from PySide6.QtWidgets import QGridLayout, QLabel, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.widgets.ink import is_dark

REPAINT_MS = 100
CHART_HEIGHT = 208  # at least; charts grow into the room there is
TALLEST_CHART = 440
MOST_LIVE_POINTS = 200_000

# Per series: colour on light, colour on dark. The federation's line is dashed and has other marks as well.
_SILO = ("#3a52c2", "#95a9ff")
_FEDERATION = ("#b4530a", "#f2a65e")
_LIVE = ("#117a65", "#5fcfb4")
_LINES = {False: ("#545f71", "#d6dbe4", "#ffffff"), True: ("#a6afbe", "#333a47", "#1b1f27")}


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One value reported within a round: ``step`` counts from the round's start, ``source`` is "silo" or "worker N"."""

    source: str
    round: int
    step: int
    value: float


class Series:
    """What one chart shows. Pure: keeps rounds by number and live points by place, and turns them into x and y.

    The x axis counts rounds: the value of round k stands at k, a live point of round k between k - 1 and k, by its step
    and the most steps that any round had.
    """

    def __init__(self) -> None:
        self.local: dict[int, float] = {}
        self.federation: dict[int, float] = {}
        self.live: dict[tuple[str, int, int], float] = {}
        self.steps = 1

    def set_round(self, number: int, local: float | None, federation: float | None) -> bool:
        """True when something changed."""
        changed = False
        for kept, value in ((self.local, local), (self.federation, federation)):
            if value is not None and value == value and kept.get(number) != value:
                kept[number] = value
                changed = True
        return changed

    def add_live(self, point: LivePoint) -> bool:
        if point.value != point.value or len(self.live) >= MOST_LIVE_POINTS:
            return False
        key = (point.source, point.round, point.step)
        if key in self.live:
            return False
        self.live[key] = point.value
        self.steps = max(self.steps, point.step)
        return True

    def line(self, which: dict[int, float]) -> tuple[list[float], list[float]]:
        rounds = sorted(which)
        return [float(r) for r in rounds], [which[r] for r in rounds]

    def live_line(self) -> tuple[list[float], list[float]]:
        """The live points in order; of several workers' points at one step, the mean."""
        sums: dict[tuple[int, int], list[float]] = {}
        for (_source, number, step), value in self.live.items():
            sums.setdefault((number, step), []).append(value)
        places = sorted(sums)
        xs = [number - 1 + min(step / self.steps, 1.0) for number, step in places]
        return xs, [sum(sums[p]) / len(sums[p]) for p in places]

    def last(self) -> tuple[float | None, float | None]:
        """The newest value of this silo and of the federation."""
        local = self.local[max(self.local)] if self.local else None
        federation = self.federation[max(self.federation)] if self.federation else None
        return local, federation


class MetricChart(QWidget):
    """One metric.

    Attributes:
        name: the metric's name, such as ``eval/accuracy``.
        series: the numbers; call ``touch`` after changing them.
        paints: how often the curves were handed new data (a test's window on the frame rate).
    """

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.name, self.series, self.paints = name, Series(), 0
        self._plot: Any = None
        self._curves: dict[str, Any] = {}
        self._dirty = False
        self._timer = QTimer(self, singleShot=True, interval=REPAINT_MS)
        self._timer.timeout.connect(self._repaint)
        self.heading = QLabel(name, textFormat=Qt.TextFormat.PlainText)
        self.heading.setProperty("type", "strong")
        self.numbers = QLabel(textFormat=Qt.TextFormat.RichText)
        for words in (self.heading, self.numbers):  # they take the room there is; a long name is cut, not the page
            words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        layout.addWidget(self.heading)
        layout.addWidget(self.numbers)
        self.setFixedHeight(CHART_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def touch(self) -> None:
        """Something changed: paint soon, if visible; else when shown."""
        self._dirty = True
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self._plot is None:
            self._make_plot()
            self._repaint()
        if self._dirty and not self._timer.isActive():
            self._timer.start()

    def changeEvent(self, event: QEvent) -> None:
        super().changeEvent(event)
        if event.type() == QEvent.Type.PaletteChange and self._plot is not None:
            self._colour()
            self.touch()

    def _make_plot(self) -> None:
        import pyqtgraph

        self._plot = pyqtgraph.PlotWidget(enableMenu=False)
        self._plot.setFrameShape(self._plot.Shape.NoFrame)
        self._plot.setAccessibleName(self.tr("Chart of {metric} over rounds").format(metric=self.name))
        item = self._plot.getPlotItem()
        item.hideButtons()
        item.setDownsampling(auto=True, mode="peak")
        item.setClipToView(True)
        item.setMouseEnabled(x=False, y=False)
        self._plot.wheelEvent = lambda event: event.ignore()  # the page scrolls, not the chart
        item.getAxis("left").setWidth(QFontMetrics(self.font()).horizontalAdvance("0.0000") + 12)
        for key in ("live", "federation", "local"):
            self._curves[key] = item.plot([], [])
        self.layout().addWidget(self._plot, 1)
        self._colour()

    def _colour(self) -> None:
        import pyqtgraph

        dark = is_dark(self)
        text, line, ground = _LINES[dark]
        self._plot.setBackground(ground)
        item = self._plot.getPlotItem()
        item.showGrid(x=False, y=True, alpha=0.15)
        for side in ("left", "bottom"):
            item.getAxis(side).setPen(pyqtgraph.mkPen(line, width=1))
            item.getAxis(side).setTextPen(text)
            item.getAxis(side).setTickFont(self.font())
        silo, federation, live = (pair[dark] for pair in (_SILO, _FEDERATION, _LIVE))
        self._curves["live"].setPen(pyqtgraph.mkPen(live, width=1))
        self._curves["local"].setPen(pyqtgraph.mkPen(silo, width=1))
        self._curves["federation"].setPen(pyqtgraph.mkPen(federation, width=1, style=Qt.PenStyle.DashLine))
        for key, symbol, colour in (("local", "o", silo), ("federation", "s", federation)):
            self._curves[key].setSymbol(symbol)
            self._curves[key].setSymbolSize(5)
            self._curves[key].setSymbolBrush(colour)
            self._curves[key].setSymbolPen(None)

    def _repaint(self) -> None:
        if not (self._dirty and self._plot is not None and self.isVisible()):
            return
        self._dirty = False
        self.paints += 1
        series = self.series
        local, federation, live = series.line(series.local), series.line(series.federation), series.live_line()
        self._curves["local"].setData(*local)
        self._curves["federation"].setData(*federation)
        self._curves["live"].setData(*live)
        # Symbols are for few points; on many they are a smear.
        for key, points in (("local", local[0]), ("federation", federation[0])):
            self._curves[key].setSymbolSize(5 if len(points) <= 60 else 0)
        rounds = max([1.0, *local[0][-1:], *federation[0][-1:], *live[0][-1:]])
        step = max(1, math.ceil(rounds / 8))  # whole rounds only
        self._plot.getPlotItem().getAxis("bottom").setTickSpacing(levels=[(step, 0)])
        self._plot.getPlotItem().setXRange(0 if live[0] else min(1.0, rounds - 1), rounds, padding=0.02)
        self._tell()

    def _tell(self) -> None:
        dark = is_dark(self)
        local, federation = self.series.last()
        parts = []
        for mark, word, value, pair in (
            ("●", self.tr("this silo"), local, _SILO),
            ("■", self.tr("federation"), federation, _FEDERATION),
        ):
            if value is not None:
                parts.append(f'<span style="color:{pair[dark]}">{mark}</span> {word} <b>{value:.4g}</b>')
        if self.series.live:
            parts.append(f'<span style="color:{_LIVE[dark]}">━</span> {self.tr("live")}')
        self.numbers.setText(" &nbsp; ".join(parts))


class ChartGrid(QWidget):
    """Charts side by side, one a metric, made as metrics appear: what is evaluated first, losses, then the rest."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.charts: dict[str, MetricChart] = {}
        self._columns, self._chart_height = 0, CHART_HEIGHT
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(24)
        self._grid.setVerticalSpacing(16)

    def clear(self) -> None:
        for chart in self.charts.values():
            self._grid.removeWidget(chart)
            chart.hide()
            chart.deleteLater()
        self.charts = {}

    def set_round(self, number: int, local: dict[str, float], federation: dict[str, float]) -> None:
        for name in {*local, *federation}:
            if name.endswith("/examples"):
                continue  # a weight, not a measure
            chart = self._chart(name)
            if chart.series.set_round(number, local.get(name), federation.get(name)):
                chart.touch()

    def add_live(self, points: Iterable[tuple[str, LivePoint]]) -> None:
        touched = set()
        for name, point in points:
            chart = self._chart(name)
            if chart.series.add_live(point):
                touched.add(chart)
        for chart in touched:
            chart.touch()

    def resizeEvent(self, event: Any) -> None:
        super().resizeEvent(event)
        self._arrange()

    def set_room(self, height: int) -> None:
        """Let the rows of charts share ``height`` pixels, within what is readable."""
        rows = max(1, math.ceil(len(self.charts) / max(1, self._columns)))
        self._chart_height = min(TALLEST_CHART, max(CHART_HEIGHT, (height - 16 * (rows - 1)) // rows))
        for chart in self.charts.values():
            chart.setFixedHeight(self._chart_height)

    def _chart(self, name: str) -> MetricChart:
        chart = self.charts.get(name)
        if chart is None:
            chart = self.charts[name] = MetricChart(name, self)
            self._columns = 0
            chart.setFixedHeight(self._chart_height)
            self._arrange()
            chart.show()
        return chart

    def _arrange(self) -> None:
        columns = max(1, min(3, self.width() // 320, len(self.charts)))
        if columns == self._columns:
            return
        self._columns = columns
        for place, name in enumerate(sorted(self.charts, key=_chart_order)):
            self._grid.addWidget(self.charts[name], place // columns, place % columns, Qt.AlignmentFlag.AlignTop)
        for column in range(3):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)


def _chart_order(name: str) -> tuple[int, str]:
    group = 0 if name.startswith("eval/") and "loss" not in name else 1 if "loss" in name else 2
    return group, name
