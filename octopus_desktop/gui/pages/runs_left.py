"""A run's What left: each message that left this silo, and of an update what it held, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import QSplitter, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.rows import Column
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name
from octopus_desktop.gui.widgets.parts import EmptyState, label
from octopus_desktop.gui.widgets.table import Table
from octopus_desktop.wire.pb import local_pb2 as pb


class LeftTab(QWidget):
    """Attributes: ``table`` (messages), ``layers`` (of the chosen message)."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._rows: dict[str, pb.Left] = {}
        self._offered = ""  # the row that was chosen for the reader
        self._sum = label("", "muted")
        self.table = Table(
            context.theme,
            context.settings,
            "left",
            self._message_columns(),
            row_id,
            empty=EmptyState(
                context.theme,
                "upload",
                self.tr("Nothing has left this silo"),
                self.tr("Each message that this run sends is listed here with its size, digest and recipient."),
            ),
            sort_by="at",
            descending=True,
        )
        self.table.view.setAccessibleName(self.tr("Messages that left"))
        self.layers = Table(
            context.theme,
            context.settings,
            "layers",
            self._layer_columns(),
            lambda layer: layer.name,
            empty=EmptyState(
                context.theme,
                "layers",
                self.tr("No layers"),
                self.tr("This message held no layers, or they were not described. Choose an update above."),
            ),
        )
        self.layers.filter.hide()  # few rows: a second filter is in the way
        self.layers.view.setAccessibleName(self.tr("Layers of the chosen update"))
        lower = QWidget()
        column = QVBoxLayout(lower)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(4)
        self._of = label("", "strong")
        self.layers.tools.addWidget(self._of)
        column.addWidget(self.layers, 1)
        splitter = QSplitter(Qt.Orientation.Vertical, childrenCollapsible=False)
        splitter.setHandleWidth(GRID)
        splitter.addWidget(self.table)
        splitter.addWidget(lower)
        splitter.setSizes([300, 200])
        self._lower = lower
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, GRID, 0, 0)
        outer.setSpacing(GRID)
        outer.addWidget(self._sum)
        outer.addWidget(splitter, 1)
        self.table.chosen.connect(self._on_chosen)
        self.clear()

    def clear(self) -> None:
        self._rows, self._offered = {}, ""
        self.table.set_rows([])
        self._show_layers(None)
        self._tell()

    def take(self, left: Iterable[pb.Left]) -> None:
        new = [row for row in left if row_id(row) not in self._rows]
        if not new:
            return
        self._rows.update({row_id(row): row for row in new})
        self.table.model.put_many(new)
        self._tell()
        if self.table.current_id() in ("", self._offered):  # the newest update, until the reader has chosen another
            newest = max(self._rows.values(), key=lambda row: (bool(row.layers or row.encoding), row.at))
            self._offered = row_id(newest)
            self.table.choose(self._offered)

    def _on_chosen(self, chosen: str) -> None:
        self._show_layers(self._rows.get(chosen))

    def _show_layers(self, row: pb.Left | None) -> None:
        self.layers.set_rows(list(row.layers) if row is not None else [])
        self._lower.setVisible(bool(self._rows))
        self._of.setText(
            self.tr("What the {0} of round {1} held").format(kind_word(row), row.round) if row is not None else ""
        )

    def _tell(self) -> None:
        total = sum(row.bytes for row in self._rows.values())
        told = self.tr("Messages that left this silo: {0}, {1} in all")
        self._sum.setText(told.format(len(self._rows), formats.size(total)) if self._rows else "")
        self._sum.setVisible(bool(self._rows))
        self._lower.setVisible(bool(self._rows))

    def _message_columns(self) -> list[Column]:
        return [
            Column(
                key="at",
                title=self.tr("When"),
                text=lambda r: formats.instant(r.at),
                sort=lambda r: r.at,
                tooltip=lambda r: formats.instant_utc(r.at),
                width=160,
            ),
            Column(
                key="round",
                title=self.tr("Round"),
                text=lambda r: str(r.round) if r.round else formats.DASH,
                sort=lambda r: r.round,
                number=True,
                width=88,
            ),
            Column(key="kind", title=self.tr("Kind"), text=lambda r: kind_word(r), width=128),
            Column(
                key="bytes",
                title=self.tr("Size"),
                text=lambda r: formats.size(r.bytes),
                sort=lambda r: r.bytes,
                tooltip=lambda r: f"{r.bytes:,} B",
                number=True,
                width=96,
            ),
            Column(key="encoding", title=self.tr("Encoding"), text=lambda r: r.encoding or formats.DASH, width=96),
            Column(key="carrier", title=self.tr("By"), text=lambda r: carrier_name(r.carrier), width=96, muted=True),
            Column(key="recipient", title=self.tr("Recipient"), text=lambda r: r.recipient, width=0),
            Column(
                key="digest",
                title=self.tr("Digest"),
                text=lambda r: r.digest[:16],
                copy=lambda r: r.digest,
                tooltip=lambda r: r.digest,
                monospace=True,
                width=168,
            ),
        ]

    def _layer_columns(self) -> list[Column]:
        return [
            Column(
                key="name", title=self.tr("Layer"), text=lambda r: r.name, monospace=True, elide_middle=True, width=0
            ),
            Column(key="shape", title=self.tr("Shape"), text=lambda r: r.shape, monospace=True, width=160),
            Column(
                key="elements",
                title=self.tr("Values"),
                text=lambda r: formats.integer(r.elements),
                sort=lambda r: r.elements,
                number=True,
                width=120,
            ),
            Column(
                key="norm",
                title=self.tr("Norm"),
                text=lambda r: formats.number(r.norm) if r.norm else formats.DASH,  # 0: not computed
                sort=lambda r: r.norm,
                number=True,
                width=120,
            ),
        ]


def row_id(row: pb.Left) -> str:
    return f"{row.round}/{row.kind}/{row.digest}/{row.at:.3f}"


def kind_word(row: pb.Left) -> str:
    """What a message is, for people; the daemon names its kinds as the wire does."""
    tr = QCoreApplication.translate
    if row.kind.upper() == "ANSWER":  # an evaluation's answer bears numbers, but no update
        return tr("left", "update") if row.encoding or row.layers else tr("left", "metrics")
    return {
        "decision": tr("left", "decision"),
        "progress": tr("left", "progress"),
        "audit_head": tr("left", "audit witness"),
    }.get(row.kind.lower(), row.kind.lower().replace("_", " "))
