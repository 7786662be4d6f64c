"""Beside a run's charts: each silo with where it stands, and how the run is held, in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from PySide6.QtCore import QCoreApplication, QEvent, QRectF, QSize, Qt, Signal
from PySide6.QtGui import QColor, QEnterEvent, QFocusEvent, QKeyEvent, QMouseEvent, QPainter, QPaintEvent, QPen
from PySide6.QtWidgets import QFrame, QHBoxLayout, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import GRID, Theme, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.ink import OWN_LINE, is_dark, silo_line
from octopus_desktop.gui.widgets.parts import ElidedLabel, label, rule
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.review import ways
from octopus_desktop.jobs.silos import Standing

PANEL_PX = 296
MOST_NAMED = 3
SWATCH = QSize(18, 12)


def _tr(text: str) -> str:
    return QCoreApplication.translate("silos", text)


def standing_words(one: Standing) -> tuple[str, str]:
    """Where a silo stands as (tone, words)."""
    if one.state == "answered":
        return "", _tr("answered in round {0}").format(one.last)
    if one.state == "late":
        return "warning", _tr("late: its answer counted in round {0}").format(one.last)
    if one.state == "silent" and one.last:
        times = _tr("asked {0} times since").format(one.missed) if one.missed > 1 else _tr("asked once since")
        return "danger", _tr("silent since round {0}, {1}").format(one.last, times)
    if one.state == "silent":
        times = _tr("asked {0} times").format(one.missed) if one.missed > 1 else _tr("asked once")
        return "danger", _tr("has not answered yet, {0}").format(times)
    if one.state == "unasked":
        told = _tr("had no part in the newest round; answered last in round {0}").format(one.last)
        return "", told if one.last else _tr("had no part yet")
    return "", _tr("no round is over yet")


def way_title(topic: str) -> str:
    """A heading for one of ``jobs.review.ways``."""
    return {
        "strategy": _tr("Strategy"),
        "training": _tr("Training"),
        "personal": _tr("Personal to each silo"),
        "privacy": _tr("Privacy"),
        "shared": _tr("Shown to the other silos"),
    }.get(topic, topic)


def config_of(text: str) -> RunConfig | None:
    """A run's configuration from its JSON; None when there is none, or it is of a newer version."""
    try:
        return RunConfig.from_dict(json.loads(text)) if text else None
    except (ValueError, TypeError, AttributeError):
        return None


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


class SiloRow(QFrame):
    """One silo: its line's colour, name, newest value, and where it stands.

    Signals:
        entered(str), left(): the cursor or the focus is on it, or no more.
        clicked(str): chosen, or chosen no more.
    """

    entered = Signal(str)
    left = Signal()
    clicked = Signal(str)

    def __init__(self, silo: str, own: bool, pair: tuple[str, str]) -> None:
        super().__init__()
        self.silo = silo
        self.key = "local" if own else silo  # as the charts call its line
        self.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.setProperty("look", "row")
        self._swatch = Swatch(pair, "o" if own else "t")
        self._own = own
        self.name = ElidedLabel(silo, "strong")
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

    def set_standing(self, one: Standing) -> None:
        tone, words = standing_words(one)
        words = _tr("this silo · {0}").format(words) if self._own else words
        self.words.setText(words)
        set_role(self.words, tone=tone)
        self.setAccessibleName(f"{self.silo}: {words}")

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


class SilosPanel(QFrame):
    """Attributes: ``rows``: by the silo's name.

    Signals:
        looked_at(str): whose line to show more strongly: "local", a silo's name, or "" for none.
    """

    looked_at = Signal(str)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.rows: dict[str, SiloRow] = {}
        self._pinned = ""
        self.setProperty("look", "card")
        self.title = label(self.tr("Silos"), "heading")
        self.told = label("", "caption", wrap=True)
        self._list = QVBoxLayout()
        self._list.setSpacing(0)
        self._ways = QVBoxLayout()
        self._ways.setSpacing(GRID // 2)
        column = QVBoxLayout(self)
        column.setContentsMargins(GRID, 2 * GRID, GRID, 2 * GRID)
        column.setSpacing(GRID)
        for widget in (self.title, self.told):
            widget.setContentsMargins(GRID, 0, GRID, 0)
            column.addWidget(widget)
        column.addLayout(self._list)
        column.addWidget(rule())
        column.addLayout(self._ways)
        column.addStretch(1)

    def clear(self) -> None:
        self.set_silos("", [])
        self.set_ways(None)
        self.told.setText("")

    def set_silos(self, own: str, silos: Sequence[str]) -> None:
        """The run's silos: this one first, then the others in their order."""
        order = [silo for silo in silos if silo == own] + [silo for silo in silos if silo != own]
        if order == list(self.rows):
            return
        for row in self.rows.values():
            self._list.removeWidget(row)
            row.hide()
            row.deleteLater()
        others = [silo for silo in order if silo != own]
        self.rows, self._pinned = {}, ""
        for silo in order:
            row = SiloRow(silo, silo == own, OWN_LINE if silo == own else silo_line(silo, others))
            row.entered.connect(self.looked_at)
            row.left.connect(lambda: self.looked_at.emit(self._pinned))
            row.clicked.connect(self._on_clicked)
            self.rows[silo] = row
            self._list.addWidget(row)

    def set_standings(self, found: Sequence[Standing]) -> None:
        for one in found:
            self.rows[one.silo].set_standing(one)
        newest = max((one.last for one in found), default=0)
        answered = sum(1 for one in found if one.state == "answered")
        said = self.tr("{0} of {1} answered in round {2}.").format(answered, len(found), newest) if newest else ""
        for text, state in ((self.tr(" Late: {0}."), "late"), (self.tr(" Silent: {0}."), "silent")):
            if names := [one.silo for one in found if one.state == state]:
                shown = [*names[:MOST_NAMED], *(["…"] if len(names) > MOST_NAMED else [])]
                said += text.format(", ".join(shown))
        self.told.setText(said)
        self.told.setVisible(bool(said))

    def set_values(self, metric: str, values: Mapping[str, float]) -> None:
        """The newest value of a metric for each silo of which it is known."""
        for silo, row in self.rows.items():
            row.value.setText(formats.number(values[silo]) if silo in values else "")
            row.value.setToolTip(metric)

    def point(self, key: str) -> None:
        """Show whose line is under the cursor in a chart."""
        for row in self.rows.values():
            row.set_chosen(row.key == (key or self._pinned) and bool(key or self._pinned))

    def set_ways(self, config: RunConfig | None, more: Sequence[tuple[str, str]] = ()) -> None:
        """How the run is held, a heading and a sentence or two each; ``more`` first."""
        while (item := self._ways.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        told = [(way_title(topic), text) for topic, text in ways(config).items()] if config else []
        for title, text in [*more, *told]:
            for widget, above in ((label(title, "strong"), GRID // 2), (label(text, "muted", wrap=True), 0)):
                widget.setContentsMargins(GRID, above, GRID, 0)
                self._ways.addWidget(widget)

    def _on_clicked(self, key: str) -> None:
        self._pinned = "" if key == self._pinned else key
        self.point("")
        self.looked_at.emit(self._pinned)
