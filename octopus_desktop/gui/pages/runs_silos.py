"""Beside a run's charts: each silo with where it stands, and how the run is held, in plain words."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from PySide6.QtCore import QCoreApplication, Signal
from PySide6.QtWidgets import QFrame, QLabel, QVBoxLayout

from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.ink import OWN_LINE, silo_line
from octopus_desktop.gui.widgets.legend import LegendRow
from octopus_desktop.gui.widgets.parts import label, rule
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.review import ways
from octopus_desktop.jobs.silos import Standing

PANEL_PX = 296
MOST_NAMED = 3


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


class SilosPanel(QFrame):
    """Attributes: ``rows``: by the silo's name; ``ways``: how the run is held, by heading.

    Signals:
        looked_at(str): whose line to show more strongly: "local", a silo's name, or "" for none.
    """

    looked_at = Signal(str)

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.rows: dict[str, LegendRow] = {}
        self.ways: dict[str, QLabel] = {}
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
            mine = silo == own
            row = LegendRow("local" if mine else silo, silo, OWN_LINE if mine else silo_line(silo, others), "to"[mine])
            row.entered.connect(self.looked_at)
            row.left.connect(lambda: self.looked_at.emit(self._pinned))
            row.clicked.connect(self._on_clicked)
            self.rows[silo] = row
            self._list.addWidget(row)

    def set_standings(self, found: Sequence[Standing]) -> None:
        for one in found:
            tone, words = standing_words(one)
            row = self.rows[one.silo]
            row.set_words(self.tr("this silo · {0}").format(words) if row.key == "local" else words, tone)
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
        told = [(way_title(topic), text) for topic, text in ways(config).items()] if config else []
        said = [*more, *told]
        if [title for title, _ in said] == list(self.ways):  # most updates change a number in a text at most
            for title, text in said:
                self.ways[title].setText(text)
            return
        while (item := self._ways.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self.ways = {}
        for title, text in said:
            self.ways[title] = label(text, "muted", wrap=True)
            for widget, above in ((label(title, "strong"), GRID // 2), (self.ways[title], 0)):
                widget.setContentsMargins(GRID, above, GRID, 0)
                self._ways.addWidget(widget)

    def _on_clicked(self, key: str) -> None:
        self._pinned = "" if key == self._pinned else key
        self.point("")
        self.looked_at.emit(self._pinned)
