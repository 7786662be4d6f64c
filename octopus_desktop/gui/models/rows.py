"""``RowsModel``: a sorted and filtered table over any rows, quick at 100,000 of them.

Sort keys are computed once per column and row, filters compare against one lower-case text per row; Qt's proxy models
would call back into Python for each comparison. Knows no widget and no page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from octopus_desktop.gui.theme import Theme
from octopus_desktop.gui.widgets.status import Look

Index = QModelIndex | QPersistentModelIndex
LOOK_ROLE = Qt.ItemDataRole.UserRole + 1
ID_ROLE = Qt.ItemDataRole.UserRole + 2
PROGRESS_ROLE = Qt.ItemDataRole.UserRole + 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """``text(row)`` is shown; ``sort(row)`` orders (default: the text); ``look(row)`` draws a badge; ``progress(row)``
    a bar from 0 to 1; ``copy(row)`` is what copying gives (default: the text). ``number``: right-aligned. ``width``:
    first width in pixels, 0 for the rest of the room. ``searched``: whether the filter looks here."""

    key: str
    title: str
    text: Callable[[Any], str]
    sort: Callable[[Any], Any] | None = None
    look: Callable[[Any], Look] | None = None
    progress: Callable[[Any], float] | None = None
    tooltip: Callable[[Any], str] | None = None
    copy: Callable[[Any], str] | None = None
    number: bool = False
    monospace: bool = False
    muted: bool = False
    width: int = 120
    searched: bool = True
    elide_middle: bool = False


class RowsModel(QAbstractTableModel):
    """Rows by id. ``set_rows`` replaces all, ``put`` and ``remove`` change one; selection follows its row."""

    def __init__(
        self, theme: Theme, columns: list[Column], row_id: Callable[[Any], str], parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._theme, self.columns, self._row_id = theme, columns, row_id
        self._rows: dict[str, Any] = {}
        self._order: list[str] = []
        self._position: dict[str, int] | None = None
        self._texts: dict[str, str] = {}
        self._keys: dict[int, dict[str, Any]] = {}
        self._sort_column, self._descending = -1, False
        self._needle = ""
        self._accepts: Callable[[Any], bool] | None = None
        theme.changed.connect(self._on_theme_changed)

    # What is in it

    def set_rows(self, rows: Iterable[Any]) -> None:
        fresh = {self._row_id(row): row for row in rows}
        self._texts.clear()
        self._keys.clear()
        self._relayout(lambda: setattr(self, "_rows", fresh), grows=True)

    def put(self, row: Any) -> None:
        """Insert a row, or replace the one with its id."""
        self.put_many([row])

    def put_many(self, rows: Iterable[Any]) -> None:
        """The same for several rows at the price of one."""
        only_repaint = True
        changed = []
        for row in rows:
            row_id = self._row_id(row)
            old = self._rows.get(row_id)
            self._texts.pop(row_id, None)
            for keys in self._keys.values():
                keys.pop(row_id, None)
            if old is None or not self._same_place(old, row):
                only_repaint = False
            self._rows[row_id] = row
            changed.append(row_id)
        if not only_repaint:
            self._relayout(lambda: None, grows=True)
            return
        for row_id in changed:
            if (at := self.position(row_id)) >= 0:
                self.dataChanged.emit(self.index(at, 0), self.index(at, len(self.columns) - 1))

    def remove(self, row_id: str) -> None:
        if row_id in self._rows:
            self._texts.pop(row_id, None)
            for keys in self._keys.values():
                keys.pop(row_id, None)
            self._relayout(lambda: self._rows.pop(row_id), grows=True)

    def filter(self, needle: str, accepts: Callable[[Any], bool] | None = None) -> None:
        """Show the rows that hold all words of ``needle`` and that ``accepts`` lets through."""
        self._needle, self._accepts = needle.lower(), accepts
        self._relayout(lambda: None, grows=True)

    def row(self, position: int) -> Any:
        return self._rows[self._order[position]]

    def get(self, row_id: str) -> Any | None:
        return self._rows.get(row_id)

    def rows(self) -> list[Any]:
        """All rows, filtered out or not, in no order."""
        return list(self._rows.values())

    def id_at(self, position: int) -> str:
        return self._order[position]

    def position(self, row_id: str) -> int:
        """Where a row stands now, -1 when it is filtered out or unknown."""
        if self._position is None:
            self._position = {key: at for at, key in enumerate(self._order)}
        return self._position.get(row_id, -1)

    @property
    def total(self) -> int:
        """Rows before the filter."""
        return len(self._rows)

    @property
    def sorting(self) -> tuple[int, Qt.SortOrder]:
        return self._sort_column, Qt.SortOrder.DescendingOrder if self._descending else Qt.SortOrder.AscendingOrder

    # Qt's interface

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self._order)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.columns)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        column, row = self.columns[index.column()], self._rows[self._order[index.row()]]
        if role == Qt.ItemDataRole.DisplayRole:
            return column.text(row)
        if role == LOOK_ROLE:
            return column.look(row) if column.look else None
        if role == PROGRESS_ROLE:
            return column.progress(row) if column.progress else None
        if role == ID_ROLE:
            return self._order[index.row()]
        if role == Qt.ItemDataRole.ToolTipRole:
            return column.tooltip(row) if column.tooltip else None
        if role == Qt.ItemDataRole.TextAlignmentRole:
            side = Qt.AlignmentFlag.AlignRight if column.number else Qt.AlignmentFlag.AlignLeft
            return side | Qt.AlignmentFlag.AlignVCenter
        if role == Qt.ItemDataRole.ForegroundRole and column.muted:
            return self._theme.colour("muted")
        if role == Qt.ItemDataRole.FontRole and column.monospace:
            return self._theme.font("body", monospace=True)
        return None

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if orientation == Qt.Orientation.Horizontal and section < len(self.columns):
            if role == Qt.ItemDataRole.DisplayRole:
                return self.columns[section].title
            if role == Qt.ItemDataRole.TextAlignmentRole:
                side = Qt.AlignmentFlag.AlignRight if self.columns[section].number else Qt.AlignmentFlag.AlignLeft
                return side | Qt.AlignmentFlag.AlignVCenter
        return None

    def sort(self, column: int, order: Qt.SortOrder = Qt.SortOrder.AscendingOrder) -> None:
        self._sort_column, self._descending = column, order == Qt.SortOrder.DescendingOrder
        self._relayout(lambda: None)

    def copied(self, positions: Iterable[int]) -> str:
        """The given rows as tab-separated lines, whole ids and digests included."""
        lines = ["\t".join(column.title for column in self.columns)]
        for position in positions:
            row = self.row(position)
            lines.append("\t".join((c.copy or c.text)(row).replace("\t", " ") for c in self.columns))
        return "\n".join(lines)

    # Inside

    def _same_place(self, old: Any, new: Any) -> bool:
        """Whether replacing ``old`` moves nothing: the sort key is equal and no filter is on."""
        if self._needle or self._accepts is not None:
            return False
        if self._sort_column < 0:
            return True
        key = self._key_of(self._sort_column)
        return bool(key(old) == key(new))

    def _key_of(self, column: int) -> Callable[[Any], Any]:
        chosen = self.columns[column]
        return chosen.sort or (lambda row: chosen.text(row).casefold())

    def _relayout(self, change: Callable[[], Any], grows: bool = False) -> None:
        """Change the rows, then filter and sort anew; persistent indexes (the selection) follow their rows."""
        self.layoutAboutToBeChanged.emit()
        old_indexes = self.persistentIndexList()
        old_ids = [self._order[index.row()] for index in old_indexes]
        change()
        if grows or not self._order:
            self._order = self._filtered()
        if self._sort_column >= 0:
            keys, key_of = self._keys.setdefault(self._sort_column, {}), self._key_of(self._sort_column)
            if len(keys) != len(self._rows):
                for row_id, row in self._rows.items():
                    if row_id not in keys:
                        keys[row_id] = key_of(row)
            self._order.sort(key=keys.__getitem__, reverse=self._descending)
        self._position = None
        if old_indexes:
            self.changePersistentIndexList(
                old_indexes,
                [
                    self.index(at, index.column()) if (at := self.position(row_id)) >= 0 else QModelIndex()
                    for row_id, index in zip(old_ids, old_indexes, strict=True)
                ],
            )
        self.layoutChanged.emit()

    def _filtered(self) -> list[str]:
        order = list(self._rows)
        if self._accepts is not None:
            order = [row_id for row_id in order if self._accepts(self._rows[row_id])]
        if self._needle:
            searched = [column.text for column in self.columns if column.searched]
            texts, words = self._texts, self._needle.split()
            for row_id, row in self._rows.items():
                if row_id not in texts:
                    texts[row_id] = "\n".join([row_id, *(text(row) for text in searched)]).lower()
            order = [row_id for row_id in order if all(word in texts[row_id] for word in words)]
        return order

    def _on_theme_changed(self) -> None:
        if self._order:
            self.dataChanged.emit(self.index(0, 0), self.index(len(self._order) - 1, len(self.columns) - 1))
