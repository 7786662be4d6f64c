"""The timeline of a run: who works, who waits, and for whom. One lane a worker, the silo, the server; bars over time.

Wheel zooms about the cursor, a drag pans, a double click fits; the arrow keys walk from bar to bar. Knows spans only,
and nothing of the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from PySide6.QtCore import QEvent, QPointF, QRectF, QSize, Qt, QTimer, Signal
from PySide6.QtGui import (
    QBrush,
    QColor,
    QFontMetricsF,
    QHelpEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QPaintEvent,
    QPen,
    QResizeEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QToolTip, QWidget

from octopus_desktop.gui.widgets.ink import OTHER_STEP, STEP_COLOURS, Ink, ink_of, text_on
from octopus_desktop.gui.widgets.spans import Bar, Spans, ticks

ROW = 20  # at least; rows grow while there are few
TALLEST_ROW = 36
TOP = 8
LANE_GAP = 12
AXIS = 40
LEGEND = 32
PAD = 8
FRAME_MS = 100  # live bars repaint at most ten times a second


class Timeline(QWidget):
    """The painted widget.

    Attributes:
        start, scale: the moment at the left edge (Unix seconds) and seconds per pixel.
        follow: whether the view keeps up with the newest bar; a pan or a zoom ends it, fit begins it again.

    Signals:
        bar_hovered(object): the Bar under the cursor, or None.
    """

    bar_hovered = Signal(object)

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.spans = Spans()
        self.start, self.scale, self.follow = 0.0, 1.0, True
        self.current: Bar | None = None
        self._drag: tuple[float, float] | None = None
        self.row = ROW  # a row's height, in pixels
        self._top = 0  # vertical scroll, in pixels
        self._dirty: QRectF | None = None
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setMinimumSize(360, 160)
        self.setAccessibleName(self.tr("Timeline"))
        self.setAccessibleDescription(
            self.tr("Arrow keys walk from bar to bar, plus and minus zoom, 0 shows everything.")
        )
        self._frame = QTimer(self, singleShot=True, interval=FRAME_MS)
        self._frame.timeout.connect(self._on_frame)

    # What comes in

    def clear(self) -> None:
        self.spans, self.current, self.follow, self._top, self._dirty = Spans(), None, True, 0, None
        self.update()

    def add(self, bars: Iterable[Bar]) -> int:
        """Take bars in; the ones already there are passed over. Only what they cover is painted again, unless the view
        follows the newest bar. Returns how many were new."""
        lanes, new = len(self.spans.lanes), 0
        for bar in bars:
            rows = self.spans.rows(bar.lane)
            if not self.spans.add(bar):
                continue
            new += 1
            if self.spans.rows(bar.lane) != rows:
                lanes = -1  # another row: everything below moves
            box = self._box_of_lane(bar)
            self._dirty = box if self._dirty is None else self._dirty.united(box)
        if new:
            if lanes != len(self.spans.lanes):
                self._measure()
                self._dirty = QRectF(self.rect())
            if not self._frame.isActive():
                self._frame.start(FRAME_MS if self.isVisible() and self.spans.count > new else 0)
        return new

    def _on_frame(self) -> None:
        if self.follow:
            self._fit_scale()
            self.update()
        elif self._dirty is not None:
            self.update(self._dirty.toAlignedRect().adjusted(-2, -2, 2, 2))
        self._dirty = None

    # Where things are

    def label_width(self) -> float:
        metrics = QFontMetricsF(self.font())
        widest = max((metrics.horizontalAdvance(lane) for lane in self.spans.lanes), default=60.0)
        return min(widest, 200.0) + 2 * PAD

    def _measure(self) -> None:
        """Share the height among the rows, within what is readable."""
        rows = sum(self.spans.rows(lane) for lane in self.spans.lanes)
        room = self.height() - AXIS - TOP - LEGEND - LANE_GAP * len(self.spans.lanes)
        self.row = min(TALLEST_ROW, max(ROW, room // max(1, rows)))

    def lane_tops(self) -> list[tuple[str, float]]:
        y, tops = float(AXIS + TOP - self._top), []
        for lane in self.spans.lanes:
            tops.append((lane, y))
            y += self.spans.rows(lane) * self.row + LANE_GAP
        return tops

    def x_of(self, moment: float) -> float:
        return self.label_width() + (moment - self.start) / self.scale

    def moment_at(self, x: float) -> float:
        return self.start + (x - self.label_width()) * self.scale

    def bar_at(self, point: QPointF) -> Bar | None:
        """The bar under ``point``; a bar thinner than three pixels can still be hit."""
        if point.x() < self.label_width() or not AXIS <= point.y() < self.height() - LEGEND:
            return None
        for lane, top in self.lane_tops():
            row = int((point.y() - top) // self.row)
            if point.y() >= top and row < self.spans.rows(lane):
                return self.spans.at(lane, row, self.moment_at(point.x()), 2 * self.scale)
        return None

    def text_of(self, bar: Bar) -> str:
        where = time.strftime("%H:%M:%S", time.localtime(bar.start))
        lines = [f"{step_name(self, bar.step)} · {duration(bar.seconds)}", bar.lane]
        if bar.round:
            lines[1] += " · " + self.tr("round {round}").format(round=bar.round)
        lines.append(
            self.tr("from {time}, {after} after the start").format(
                time=where, after=duration(bar.start - self.spans.first)
            )
        )
        return "\n".join(lines)

    # How one moves about

    def fit(self) -> None:
        """Show everything, and keep up with what comes."""
        self.follow = True
        self._fit_scale()
        self.update()

    def show_between(self, start: float, end: float) -> None:
        """Show the time from ``start`` to ``end`` (Unix seconds) across the whole width."""
        room = max(1.0, self.width() - self.label_width() - PAD)
        self.start, self.scale, self.follow = start, max(end - start, 1e-3) * 1.02 / room, False
        self.update()

    def zoom(self, factor: float, x: float | None = None) -> None:
        """Make everything ``factor`` times as wide; the moment at ``x`` (default: the middle) stays where it is."""
        if not self.spans.count:
            return
        x = (self.label_width() + self.width()) / 2 if x is None else max(x, self.label_width())
        fixed = self.moment_at(x)
        widest = max(self.spans.last - self.spans.first, 1e-3) * 2 / max(1.0, self.width() - self.label_width())
        self.scale = min(max(self.scale / factor, 1e-6), widest)
        self.start = fixed - (x - self.label_width()) * self.scale
        self.follow = False
        self.update()

    def pan(self, pixels: float) -> None:
        self.start += pixels * self.scale
        self.follow = False
        self.update()

    def select(self, bar: Bar | None) -> None:
        """Mark a bar, bring it into view, and tell it."""
        self.current = bar
        if bar is not None:
            left, right = self.x_of(bar.start), self.x_of(bar.end)
            if right < self.label_width() or left > self.width():
                self.start = bar.start - (self.width() - self.label_width()) * self.scale / 3
                self.follow = False
            self.setAccessibleDescription(self.text_of(bar))
            if self.isVisible():
                place = QPointF(max(self.x_of(bar.start), self.label_width()), self._box_of_lane(bar).bottom())
                QToolTip.showText(self.mapToGlobal(place.toPoint()), self.text_of(bar), self)
        self.update()

    def wheelEvent(self, event: QWheelEvent) -> None:
        delta = event.angleDelta()
        if event.modifiers() & Qt.KeyboardModifier.ShiftModifier or abs(delta.x()) > abs(delta.y()):
            self.pan(-(delta.x() or delta.y()) / 2)
        elif event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self._scroll(-delta.y() / 2)
        else:
            self.zoom(1.0015 ** delta.y(), event.position().x())
        event.accept()

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() == Qt.MouseButton.LeftButton:
            self._drag = (event.position().x(), event.position().y())
            self.current = self.bar_at(event.position()) or self.current
            self.update()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._drag is not None:
            x, y = event.position().x(), event.position().y()
            self.setCursor(Qt.CursorShape.ClosedHandCursor)
            self.pan(self._drag[0] - x)
            self._scroll(self._drag[1] - y)
            self._drag = (x, y)
            return
        self.bar_hovered.emit(self.bar_at(event.position()))

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        self._drag = None
        self.unsetCursor()

    def mouseDoubleClickEvent(self, event: QMouseEvent) -> None:
        self.fit()

    def keyPressEvent(self, event: QKeyEvent) -> None:
        key, shift = event.key(), bool(event.modifiers() & Qt.KeyboardModifier.ShiftModifier)
        if key in (Qt.Key.Key_Left, Qt.Key.Key_Right):
            step = 1 if key == Qt.Key.Key_Right else -1
            if shift:
                self.pan(80 * step)
            else:
                self._walk(step)
        elif key in (Qt.Key.Key_Up, Qt.Key.Key_Down):
            self._change_lane(1 if key == Qt.Key.Key_Down else -1)
        elif key in (Qt.Key.Key_Plus, Qt.Key.Key_Equal):
            self.zoom(1.5)
        elif key == Qt.Key.Key_Minus:
            self.zoom(1 / 1.5)
        elif key in (Qt.Key.Key_0, Qt.Key.Key_Home):
            self.fit()
        else:
            super().keyPressEvent(event)

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            bar = self.bar_at(QPointF(event.pos()))
            if bar is None:
                QToolTip.hideText()
            else:
                QToolTip.showText(event.globalPos(), self.text_of(bar), self)
            return True
        return super().event(event)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._measure()
        if self.follow:
            self._fit_scale()

    def sizeHint(self) -> QSize:
        rows = sum(self.spans.rows(lane) * ROW + LANE_GAP for lane in self.spans.lanes)
        return QSize(720, AXIS + TOP + rows + LEGEND)

    # How it looks

    def paintEvent(self, event: QPaintEvent) -> None:
        painter, ink = QPainter(self), ink_of(self)
        painter.fillRect(event.rect(), QColor(ink.ground))
        if not self.spans.count:
            painter.setPen(QColor(ink.muted))
            painter.drawText(self.rect(), Qt.AlignmentFlag.AlignCenter, self.tr("No step has been reported yet."))
            return
        left, bottom = self.label_width(), self.height() - LEGEND
        self._paint_grid(painter, ink, left, bottom)
        painter.save()
        painter.setClipRect(QRectF(0, AXIS, self.width(), bottom - AXIS))
        tops = self.lane_tops()
        for lane, top in tops:
            high = self.spans.rows(lane) * self.row
            painter.setPen(QColor(ink.text))
            name = QFontMetricsF(self.font()).elidedText(lane, Qt.TextElideMode.ElideRight, left - 2 * PAD)
            painter.drawText(QRectF(PAD, top, left - PAD, high), Qt.AlignmentFlag.AlignVCenter, name)
        painter.setClipRect(QRectF(left, AXIS, self.width() - left, bottom - AXIS).intersected(QRectF(event.rect())))
        area = event.rect()
        from_s = self.moment_at(max(left, area.left() - 2))
        to_s = self.moment_at(area.right() + 2)
        for lane, top in tops:
            if top > area.bottom() or top + self.spans.rows(lane) * self.row < area.top():
                continue
            for row, bar in self.spans.visible(lane, from_s, to_s, self.scale):
                self._paint_bar(painter, ink, bar, top + row * self.row)
        painter.restore()
        self._paint_legend(painter, ink, bottom)
        if self.hasFocus():
            painter.setPen(QPen(QColor(ink.accent), 1))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(self.rect().adjusted(0, 0, -1, -1))

    def _paint_bar(self, painter: QPainter, ink: Ink, bar: Bar, top: float) -> None:
        x, width = self.x_of(bar.start), max(1.0, bar.seconds / self.scale)
        box = QRectF(x, top + 2, width, self.row - 4)
        colour = QColor(STEP_COLOURS.get(bar.step, OTHER_STEP))
        painter.fillRect(box, colour)
        if bar.step == "wait" and width > 3:
            painter.fillRect(box, QBrush(QColor(ink.ground), Qt.BrushStyle.BDiagPattern))
        if width >= 3 and bar != self.current:
            painter.setPen(QPen(QColor(ink.ground), 1))
            painter.drawLine(QPointF(box.right(), box.top()), QPointF(box.right(), box.bottom()))
        if bar == self.current:
            painter.setPen(QPen(QColor(ink.text), 2))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRect(box)
        seen = box.intersected(QRectF(self.label_width(), box.top(), self.width(), box.height()))
        if seen.width() > 40 and bar.step != "wait":
            name = step_name(self, bar.step)
            room = seen.adjusted(4, 0, -4, 0)
            if QFontMetricsF(self.font()).horizontalAdvance(name) <= room.width():
                painter.setPen(QColor(text_on(colour.name())))
                painter.drawText(room, Qt.AlignmentFlag.AlignVCenter, name)

    def _paint_grid(self, painter: QPainter, ink: Ink, left: float, bottom: float) -> None:
        first = self.spans.first
        metrics = QFontMetricsF(self.font())
        most = max(1, int((self.width() - left) / 90))
        until = self.moment_at(self.width())
        for tick in ticks(self.start - first, until - first, most):
            x = self.x_of(first + tick)
            painter.setPen(QColor(ink.line))
            painter.drawLine(QPointF(x, AXIS - 4), QPointF(x, bottom))
            painter.setPen(QColor(ink.muted))
            if tick >= -1e-9:
                painter.drawText(QPointF(x + 4, AXIS - 6), duration(abs(tick)))
        free = left
        for number, moment in sorted(self.spans.rounds.items()):
            x = self.x_of(moment)
            if x < left - 1 or x > self.width():
                continue
            painter.setPen(QPen(QColor(ink.muted), 1, Qt.PenStyle.DashLine))
            name = self.tr("round {round}").format(round=number)
            if x + 4 >= free:
                painter.drawLine(QPointF(x, 4), QPointF(x, 20))  # not through the words of the time axis
                painter.drawLine(QPointF(x, AXIS - 4), QPointF(x, bottom))
                painter.setPen(QColor(ink.text))
                painter.drawText(QPointF(x + 4, 16), name)
                free = x + 4 + metrics.horizontalAdvance(name) + 12
        painter.setPen(QColor(ink.line))
        painter.drawLine(QPointF(0, AXIS - 0.5), QPointF(self.width(), AXIS - 0.5))

    def _paint_legend(self, painter: QPainter, ink: Ink, top: float) -> None:
        painter.setPen(QColor(ink.line))
        painter.drawLine(QPointF(0, top + 0.5), QPointF(self.width(), top + 0.5))
        x, metrics = float(PAD), QFontMetricsF(self.font())
        shown = dict(STEP_COLOURS)
        if any(step not in STEP_COLOURS for step in self.spans.totals):
            shown["other"] = OTHER_STEP
        for step, colour in shown.items():
            box = QRectF(x, top + 11, 12, 12)
            painter.fillRect(box, QColor(colour))
            if step == "wait":
                painter.fillRect(box, QBrush(QColor(ink.ground), Qt.BrushStyle.BDiagPattern))
            name = step_name(self, step)
            painter.setPen(QColor(ink.muted))
            painter.drawText(QPointF(x + 18, top + 21), name)
            x += 18 + metrics.horizontalAdvance(name) + 16

    def _box_of_lane(self, bar: Bar) -> QRectF:
        top = next((y for lane, y in self.lane_tops() if lane == bar.lane), float(AXIS))
        x = self.x_of(bar.start)
        return QRectF(x, top, max(1.0, bar.seconds / self.scale), self.spans.rows(bar.lane) * self.row)

    def _fit_scale(self) -> None:
        if not self.spans.count:
            return
        room = max(1.0, self.width() - self.label_width() - PAD)
        width = max(self.spans.last - self.spans.first, 1e-3)
        self.start, self.scale = self.spans.first, width * 1.01 / room

    def _scroll(self, pixels: float) -> None:
        needed = sum(self.spans.rows(lane) * self.row + LANE_GAP for lane in self.spans.lanes)
        most = max(0, needed + TOP - (self.height() - AXIS - LEGEND))
        self._top = int(min(max(0, self._top + pixels), most))
        self.update()

    def _walk(self, step: int) -> None:
        if self.current is None:
            lane = next(iter(self.spans.lanes), "")
            self.select(self.spans.any_in(lane, self.start, self.moment_at(self.width())))
        else:
            self.select(self.spans.neighbour(self.current, step) or self.current)

    def _change_lane(self, step: int) -> None:
        lanes = self.spans.lanes
        if not lanes:
            return
        if self.current is None:
            return self._walk(step)
        place = min(max(0, lanes.index(self.current.lane) + step), len(lanes) - 1)
        middle = (self.current.start + self.current.end) / 2
        found = self.spans.any_in(lanes[place], middle, self.spans.last + 1) or self.spans.any_in(
            lanes[place], self.spans.first, self.spans.last + 1
        )
        self.select(found or self.current)


def step_name(widget: QWidget, step: str) -> str:
    """The step's word in the window's language."""
    return {
        "download": widget.tr("download"),
        "load": widget.tr("load"),
        "train": widget.tr("train"),
        "evaluate": widget.tr("evaluate"),
        "filter": widget.tr("filter"),
        "upload": widget.tr("upload"),
        "wait": widget.tr("wait"),
        "aggregate": widget.tr("aggregate"),
        "save": widget.tr("save"),
        "other": widget.tr("other"),
    }.get(step, step)


def duration(seconds: float) -> str:
    """Seconds as people read them: ``340 ms``, ``12.4 s``, ``3 min 20 s``, ``1 h 05 min``."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.3g} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
