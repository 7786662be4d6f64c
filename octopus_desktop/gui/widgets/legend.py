"""The legend of a chart as rows that can be pointed at and chosen: a piece of the line, a name, a value, a few words.
Knows no silo and no run.
"""

from __future__ import annotations

from PySide6.QtCore import QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QEnterEvent, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets.ink import is_dark
from octopus_desktop.gui.widgets.parts import ElidedLabel, label

SWATCH = QSize(18, 12)


class Swatch(QWidget):
    """A short piece of a chart's line, with its mark."""

    def __init__(self, pair: tuple[str, str], mark: str) -> None:
        super().__init__()
        self.pair, self._mark = pair, mark
        self.setFixedSize(SWATCH)

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        colour, middle = QColor(self.pair[is_dark(self)]), self.rect().center()
        painter.setPen(QPen(colour, 1.5))
        painter.drawLine(0, middle.y(), self.width(), middle.y())
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colour)
        box = QRectF(middle.x() - 3, middle.y() - 3, 7, 7)
        if self._mark == "o":
            painter.drawEllipse(box)
        else:
            painter.drawConvexPolygon([box.bottomLeft(), box.bottomRight(), (box.topLeft() + box.topRight()) / 2])


class LegendRow(QFrame):
    """One line of a chart: its colour, name, newest value, and a few words on what it belongs to.

    ``key``: as the chart calls the line.

    Signals:
        entered(str), left(): the cursor or the focus is on it, or no more.
        clicked(str): chosen, or chosen no more.
    """

    entered = Signal(str)
    left = Signal()
    clicked = Signal(str)

    def __init__(self, key: str, name: str, pair: tuple[str, str], mark: str = "t") -> None:
        super().__init__()
        self.key = key
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setProperty("look", "row")
        self._swatch = Swatch(pair, mark)
        self.name = ElidedLabel(name, "strong")
        self.value = label("", "")
        self.words = label("", "caption", wrap=True)
        top = QHBoxLayout()
        top.setSpacing(GRID)
        for widget, stretch in ((self._swatch, 0), (self.name, 1), (self.value, 0)):
            top.addWidget(widget, stretch)
        below = QHBoxLayout()
        below.addSpacing(SWATCH.width() + GRID)
        below.addWidget(self.words, 1)
        column = QVBoxLayout(self)
        column.setContentsMargins(GRID, GRID // 2, GRID, GRID // 2)
        column.setSpacing(0)
        column.addLayout(top)
        column.addLayout(below)
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Fixed)

    def set_words(self, words: str, tone: str = "") -> None:
        self.words.setText(words)
        set_role(self.words, tone=tone)
        self.setAccessibleName(f"{self.name.whole()}: {words}")

    def set_chosen(self, on: bool) -> None:
        set_role(self, tone="info" if on else "")

    def enterEvent(self, event: QEnterEvent) -> None:
        super().enterEvent(event)
        self.entered.emit(self.key)

    def leaveEvent(self, event: QEvent) -> None:
        super().leaveEvent(event)
        self.left.emit()

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        self.entered.emit(self.key)

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        self.left.emit()

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        super().mouseReleaseEvent(event)
        self.clicked.emit(self.key)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() in (Qt.Key.Key_Space, Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.clicked.emit(self.key)
        else:
            super().keyPressEvent(event)
