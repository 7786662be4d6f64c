"""Metrics over rounds: this silo and every other that is told beside the federation's aggregate, the best round marked,
and the points of the round that is under way.

pyqtgraph and numpy are imported when the first chart is made, so that a window without a chart starts without them. A
chart paints at most ten times a second, and only when it is visible and something changed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QPoint, Qt, QTimer, Signal
from PySide6.QtGui import QColor, QFontMetrics, QShowEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QSizePolicy, QToolTip, QVBoxLayout, QWidget

from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.ink import FEDERATION_LINE, LIVE_LINE, OWN_LINE, ink_of, is_dark, silo_line
from octopus_desktop.gui.widgets.series import LivePoint, Series

__all__ = ["ChartGrid", "LivePoint", "MetricChart", "Series"]

REPAINT_MS = 100
CHART_HEIGHT = 208  # at least; charts grow into the room there is
TALLEST_CHART = 440
MOST_MARKED = 60  # symbols are for few points; on many they are a smear
REACH_PX = 14  # how near the cursor must come to a point
BEHIND = 130  # of 255: live points, once rounds say more
FADED = 70  # of 255: how strongly a line shows while another one is looked at


class MetricChart(QWidget):
    """One metric.

    Attributes:
        name: the metric's name, such as ``eval/accuracy``.
        series: the numbers; call ``touch`` after changing them.
        silos: the silos (or whatever else has a line each) in the order that gives them their colours.
        names: what a silo's line is called, where that is not its own name.
        best: the round to mark, 0 for none.
        looked_at: whose line is stronger than the others: "local", "federation", a silo's name, or "".
        paints: how often the curves were handed new data (a test's window on the frame rate).

    Signals:
        pointed(str): whose point is under the cursor, "" for none.
    """

    pointed = Signal(str)

    def __init__(self, name: str, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.name, self.series, self.paints = name, Series(), 0
        self.silos: Sequence[str] = ()
        self.names: Mapping[str, str] = {}
        self.best, self.looked_at = 0, ""
        self._plot: Any = None
        self._curves: dict[str, Any] = {}
        self._best_line: Any = None
        self._best_star: Any = None
        self._dirty = False
        self._timer = QTimer(self, singleShot=True, interval=REPAINT_MS)
        self._timer.timeout.connect(self._repaint)
        self.heading = QLabel(name, textFormat=Qt.TextFormat.PlainText)
        self.heading.setProperty("type", "strong")
        self.best_words = QLabel(textFormat=Qt.TextFormat.RichText)
        self.best_words.setProperty("type", "caption")
        self.numbers = QLabel(textFormat=Qt.TextFormat.RichText)
        for words in (self.heading, self.numbers):  # they take the room there is; a long name is cut, not the page
            words.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        top = QHBoxLayout()
        top.addWidget(self.heading, 1)
        top.addWidget(self.best_words)
        layout.addLayout(top)
        layout.addWidget(self.numbers)
        self.setFixedHeight(CHART_HEIGHT)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def touch(self) -> None:
        """Something changed: paint soon, if visible; else when shown."""
        self._dirty = True
        if self.isVisible() and not self._timer.isActive():
            self._timer.start()

    def look_at(self, whose: str) -> None:
        """Show one line more strongly than the others; "" shows all as they are."""
        if whose != self.looked_at:
            self.looked_at = whose
            if self._plot is not None:
                self._colour_lines()

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

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self._point("", QPoint(), "")

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
        self._plot.scene().sigMouseMoved.connect(self._on_moved)
        item.getAxis("left").setWidth(QFontMetrics(self.font()).horizontalAdvance("0.0000") + 12)
        self._best_line = pyqtgraph.InfiniteLine(angle=90, movable=False)
        item.addItem(self._best_line, ignoreBounds=True)
        for key, z in (("live", 1), ("federation", 4), ("local", 3)):
            self._curves[key] = item.plot([], [])
            self._curves[key].setZValue(z)
        self._best_star = item.plot([], [], pen=None, symbol="star", symbolSize=15)
        self._best_star.setZValue(5)
        self.layout().addWidget(self._plot, 1)
        self._colour()

    def _colour(self) -> None:
        import pyqtgraph

        ink, item = ink_of(self), self._plot.getPlotItem()
        self._plot.setBackground(ink.ground)
        item.showGrid(x=False, y=True, alpha=0.15)
        for side in ("left", "bottom"):
            item.getAxis(side).setPen(pyqtgraph.mkPen(ink.line, width=1))
            item.getAxis(side).setTextPen(ink.muted)
            item.getAxis(side).setTickFont(self.font())
        self._best_line.setPen(pyqtgraph.mkPen(ink.muted, width=1, style=Qt.PenStyle.DotLine))
        self._best_star.setSymbolBrush(FEDERATION_LINE[is_dark(self)])
        self._best_star.setSymbolPen(pyqtgraph.mkPen(ink.ground, width=1))
        self._colour_lines()

    def _colour_lines(self) -> None:
        """Pens and symbols of all lines, by whose is looked at."""
        import pyqtgraph

        dark = is_dark(self)
        for whose, curve in self._curves.items():
            colour = QColor(self.colour_of(whose, dark))
            looked_at = whose == self.looked_at
            if self.looked_at and not looked_at:
                colour.setAlpha(FADED)
            elif whose == "live" and self.series.last_round() > 1:
                colour.setAlpha(BEHIND)
            style = Qt.PenStyle.DashLine if whose == "federation" else Qt.PenStyle.SolidLine
            curve.setPen(pyqtgraph.mkPen(colour, width=2.5 if looked_at else 1, style=style))
            if whose == "live":
                continue
            curve.setSymbol({"local": "o", "federation": "s"}.get(whose, "t"))
            curve.setSymbolBrush(colour)
            curve.setSymbolPen(None)
            curve.setSymbolSize(self._symbol(whose))
            if whose in self.series.silos:
                curve.setZValue(6 if looked_at else 2)

    def colour_of(self, whose: str, dark: bool) -> str:
        """The colour of a line: "live", "local", "federation" or a silo's name."""
        known = {"live": LIVE_LINE, "local": OWN_LINE, "federation": FEDERATION_LINE}.get(whose)
        pair = known or silo_line(whose, self.silos, looked_at=whose == self.looked_at)
        return pair[dark]

    def _symbol(self, whose: str) -> int:
        if self.series.last_round() > MOST_MARKED:
            return 0
        return 5 if whose in ("local", "federation") or whose == self.looked_at else 4 if len(self.silos) <= 6 else 0

    def _repaint(self) -> None:
        if not (self._dirty and self._plot is not None and self.isVisible()):
            return
        self._dirty = False
        self.paints += 1
        series, item = self.series, self._plot.getPlotItem()
        gone = [whose for whose in self._curves if whose not in ("live", "local", "federation", *series.silos)]
        for whose in gone:
            item.removeItem(self._curves.pop(whose))
        for silo in series.silos:
            if silo not in self._curves:
                self._curves[silo] = item.plot([], [])
        lines = {"local": series.line(series.local), "federation": series.line(series.federation)}
        lines |= {silo: series.line(kept) for silo, kept in series.silos.items()}
        lines["live"] = series.live_line()
        for whose, line in lines.items():
            self._curves[whose].setData(*line)
        self._colour_lines()
        rounds = max([1.0, *(xs[-1] for xs, _ys in lines.values() if xs)])
        step = max(1, math.ceil(rounds / 8))  # whole rounds only
        item.getAxis("bottom").setTickSpacing(levels=[(step, 0)])
        item.setXRange(0 if lines["live"][0] else min(1.0, rounds - 1), rounds, padding=0.02)
        marked = self.best if self.best in series.federation else 0
        self._best_line.setVisible(bool(marked))
        self._best_line.setValue(marked)
        self._best_star.setData([marked], [series.federation[marked]]) if marked else self._best_star.setData([], [])
        self._tell()

    def _tell(self) -> None:
        dark = is_dark(self)
        local, federation = self.series.last()
        parts = []
        for mark, word, value, whose in (
            ("●", self.tr("this silo"), local, "local"),
            ("■", self.tr("federation"), federation, "federation"),
        ):
            if value is not None:
                colour = self.colour_of(whose, dark)
                parts.append(f'<span style="color:{colour}">{mark}</span> {word} <b>{value:.4g}</b>')
        best = ""
        if self.best in self.series.federation:
            told = f"<b>{self.series.federation[self.best]:.4g}</b>"
            best = f'<span style="color:{FEDERATION_LINE[dark]}">★</span> '
            best += self.tr("best round {0}: {1}").format(self.best, told)
        self.best_words.setText(best)
        if self.series.live:
            parts.append(f'<span style="color:{LIVE_LINE[dark]}">━</span> {self.tr("live")}')
        self.numbers.setText(" &nbsp; ".join(parts))

    def _on_moved(self, at: Any) -> None:
        box = self._plot.getPlotItem().getViewBox()
        place, pixel = box.mapSceneToView(at), box.viewPixelSize()
        found = self.series.near(place.x(), place.y(), (REACH_PX * pixel[0], REACH_PX * pixel[1]))
        if found is None:
            self._point("", QPoint(), "")
            return
        whose, number = found
        kept = {"local": self.series.local, "federation": self.series.federation}.get(whose)
        value = (self.series.silos[whose] if kept is None else kept)[number]
        known = {"local": self.tr("this silo"), "federation": self.tr("federation"), **self.names}
        name = known.get(whose, whose)
        text = self.tr("{0} · round {1}: {2}").format(name, number, formats.number(value))
        self._point(whose, self._plot.mapToGlobal(self._plot.mapFromScene(at)), text)

    def _point(self, whose: str, at: QPoint, text: str) -> None:
        if text:
            QToolTip.showText(at, text, self._plot)
        elif self._plot is not None and self.looked_at:
            QToolTip.hideText()
        self.pointed.emit(whose)


class ChartGrid(QWidget):
    """Charts side by side, one a metric, made as metrics appear: what is evaluated first, losses, then the rest.

    Signals:
        pointed(str): whose line is under the cursor: "local", "federation", a silo's name, "" for none.
    """

    pointed = Signal(str)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.charts: dict[str, MetricChart] = {}
        self._silos: Sequence[str] = ()
        self._best = 0
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
        self.charts, self._best = {}, 0

    def set_silos(self, silos: Sequence[str]) -> None:
        """Which other silos there are; their order gives them their colours."""
        self._silos = list(silos)
        for chart in self.charts.values():
            chart.silos = self._silos

    def set_best(self, number: int) -> None:
        """Mark a round as the best; 0 marks none."""
        if number == self._best:
            return
        self._best = number
        for chart in self.charts.values():
            chart.best = number
            chart.touch()

    def look_at(self, whose: str) -> None:
        for chart in self.charts.values():
            chart.look_at(whose)

    def set_round(
        self,
        number: int,
        local: Mapping[str, float],
        federation: Mapping[str, float],
        silos: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        """``silos``: each other silo's own metrics of the round, by its name."""
        told = silos or {}
        for name in {*local, *federation, *(name for values in told.values() for name in values)}:
            if name.endswith("/examples"):
                continue  # a weight, not a measure
            chart = self._chart(name)
            of_silos = {silo: values[name] for silo, values in told.items() if name in values}
            if chart.series.set_round(number, local.get(name), federation.get(name), of_silos):
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
            chart.silos, chart.best = self._silos, self._best
            chart.pointed.connect(self.pointed)
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
        for place, name in enumerate(sorted(self.charts, key=chart_order)):
            self._grid.addWidget(self.charts[name], place // columns, place % columns, Qt.AlignmentFlag.AlignTop)
        for column in range(3):
            self._grid.setColumnStretch(column, 1 if column < columns else 0)


def chart_order(name: str) -> tuple[int, str]:
    """Sorts metrics: what is evaluated first, then losses, then the rest."""
    group = 0 if name.startswith("eval/") and "loss" not in name else 1 if "loss" in name else 2
    return group, name
