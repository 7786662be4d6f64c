"""Two tabs of a review: Code (the package's files, read one by one from the daemon), and Changes to an earlier one."""

from __future__ import annotations

import re
from collections.abc import Callable

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import (
    QDialog,
    QDialogButtonBox,
    QListWidget,
    QListWidgetItem,
    QPlainTextEdit,
    QSplitter,
    QStackedWidget,
    QTreeWidget,
    QTreeWidgetItem,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.pages.approvals_words import severity
from octopus_desktop.gui.theme import GRID, set_role
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.code_view import CodeView, Mark
from octopus_desktop.gui.widgets.diff_view import DiffView, parse
from octopus_desktop.gui.widgets.parts import EmptyState, label
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

_NOTE = re.compile(r"(?P<path>[^\n]+?):(?P<line>\d+) (?P<text>.*)", re.DOTALL)
PATH_ROLE = Qt.ItemDataRole.UserRole + 1


class CodeTab(QWidget):
    """The file tree and the source. ``open_place(path, line)`` shows a line of a file."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._offer_id = self._digest = self._wanted = ""
        self._line = 0
        self._findings: dict[str, list[Mark]] = {}
        self._notes: dict[str, dict[int, str]] = {}
        self._sizes: dict[str, int] = {}
        self.tree = QTreeWidget(headerHidden=True, columnCount=2, uniformRowHeights=True, indentation=14)
        self.tree.setAccessibleName(self.tr("Files of the package"))
        self.tree.setMinimumWidth(150)
        self.view = CodeView()
        self.view.note_requested.connect(self._on_note_requested)
        self.tree.currentItemChanged.connect(self._on_current_changed)
        splitter = QSplitter(Qt.Orientation.Horizontal, childrenCollapsible=False)
        splitter.setHandleWidth(GRID)
        splitter.addWidget(self.tree)
        splitter.addWidget(self.view)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([216, 700])
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.addWidget(splitter)

    def show_review(self, reply: pb.ReviewReply) -> None:
        offer_id, digest = reply.offer.id, reply.offer.offer.package.digest
        self._findings = {}
        for finding in reply.findings:
            self._findings.setdefault(finding.path, []).append(
                Mark(
                    line=finding.line,
                    severity=severity(finding.severity),
                    text=finding.text,
                    advice=finding.advice,
                )
            )
        self._notes = notes_of(reply)
        self._sizes = {entry.path: entry.size for entry in reply.files}
        if (offer_id, digest) == (self._offer_id, self._digest):
            self._decorate()
            return  # the same bytes: the reader keeps their place
        self._offer_id, self._digest, self._wanted = offer_id, digest, ""
        self._fill_tree(list(reply.files))

    def open_place(self, path: str, line: int) -> None:
        self._line = line
        item = self._item(path)
        if item is None:
            self.view.clear(self.tr("The package has no file {path}.").format(path=path))
        elif item is self.tree.currentItem() and self.view.path == path:
            self.view.go_to_line(line)
        else:
            self.tree.setCurrentItem(item)
        self.view.editor.setFocus()

    def _fill_tree(self, files: list[pb.FileEntry]) -> None:
        self.tree.clear()
        folders: dict[str, QTreeWidgetItem] = {}
        first: QTreeWidgetItem | None = None
        theme = self._context.theme
        for entry in sorted(files, key=lambda f: (f.path.count("/") == 0, f.path)):
            parent = self.tree.invisibleRootItem()
            *above, name = entry.path.split("/")
            for depth in range(len(above)):
                key = "/".join(above[: depth + 1])
                if key not in folders:
                    folders[key] = QTreeWidgetItem(parent, [above[depth], ""])
                    folders[key].setIcon(0, theme.icon("folder"))
                parent = folders[key]
            item = QTreeWidgetItem(parent, [name, formats.size(entry.size)])
            item.setData(0, PATH_ROLE, entry.path)
            found = self._findings.get(entry.path, ())
            worst = "danger" if any(m.severity == "high" for m in found) else "warning" if found else ""
            item.setIcon(0, theme.icon("alert" if found else "file", worst or "muted"))
            tip = self.tr("Findings: {0}").format(len(found)) if found else ""
            item.setToolTip(0, "\n".join(part for part in (entry.path, tip, entry.digest[:16]) if part))
            item.setForeground(1, theme.colour("muted"))
            item.setTextAlignment(1, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter)
            if first is None and entry.path.endswith(".py"):
                first = item
        self.tree.expandAll()
        self.tree.header().setStretchLastSection(False)
        self.tree.header().setSectionResizeMode(0, self.tree.header().ResizeMode.Stretch)
        self.tree.header().setSectionResizeMode(1, self.tree.header().ResizeMode.ResizeToContents)
        if first is None and files:
            first = self._item(files[0].path)
        if first is not None:
            self.tree.setCurrentItem(first)
        else:
            self.view.clear(self.tr("The package holds no file."))

    def _item(self, path: str) -> QTreeWidgetItem | None:
        stack = [self.tree.topLevelItem(n) for n in range(self.tree.topLevelItemCount())]
        while stack:
            item = stack.pop()
            if item.data(0, PATH_ROLE) == path:
                return item
            stack.extend(item.child(n) for n in range(item.childCount()))
        return None

    def _on_current_changed(self, item: QTreeWidgetItem | None, _old: QTreeWidgetItem | None) -> None:
        path = item.data(0, PATH_ROLE) if item is not None else None
        if not path:
            return
        self._wanted, offer_id = path, self._offer_id
        self._context.client.call(
            "Approvals.ReadFile",
            pb.ReadFileRequest(id=offer_id, path=path),
            lambda reply: self._on_file(offer_id, path, reply),
            lambda error: self._on_no_file(offer_id, path, error),
            owner=self,
        )

    def _on_file(self, offer_id: str, path: str, reply: pb.ReadFileReply) -> None:
        if (offer_id, path) != (self._offer_id, self._wanted):
            return
        self.view.show_bytes(path, reply.content, binary=reply.binary, whole=self._sizes.get(path, 0))
        self._decorate()
        if self._line:
            self.view.go_to_line(self._line)
            self._line = 0

    def _on_no_file(self, offer_id: str, path: str, error: UserError) -> None:
        if (offer_id, path) == (self._offer_id, self._wanted):
            self.view.clear(str(error))

    def _decorate(self) -> None:
        self.view.set_marks(self._findings.get(self.view.path, ()))
        self.view.set_notes(self._notes.get(self.view.path, {}))

    def _on_note_requested(self, line: int) -> None:
        path = self.view.path
        if not path:
            return
        old = self._notes.get(path, {}).get(line, "")
        dialog = NoteDialog(self, f"{path}:{line}", old)
        dialog.accepted.connect(lambda: self._put_note(path, line, dialog.text))
        dialog.open()

    def _put_note(self, path: str, line: int, text: str) -> None:
        def kept(_ack: pb.Ack) -> None:
            self._notes.setdefault(path, {})[line] = text
            self._decorate()

        self._context.client.call(
            "Approvals.Note",
            pb.NoteRequest(id=self._offer_id, path=path, line=line, text=text),
            kept,
            self._context.show_error,
            owner=self,
        )


def notes_of(reply: pb.ReviewReply) -> dict[str, dict[int, str]]:
    """Notes on lines of this package, by path and line, from the history's ``path:line text``; the newest wins."""
    notes: dict[str, dict[int, str]] = {}
    for entry in sorted(reply.history, key=lambda e: e.at):
        match = _NOTE.fullmatch(entry.text) if entry.what == "note" else None
        if match and entry.digest == reply.offer.offer.package.digest:
            notes.setdefault(match["path"], {})[int(match["line"])] = match["text"]
    return notes


class NoteDialog(QDialog):
    """A note on one line; it stays in this silo and stands in the history."""

    def __init__(self, parent: QWidget, place: str, text: str) -> None:
        super().__init__(parent)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Note"))
        self.setMinimumWidth(440)
        heading = label(place, "strong")
        self._field = QPlainTextEdit(text, tabChangesFocus=True)
        self._field.setAccessibleName(self.tr("Note"))
        self._field.setMaximumHeight(112)
        buttons = QDialogButtonBox(QDialogButtonBox.StandardButton.Cancel)
        keep = buttons.addButton(self.tr("Keep the note"), QDialogButtonBox.ButtonRole.AcceptRole)
        set_role(keep, kind="primary")
        keep.setEnabled(bool(text.strip()))
        self._field.textChanged.connect(lambda: keep.setEnabled(bool(self.text)))
        buttons.accepted.connect(self.accept)
        buttons.rejected.connect(self.reject)
        column = QVBoxLayout(self)
        column.setContentsMargins(24, 20, 24, 16)
        column.setSpacing(12)
        column.addWidget(heading)
        column.addWidget(label(self.tr("It stays in this silo; the author does not get it."), "caption"))
        column.addWidget(self._field)
        column.addWidget(buttons)

    @property
    def text(self) -> str:
        return self._field.toPlainText().strip()


class ChangesTab(QWidget):
    """What differs from the newest version of this job that was approved here."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._changes: list[pb.FileChange] = []
        self._against = label("", "muted")
        self.files = QListWidget()
        self.files.setIconSize(QSize(16, 16))
        self.files.setAccessibleName(self.tr("Changed files"))
        self.view = DiffView()
        self.files.currentRowChanged.connect(self._on_row_changed)
        splitter = QSplitter(Qt.Orientation.Horizontal, childrenCollapsible=False)
        splitter.setHandleWidth(GRID)
        splitter.addWidget(self.files)
        splitter.addWidget(self.view)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([216, 700])
        shown = QWidget()
        inner = QVBoxLayout(shown)
        inner.setContentsMargins(0, 0, 0, 0)
        inner.setSpacing(GRID)
        inner.addWidget(self._against)
        inner.addWidget(splitter, 1)
        self._stack = QStackedWidget()
        self._stack.addWidget(shown)
        self._none = self._empty(
            self.tr("Nothing to compare with"), self.tr("No version of this job has been approved here before.")
        )
        self._same = self._empty(
            self.tr("No file differs"), self.tr("This package holds the same files as the version that was approved.")
        )
        column = QVBoxLayout(self)
        column.setContentsMargins(0, GRID, 0, 0)
        column.addWidget(self._stack)

    def show_review(self, reply: pb.ReviewReply) -> None:
        self._changes = list(reply.changes)
        self._against.setText(
            self.tr("Against the version approved before, package {digest}").format(digest=reply.previous_digest[:16])
            if reply.previous_digest
            else self.tr("Against the version before")
        )
        self.files.clear()
        self.view.clear()
        if not self._changes:
            self._stack.setCurrentWidget(self._same if reply.previous_digest else self._none)
            return
        self._stack.setCurrentIndex(0)
        icons: dict[str, tuple[str, str]] = {"added": ("plus", "ok"), "removed": ("trash", "danger")}
        for change in self._changes:
            icon, tone = icons.get(change.change, ("edit", "warning"))
            lines = parse(change.unified_diff)
            counts = f"+{sum(x.kind == 'added' for x in lines)} −{sum(x.kind == 'removed' for x in lines)}"
            item = QListWidgetItem(self._context.theme.icon(icon, tone), f"{change.path}  {counts}")
            item.setToolTip(f"{change.path}\n{change.change}")
            self.files.addItem(item)
        self.files.setCurrentRow(0)

    def _on_row_changed(self, row: int) -> None:
        if 0 <= row < len(self._changes):
            change = self._changes[row]
            self.view.show_diff(change.path, change.change, change.unified_diff)

    def _empty(self, title: str, text: str, clicked: Callable[[], None] | None = None) -> EmptyState:
        state = EmptyState(self._context.theme, "exchange", title, text, "", clicked)
        self._stack.addWidget(state)
        return state
