"""The queue of offers: what waits first, then what was decided. Draws three lines an offer."""

from __future__ import annotations

import time
from typing import Any

from PySide6.QtCore import QAbstractListModel, QModelIndex, QPersistentModelIndex, QRect, QSize, Qt, QTimer, Signal
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import (
    QApplication,
    QComboBox,
    QHBoxLayout,
    QLineEdit,
    QListView,
    QStyle,
    QStyledItemDelegate,
    QStyleOptionViewItem,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.status import look, paint_badge
from octopus_desktop.wire.pb import local_pb2 as pb

ROW_PX = 84
MINUTE_MS = 60_000
OFFER_ROLE = Qt.ItemDataRole.UserRole + 1
OPEN_STATES = ("offered", "fetching", "invalid")

Index = QModelIndex | QPersistentModelIndex


class OffersModel(QAbstractListModel):
    """Offers in the order in which they need somebody; ``show`` filters."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.offers: list[pb.SiloOffer] = []

    def show(self, offers: list[pb.SiloOffer]) -> None:
        ids = [offer.id for offer in offers]
        if ids == [offer.id for offer in self.offers]:
            self.offers = offers
            if offers:
                self.dataChanged.emit(self.index(0), self.index(len(offers) - 1))
            return
        self.beginResetModel()
        self.offers = offers
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008
        return 0 if parent.isValid() else len(self.offers)

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        offer = self.offers[index.row()]
        if role == OFFER_ROLE:
            return offer
        if role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.AccessibleTextRole):
            said = offer.offer
            return f"{said.job_name} {said.job_version}, {said.author}, {look('offer', offer.state).text}"
        if role == Qt.ItemDataRole.ToolTipRole:
            said = offer.offer
            return f"{said.job_name} {said.job_version}\n{said.purpose}\n{formats.instant_utc(offer.received_at)}"
        return None


class _Delegate(QStyledItemDelegate):
    def __init__(self, theme: Theme, parent: QWidget) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, _option: QStyleOptionViewItem, _index: Index) -> QSize:
        return QSize(240, ROW_PX)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        self.initStyleOption(option, index)
        offer: pb.SiloOffer = index.data(OFFER_ROLE)
        option.text = ""
        style = option.widget.style() if option.widget else QApplication.style()
        style.drawControl(QStyle.ControlElement.CE_ItemViewItem, option, painter, option.widget)
        theme, said = self._theme, offer.offer
        box = option.rect.adjusted(12, 8, -12, -8)
        painter.save()
        painter.setFont(theme.font("body", bold=offer.state in OPEN_STATES))
        high = painter.fontMetrics().height()
        painter.setPen(theme.colour("text"))
        self._line(painter, QRect(box.left(), box.top(), box.width(), high), f"{said.job_name} {said.job_version}")
        painter.setFont(theme.font("body"))
        painter.setPen(theme.colour("muted"))
        second = QRect(box.left(), box.top() + high + 3, box.width(), high)
        self._line(painter, second, f"{said.author} · {said.federation}")
        third = QRect(box.left(), second.bottom() + 4, box.width(), box.bottom() - second.bottom() - 3)
        shown, small = look("offer", offer.state), theme.font("caption", bold=True)
        paint_badge(painter, third, theme, shown, small)
        painter.setFont(theme.font("caption"))
        painter.setPen(theme.colour("muted"))
        right = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter
        painter.drawText(third, right, self._when(offer))
        painter.setPen(theme.colour("border"))
        painter.drawLine(option.rect.left() + 12, option.rect.bottom(), option.rect.right() - 12, option.rect.bottom())
        painter.restore()

    def _line(self, painter: QPainter, box: QRect, text: str) -> None:
        short = painter.fontMetrics().elidedText(text, Qt.TextElideMode.ElideRight, box.width())
        painter.drawText(box, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, short)

    def _when(self, offer: pb.SiloOffer) -> str:
        if offer.state == "offered" and offer.offer.expires_at:
            return self.tr("expires {0}").format(formats.until(offer.offer.expires_at))
        return formats.age(offer.decided_at or offer.received_at)


class OfferQueue(QWidget):
    """The list with its filter.

    Signals:
        chosen(str): the id of the offer that is now the current one; "" for none.
    """

    chosen = Signal(str)

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._store = context.store
        self.model = OffersModel(self)
        self.view = QListView()
        self.view.setModel(self.model)
        self.view.setItemDelegate(_Delegate(context.theme, self.view))
        self.view.setVerticalScrollMode(QListView.ScrollMode.ScrollPerPixel)
        self.view.setUniformItemSizes(True)
        self.view.setAccessibleName(self.tr("Offered jobs"))
        self.filter = QLineEdit(placeholderText=self.tr("Filter"), clearButtonEnabled=True)
        self.filter.setAccessibleName(self.tr("Filter the offers"))
        self.which = QComboBox()
        self.which.setAccessibleName(self.tr("Which offers are shown"))
        for key, text in (("all", self.tr("All")), ("open", self.tr("Open")), ("decided", self.tr("Decided"))):
            self.which.addItem(text, key)
        bar = QHBoxLayout()
        bar.setSpacing(GRID)
        bar.addWidget(self.filter, 1)
        bar.addWidget(self.which)
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        column.addLayout(bar)
        column.addWidget(self.view, 1)
        self._current = ""
        self.filter.textChanged.connect(lambda _text: self.refresh())
        self.which.currentIndexChanged.connect(lambda _index: self.refresh())
        self.view.selectionModel().currentChanged.connect(self._on_current_changed)
        self._minute = QTimer(self, interval=MINUTE_MS)  # ages and expiries are words that grow old
        self._minute.timeout.connect(self.view.viewport().update)
        self._minute.start()

    @property
    def current_id(self) -> str:
        return self._current

    def refresh(self) -> None:
        """Show what the store holds now; the current offer stays current."""
        words, which = self.filter.text().lower().split(), self.which.currentData()
        offers = [offer for offer in self._store.offers.values() if self._shown(offer, words, which)]
        offers.sort(key=_order)
        kept = self._current
        self.model.show(offers)
        row = next((n for n, offer in enumerate(offers) if offer.id == kept), -1)
        if row < 0 and offers:
            row = 0
        self.view.setCurrentIndex(self.model.index(row) if row >= 0 else QModelIndex())
        if row < 0 and kept:
            self._on_current_changed(QModelIndex())

    def choose(self, offer_id: str) -> bool:
        if offer_id not in self._store.offers:
            return False
        if all(offer.id != offer_id for offer in self.model.offers):
            self.filter.clear()
            self.which.setCurrentIndex(0)
        row = next((n for n, offer in enumerate(self.model.offers) if offer.id == offer_id), -1)
        self.view.setCurrentIndex(self.model.index(row))
        self.view.scrollTo(self.model.index(row))
        return row >= 0

    def _on_current_changed(self, index: QModelIndex, _old: QModelIndex | None = None) -> None:
        offer_id = index.data(OFFER_ROLE).id if index.isValid() else ""
        if offer_id != self._current:
            self._current = offer_id
            self.chosen.emit(offer_id)

    @staticmethod
    def _shown(offer: pb.SiloOffer, words: list[str], which: str) -> bool:
        if which != "all" and (offer.state in OPEN_STATES) != (which == "open"):
            return False
        said = offer.offer
        text = f"{offer.id} {said.job_name} {said.job_version} {said.author} {said.federation} {said.purpose}".lower()
        return all(word in text for word in words)


def _order(offer: pb.SiloOffer) -> tuple[int, float]:
    """What waits for a decision by its expiry, then what is on its way or broken, then decisions, newest first."""
    if offer.state == "offered":
        return 0, offer.offer.expires_at or time.time() + 1e9
    if offer.state in OPEN_STATES:
        return 1, -offer.received_at
    return 2, -(offer.decided_at or offer.received_at)
