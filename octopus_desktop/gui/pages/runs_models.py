"""A run's Models: the global model of each round, the silo's own one, and their export as safetensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from PySide6.QtWidgets import QFileDialog, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.rows import Column
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import EmptyState, button
from octopus_desktop.gui.widgets.table import Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

MOST_METRICS_SHOWN = 3


class ModelsTab(QWidget):
    """Attributes: ``table``; ``own``: exports the silo's own model, shown when there is one. ``export_to(path)`` writes
    the chosen round's model."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._run_id = ""
        self.table = Table(
            context.theme,
            context.settings,
            "models",
            [
                Column(
                    key="round",
                    title=self.tr("Round"),
                    text=lambda r: str(r.round),
                    sort=lambda r: r.round,
                    number=True,
                    width=96,
                ),
                Column(
                    key="metrics",
                    title=self.tr("Metrics of the federation"),
                    text=metrics_of,
                    tooltip=lambda r: "\n".join(f"{k} {v:.6g}" for k, v in sorted(r.federation.items())),
                    width=0,
                ),
                Column(
                    key="size",
                    title=self.tr("Size"),
                    text=lambda r: formats.size(r.model_size),
                    sort=lambda r: r.model_size,
                    number=True,
                    width=104,
                ),
                Column(
                    key="seconds",
                    title=self.tr("Round took"),
                    text=lambda r: formats.duration(r.seconds),
                    sort=lambda r: r.seconds,
                    number=True,
                    width=112,
                ),
                Column(
                    key="digest",
                    title=self.tr("Digest"),
                    text=lambda r: r.model_digest[:16],
                    copy=lambda r: r.model_digest,
                    tooltip=lambda r: r.model_digest,
                    monospace=True,
                    width=176,
                ),
            ],
            lambda r: str(r.round),
            empty=EmptyState(
                context.theme,
                "layers",
                self.tr("No model yet"),
                self.tr("The federation's model of each round is listed here once the round is over."),
            ),
            sort_by="round",
            descending=True,
        )
        self.export = button(context.theme, self.tr("Export…"), self._on_export, icon="download")
        self.export.setEnabled(False)
        self.own = button(context.theme, self.tr("Export this silo's own…"), self._on_export_own, icon="download")
        self.own.setToolTip(self.tr("The final model as it was fine-tuned here. It never leaves by itself."))
        self.own.hide()
        self.table.tools.addWidget(self.own)
        self.table.tools.addWidget(self.export)
        self.table.chosen.connect(lambda _id: self._judge())
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.addWidget(self.table)

    def clear(self) -> None:
        self.own.hide()
        self.table.set_rows([])
        self._judge()

    def take(self, run_id: str, rounds: Iterable[pb.RunRound]) -> None:
        self._run_id = run_id
        rows = [row for row in rounds if row.model_digest]
        if rows:
            self.table.model.put_many(rows)
        self._judge()

    def set_kept(self, kept: bool) -> None:
        """Whether the silo has a model of its own of this run."""
        self.own.setVisible(kept)

    def export_to(self, path: str) -> None:
        """Ask the daemon to write the chosen round's model to ``path`` on this machine."""
        row = self.table.current()
        if row is not None:
            self._ask(pb.ExportRequest(id=self._run_id, round=row.round, path=path))

    def export_own_to(self, path: str) -> None:
        """The same for the silo's own model."""
        self._ask(pb.ExportRequest(id=self._run_id, path=path, personal=True))

    def _ask(self, request: pb.ExportRequest) -> None:
        path = request.path
        for each in (self.export, self.own):
            each.setEnabled(False)
        self._context.client.call(
            "Runs.ExportModel",
            request,
            lambda _ack: self._on_exported(path),
            self._on_failed,
            owner=self,
        )

    def _on_export(self) -> None:
        row = self.table.current()
        run = self._context.store.runs.get(self._run_id)
        if row is None or run is None:
            return
        title = self.tr("Export the model of round {0}").format(row.round)
        self._choose(title, f"{run.job_name}-{run.job_version}-round-{row.round}.safetensors", self.export_to)

    def _on_export_own(self) -> None:
        if run := self._context.store.runs.get(self._run_id):
            name = f"{run.job_name}-{run.job_version}-own.safetensors"
            self._choose(self.tr("Export this silo's own model"), name, self.export_own_to)

    def _choose(self, title: str, name: str, then: Callable[[str], None]) -> None:
        dialog = QFileDialog(self, title)
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setOption(QFileDialog.Option.DontConfirmOverwrite)  # the daemon writes over nothing
        dialog.setNameFilter(self.tr("Safetensors (*.safetensors)"))
        dialog.setDefaultSuffix("safetensors")
        dialog.selectFile(str(Path.home() / name))
        dialog.fileSelected.connect(then)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    def _on_exported(self, path: str) -> None:
        self._judge()
        self._context.toast("ok", self.tr("The model was written to {0}.").format(path))

    def _on_failed(self, error: UserError) -> None:
        self._judge()
        self._context.show_error(error)

    def _judge(self) -> None:
        self.export.setEnabled(self.table.current() is not None)
        self.own.setEnabled(True)


def metrics_of(row: pb.RunRound) -> str:
    """The first few of a round's metrics: what was evaluated, then losses."""
    named = {name: value for name, value in row.federation.items() if not name.endswith("/examples")}
    order = sorted(named, key=lambda name: (not name.startswith("eval/"), "loss" in name, name))
    return "   ".join(f"{name} {formats.number(named[name])}" for name in order[:MOST_METRICS_SHOWN])
