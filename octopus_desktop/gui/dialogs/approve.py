"""The conditions of an approval. Shows what fits and what does not; hands back conditions and the data's digests, and
signs nothing itself.
"""

from __future__ import annotations

import json
import time
from datetime import datetime

from PySide6.QtCore import Qt
from PySide6.QtGui import QResizeEvent, QStandardItemModel
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QDialogButtonBox,
    QDoubleSpinBox,
    QFormLayout,
    QFrame,
    QHBoxLayout,
    QLabel,
    QScrollArea,
    QSpinBox,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.dialogs.approve_runtime import RuntimeChoice
from octopus_desktop.gui.theme import set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.jobs.approval import Conditions
from octopus_desktop.wire.pb import local_pb2 as pb

DAY_S = 86400.0
MIB = 1 << 20


class ApproveDialog(QDialog):
    """What the administrator allows.

    Attributes:
        conditions: the conditions as they stand in the form.
        data_scope: the job's alias to the content digest of the chosen dataset.
        problem: why it cannot be approved as it stands, "" when it can.
    """

    def __init__(
        self,
        parent: QWidget | None,
        review: pb.ReviewReply,
        datasets: dict[str, pb.Dataset],
        nodes: dict[str, pb.Node],
        approver: str,
        profiles: dict[str, pb.SlurmProfile] | None = None,
    ) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._review, self._datasets = review, datasets
        offer = review.offer.offer
        self._config = _config_of(offer.config_json)
        stated = self._config.get("rounds", 0)
        self._job_rounds = stated if isinstance(stated, int) else 0
        self._choices: dict[str, QComboBox] = {}
        self._hints: dict[str, QLabel] = {}
        self._nodes: dict[str, QCheckBox] = {}
        self.setWindowTitle(self.tr("Approve {job}").format(job=offer.job_name))
        self.resize(660, 640)

        body = QWidget()
        set_role(body, look="page")
        form = QVBoxLayout(body)
        form.setContentsMargins(24, 16, 24, 16)
        form.setSpacing(16)
        form.addWidget(self._data_section())
        form.addWidget(self._place_section(nodes, profiles or {}))
        form.addWidget(self._limit_section())
        form.addWidget(self._validity_section())
        form.addStretch(1)
        scroll = QScrollArea(widgetResizable=True, frameShape=QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        scroll.setWidget(body)

        heading = QLabel(
            self.tr("Approve {job} {version}").format(job=offer.job_name, version=offer.job_version),
            wordWrap=True,
            textFormat=Qt.TextFormat.PlainText,
        )
        set_role(heading, type="heading")
        bound = QLabel(
            self.tr(
                "Your signature will cover exactly package {package}, configuration {config}, the data and the "
                "conditions below. Anything else needs a new decision."
            ).format(package=offer.package.digest[:12], config=offer.config_digest[:12]),
            wordWrap=True,
        )
        bound.setToolTip(f"{offer.package.digest}\n{offer.config_digest}")
        set_role(bound, type="muted")
        top = QVBoxLayout()
        top.setContentsMargins(24, 20, 24, 12)
        top.setSpacing(4)
        top.addWidget(heading)
        top.addWidget(bound)

        self._remark = QLabel(wordWrap=True)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        self.confirm = buttons.addButton(self.tr("Approve and sign"), QDialogButtonBox.ButtonRole.AcceptRole)
        set_role(self.confirm, kind="primary")
        self.confirm.setDefault(True)
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        bottom = QHBoxLayout()
        bottom.setContentsMargins(24, 12, 24, 16)
        bottom.addWidget(self._remark, 1)
        bottom.addWidget(buttons)
        self._signer = self.tr("Signed as {name}.").format(name=approver)

        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(top)
        layout.addWidget(_rule())
        layout.addWidget(scroll, 1)
        layout.addWidget(_rule())
        layout.addLayout(bottom)
        self._judge()

    @property
    def conditions(self) -> Conditions:
        hours = ((self._from.value(), self._to.value()),) if self._hours.isChecked() else ()
        return Conditions(
            datasets={need: choice.currentData() for need, choice in self._choices.items() if choice.currentData()},
            nodes=tuple(node for node, box in self._nodes.items() if box.isChecked()) if self._names_nodes else (),
            slurm=self._slurm.currentData() or "",
            hours_of_day=hours,
            max_rounds=self._rounds.value(),
            max_hours=self._run_hours.value(),
            max_bytes_out=round(self._bytes.value() * MIB),
            max_epsilon=self._epsilon.value(),
            expires_at=self._expires_at(),
            new_versions_need_decision=self._versions.isChecked(),
            runtime=self._runtime.runtime,
        )

    @property
    def _names_nodes(self) -> bool:
        return self._some.isChecked() and not self._slurm.currentData()

    @property
    def data_scope(self) -> dict[str, str]:
        return {need: self._datasets[dataset].digest for need, dataset in self.conditions.datasets.items()}

    @property
    def problem(self) -> str:
        for need, choice in self._choices.items():
            if not choice.currentData():
                return self.tr("No dataset is chosen for “{need}”.").format(need=need)
        if self._runtime.problem:
            return self._runtime.problem
        if self._names_nodes and not any(box.isChecked() for box in self._nodes.values()):
            return self.tr("No node is chosen.")
        if self._hours.isChecked() and self._from.value() == self._to.value():
            return self.tr("The hours of the day begin and end at the same time.")
        if 0 < self._rounds.value() < self._job_rounds:
            return self.tr(
                "The run has {0} rounds; with fewer allowed it could not end. Ask for changes instead."
            ).format(self._job_rounds)
        return ""

    def choose_dataset(self, need: str, dataset_id: str) -> None:
        """Choose the dataset that serves ``need``, if it fits."""
        place = self._choices[need].findData(dataset_id)
        if place >= 0:
            self._choices[need].setCurrentIndex(place)

    def _data_section(self) -> QWidget:
        reads = self.tr("The job is handed these columns only.")
        frame, form = _section(self.tr("Data"), reads)
        needs: dict[str, list[pb.DataMatch]] = {}
        for match in self._review.data:
            needs.setdefault(match.need, []).append(match)
        if not needs:
            form.addRow(QLabel(self.tr("The job asks for no data.")))
        for need, matches in needs.items():
            choice, hint = self._need_field(need, matches)
            form.addRow(_label(need), choice)
            form.addRow(QLabel(), hint)
        return frame

    def _need_field(self, need: str, matches: list[pb.DataMatch]) -> tuple[QComboBox, QLabel]:
        choice, hint = QComboBox(), _Wrapped()
        choice.setAccessibleName(self.tr("Dataset for {need}").format(need=need))
        set_role(hint, type="caption")
        fitting = [m for m in matches if m.fits and m.dataset_id in self._datasets]
        # The dataset that bears the need's own name comes first, then what else fits.
        fitting.sort(key=lambda m: (self._datasets[m.dataset_id].alias != need, self._datasets[m.dataset_id].alias))
        for match in fitting:
            choice.addItem(self._datasets[match.dataset_id].alias, match.dataset_id)
        if len(fitting) != 1 and (not fitting or self._datasets[fitting[0].dataset_id].alias != need):
            choice.insertItem(0, self.tr("Choose a dataset…") if fitting else self.tr("No dataset fits"), "")
            choice.setCurrentIndex(0)
        for match in matches:
            if match.fits or match.dataset_id not in self._datasets:
                continue
            choice.addItem(f"{self._datasets[match.dataset_id].alias} – {match.problem}", "")
            model = choice.model()
            assert isinstance(model, QStandardItemModel)
            model.item(choice.count() - 1).setEnabled(False)
        choice.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        choice.setMinimumContentsLength(24)
        choice.currentIndexChanged.connect(self._judge)
        self._choices[need], self._hints[need] = choice, hint
        return choice, hint

    def _place_section(self, nodes: dict[str, pb.Node], profiles: dict[str, pb.SlurmProfile]) -> QWidget:
        frame, form = _section(self.tr("Where and when"))
        self._slurm = QComboBox()
        self._slurm.setAccessibleName(self.tr("Where it trains"))
        self._slurm.addItem(self.tr("This silo's own machines"), "")
        for profile in sorted(profiles.values(), key=lambda p: p.name):
            parts = [
                self.tr("Slurm: {0}").format(profile.name),
                profile.partition,
                self.tr("nodes: {0}").format(profile.nodes),
                self.tr("GPUs: {0}").format(profile.gpus_per_node * profile.nodes) if profile.gpus_per_node else "",
                self.tr("at most {0}").format(profile.time) if profile.time else "",
            ]
            self._slurm.addItem(" · ".join(part for part in parts if part), profile.id)
        self._slurm.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self._slurm.setMinimumContentsLength(24)
        self._slurm.currentIndexChanged.connect(self._judge)
        if profiles:
            form.addRow(_label(self.tr("Trains on")), self._slurm)
        self._some = QCheckBox(self.tr("Only on these nodes"))
        self._some.toggled.connect(self._judge)
        column = QVBoxLayout()
        column.setSpacing(2)
        column.addWidget(self._some)
        several = self.tr(
            "With more than one node, one group of workers spans them; they speak to one another unencrypted."
        )
        for node in sorted(nodes.values(), key=lambda n: n.name):
            if node.state == "asking":
                continue
            gpus = self.tr("GPUs: {0}").format(len(node.gpus)) if node.gpus else self.tr("no GPU")
            box = QCheckBox(f"{node.name} · {self.tr('CPUs: {0}').format(node.cpu_count)} · {gpus}")
            box.setVisible(False)
            box.setToolTip(several)
            box.setStyleSheet("margin-left: 24px;")
            box.toggled.connect(self._judge)
            self._some.toggled.connect(box.setVisible)
            self._nodes[node.id] = box
            column.addWidget(box)
        self._some.setEnabled(bool(nodes))
        form.addRow(_label(self.tr("Nodes")), column)
        self._runtime = RuntimeChoice(self._review, self._judge, _Wrapped())
        if len(self._review.runtimes) > 1 or self._review.requirements:
            form.addRow(_label(self.tr("Runtime")), self._runtime)

        self._hours = QCheckBox(self.tr("Only between"))
        self._from, self._to = QSpinBox(maximum=23, suffix=":00", value=18), QSpinBox(maximum=24, suffix=":00", value=6)
        self._from.setAccessibleName(self.tr("From this hour"))
        self._to.setAccessibleName(self.tr("Until this hour"))
        row = QHBoxLayout()
        row.setSpacing(8)
        row.addWidget(self._hours)
        row.addWidget(self._from)
        row.addWidget(QLabel(self.tr("and")))
        row.addWidget(self._to)
        row.addWidget(QLabel(self.tr("local time")))
        row.addStretch(1)
        for spin in (self._from, self._to):
            spin.setEnabled(False)
            spin.setFixedWidth(88)
            spin.lineEdit().setTextMargins(6, 0, 0, 0)
            self._hours.toggled.connect(spin.setEnabled)
            spin.valueChanged.connect(self._judge)
        self._hours.toggled.connect(self._judge)
        form.addRow(_label(self.tr("Hours")), row)
        return frame

    def _limit_section(self) -> QWidget:
        frame, form = _section(self.tr("Limits"), self.tr("The run stops here when one is reached."))
        none = self.tr("no limit")
        self._rounds = QSpinBox(maximum=1_000_000, specialValueText=none)
        self._run_hours = QDoubleSpinBox(maximum=100_000, decimals=1, specialValueText=none, suffix=self.tr(" h"))
        self._bytes = QDoubleSpinBox(maximum=1e9, decimals=1, specialValueText=none, suffix=" MiB", singleStep=10)
        self._epsilon = QDoubleSpinBox(maximum=1e6, decimals=2, specialValueText=none, singleStep=0.5)
        rounds, resources = self._job_rounds, self._config.get("resources", {})
        private = bool(self._config.get("privacy"))
        self._epsilon.setEnabled(private)
        hours = resources.get("hours", 0) if isinstance(resources, dict) else 0
        asks = self.tr("the job asks for {value}")
        for name, spin, remark in (
            (self.tr("Rounds"), self._rounds, asks.format(value=rounds) if rounds else ""),
            (self.tr("Running time"), self._run_hours, asks.format(value=f"{hours:g} h") if hours else ""),
            (self.tr("Updates that leave"), self._bytes, self._leaves()),
            (
                self.tr("Privacy budget ε"),
                self._epsilon,
                "" if private else self.tr("the job adds no noise, so there is no ε to limit"),
            ),
        ):
            spin.setAccessibleName(name)
            spin.valueChanged.connect(self._judge)
            spin.setFixedWidth(152)
            spin.lineEdit().setTextMargins(6, 0, 0, 0)
            row = QHBoxLayout()
            row.setSpacing(12)
            row.addWidget(spin)
            note = QLabel(remark, textFormat=Qt.TextFormat.PlainText, wordWrap=True)
            set_role(note, type="caption")
            row.addWidget(note, 1)
            form.addRow(_label(name), row)
        return frame

    def _validity_section(self) -> QWidget:
        frame, form = _section(self.tr("How long it holds"))
        self._expiry = QComboBox()
        self._expiry.setAccessibleName(self.tr("The approval ends"))
        for days, text in (
            (0, self.tr("until the run ends")),
            (1, self.tr("1 day")),
            (7, self.tr("7 days")),
            (30, self.tr("30 days")),
            (90, self.tr("90 days")),
        ):
            if days:
                ends = datetime.fromtimestamp(time.time() + days * DAY_S)
                text = self.tr("{span}, until {date:%Y-%m-%d %H:%M}").format(span=text, date=ends)
            self._expiry.addItem(text, days)
        self._versions = QCheckBox(self.tr("Later versions of this job need a new decision"), checked=True)
        form.addRow(_label(self.tr("Approval ends")), self._expiry)
        form.addRow(_label(""), self._versions)
        return frame

    def _expires_at(self) -> float:
        days = self._expiry.currentData()
        return round(time.time() + days * DAY_S, 3) if days else 0.0

    def _leaves(self) -> str:
        return next((line.text for line in self._review.summary if line.topic == "leaves"), "")

    def _judge(self) -> None:
        for need, choice in self._choices.items():
            self._hints[need].setText(self._hint(need, choice.currentData()))
        for box in (self._some, *self._nodes.values()):
            box.setEnabled(bool(self._nodes) and not self._slurm.currentData())
        problem = self.problem
        self.confirm.setEnabled(not problem)
        self._remark.setText(problem or self._signer)
        set_role(self._remark, tone="danger" if problem else "neutral")

    def _hint(self, need: str, dataset_id: str) -> str:
        if dataset_id:
            dataset = self._datasets[dataset_id]
            columns = next(m.columns for m in self._review.data if m.need == need and m.dataset_id == dataset_id)
            rows = self.tr("{rows} rows").format(rows=formats.integer(dataset.rows))
            shown = self.tr("columns {names}").format(names=", ".join(columns)) if columns else self.tr("all columns")
            return f"{rows} · {shown} · {dataset.digest[:12]}"
        problems = [
            f"{self._datasets[m.dataset_id].alias}: {m.problem}" if m.dataset_id in self._datasets else m.problem
            for m in self._review.data
            if m.need == need and not m.fits and m.problem
        ]
        if any(m.fits for m in self._review.data if m.need == need):
            return self.tr("Several datasets fit; choose which one this job may read.")
        return "\n".join([*problems, self.tr("Register a dataset that fits on the page Datasets, then come back.")])


class _Wrapped(QLabel):
    """Words of several lines that get the height they need: a form in a scroll area would cut them."""

    def __init__(self) -> None:
        super().__init__(wordWrap=True, textFormat=Qt.TextFormat.PlainText)
        self.setContentsMargins(0, 4, 0, 0)

    def setText(self, text: str) -> None:
        super().setText(text)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        self.setFixedHeight(max(self.heightForWidth(self.width()), self.fontMetrics().height()))


def _section(title: str, text: str = "") -> tuple[QFrame, QFormLayout]:
    frame = QFrame()
    set_role(frame, look="card")
    column = QVBoxLayout(frame)
    column.setContentsMargins(16, 12, 16, 12)
    column.setSpacing(8)
    head = QHBoxLayout()
    heading = QLabel(title)
    set_role(heading, type="strong")
    head.addWidget(heading)
    remark = QLabel(text)
    set_role(remark, type="caption")
    head.addWidget(remark, 1)
    column.addLayout(head)
    form = QFormLayout()
    form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
    form.setLabelAlignment(Qt.AlignmentFlag.AlignLeft)
    form.setVerticalSpacing(8)
    form.setHorizontalSpacing(16)
    column.addLayout(form)
    return frame, form


def _label(text: str) -> QLabel:
    label = QLabel(text, textFormat=Qt.TextFormat.PlainText)
    label.setMinimumWidth(132)
    label.setMinimumHeight(28)
    return label


def _rule() -> QFrame:
    rule = QFrame()
    set_role(rule, look="rule")
    return rule


def _config_of(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
