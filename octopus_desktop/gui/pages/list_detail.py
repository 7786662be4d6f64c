"""What the pages with a list at the left and the chosen item's detail at the right have in common. Knows no kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QSplitter, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets.parts import EmptyState, PageHeader, button, page_layout, scroll
from octopus_desktop.gui.widgets.table import Column, Table

DETAIL_MS = 250  # items that change many times a second are shown anew this often


class Detail(Protocol):
    """The right side: a widget that shows one item."""

    def show_item(self, item: Any) -> None: ...

    def setVisible(self, visible: bool) -> None: ...


class ListDetailPage(QWidget):
    """A table of one kind's items, its filter and empty state, one act, and the detail of the chosen item.

    A subclass names ``kind`` and ``icon``, calls ``lay_out`` once, and may override ``first`` and ``offers_act``.
    """

    kind: str
    icon: str

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context

    def lay_out(
        self,
        *,
        title: str,
        subtitle: str,
        act: tuple[str, Callable[[], object]],
        columns: Sequence[Column],
        empty: tuple[str, str],
        placeholder: str,
        detail: QWidget,
        sizes: tuple[int, int] = (720, 400),
        more: tuple[str, Callable[[], object]] | None = None,
    ) -> None:
        """``act``: the button's text and what it does; ``more``: a second one, while there are items; ``empty``: title
        and text while there is nothing; ``sizes``: of list and detail."""
        self.title, theme, (text, clicked) = title, self._context.theme, act
        column = page_layout(self)
        header = PageHeader(self.title, subtitle)
        self._act = button(theme, text, clicked, icon="plus", kind="primary")
        header.buttons.addWidget(self._act)
        self._more = button(theme, more[0], more[1], icon="plus") if more else None
        if self._more:
            header.buttons.addWidget(self._more)
        column.addWidget(header)
        self.table = Table(
            theme,
            self._context.settings,
            f"{self.kind}s",
            list(columns),
            lambda item: item.id,
            empty=EmptyState(theme, self.icon, *empty, text, clicked),
            placeholder=placeholder,
        )
        self._detail: Any = detail
        self._detail_area = scroll(detail)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.setChildrenCollapsible(False)
        split.addWidget(self.table)
        split.addWidget(self._detail_area)
        split.setSizes(list(sizes))
        split.setHandleWidth(2 * GRID)
        column.addWidget(split, 1)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(DETAIL_MS)
        self._soon.timeout.connect(self._show_detail)
        self.table.chosen.connect(lambda _id: self._show_detail())
        store = self._context.store
        store.reset.connect(self._on_reset)
        store.changed.connect(self._on_changed)
        store.removed.connect(lambda kind, _id: self._on_reset() if kind == self.kind else None)
        self._on_reset()

    def show_item(self, item_id: str) -> None:
        self.table.choose(item_id)

    def first(self, items: Sequence[Any]) -> str:
        """The id of what is chosen when nothing was."""
        return self.table.model.id_at(0)

    def offers_act(self, items: Sequence[Any]) -> bool:
        """Whether the header shows the act; where there is nothing yet, the empty state does."""
        return bool(items)

    def _items(self) -> dict[str, Any]:
        found: dict[str, Any] = getattr(self._context.store, f"{self.kind}s")
        return found

    def _on_reset(self) -> None:
        items = list(self._items().values())
        chosen = self.table.current_id()
        self.table.set_rows(items)
        if items and not self.table.choose(chosen):
            self.table.choose(self.first(items))
        self._detail_area.setVisible(bool(items))
        self._act.setVisible(self.offers_act(items))
        if self._more:
            self._more.setVisible(bool(items))
        self._show_detail()

    def _on_changed(self, kind: str, item_id: str) -> None:
        if kind != self.kind:
            return
        if self.table.model.get(item_id) is None:
            self._on_reset()
            self.table.choose(item_id)
            return
        self.table.model.put(self._items()[item_id])
        if item_id == self.table.current_id() and not self._soon.isActive():
            self._soon.start()

    def _show_detail(self) -> None:
        item = self._items().get(self.table.current_id())
        self._detail.setVisible(item is not None)
        if item is not None:
            self._detail.show_item(item)
