"""Datasets: which data is exposed, to whom. Register, check, relocate, remove."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QMenu, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import confirm
from octopus_desktop.gui.dialogs.register_dataset import RegisterDataset
from octopus_desktop.gui.pages.list_detail import ListDetailPage
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import (
    Card,
    Facts,
    IdLabel,
    button,
    label,
)
from octopus_desktop.gui.widgets.status import StatusBadge, look
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.pb import local_pb2 as pb


class DatasetsPage(ListDetailPage):
    kind = icon = "dataset"
    icon = "datasets"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        tr = self.tr
        self.lay_out(
            title=tr("Datasets"),
            subtitle=tr("Data that may be used for training here. It never leaves this silo."),
            act=(tr("Register a dataset…"), self.register),
            columns=[
                Column(key="alias", title=tr("ALIAS"), text=lambda d: d.alias, width=150),
                Column(
                    key="state",
                    title=tr("STATE"),
                    text=lambda d: look("dataset", d.state).text,
                    look=lambda d: look("dataset", d.state),
                    width=116,
                ),
                Column(key="kind", title=tr("KIND"), text=lambda d: d.kind, width=76, muted=True),
                Column(
                    key="rows",
                    title=tr("ROWS"),
                    text=lambda d: formats.integer(d.rows),
                    sort=lambda d: d.rows,
                    number=True,
                    width=80,
                    searched=False,
                ),
                Column(
                    key="bytes",
                    title=tr("SIZE"),
                    text=lambda d: formats.size(d.bytes),
                    sort=lambda d: d.bytes,
                    number=True,
                    width=90,
                    searched=False,
                ),
                Column(
                    key="path",
                    title=tr("WHERE"),
                    text=lambda d: d.path,
                    tooltip=lambda d: d.path,
                    width=0,
                    muted=True,
                    elide_middle=True,
                ),
            ],
            empty=(
                tr("No dataset is registered"),
                tr("A dataset is a CSV, Parquet or NPZ file, or a folder, under a short alias. "
                    "Jobs ask for it by that alias; "
                   "they see it read-only, and only after you approve. Registering reads its columns and digest."),
            ),
            placeholder=tr("Filter datasets"),
            detail=_Detail(context, self),
        )  # fmt: skip

    def register(self) -> None:
        RegisterDataset(self._context, self).open()

    def check(self, dataset: pb.Dataset) -> None:
        """Read it again and compare with what was registered."""

        def told(after: pb.Dataset) -> None:
            shown = look("dataset", after.state)
            self._context.toast(shown.tone, f"{after.alias}: {shown.text}")
            self._detail.set_busy(False)

        def failed(error: object) -> None:
            self._detail.set_busy(False)
            self._context.show_error(error)  # type: ignore[arg-type]

        self._detail.set_busy(True)
        self._context.client.call("Datasets.Check", pb.ById(id=dataset.id), told, failed, owner=self)

    def relocate(self, dataset: pb.Dataset) -> None:
        """Say where the same data lies now."""
        title = self.tr("Where does “{0}” lie now?").format(dataset.alias)
        chooser = QFileDialog(self, title, dataset.path.rsplit("/", 1)[0])
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        folder = dataset.kind == "folder"
        chooser.setFileMode(QFileDialog.FileMode.Directory if folder else QFileDialog.FileMode.ExistingFile)
        chooser.fileSelected.connect(
            lambda path: self._context.client.call(
                "Datasets.Relocate",
                pb.RelocateRequest(id=dataset.id, path=path),
                lambda after: self._context.toast("ok", self.tr("“{0}” is found at {1}").format(after.alias, path)),
                self._context.show_error,
                owner=self,
            )
        )
        chooser.open()

    def remove(self, dataset: pb.Dataset) -> None:
        """Ask once, then take it off the list; the file stays."""
        store = self._context.store
        running = [run for run in store.active_runs() if dataset.id in run.datasets]
        text = self.tr(
            "“{0}” is taken off the list. Its file stays where it is, and so does what the audit says of it."
        )
        if running:
            text += " " + self.tr("Runs that use it fail: {0}.").format(", ".join(run.job_name for run in running))
        if dataset.runs:
            text += " " + self.tr("Approvals for it no longer hold.")
        dialog = confirm(
            self._context.theme, self, self.tr("Remove the dataset?"), text.format(dataset.alias), self.tr("Remove")
        )
        dialog.accepted.connect(
            lambda: self._context.client.call(
                "Datasets.Remove", pb.ById(id=dataset.id), failed=self._context.show_error, owner=self
            )
        )
        dialog.open()


class _Detail(QWidget):
    """One dataset: what it is, its columns, which runs may use it."""

    def __init__(self, context: Context, page: DatasetsPage) -> None:
        super().__init__()
        self._context, self._dataset = context, pb.Dataset()
        tr, theme = self.tr, context.theme
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2 * GRID)
        card = Card()
        top = QHBoxLayout()
        self._name = label("", "heading")
        self._badge = StatusBadge(theme)
        top.addWidget(self._name)
        top.addWidget(self._badge)
        top.addStretch(1)
        card.body.addLayout(top)
        self._problem = label("", wrap=True)
        self._problem.setProperty("tone", "danger")
        card.body.addWidget(self._problem)
        self._facts = Facts(name_width=96)
        card.body.addWidget(self._facts)
        acts = QHBoxLayout()
        acts.setSpacing(GRID)
        self._check = button(theme, tr("Check now"), lambda: page.check(self._dataset), icon="refresh")
        more = button(theme, tr("More"), icon="more")
        menu = QMenu(more)
        menu.addAction(tr("Relocate…"), lambda: page.relocate(self._dataset))
        menu.addAction(tr("Remove…"), lambda: page.remove(self._dataset))
        more.setMenu(menu)
        acts.addWidget(self._check)
        acts.addWidget(more)
        acts.addStretch(1)
        card.body.addLayout(acts)
        column.addWidget(card)
        self._columns = Card(tr("Columns"))
        self._columns_table = Table(
            theme,
            context.settings,
            "dataset-columns",
            [
                Column(key="name", title=tr("NAME"), text=lambda c: c.name, width=0),
                Column(key="type", title=tr("TYPE"), text=lambda c: c.type, width=90, muted=True),
                Column(
                    key="missing",
                    title=tr("MISSING"),
                    text=lambda c: formats.integer(c.missing),
                    sort=lambda c: c.missing,
                    number=True,
                    width=90,
                ),
            ],
            lambda c: c.name,
            placeholder=tr("Filter columns"),
        )
        self._columns_table.setMinimumHeight(300)
        self._columns.body.addWidget(self._columns_table)
        column.addWidget(self._columns, 1)
        column.addStretch(0)

    def _places(self, dataset: pb.Dataset) -> list[tuple[str, str]]:
        """Where it lies on further nodes, when not at the same path."""
        nodes = self._context.store.nodes
        return [
            (
                self.tr("On {0}").format(
                    nodes[place.node].name if place.node in nodes else formats.short_id(place.node)
                ),
                place.path if place.state == "ok" else f"{place.path} – {place.error}",
            )
            for place in dataset.places
        ]

    def set_busy(self, busy: bool) -> None:
        self._check.setEnabled(not busy)
        self._check.setText(self.tr("Checking…") if busy else self.tr("Check now"))

    def show_item(self, dataset: pb.Dataset) -> None:
        tr = self.tr
        columns_changed = dataset.id != self._dataset.id or dataset.columns != self._dataset.columns
        self._dataset = dataset
        self._name.setText(dataset.alias)
        self._badge.set_state("dataset", dataset.state)
        self._problem.setText(f"{dataset.error} [{dataset.error_code}]" if dataset.error_code else dataset.error)
        self._problem.setVisible(bool(dataset.error))
        names = {run.id: f"{run.job_name} {run.job_version}" for run in self._context.store.runs.values()}
        used = sorted({names.get(run_id, formats.short_id(run_id)) for run_id in dataset.runs})
        self._facts.set_facts(
            [
                (tr("About"), dataset.description),
                (tr("Where"), dataset.path),
                *self._places(dataset),
                (tr("Content"), tr("{0} rows, {1} columns, {2}").format(
                    formats.integer(dataset.rows), len(dataset.columns), formats.size(dataset.bytes))),
                (tr("Digest"), IdLabel(self._context.theme, dataset.digest, lambda value: value[:16])),
                (tr("Checked"), formats.age(dataset.checked_at)),
                (tr("Approved for"), ", ".join(used) or tr("no run yet")),
            ]
        )  # fmt: skip
        if columns_changed:
            self._columns_table.set_rows(list(dataset.columns))
        self._columns.setVisible(bool(dataset.columns))
