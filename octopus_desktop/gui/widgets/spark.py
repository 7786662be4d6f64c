"""A small chart of one quantity over the last minutes, with its name and newest value. Knows a track and no machine."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPaintEvent, QPen, QPolygonF
from PySide6.QtWidgets import QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.models.load import Track
from octopus_desktop.gui.widgets.ink import ink_of
from octopus_desktop.gui.widgets.parts import ElidedLabel, label

LINE_PX = 44
SOFT = 40  # of 255: the ground below the line


class _Line(QWidget):
    """The painted line."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[float, float]] = []
        self.span_s, self.most = 300.0, 1.0
        self.setFixedHeight(LINE_PX)

    def polygon(self) -> QPolygonF:
        """The line's corners, the newest point at the right edge."""
        if not self.points:
            return QPolygonF()
        newest, wide, high = self.points[-1][0], self.width() - 2.0, self.height() - 4.0
        most = max(self.most, 1e-9)
        corners = [
            QPointF(1 + wide * (1 - (newest - at) / self.span_s), 2 + high * (1 - min(1.0, max(0.0, value / most))))
            for at, value in self.points
            if newest - at <= self.span_s
        ]
        return QPolygonF(corners)

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter, ink, box = QPainter(self), ink_of(self), QRectF(self.rect()).adjusted(0.5, 0.5, -0.5, -0.5)
        painter.setPen(QPen(QColor(ink.line), 1))
        painter.drawRoundedRect(box, 4, 4)
        corners = self.polygon()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if corners.count() == 1:
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(QColor(ink.accent))
            painter.drawEllipse(corners.first() - QPointF(2, 0), 2, 2)
        if corners.count() < 2:
            return
        soft = QColor(ink.accent)
        soft.setAlpha(SOFT)
        bottom = self.height() - 1.0
        below = [QPointF(corners.last().x(), bottom), QPointF(corners.first().x(), bottom)]
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(soft)
        painter.drawPolygon(QPolygonF([*corners.toList(), *below]))
        painter.setPen(QPen(QColor(ink.accent), 1.5))
        painter.drawPolyline(corners)


class Spark(QWidget):
    """``words(value)``: the newest value as text. ``most``: the top of the scale; 0: what the highest point needs."""

    def __init__(self, name: str, words: Callable[[float], str], most: float = 0.0, span_s: float = 300.0) -> None:
        super().__init__()
        self._name, self._words, self._most = name, words, most
        self.value = label("", "strong")
        self.value.setAlignment(Qt.AlignmentFlag.AlignRight)
        self.line = _Line()
        self.line.span_s = span_s
        top = QHBoxLayout()
        top.addWidget(ElidedLabel(name, "caption"), 1)
        top.addWidget(self.value)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2)
        column.addLayout(top)
        column.addWidget(self.line)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)

    def show_track(self, track: Track, value: str = "") -> None:
        """``value``: said in place of the newest point's words."""
        self.line.points = list(track.points)
        highest = max((value for _at, value in track.points), default=0.0)
        self.line.most = self._most or highest or 1.0
        last = track.last
        said = value or (self._words(last) if last is not None else "–")
        self.value.setText(said)
        self.setAccessibleName(f"{self._name}: {said}")
        self.line.update()
