"""``Table``: a table with its filter, its empty state, copying, and widths that are remembered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PySide6.QtCore import QModelIndex, QPersistentModelIndex, QPoint, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QAction, QGuiApplication, QKeyEvent, QKeySequence, QPainter, QPalette
from PySide6.QtWidgets import (
    QAbstractItemView,
    QApplication,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QMenu,
    QStackedLayout,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.models.rows import ID_ROLE, LOOK_ROLE, PROGRESS_ROLE, Column, RowsModel
from octopus_desktop.gui.settings import Settings
from octopus_desktop.gui.theme import GRID, Theme, set_role
from octopus_desktop.gui.widgets.formats import integer
from octopus_desktop.gui.widgets.parts import EmptyState, label
from octopus_desktop.gui.widgets.status import paint_badge

ROW_PX = 36
CELL_PX = 11  # as the header's padding
FILTER_DELAY_MS = 120

__all__ = ["Column", "RowsModel", "Table"]


class _View(QTableView):
    """A table view in which Enter opens, Tab leaves, and Ctrl+C copies whole rows."""

    copied = Signal()
    opened = Signal(QModelIndex)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copied.emit()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter) and self.currentIndex().isValid():
            self.opened.emit(self.currentIndex())
        else:
            super().keyPressEvent(event)


class _Delegate(QStyledItemDelegate):
    """Draws badges and bars; leaves everything else to the style."""

    def __init__(self, theme: Theme, columns: list[Column], parent: QWidget) -> None:
        super().__init__(parent)
        self._theme, self._columns = theme, columns

    def paint(
        self, painter: QPainter, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex
    ) -> None:
        column = self._columns[index.column()]
        if column.look is None and column.progress is None:
            super().paint(painter, option, index)
            return
        style = option.widget.style() if option.widget else QApplication.style()
        self.initStyleOption(option, index)
        option.text = ""
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        room = option.rect.adjusted(CELL_PX, 0, -CELL_PX, 0)
        if column.look is not None and (look := index.data(LOOK_ROLE)) is not None:
            paint_badge(painter, room, self._theme, look, self._theme.font("caption", bold=True))
        elif column.progress is not None:
            self._bar(painter, room, float(index.data(PROGRESS_ROLE) or 0), str(index.data()))

    def initStyleOption(self, option: QStyleOptionViewItem, index: QModelIndex | QPersistentModelIndex) -> None:
        super().initStyleOption(option, index)
        option.state &= ~QStyle.StateFlag.State_HasFocus  # whole rows are chosen; a cell's ring would mislead
        if self._columns[index.column()].elide_middle:
            option.textElideMode = Qt.TextElideMode.ElideMiddle
        if self._columns[index.column()].muted:
            option.palette.setColor(QPalette.ColorRole.HighlightedText, self._theme.colour("muted"))

    def _bar(self, painter: QPainter, room: QRect, fraction: float, text: str) -> None:
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width = painter.fontMetrics().horizontalAdvance(text)
        track = QRect(room.left(), room.center().y() - 2, max(24, room.width() - width - GRID), 6)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(self._theme.colour("neutral_soft"))
        painter.drawRoundedRect(track, 3, 3)
        filled = QRect(track.topLeft(), QSize(round(track.width() * min(1.0, max(0.0, fraction))), track.height()))
        if filled.width() > 0:
            painter.setBrush(self._theme.colour("accent"))
            painter.drawRoundedRect(filled, 3, 3)
        painter.setPen(self._theme.colour("text"))
        painter.drawText(room, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, text)
        painter.restore()


class Table(QWidget):
    """A filterable table over a ``RowsModel``.

    Attributes: ``model``, ``view``, ``tools`` (a row layout beside the filter, for buttons and choices). Signals:
    ``chosen(id)`` when the current row changes ("" for none), ``opened(id)`` on double click or Enter,
    ``selected(count)`` when other rows are selected.
    """

    chosen = Signal(str)
    opened = Signal(str)
    selected = Signal(int)

    def __init__(
        self,
        theme: Theme,
        settings: Settings,
        key: str,
        columns: list[Column],
        row_id: Callable[[Any], str],
        *,
        empty: EmptyState | None = None,
        placeholder: str = "",
        sort_by: str = "",
        descending: bool = False,
        row_px: int = ROW_PX,
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._settings, self._key = settings, key
        self._accepts: Callable[[Any], bool] | None = None
        self.model = RowsModel(theme, columns, row_id, self)
        self.filter = QLineEdit()
        self.filter.setPlaceholderText(placeholder or self.tr("Filter"))
        self.filter.setClearButtonEnabled(True)
        self.filter.setMaximumWidth(320)
        self.filter.setAccessibleName(self.tr("Filter the table"))
        self._count = label("", "caption")
        self.tools = QHBoxLayout()
        self.tools.setSpacing(GRID)
        bar = QHBoxLayout()
        bar.setContentsMargins(0, 0, 0, 0)
        bar.setSpacing(GRID)
        bar.addWidget(self.filter, 2)
        bar.addLayout(self.tools)
        bar.addStretch(1)
        bar.addWidget(self._count)
        self.view = _View()
        self.view.setModel(self.model)
        self.view.setItemDelegate(_Delegate(theme, columns, self.view))
        self._set_up_view(columns, row_px)
        self._empty = empty
        self._no_match = label(self.tr("Nothing matches the filter."), "muted")
        self._no_match.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._stack = QStackedLayout()
        self._stack.addWidget(self.view)
        self._stack.addWidget(self._no_match)
        self._bar = QWidget()
        self._bar.setLayout(bar)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(GRID)
        layout.addWidget(self._bar)
        layout.addLayout(self._stack, 1)
        if empty is not None:
            self._stack.addWidget(empty)
        self._filter_timer = QTimer(self)
        self._filter_timer.setSingleShot(True)
        self._filter_timer.setInterval(FILTER_DELAY_MS)
        self._filter_timer.timeout.connect(self._refilter)
        self.filter.textChanged.connect(lambda _text: self._filter_timer.start())
        self.model.layoutChanged.connect(self._on_layout_changed)
        self._restore(columns, sort_by, descending)
        self._on_layout_changed()

    # For pages

    def set_rows(self, rows: list[Any]) -> None:
        self.model.set_rows(rows)

    def accept(self, accepts: Callable[[Any], bool] | None) -> None:
        """Show only rows for which this holds, beside what the filter text asks."""
        self._accepts = accepts
        self._refilter()

    def current_id(self) -> str:
        index = self.view.currentIndex()
        return self.model.id_at(index.row()) if index.isValid() else ""

    def current(self) -> Any | None:
        """The chosen row, or None."""
        return self.model.get(self.current_id())

    def choose(self, row_id: str) -> bool:
        """Select a row and scroll to it; clears a filter that hides it. Returns whether it is there."""
        if self.model.get(row_id) is None:
            return False
        if self.model.position(row_id) < 0:
            self.filter.clear()
            self._filter_timer.stop()
            self._refilter()
        at = self.model.position(row_id)
        if at >= 0:
            self.view.setCurrentIndex(self.model.index(at, 0))
            self.view.scrollTo(self.model.index(at, 0))
        return at >= 0

    def selected_ids(self) -> list[str]:
        """The selected rows, in the order in which they are shown."""
        return [self.model.id_at(at) for at in sorted({i.row() for i in self.view.selectionModel().selectedRows()})]

    def copy_selected(self) -> None:
        """Put the selected rows on the clipboard as tab-separated text."""
        positions = sorted({index.row() for index in self.view.selectionModel().selectedRows()})
        if positions:
            QGuiApplication.clipboard().setText(self.model.copied(positions))

    # Inside

    def _set_up_view(self, columns: list[Column], row_px: int) -> None:
        view = self.view
        view.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        view.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        view.setHorizontalScrollMode(QAbstractItemView.ScrollMode.ScrollPerPixel)
        view.setShowGrid(False)
        view.setWordWrap(False)
        view.setTabKeyNavigation(False)
        view.setSortingEnabled(True)
        view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        view.customContextMenuRequested.connect(self._on_menu)
        view.verticalHeader().hide()
        view.verticalHeader().setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        view.verticalHeader().setDefaultSectionSize(row_px)
        header = view.horizontalHeader()
        header.setHighlightSections(False)
        header.setSectionsMovable(True)
        header.setMinimumSectionSize(48)
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        for at, column in enumerate(columns):
            if column.width:
                view.setColumnWidth(at, column.width)
        stretch = [at for at, column in enumerate(columns) if not column.width]
        for at in stretch:
            header.setSectionResizeMode(at, QHeaderView.ResizeMode.Stretch)
        header.setStretchLastSection(not stretch)
        view.doubleClicked.connect(self._on_opened)
        view.opened.connect(self._on_opened)
        view.copied.connect(self.copy_selected)
        view.selectionModel().currentRowChanged.connect(lambda *_: self.chosen.emit(self.current_id()))
        view.selectionModel().selectionChanged.connect(lambda *_: self.selected.emit(len(self.selected_ids())))

    def _restore(self, columns: list[Column], sort_by: str, descending: bool) -> None:
        header = self.view.horizontalHeader()
        state = self._settings.get_table(self._key)
        if not (state is not None and header.count() == len(columns) and header.restoreState(state)):
            at = next((n for n, column in enumerate(columns) if column.key == sort_by), 0)
            order = Qt.SortOrder.DescendingOrder if descending else Qt.SortOrder.AscendingOrder
            self.view.sortByColumn(at, order)
        else:
            self.model.sort(header.sortIndicatorSection(), header.sortIndicatorOrder())
        self._save_timer = QTimer(self)
        self._save_timer.setSingleShot(True)
        self._save_timer.setInterval(400)
        self._save_timer.timeout.connect(self._save)
        header.sectionResized.connect(lambda *_: self._save_timer.start())
        header.sectionMoved.connect(lambda *_: self._save_timer.start())
        header.sortIndicatorChanged.connect(lambda *_: self._save_timer.start())

    def _save(self) -> None:
        self._settings.put_table(self._key, self.view.horizontalHeader().saveState())

    def _refilter(self) -> None:
        self.model.filter(self.filter.text(), self._accepts)

    def _on_layout_changed(self) -> None:
        shown, total = self.model.rowCount(), self.model.total
        if total == 0 and self._empty is not None:
            self._stack.setCurrentWidget(self._empty)
        elif shown == 0 and total:
            self._stack.setCurrentWidget(self._no_match)
        else:
            self._stack.setCurrentWidget(self.view)
        self._bar.setVisible(total > 0 or self._empty is None)
        text = integer(total) if shown == total else self.tr("{0} of {1}").format(integer(shown), integer(total))
        self._count.setText(text if total else "")

    def _on_opened(self, index: QModelIndex) -> None:
        self.opened.emit(str(index.data(ID_ROLE)))

    def _on_menu(self, at: QPoint) -> None:
        index = self.view.indexAt(at)
        menu = QMenu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        if index.isValid():
            column = self.model.columns[index.column()]
            row = self.model.row(index.row())
            cell = QAction(self.tr("Copy “{0}”").format(column.title), menu)
            cell.triggered.connect(lambda: QGuiApplication.clipboard().setText((column.copy or column.text)(row)))
            menu.addAction(cell)
            row_id = self.model.id_at(index.row())
            whole = QAction(self.tr("Copy id"), menu)
            whole.triggered.connect(lambda: QGuiApplication.clipboard().setText(row_id))
            menu.addAction(whole)
        rows = QAction(self.tr("Copy selected rows"), menu)
        rows.setShortcut(QKeySequence.StandardKey.Copy)
        rows.triggered.connect(self.copy_selected)
        menu.addAction(rows)
        menu.popup(self.view.viewport().mapToGlobal(at))


def plain_table(table: Table) -> Table:
    """The same without a frame, for use inside a card."""
    set_role(table.view, look="plain")
    return table


def caption_above(text: str) -> QLabel:
    """A small heading above a table."""
    return label(text, "heading")
