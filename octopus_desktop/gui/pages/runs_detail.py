"""The detail of one run: its head with pause, resume and stop, and the tabs. Follows the run live while it is shown."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QTimer, Signal
from PySide6.QtWidgets import QFrame, QHBoxLayout, QProgressBar, QTabWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.reason import ReasonDialog, wording
from octopus_desktop.gui.models.store import ACTIVE_RUNS
from octopus_desktop.gui.pages.runs_left import LeftTab
from octopus_desktop.gui.pages.runs_logs import LogsTab
from octopus_desktop.gui.pages.runs_models import ModelsTab
from octopus_desktop.gui.pages.runs_overview import OverviewTab
from octopus_desktop.gui.pages.runs_system import SystemTab
from octopus_desktop.gui.pages.runs_timeline import TimelineTab
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name, carrier_words
from octopus_desktop.gui.widgets.parts import Card, ElidedLabel, IdLabel, button, label, page_layout, tool_button
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

FOLLOW_AGAIN_MS = 2000
PROGRESS_STEPS = 1000


class RunDetail(QWidget):
    """Shows the run ``run_id``; "" when nothing is shown.

    Signals:
        closed(): the reader wants to go back to the list.
    """

    closed = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.run_id = ""
        self._follow: Subscription | None = None
        self.overview = OverviewTab(context)
        self.timeline = TimelineTab(context)
        self.system = SystemTab(context)
        self.left = LeftTab(context)
        self.models = ModelsTab(context)
        self.logs = LogsTab(context)
        self.tabs = QTabWidget(documentMode=True)
        for tab, name in (
            (self.overview, self.tr("Overview")),
            (self.timeline, self.tr("Timeline")),
            (self.system, self.tr("System")),
            (self.left, self.tr("What left")),
            (self.models, self.tr("Models")),
            (self.logs, self.tr("Logs")),
        ):
            self.tabs.addTab(tab, name)
        self.tabs.currentChanged.connect(lambda _index: self.logs.set_live(self.tabs.currentWidget() is self.logs))
        column: QVBoxLayout = page_layout(self)
        column.setSpacing(12)
        column.addLayout(self._make_title())
        column.addWidget(self._make_card())
        column.addWidget(self._make_problem())
        column.addWidget(self.tabs, 1)
        self._again = QTimer(self, singleShot=True, interval=FOLLOW_AGAIN_MS)
        self._again.timeout.connect(self.reload)

    # What comes in

    def show_run(self, run_id: str) -> None:
        if run_id != self.run_id:
            self.leave()
            self.run_id = run_id
            for tab in (self.overview, self.timeline, self.left, self.models):
                tab.clear()
            self.logs.show_run(run_id)
            self.tabs.setCurrentIndex(0)
        self._show_head()
        self.reload()

    def leave(self) -> None:
        """Stop following; nothing is shown any more."""
        self._end_follow()
        self._again.stop()
        self.logs.set_live(False)
        self.run_id = ""

    def reload(self) -> None:
        """Fetch the run whole, and follow it while it goes on. Whatever comes twice is shown once."""
        run = self._run
        if run is None:
            return
        wanted = self.run_id
        self._end_follow()
        if run.state in ACTIVE_RUNS:
            self._follow = self._context.client.stream(
                "Runs.Follow",
                pb.ById(id=wanted),
                lambda update: self._on_update(wanted, update),
                lambda error: self._on_follow_ended(wanted, error),
                owner=self,
            )
        self._context.client.call(
            "Runs.Detail",
            pb.ById(id=wanted),
            lambda detail: self._on_update(wanted, detail),
            lambda error: self._on_no_detail(wanted, error),
            owner=self,
        )

    def run_changed(self, run_id: str) -> None:
        """The store has a newer version of this run."""
        if run_id != self.run_id or not run_id:
            return
        self._show_head()
        run = self._run
        if run is not None and run.state not in ACTIVE_RUNS and self._follow is not None:
            self.reload()  # the last rounds and spans, once

    @property
    def _run(self) -> pb.Run | None:
        return self._context.store.runs.get(self.run_id)

    def _on_update(self, wanted: str, update: Any) -> None:
        """``update``: a RunDetail or a RunUpdate; both bear rounds, points, spans and what left."""
        if wanted != self.run_id:
            return
        self.overview.take(update.rounds, update.points)
        if isinstance(update, pb.RunDetail):
            self.overview.set_run(update.run, self._own_name(update.run), update.config_json)
        self.timeline.take(update.spans)
        self.left.take(update.left)
        self.models.take(wanted, update.rounds)

    def _own_name(self, run: pb.Run) -> str:
        federation = self._context.store.federations.get(run.federation_id)
        return federation.silo_name if federation else ""

    def _on_follow_ended(self, wanted: str, error: UserError | None) -> None:
        if wanted != self.run_id:
            return
        self._follow = None
        run = self._run
        if error is not None and run is not None and run.state in ACTIVE_RUNS and self._context.client.is_connected:
            self._again.start()

    def _on_no_detail(self, wanted: str, error: UserError) -> None:
        if wanted == self.run_id and error.code != "OCT-DAEMON-AWAY":
            self._context.show_error(error)

    def _end_follow(self) -> None:
        if self._follow is not None:
            self._follow.cancel()
            self._follow = None

    # The head

    def _make_title(self) -> QHBoxLayout:
        theme = self._context.theme
        row = QHBoxLayout()
        row.setSpacing(GRID)
        self.back = tool_button(theme, "chevron-left", self.tr("All runs (Alt+Left)"), self.closed.emit)
        self._title = ElidedLabel("", "title")
        self._badge = StatusBadge(theme, "run", "")
        self.pause = button(theme, self.tr("Pause"), lambda: self._act("Runs.Pause"), icon="pause")
        self.resume = button(theme, self.tr("Resume"), lambda: self._act("Runs.Resume"), icon="play", kind="primary")
        self.stop = button(theme, self.tr("Stop…"), self._on_stop, icon="stop", kind="danger")
        row.addWidget(self.back)
        row.addWidget(self._title, 1)
        row.addWidget(self._badge)
        for widget in (self.pause, self.resume, self.stop):
            row.addWidget(widget)
        return row

    def _make_card(self) -> QFrame:
        theme = self._context.theme
        card = Card(spacing=GRID)
        card.body.setContentsMargins(16, 12, 16, 12)
        self.progress = QProgressBar(maximum=PROGRESS_STEPS, textVisible=False)
        self.progress.setAccessibleName(self.tr("Progress of the run"))
        card.body.addWidget(self.progress)
        row = QHBoxLayout()
        row.setSpacing(24)
        self._values: dict[str, ElidedLabel] = {}
        self._cells: dict[str, QWidget] = {}
        for key, name, stretch in (
            ("round", self.tr("Round"), 3),
            ("left", self.tr("Time"), 4),
            ("silos", self.tr("Silos present"), 3),
            ("out", self.tr("Left this silo"), 3),
            ("in", self.tr("Received"), 3),
            ("carrier", self.tr("Carrier"), 5),
            ("where", self.tr("Trains on"), 5),
        ):
            cell = QWidget()
            column = QVBoxLayout(cell)
            column.setContentsMargins(0, 0, 0, 0)
            column.setSpacing(0)
            self._cells[key] = cell
            self._values[key] = ElidedLabel("", "strong")
            column.addWidget(label(name, "caption"))
            column.addWidget(self._values[key])
            row.addWidget(cell, stretch)
        package = QVBoxLayout()
        package.setSpacing(0)
        package.addWidget(label(self.tr("Run"), "caption"))
        self._id = IdLabel(theme)
        package.addWidget(self._id)
        row.addLayout(package)
        card.body.addLayout(row)
        return card

    def _make_problem(self) -> QFrame:
        self._problem = QFrame()
        set_role(self._problem, look="banner", tone="danger")
        row = QHBoxLayout(self._problem)
        row.setContentsMargins(12, 8, 12, 8)
        self._problem_text = label("", wrap=True, selectable=True)
        row.addWidget(self._problem_text)
        return self._problem

    def _show_head(self) -> None:
        run = self._run
        if run is None:
            return
        active = run.state in ACTIVE_RUNS
        federation = self._context.store.federations.get(run.federation_id)
        name = f"{run.job_name} {run.job_version}"
        self._title.set_text(f"{name} · {federation.name}" if federation else name)
        self._badge.set_state("run", run.state)
        # Beyond the state's word: what was asked of the daemon shows when its event comes, not before.
        self.pause.setVisible(run.state in ("preparing", "training", "exchanging", "approved"))
        self.resume.setVisible(run.state == "paused")
        self.stop.setVisible(active)
        done = 1.0 if run.state == "completed" else 0.0
        if run.rounds and run.state != "completed":
            done = (max(0, run.round - 1) + (run.fraction if run.round else 0.0)) / run.rounds
        self.progress.setValue(round(PROGRESS_STEPS * min(1.0, done)))
        tone = {"completed": "ok", "failed": "danger", "stopped": "neutral", "paused": "warning"}.get(run.state, "")
        set_role(self.progress, tone=tone)
        values = self._values
        values["round"].set_text(self.tr("{0} of {1}").format(run.round, run.rounds))
        if active:
            known = run.eta_s > 0 and run.state != "paused"
            text = self.tr("{0} left").format(formats.duration(run.eta_s)) if known else formats.DASH
        else:
            took = run.ended_at - run.started_at if run.ended_at and run.started_at else 0.0
            text = self.tr("took {0}").format(formats.duration(took)) if took else formats.DASH
        values["left"].set_text(text)
        values["silos"].set_text(self.tr("{0} of {1}").format(len(run.silos_present), len(run.silos)))
        absent = sorted(set(run.silos) - set(run.silos_present))
        words = [self.tr("Present: {0}").format(", ".join(run.silos_present) or formats.DASH)]
        if absent:
            words.append(self.tr("Absent: {0}").format(", ".join(absent)))
        self._cells["silos"].setToolTip("\n".join(words))
        values["out"].set_text(formats.size(run.bytes_out))
        values["in"].set_text(formats.size(run.bytes_in))
        trip = f"{run.latency_ms:.0f} ms" if run.latency_ms and active else ""
        values["carrier"].set_text(" · ".join(part for part in (carrier_name(run.carrier), trip) if part))
        self._cells["carrier"].setToolTip(carrier_words(run))
        datasets = [
            self._context.store.datasets[d].alias for d in run.datasets if d in self._context.store.datasets
        ] or list(run.datasets)
        workers = self.tr("workers: {0}").format(run.workers) if run.workers else ""
        allocation = run.queue.partition(",")[0]
        values["where"].set_text(" · ".join(part for part in (", ".join(datasets), workers, allocation) if part))
        self._id.set_value(run.id)
        self.overview.set_run(run, self._own_name(run))
        self.system.set_run(run)
        self._show_problem(run)

    def _show_problem(self, run: pb.Run) -> None:
        text = ""
        if run.state in ("failed", "stopped") or run.reason:
            text = " · ".join(part for part in (run.reason or self.tr("No reason was given."), run.code) if part)
        if run.state == "failed":
            text = self.tr("Failed {0}: {1}").format(formats.instant(run.ended_at), text)
        if run.queue and " runs on " not in run.queue:  # it waits for the site, which a person wants to know at once
            text = " · ".join(part for part in (text, run.queue) if part)
        self._problem.setVisible(bool(text) and run.state != "completed")
        self._problem_text.setText(text)
        set_role(self._problem, tone={"failed": "danger", "paused": "warning"}.get(run.state, "neutral"))

    # Acts

    def _act(self, method: str) -> None:
        self._set_acts(False)
        self._context.client.call(
            method,
            pb.ById(id=self.run_id),
            lambda _run: self._set_acts(True),
            self._on_act_failed,
            owner=self,
        )

    def _on_stop(self) -> None:
        run = self._run
        if run is None:
            return
        dialog = ReasonDialog(self, wording("stop", f"{run.job_name} {run.job_version}"))
        dialog.accepted.connect(lambda: self._stop(dialog.reason))
        dialog.open()

    def _stop(self, reason: str) -> None:
        self._set_acts(False)
        self._context.client.call(
            "Runs.Stop",
            pb.StopLocalRequest(id=self.run_id, reason=reason),
            lambda _run: self._on_stopped(),
            self._on_act_failed,
            owner=self,
        )

    def _on_stopped(self) -> None:
        self._set_acts(True)
        self._context.toast("ok", self.tr("The run is being stopped. The federation gets your reason."))

    def _on_act_failed(self, error: UserError) -> None:
        self._set_acts(True)
        self._context.show_error(error)

    def _set_acts(self, on: bool) -> None:
        for widget in (self.pause, self.resume, self.stop):
            widget.setEnabled(on)
