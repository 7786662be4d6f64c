"""The navigation rail: icon and word for each page, a count where something waits. Knows no page's inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from PySide6.QtCore import QRect, QSize, Qt
from PySide6.QtGui import QPainter, QPaintEvent
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QLabel, QPushButton, QVBoxLayout, QWidget

from octopus_desktop.gui.pages import PageSpec
from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets.parts import ElidedLabel

RAIL_PX = 184


class RailButton(QPushButton):
    """One page in the rail; ``set_count`` shows how much waits there."""

    def __init__(self, theme: Theme, spec: PageSpec) -> None:
        super().__init__(spec.title)
        self._theme, self._count, self._title = theme, 0, spec.title
        self.setProperty("kind", "rail")
        self.setCheckable(True)
        self.setIconSize(QSize(26, 20))
        self.setToolTip(f"{spec.title} ({spec.shortcut})")
        self.setAccessibleName(spec.title)
        self.toggled.connect(lambda _on: self._tint(spec.icon))
        theme.bind(self, lambda me=self: me._tint(spec.icon))

    def set_count(self, count: int) -> None:
        if count != self._count:
            self._count = count
            self.setAccessibleName(self.tr("{0}, {1} waiting").format(self._title, count) if count else self._title)
            self.update()

    def paintEvent(self, event: QPaintEvent) -> None:
        super().paintEvent(event)
        if not self._count:
            return
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setFont(self._theme.font("caption", bold=True))
        text = str(self._count)
        width = max(20, painter.fontMetrics().horizontalAdvance(text) + 12)
        pill = QRect(self.width() - width - 12, (self.height() - 20) // 2, width, 20)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colour("warning_soft"))
        painter.drawRoundedRect(pill, 10, 10)
        painter.setPen(self._theme.colour("warning"))
        painter.drawText(pill, Qt.AlignmentFlag.AlignCenter, text)
        painter.end()

    def _tint(self, icon: str) -> None:
        self.setIcon(self._theme.icon(icon, "accent" if self.isChecked() else "muted", 6))


class Rail(QWidget):
    """All pages, the last one (settings) at the foot."""

    def __init__(self, theme: Theme, specs: Sequence[PageSpec], chosen: Callable[[str], object]) -> None:
        super().__init__()
        self.setProperty("look", "rail")
        self.setAttribute(Qt.WidgetAttribute.WA_StyledBackground)
        self.setFixedWidth(RAIL_PX)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 2 * GRID, 0, GRID)
        column.setSpacing(2)
        head = QHBoxLayout()
        head.setContentsMargins(2 * GRID, 0, GRID, 2 * GRID)
        mark = QLabel()
        theme.bind_pixmap(mark, "octopus", 28, "accent")
        self._name = ElidedLabel("Octopus", "strong")
        head.addWidget(mark)
        head.addWidget(self._name, 1)
        column.addLayout(head)
        self._group = QButtonGroup(self)
        self._buttons: dict[str, RailButton] = {}
        for spec in specs:
            if spec.key == "settings":
                column.addStretch(1)
            made = RailButton(theme, spec)
            made.clicked.connect(lambda _checked=False, key=spec.key: chosen(key))
            self._group.addButton(made)
            self._buttons[spec.key] = made
            column.addWidget(made)

    def set_current(self, key: str) -> None:
        if key in self._buttons:
            self._buttons[key].setChecked(True)

    def set_count(self, key: str, count: int) -> None:
        if key in self._buttons:
            self._buttons[key].set_count(count)

    def set_organisation(self, name: str) -> None:
        self._name.set_text(name or "Octopus")
