"""The command palette: every command, and every job, run, node, dataset and federation, found by typing."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PySide6.QtCore import QEvent, QModelIndex, QObject, QPersistentModelIndex, QSize, Qt
from PySide6.QtGui import QKeyEvent, QPainter
from PySide6.QtWidgets import (
    QDialog,
    QFrame,
    QLineEdit,
    QListWidget,
    QListWidgetItem,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.status import look

SHOWN = 40
_HINT_ROLE = Qt.ItemDataRole.UserRole + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line: ``text`` is shown and searched, ``hint`` stands at its right and is searched too, as is ``also``."""

    text: str
    hint: str
    icon: str
    run: Callable[[], object]
    also: str = ""


def entries(context: Context) -> list[Entry]:
    """All that can be found at this moment: commands that are enabled, then items of the store."""
    store, found = context.store, []
    for command in context.commands.all():
        if command.enabled():
            found.append(
                Entry(
                    text=command.text.replace("&", "").rstrip("…"),
                    hint=command.shortcut,
                    icon=command.icon or "chevron-right",
                    run=lambda id=command.id: context.commands.run(id),
                    also=command.id,
                )
            )

    def item(kind: str, item_id: str, text: str, hint: str, icon: str) -> None:
        found.append(
            Entry(text=text, hint=hint, icon=icon, run=lambda: context.open(kind, item_id), also=f"{kind} {item_id}")
        )

    for offer in store.offers.values():
        name = f"{offer.offer.job_name} {offer.offer.job_version}"
        item("offer", offer.id, name, look("offer", offer.state).text, "approvals")
    for run in store.runs.values():
        hint = f"{look('run', run.state).text} · {formats.short_id(run.id.removeprefix('run-'))}"
        item("run", run.id, f"{run.job_name} {run.job_version}", hint, "runs")
    for node in store.nodes.values():
        item("node", node.id, node.name, look("node", node.state).text, "nodes")
    for dataset in store.datasets.values():
        item("dataset", dataset.id, dataset.alias, look("dataset", dataset.state).text, "datasets")
    for federation in store.federations.values():
        item("federation", federation.id, federation.name, look("link", federation.link).text, "federations")
    return found


def matching(all_entries: Iterable[Entry], typed: str) -> list[Entry]:
    """Entries that hold every typed word, best first: text that begins with it, then words that do, then the rest."""
    words = typed.lower().split()
    ranked = []
    for place, entry in enumerate(all_entries):
        text = entry.text.lower()
        hay = f"{text} {entry.hint} {entry.also}".lower()
        if all(word in hay for word in words):
            first = words[0] if words else ""
            rank = 0 if text.startswith(first) else 1 if f" {first}" in text else 2 if first in text else 3
            ranked.append((rank, place, entry))
    return [entry for _rank, _place, entry in sorted(ranked, key=lambda item: item[:2])][:SHOWN]


class _Lines(QStyledItemDelegate):
    """Draws the text at the left and the hint at the right."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = context.theme

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        hint = str(index.data(_HINT_ROLE))
        self.initStyleOption(option, index)
        option.state &= ~QStyle.StateFlag.State_HasFocus
        painter.save()
        painter.setFont(self._theme.font("caption"))
        width = painter.fontMetrics().horizontalAdvance(hint) + 2 * GRID
        painter.restore()
        whole = option.rect
        option.text = option.fontMetrics.elidedText(
            option.text, Qt.TextElideMode.ElideRight, whole.width() - width - 5 * GRID
        )
        option.widget.style().drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        painter.save()
        painter.setFont(self._theme.font("caption"))
        painter.setPen(self._theme.colour("muted"))
        painter.drawText(
            whole.adjusted(0, 0, -GRID, 0), Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, hint
        )
        painter.restore()

    def sizeHint(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> QSize:
        return QSize(super().sizeHint(option, index).width(), 34)


class Palette(QDialog):
    """Type, choose with the arrows, Enter runs, Escape closes."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup | Qt.WindowType.FramelessWindowHint)
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setWindowTitle(self.tr("Command palette"))
        self._context, self._entries = context, entries(context)
        self._shown: list[Entry] = []
        frame = QFrame()
        frame.setProperty("look", "palette")
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(frame)
        column = QVBoxLayout(frame)
        column.setContentsMargins(GRID, GRID, GRID, GRID)
        self.field = QLineEdit()
        self.field.setPlaceholderText(self.tr("Do something, or find a job, run, node or dataset"))
        self.field.setAccessibleName(self.tr("Search commands and items"))
        self.field.textChanged.connect(self._fill)
        self.field.installEventFilter(self)
        self.list = QListWidget()
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setProperty("look", "plain")
        self.list.setItemDelegate(_Lines(context, self.list))
        self.list.itemClicked.connect(lambda _item: self._run())
        self.list.setAccessibleName(self.tr("Found"))
        column.addWidget(self.field)
        column.addWidget(self.list)
        self._fill("")
        self.resize(600, 440)
        self.move(
            parent.mapToGlobal(parent.rect().center()).x() - 300, parent.mapToGlobal(parent.rect().topLeft()).y() + 80
        )
        self.field.setFocus()

    def eventFilter(self, _watched: QObject, event: QEvent) -> bool:
        if isinstance(event, QKeyEvent) and event.type() == QEvent.Type.KeyPress:
            step = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1, Qt.Key.Key_PageDown: 10, Qt.Key.Key_PageUp: -10}.get(
                Qt.Key(event.key())
            )
            if step is not None and self.list.count():
                row = min(max(0, self.list.currentRow() + step), self.list.count() - 1)
                self.list.setCurrentRow(row)
                return True
            if event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self._run()
                return True
        return False

    def _fill(self, typed: str) -> None:
        self._shown = matching(self._entries, typed)
        self.list.clear()
        for entry in self._shown:
            made = QListWidgetItem(self._context.theme.icon(entry.icon), entry.text)
            made.setData(_HINT_ROLE, entry.hint)
            self.list.addItem(made)
        if self._shown:
            self.list.setCurrentRow(0)

    def _run(self) -> None:
        row = self.list.currentRow()
        if 0 <= row < len(self._shown):
            entry = self._shown[row]
            self.close()
            entry.run()
