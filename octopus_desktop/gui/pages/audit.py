"""Audit: who decided what, and what left. The tamper-evident record, with filter, export and verification."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

from PySide6.QtCore import Qt, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QComboBox, QFileDialog, QWidget

from octopus_desktop.gui.client import Call
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.background import run_task
from octopus_desktop.gui.models.names import action_words, detail_of, subject_name
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Banner, EmptyState, PageHeader, button, page_layout
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

PAGE_ROWS = 500
FILTER_MS = 250
SHORT_CHARACTERS = 40
DIGEST = re.compile(r"\b[0-9a-f]{64}\b")


class AuditPage(QWidget):
    """Reads page by page from the daemon, newest first; more comes when one scrolls to the end."""

    icon = "audit"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Audit")
        tr, theme = self.tr, context.theme
        self._loaded, self._whole = False, False
        self._call: Call | None = None
        column = page_layout(self)
        header = PageHeader(
            self.title, tr("Who decided what, and what left. Entries are chained: none can be changed unseen.")
        )
        self._verify = button(theme, tr("Verify now"), self.verify, icon="check-circle")
        header.buttons.addWidget(self._verify)
        header.buttons.addWidget(button(theme, tr("Export…"), self.export, icon="download"))
        column.addWidget(header)
        self.banner = Banner(theme)
        self.banner.acted.connect(self.banner.hide)
        column.addWidget(self.banner)
        self.table = Table(
            theme,
            context.settings,
            "audit",
            [
                Column(
                    key="seq", title=tr("NO."), text=lambda e: str(e.seq), sort=lambda e: e.seq, number=True, width=80
                ),
                Column(
                    key="at",
                    title=tr("WHEN"),
                    text=lambda e: formats.instant(e.at),
                    sort=lambda e: e.at,
                    tooltip=lambda e: formats.instant_utc(e.at),
                    width=160,
                    muted=True,
                ),
                Column(key="actor", title=tr("WHO"), text=lambda e: e.actor, width=140),
                Column(key="action", title=tr("WHAT"), text=action_words, copy=lambda e: e.action, width=150),
                Column(
                    key="subject",
                    title=tr("OF"),
                    text=lambda e: subject_name(context.store, e),
                    tooltip=lambda e: e.subject,
                    copy=lambda e: e.subject,
                    width=180,
                ),
                Column(
                    key="detail", title=tr("DETAIL"), text=detail_words, tooltip=_detail_lines, width=0, muted=True
                ),
                Column(
                    key="hash",
                    title=tr("HASH"),
                    text=lambda e: e.hash.hex()[:12],
                    copy=lambda e: e.hash.hex(),
                    monospace=True,
                    muted=True,
                    width=120,
                    searched=False,
                ),
            ],
            lambda e: str(e.seq),
            empty=EmptyState(
                theme,
                "audit",
                tr("The record is empty"),
                tr("Each decision, each start and stop of a run, and each message that "
                    "leaves is written here, signed and "
                   "chained."),
            ),
            placeholder=tr("Search the whole record"),
            sort_by="seq",
            descending=True,
        )  # fmt: skip
        self.action = QComboBox()
        self.action.setAccessibleName(tr("Kind of entry"))
        for text, prefix in (
            (tr("All entries"), ""),
            (tr("Decisions"), "offer"),
            (tr("Runs"), "run"),
            (tr("What left"), "message"),
            (tr("Datasets"), "dataset"),
            (tr("Nodes"), "node"),
            (tr("Federations"), "federation"),
            (tr("Policy"), "policy"),
        ):
            self.action.addItem(text, prefix)
        self.action.currentIndexChanged.connect(lambda _at: self.reload())
        self.table.filter.textChanged.connect(lambda _text: self._timer.start())
        self.table.tools.addWidget(self.action)
        column.addWidget(self.table, 1)
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(FILTER_MS)
        self._timer.timeout.connect(self.reload)
        self.table.view.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        context.store.reset.connect(self._on_reset)
        context.store.changed.connect(self._on_changed)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if not self._loaded:
            self.reload()

    def show_item(self, item_id: str) -> None:
        self.table.choose(item_id)

    def reload(self) -> None:
        """Read the newest page again."""
        if not self._context.client.is_connected:
            return
        self._loaded, self._whole = True, False
        self.table.set_rows([])
        self._fetch(0)

    def verify(self) -> None:
        """Let the daemon recompute the chain from its first entry."""
        self._verify.setEnabled(False)
        self._verify.setText(self.tr("Verifying…"))
        self._context.client.call("Audit.Verify", pb.Empty(), self._on_verified, self._on_verify_failed, owner=self)

    def export(self) -> None:
        chooser = QFileDialog(self, self.tr("Export the audit record"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        chooser.setNameFilters([self.tr("Table (*.csv)"), self.tr("JSON (*.json)")])
        chooser.setDefaultSuffix("csv")
        chooser.filterSelected.connect(lambda name: chooser.setDefaultSuffix("json" if "json" in name else "csv"))
        chooser.selectFile("audit.csv")
        chooser.fileSelected.connect(self.export_to)
        chooser.open()

    def export_to(self, path: str) -> None:
        """Write the whole record to a file: JSON when its name ends so, else CSV."""
        entries: list[pb.AuditEntry] = []

        def more(reply: pb.AuditPageReply) -> None:
            entries.extend(reply.entries)
            if reply.entries and reply.entries[-1].seq > 1:
                fetch(reply.entries[-1].seq)
            else:
                run_task(
                    lambda: write_export(Path(path), entries),
                    lambda count: self._context.toast("ok", self.tr("{0} entries are in {1}").format(count, path)),
                    self._context.show_error,
                    owner=self,
                )

        def fetch(before: int) -> None:
            self._context.client.call(
                "Audit.Page", pb.AuditPageRequest(before=before, limit=2000), more, self._context.show_error, owner=self
            )

        fetch(0)

    def _fetch(self, before: int) -> None:
        if self._call is not None:
            self._call.cancel()
        self._call = self._context.client.call(
            "Audit.Page",
            pb.AuditPageRequest(
                before=before,
                limit=PAGE_ROWS,
                action=self.action.currentData(),
                text=self.table.filter.text().strip(),
            ),
            self._on_page,
            self._context.show_error,
            owner=self,
        )

    def _on_page(self, reply: pb.AuditPageReply) -> None:
        self._call = None
        self._whole = len(reply.entries) < PAGE_ROWS
        self.table.model.put_many(reply.entries)

    def _on_scrolled(self, value: int) -> None:
        bar = self.table.view.verticalScrollBar()
        if self._call is None and not self._whole and self.table.model.total and value >= bar.maximum() - 20:
            last = min(int(self.table.model.id_at(at)) for at in range(self.table.model.rowCount()))
            self._fetch(last)

    def _on_changed(self, kind: str, item_id: str) -> None:
        entry = self._context.store.audit_tail[-1] if kind == "audit" else None
        if entry is not None and self._loaded and entry.action.startswith(self.action.currentData()):
            self.table.model.put(entry)

    def _on_reset(self) -> None:
        self._loaded = False
        if self.isVisible():
            self.reload()

    def _on_verified(self, reply: pb.VerifyReply) -> None:
        self._ready_again()
        if reply.whole:
            head = reply.head.hex()[:16]
            text = self.tr("The record is whole: {0} entries").format(formats.integer(reply.entries))
            self.banner.tell("ok", text, self.tr("head {0}").format(head) if head else "", self.tr("Close"))
        else:
            text = self.tr("The record is broken at entry {0}").format(reply.first_bad)
            self.banner.tell("danger", text, reply.why, self.tr("Close"))

    def _on_verify_failed(self, error: UserError) -> None:
        self._ready_again()
        self._context.show_error(error)

    def _ready_again(self) -> None:
        self._verify.setEnabled(True)
        self._verify.setText(self.tr("Verify now"))


def detail_words(entry: pb.AuditEntry) -> str:
    """What tells most first: plain values, then digests; the job stands in its own column already."""
    plain = [(name, value) for name, value in detail_of(entry).items() if name != "job" and value not in ("", [], {})]
    plain.sort(key=lambda pair: len(_short(pair[1])) if isinstance(pair[1], (str, int, float)) else SHORT_CHARACTERS)
    return ", ".join(f"{name} {_short(value)}" for name, value in plain)


def _detail_lines(entry: pb.AuditEntry) -> str:
    return "\n".join(f"{name}: {value}" for name, value in detail_of(entry).items())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, (dict, list)) else str(value)
    text = DIGEST.sub(lambda found: found.group()[:12], text)
    return text if len(text) <= SHORT_CHARACTERS else text[: SHORT_CHARACTERS - 1] + "…"


def write_export(path: Path, entries: list[pb.AuditEntry]) -> int:
    """Oldest first. Returns how many. Raises UserError when the file cannot be written."""
    ordered = sorted(entries, key=lambda entry: entry.seq)
    rows = [
        {
            "seq": entry.seq,
            "at_utc": formats.instant_utc(entry.at),
            "actor": entry.actor,
            "action": entry.action,
            "subject": entry.subject,
            "detail": detail_of(entry),
            "hash": entry.hash.hex(),
        }
        for entry in ordered
    ]
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            if path.suffix.lower() == ".json":
                json.dump(rows, file, ensure_ascii=False, indent=1)
            else:
                writer = csv.DictWriter(file, ["seq", "at_utc", "actor", "action", "subject", "detail", "hash"])
                writer.writeheader()
                writer.writerows({**row, "detail": json.dumps(row["detail"], ensure_ascii=False)} for row in rows)
    except OSError as error:
        raise UserError(
            "OCT-CONFIG-INVALID", f"{path} cannot be written.", error.strerror or str(error), "Choose another place."
        ) from error
    return len(rows)
