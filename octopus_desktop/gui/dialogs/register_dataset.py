"""The dialog that registers a dataset: choose a file or folder, see what would be registered, name it."""

from __future__ import annotations

import re
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QComboBox, QFileDialog, QHBoxLayout, QLineEdit, QWidget

from octopus_desktop.gui.client import Call
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import button, label
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

PROBE_DELAY_MS = 350


class RegisterDataset(FormDialog):
    """Probes while one types; nothing is registered before the last button."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(
            context.theme,
            parent,
            parent.tr("Register a dataset"),
            parent.tr("The file stays where it is. Its columns, rows and digest are read; nothing is sent anywhere."),
            parent.tr("Register"),
        )
        self._context = context
        self._probe: Call | None = None
        self.path = QLineEdit()
        self.path.setPlaceholderText(self.tr("Full path of a CSV, Parquet or NPZ file, or of a folder"))
        pick = button(context.theme, self.tr("File…"), self._on_pick, icon="file")
        folder = button(context.theme, self.tr("Folder…"), self._on_pick_folder, icon="folder")
        where = QHBoxLayout()
        where.setSpacing(GRID)
        where.addWidget(self.path, 1)
        where.addWidget(pick)
        where.addWidget(folder)
        self.kind = QComboBox()
        for text, kind in (
            (self.tr("As its name says"), ""),
            ("CSV", "csv"),
            ("Parquet", "parquet"),
            ("NPZ", "npz"),
            (self.tr("Folder"), "folder"),
        ):
            self.kind.addItem(text, kind)
        self.alias = QLineEdit()
        self.alias.setPlaceholderText(self.tr("The name by which jobs ask for it, such as: heart"))
        self.description = QLineEdit()
        self.description.setPlaceholderText(self.tr("What is in it (optional)"))
        for text, field in (
            (self.tr("&Where"), where),
            (self.tr("&Kind"), self.kind),
            (self.tr("&Alias"), self.alias),
            (self.tr("&Description"), self.description),
        ):
            self.form.addRow(text, field)
        self.form.labelForField(where).setBuddy(self.path)  # type: ignore[attr-defined]
        self.preview = label("", wrap=True)
        self.preview.setMinimumHeight(64)
        self.preview.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.body.addWidget(self.preview)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(PROBE_DELAY_MS)
        self._timer.timeout.connect(self._on_probe)
        self.path.textChanged.connect(lambda _text: self._on_edited())
        self.kind.currentIndexChanged.connect(lambda _at: self._on_edited())
        self.alias.textChanged.connect(lambda _text: self._update())
        self._is_readable = False
        self._update()

    def _on_edited(self) -> None:
        self._is_readable = False
        self.problem.tell(None)
        if self._probe is not None:
            self._probe.cancel()
        self._timer.start()
        self._update()

    def _on_probe(self) -> None:
        path = self.path.text().strip()
        if not path:
            self.preview.setText("")
            return
        self.set_busy(self.tr("Reading…"))
        request = pb.ProbeRequest(path=path, kind=self.kind.currentData())
        self._probe = self._context.client.call(
            "Datasets.Probe", request, self._on_probed, self._on_unreadable, owner=self
        )

    def _on_probed(self, found: pb.Dataset) -> None:
        self.set_busy("")
        self._is_readable = True
        names = ", ".join(column.name for column in found.columns[:12])
        more = len(found.columns) - 12
        self.preview.setText(
            self.tr("{0}, {1} rows, {2} columns, {3}\n{4}").format(
                found.kind.upper(),
                formats.integer(found.rows),
                len(found.columns),
                formats.size(found.bytes),
                names + (self.tr(" and {0} more").format(more) if more > 0 else ""),
            )
        )
        set_role(self.preview, tone="ok")
        if not self.alias.text():
            self.alias.setText(re.sub(r"[^a-z0-9-]+", "-", Path(found.path).stem.lower()).strip("-"))
        self._update()

    def _on_unreadable(self, error: UserError) -> None:
        self.preview.setText("")
        self.tell(error)
        self._update()

    def _update(self) -> None:
        self.act.setEnabled(self._is_readable and bool(self.alias.text().strip()))

    def _on_act(self) -> None:
        self.problem.tell(None)
        self.set_busy(self.tr("Reading every row for the digest…"))
        request = pb.RegisterDatasetRequest(
            alias=self.alias.text().strip(),
            path=self.path.text().strip(),
            kind=self.kind.currentData(),
            description=self.description.text().strip(),
        )
        self._context.client.call("Datasets.Register", request, self._on_registered, self.tell, owner=self)

    def _on_registered(self, made: pb.Dataset) -> None:
        self._context.toast("ok", self.tr("“{0}” is registered").format(made.alias))
        self.accept()

    def _on_pick(self) -> None:
        self._choose(QFileDialog.FileMode.ExistingFile)

    def _on_pick_folder(self) -> None:
        self._choose(QFileDialog.FileMode.Directory)

    def _choose(self, mode: QFileDialog.FileMode) -> None:
        chooser = QFileDialog(self, self.tr("Choose the data"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setFileMode(mode)
        if mode == QFileDialog.FileMode.ExistingFile:
            chooser.setNameFilters([self.tr("Data (*.csv *.parquet *.npz)"), self.tr("All files (*)")])
        chooser.fileSelected.connect(self.path.setText)
        chooser.open()
