"""Runs beside each other: one metric of all of them in a chart, and what tells them apart in a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QSizePolicy, QSplitter, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.rows import Column
from octopus_desktop.gui.pages.runs_silos import PANEL_PX, config_of
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name
from octopus_desktop.gui.widgets.charts import MetricChart, chart_order
from octopus_desktop.gui.widgets.ink import silo_line
from octopus_desktop.gui.widgets.legend import LegendRow
from octopus_desktop.gui.widgets.parts import Card, ElidedLabel, label, page_layout, scroll, tool_button
from octopus_desktop.gui.widgets.series import newest
from octopus_desktop.gui.widgets.status import look
from octopus_desktop.gui.widgets.table import Table
from octopus_desktop.jobs.differences import differences, value_text
from octopus_desktop.jobs.silos import best_round
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

TALL = 4000  # as high as there is room
LOAD_MS = 1000  # a run that goes on is fetched again this often at most


@dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: what it is about, and the word for each run."""

    name: str
    values: tuple[str, ...]
    place: int = 0


class RunsCompare(QWidget):
    """Attributes: ``runs``: ids of those compared; ``details``: what is known of each.

    Signals:
        closed(): back to the list.
    """

    closed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.runs: list[str] = []
        self.details: dict[str, pb.RunDetail] = {}
        self._rows: dict[str, LegendRow] = {}
        self._pinned = ""
        self._stale: set[str] = set()
        self._title = ElidedLabel("", "title")
        self.which_metric, self.whose_numbers = QComboBox(), QComboBox()
        self.which_metric.setAccessibleName(self.tr("The metric to compare"))
        self.which_metric.setMinimumWidth(200)
        self.whose_numbers.setAccessibleName(self.tr("Whose numbers"))
        self.whose_numbers.addItem(self.tr("Of the federation"), "federation")
        self.whose_numbers.addItem(self.tr("Of this silo"), "local")
        top = QHBoxLayout()
        top.setSpacing(GRID)
        top.addWidget(tool_button(context.theme, "chevron-left", self.tr("All runs (Alt+Left)"), self.closed.emit))
        top.addWidget(self._title, 1)
        top.addWidget(self.which_metric)
        top.addWidget(self.whose_numbers)
        self.chart = MetricChart("")
        self.chart.heading.hide()
        self.chart.numbers.hide()
        self.chart.setMinimumHeight(160)
        self.chart.setMaximumHeight(TALL)
        self.chart.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Expanding)
        self.chart.pointed.connect(self._on_pointed)
        plot = Card()
        plot.body.addWidget(self.chart, 1)
        legend = Card(margin=GRID)
        self._legend = QVBoxLayout()
        self._legend.setSpacing(0)
        legend.body.addLayout(self._legend)
        legend.body.addStretch(1)
        side = scroll(legend)
        legend.setProperty("look", "card")
        side.setFixedWidth(PANEL_PX)
        middle = QWidget()
        row = QHBoxLayout(middle)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(GRID)
        row.addWidget(plot, 1)
        row.addWidget(side)
        self._below = QVBoxLayout()
        self._below.setContentsMargins(0, GRID, 0, 0)
        self._below.setSpacing(GRID)
        self._same = label("", "muted", wrap=True)
        self._below.addWidget(label(self.tr("What differs"), "heading"))
        self._below.addWidget(self._same)
        self.table: Table | None = None
        below = QWidget()
        below.setLayout(self._below)
        split = QSplitter(Qt.Orientation.Vertical)
        split.setChildrenCollapsible(False)
        split.addWidget(middle)
        split.addWidget(below)
        split.setSizes([340, 300])
        split.setHandleWidth(GRID)
        column = page_layout(self)
        column.addLayout(top)
        column.addWidget(split, 1)
        self.which_metric.currentIndexChanged.connect(lambda _at: self._draw())
        self.whose_numbers.currentIndexChanged.connect(lambda _at: self._draw())
        self._again = QTimer(self, singleShot=True, interval=LOAD_MS)
        self._again.timeout.connect(self._load_stale)

    def show_runs(self, runs: Sequence[str]) -> None:
        """Compare these, two or more."""
        self.runs, self.details, self._pinned, self._stale = list(runs), {}, "", set()
        self._title.set_text(self.tr("Compare {0} runs").format(len(self.runs)))
        self.which_metric.clear()
        self._make_legend()
        self._make_table()
        for run_id in self.runs:
            self._load(run_id)

    def run_changed(self, run_id: str) -> None:
        """The store has a newer version of a run."""
        if run_id in self.runs and self.isVisible():
            self._stale.add(run_id)
            if not self._again.isActive():
                self._again.start()

    def run_removed(self, run_id: str) -> bool:
        """A run is gone; True when one alone is left, which compares with nothing."""
        if run_id not in self.runs:
            return False
        rest = [one for one in self.runs if one != run_id]
        if len(rest) < 2:
            self.runs = []
            return True
        self.show_runs(rest)
        return False

    def names(self) -> dict[str, str]:
        """What each run is called here: job and version, and the id's beginning, by which alone some differ."""
        store = self._context.store
        known = {run_id: store.runs[run_id] for run_id in self.runs if run_id in store.runs}
        return {
            run_id: f"{run.job_name} {run.job_version} · {formats.short_id(run_id.partition('-')[2] or run_id)}"
            for run_id, run in known.items()
        }

    def _load_stale(self) -> None:
        stale, self._stale = self._stale, set()
        for run_id in stale:
            self._load(run_id)

    def _load(self, run_id: str) -> None:
        def arrived(detail: Any) -> None:
            if run_id in self.runs:
                self.details[run_id] = detail
                self._take()

        self._context.client.call("Runs.Detail", pb.ById(id=run_id), arrived, self._on_failed, owner=self)

    def _on_failed(self, error: UserError) -> None:
        if error.code != "OCT-DAEMON-AWAY":
            self._context.show_error(error)

    def _take(self) -> None:
        """A run's numbers came: offer their metrics, draw, and fill the table."""
        rows = [row for detail in self.details.values() for row in detail.rounds]
        known = {name for row in rows for name in (*row.federation, *row.local) if not name.endswith("/examples")}
        wanted, names = self.which_metric.currentText(), sorted(known, key=chart_order)
        if names != [self.which_metric.itemText(at) for at in range(self.which_metric.count())]:
            self.which_metric.blockSignals(True)
            self.which_metric.clear()
            self.which_metric.addItems(names)
            self.which_metric.setCurrentIndex(max(0, self.which_metric.findText(wanted)))
            self.which_metric.blockSignals(False)
        self._draw()

    def _draw(self) -> None:
        name, local = self.which_metric.currentText(), self.whose_numbers.currentData() == "local"
        series = self.chart.series
        series.silos.clear()
        for run_id in self.runs:
            detail = self.details.get(run_id)
            series.silos[run_id] = {
                row.round: (row.local if local else row.federation)[name]
                for row in (detail.rounds if detail else ())
                if name in (row.local if local else row.federation)
            }
            value = newest(series.silos[run_id])
            self._rows[run_id].value.setText("" if value is None else formats.number(value))
        self.chart.name = name
        self.chart.touch()
        if self.table is not None:
            self.table.set_rows([replace(line, place=at) for at, line in enumerate(self._lines(name))])
        configs = self._configs()
        same = len(configs) == len(self.runs) and not differences(configs)
        self._same.setText(self.tr("The runs have the same settings.") if same else "")
        self._same.setVisible(same)

    def _configs(self) -> list[Mapping[str, Any]]:
        found = [self.details[run_id].config_json for run_id in self.runs if run_id in self.details]
        return [json.loads(text) for text in found if text]

    def _lines(self, metric: str) -> list[Line]:
        """The table's rows: what each run came to, then the settings in which they differ."""
        runs = [self._context.store.runs.get(run_id) or pb.Run() for run_id in self.runs]
        lines = [
            Line(self.tr("State"), tuple(look("run", run.state).text for run in runs)),
            Line(self.tr("Rounds"), tuple(self.tr("{0} of {1}").format(run.round, run.rounds) for run in runs)),
            Line(self.tr("Newest {0}").format(metric), tuple(row.value.text() for row in self._rows.values())),
            Line(self.tr("Best round"), tuple(self._best(run_id) for run_id in self.runs)),
        ]
        configs = self._configs()
        if len(configs) == len(self.runs):
            lines += [Line(key, tuple(map(value_text, values))) for key, values in differences(configs).items()]
        lines += [
            Line(self.tr("Took"), tuple(_took(run) for run in runs)),
            Line(self.tr("Left this silo"), tuple(formats.size(run.bytes_out) for run in runs)),
            Line(self.tr("Silos"), tuple(str(len(run.silos)) for run in runs)),
            Line(self.tr("Carrier"), tuple(carrier_name(run.carrier) for run in runs)),
            Line(self.tr("Package"), tuple(run.package_digest[:12] for run in runs)),
        ]
        return lines

    def _best(self, run_id: str) -> str:
        detail = self.details.get(run_id)
        config = config_of(detail.config_json) if detail else None
        if detail is None or config is None or not config.best:
            return formats.DASH
        number, value = (detail.run.best_round, detail.run.best_value) if detail.run.best_round else (0, 0.0)
        if not number:
            number, value = best_round(config.best, detail.rounds)
        metric = config.best.partition(" ")[2]
        return f"{number} · {metric} {formats.number(value)}" if number else formats.DASH

    def _make_legend(self) -> None:
        for row in self._rows.values():
            self._legend.removeWidget(row)
            row.hide()
            row.deleteLater()
        self._rows, names = {}, self.names()
        self.chart.silos, self.chart.names = self.runs, names
        for run_id in self.runs:
            run = self._context.store.runs.get(run_id) or pb.Run()
            row = LegendRow(run_id, names.get(run_id, run_id), silo_line(run_id, self.runs))
            words = self.tr("{0}, started {1}").format(look("run", run.state).text, formats.clock(run.started_at))
            row.set_words(words)
            row.setToolTip(run_id)
            row.entered.connect(self.chart.look_at)
            row.left.connect(lambda: self.chart.look_at(self._pinned))
            row.clicked.connect(self._on_clicked)
            self._rows[run_id] = row
            self._legend.addWidget(row)

    def _make_table(self) -> None:
        if self.table is not None:
            self._below.removeWidget(self.table)
            self.table.hide()
            self.table.deleteLater()
        names = self.names()
        columns = [
            Column(
                key="name",
                title=self.tr("Setting"),
                text=lambda line: line.name,
                sort=lambda line: line.place,
                width=220,
            )
        ]
        columns += [
            Column(
                key=run_id,
                title=names.get(run_id, run_id),
                text=lambda line, at=at: line.values[at],
                tooltip=lambda line, at=at: line.values[at],
                width=0 if len(self.runs) <= 4 else 200,
            )
            for at, run_id in enumerate(self.runs)
        ]
        self.table = Table(
            self._context.theme,
            self._context.settings,
            f"compare-{len(self.runs)}",
            columns,
            lambda line: line.name,
            placeholder=self.tr("Filter by setting or value"),
            row_px=28,
        )
        self._below.addWidget(self.table, 1)

    def _on_pointed(self, key: str) -> None:
        for row in self._rows.values():
            row.set_chosen(bool(key or self._pinned) and row.key == (key or self._pinned))

    def _on_clicked(self, key: str) -> None:
        self._pinned = "" if key == self._pinned else key
        self._on_pointed("")
        self.chart.look_at(self._pinned)


def _took(run: pb.Run) -> str:
    return formats.duration(run.ended_at - run.started_at) if run.ended_at and run.started_at else formats.DASH
