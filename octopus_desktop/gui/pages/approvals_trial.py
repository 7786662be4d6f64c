"""A review's Trial run: the job's first round now, on data that one chooses, confined, and sent to nobody."""

from __future__ import annotations

from PySide6.QtWidgets import (
    QComboBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QPlainTextEdit,
    QProgressBar,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.approve_runtime import RuntimeChoice
from octopus_desktop.gui.dialogs.form import Problem
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, Facts, button, label, scroll
from octopus_desktop.gui.widgets.status import Look, StatusBadge
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

MOST_LINES = 500
PARTS = 1000  # of the progress bar


class TrialTab(QWidget):
    """Attributes: ``start``, ``cancel``: the buttons; ``result``: of the last trial, None before."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._reply = pb.ReviewReply()
        self._trying: Subscription | None = None
        self._choices: dict[str, QComboBox] = {}
        self._runtime: RuntimeChoice | None = None
        self.result: pb.TryResult | None = None
        theme = context.theme
        notice = QFrame()
        set_role(notice, look="banner", tone="info")
        row = QHBoxLayout(notice)
        row.setContentsMargins(12, 8, 12, 8)
        said = self.tr(
            "This runs the job's code now: its first round, on one processor, in the sandbox, on data that you choose. "
            "Nothing is sent to anybody, and what it made is deleted afterwards. The audit says that it was tried out."
        )
        row.addWidget(label(said, wrap=True))
        setting = Card()
        self._form = QFormLayout()
        self._form.setHorizontalSpacing(2 * GRID)
        self._form.setVerticalSpacing(GRID)
        self._form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        setting.body.addLayout(self._form)
        self.start = button(theme, self.tr("Try it out"), self._on_start, icon="play", kind="primary")
        self.cancel = button(theme, self.tr("Cancel"), self._on_cancel)
        self._why = label("", "muted", wrap=True)
        acts = QHBoxLayout()
        acts.setSpacing(GRID)
        acts.addWidget(self.start)
        acts.addWidget(self.cancel)
        acts.addWidget(self._why, 1)
        setting.body.addLayout(acts)
        self._going = Card()
        self._step = label("", "strong")
        self._bar = QProgressBar(maximum=0, textVisible=False)
        self._bar.setAccessibleName(self.tr("Progress of the trial"))
        self.log = QPlainTextEdit(readOnly=True, maximumBlockCount=MOST_LINES)
        self.log.setAccessibleName(self.tr("What the job's code said"))
        self.log.setFixedHeight(96)
        for widget in (self._step, self._bar, self.log):
            self._going.body.addWidget(widget)
        self.problem = Problem()
        self._going.body.addWidget(self.problem)
        self._told = Card(self.tr("What it would have sent, and what it took"))
        self._verdict = StatusBadge(theme)
        self._told.tools.addWidget(self._verdict)
        self.facts = Facts()
        self._told.body.addWidget(self.facts)
        self.layers = Table(
            theme,
            context.settings,
            "trial-layers",
            [
                Column(key="name", title=self.tr("Tensor"), text=lambda row: row.name, width=0, monospace=True),
                Column(key="shape", title=self.tr("Shape"), text=lambda row: row.shape, width=144),
                Column(
                    key="elements",
                    title=self.tr("Elements"),
                    text=lambda row: formats.integer(row.elements),
                    sort=lambda row: row.elements,
                    number=True,
                    width=120,
                ),
            ],
            lambda row: row.name,
            placeholder=self.tr("Filter tensors"),
            row_px=28,
        )
        self.layers.setMinimumHeight(180)
        self._told.body.addWidget(self.layers)
        content = QWidget()
        column = QVBoxLayout(content)
        column.setContentsMargins(0, GRID, GRID, GRID)
        column.setSpacing(12)
        for card in (notice, setting, self._told, self._going):
            column.addWidget(card)
        column.addStretch(1)
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(scroll(content))
        self._going.hide()
        self._told.hide()
        self._judge()

    def show_review(self, reply: pb.ReviewReply) -> None:
        """Offer the data and environments that fit; another offer ends a trial that goes on."""
        other = reply.offer.id != self._reply.offer.id
        if other:
            self._on_cancel()
            self.result = None
            self._going.hide()
            self._told.hide()
        self._reply = reply
        if other or self._trying is None:
            self._fill()
        self._judge()

    def _fill(self) -> None:
        while self._form.rowCount():
            self._form.removeRow(0)
        self._choices, datasets = {}, self._context.store.datasets
        for match in self._reply.data:
            choice = self._choices.get(match.need)
            if choice is None:
                choice = self._choices[match.need] = QComboBox()
                choice.setAccessibleName(self.tr("Dataset for {need}").format(need=match.need))
                self._form.addRow(label(self.tr("Data “{0}”").format(match.need)), choice)
            if match.fits and match.dataset_id in datasets:
                rows = formats.integer(datasets[match.dataset_id].rows)
                text = self.tr("{0}, {1} rows").format(datasets[match.dataset_id].alias, rows)
                choice.addItem(text, match.dataset_id)
        hint = QLabel(wordWrap=True)
        self._runtime = RuntimeChoice(self._reply, self._judge, hint)
        if len(self._reply.runtimes) > 1 or self._reply.requirements:
            self._form.addRow(label(self.tr("Runtime")), self._runtime)

    def _on_start(self) -> None:
        self.problem.tell(None)
        self.result = None
        self.log.clear()
        self._told.hide()
        self._going.show()
        self._bar.setMaximum(0)
        self._bar.show()
        self._step.setText(self.tr("Beginning…"))
        request = pb.TryRequest(
            id=self._reply.offer.id,
            datasets={need: choice.currentData() for need, choice in self._choices.items()},
            runtime=self._runtime.runtime if self._runtime else "",
        )
        self._trying = self._context.client.stream(
            "Approvals.Try", request, self._on_update, self._on_ended, owner=self
        )
        self._judge()

    def _on_cancel(self) -> None:
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None
            self._bar.hide()
            self._step.setText(self.tr("Cancelled. What it had made is deleted."))
        self._judge()

    def _on_update(self, update: pb.TryUpdate) -> None:
        if update.state == "log":
            self.log.appendPlainText(update.text)
            return
        if update.state == "done":
            self._show_result(update.result)
            return
        steps = {"build": self.tr("Building the job's first model"), "train": self.tr("Training its first round")}
        used = self.tr(" · {0} of memory").format(formats.size(update.memory)) if update.memory else ""
        self._step.setText(steps.get(update.state, update.text) + used)
        if update.fraction:
            self._bar.setMaximum(PARTS)
            self._bar.setValue(round(PARTS * update.fraction))

    def _on_ended(self, error: UserError | None) -> None:
        self._trying = None
        self._bar.hide()
        if error is not None:
            self._step.setText(self.tr("It was not tried out to the end."))
            self.problem.tell(error)
        self._judge()

    def _show_result(self, result: pb.TryResult) -> None:
        tr, size = self.tr, formats.size
        self.result = result
        self._step.setText(tr("What the job's code said"))
        good = not result.error_code
        self._verdict.set_look(
            Look("ok", "check-circle", tr("Nothing was sent")) if good else Look("danger", "error", tr("It failed"))
        )
        took = tr("{0}, of which training {1}").format(
            formats.duration(result.seconds), formats.duration(result.train_seconds)
        )
        facts = [(tr("Time"), took), (tr("Memory"), tr("{0} at most").format(size(result.memory)))]
        if good:
            encoding = tr(" as {0}").format(result.encoding) if result.encoding not in ("", "none") else ""
            named = sorted((n, v) for n, v in result.metrics.items() if not n.endswith("/examples"))
            facts += [
                (tr("Update"), f"{size(result.bytes)}{encoding}"),
                (tr("Examples"), tr("{0} in {1} steps").format(formats.integer(result.examples), result.steps)),
                (tr("Metrics"), "   ".join(f"{name} {formats.number(value)}" for name, value in named)),
            ]
        else:
            facts.append((tr("Why"), f"{result.error} [{result.error_code}]"))
        self.facts.set_facts(facts)
        self.layers.set_rows(list(result.layers))
        self.layers.setVisible(bool(result.layers))
        self._told.show()

    def _judge(self) -> None:
        """What can be done now, and why not."""
        offer = self._reply.offer
        why = ""
        if offer.state and (offer.state != "offered" or not offer.signature_verified):
            why = self.tr("Only a job that waits for a decision is tried out.")
        elif any(not choice.count() for choice in self._choices.values()):
            why = self.tr("No registered dataset fits what the job needs.")
        elif self._runtime is not None and self._runtime.problem:
            why = self._runtime.problem
        self._why.setText(why)
        self.start.setEnabled(not why and self._trying is None and bool(offer.id))
        self.cancel.setVisible(self._trying is not None)
