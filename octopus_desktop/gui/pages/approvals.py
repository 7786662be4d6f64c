"""The page Approvals: the queue of offered jobs, and the review of the chosen one. May this run on our data?"""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QSplitter, QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.pages.approvals_queue import OfferQueue
from octopus_desktop.gui.pages.approvals_review import ReviewPanel
from octopus_desktop.gui.widgets.parts import EmptyState, PageHeader, page_layout


class ApprovalsPage(QWidget):
    """Attributes: ``queue``, ``review``. ``show_item(id)`` opens the review of an offer."""

    icon = "approvals"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Approvals")
        self.queue = OfferQueue(context)
        self.review = ReviewPanel(context)
        self._header = PageHeader(self.title)
        self._empty = EmptyState(
            context.theme,
            "approvals",
            self.tr("No job has been offered yet"),
            self.tr(
                "Jobs that a federation offers to this silo come here, to be read before anything runs. They need an "
                "enrolment with a federation first."
            ),
            self.tr("Go to Federations"),
            lambda: context.open("page", "federations"),
        )
        splitter = QSplitter(Qt.Orientation.Horizontal, childrenCollapsible=False)
        splitter.setHandleWidth(16)
        splitter.addWidget(self.queue)
        splitter.addWidget(self.review)
        splitter.setStretchFactor(0, 0)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([296, 900])
        self.queue.setMinimumWidth(232)
        self._stack = QStackedWidget()
        self._stack.addWidget(splitter)
        self._stack.addWidget(self._empty)
        column: QVBoxLayout = page_layout(self)
        column.addWidget(self._header)
        column.addWidget(self._stack, 1)
        self.setFocusProxy(self.queue.view)
        self.queue.chosen.connect(self.review.show_offer)
        store = context.store
        store.reset.connect(self._refresh)
        store.changed.connect(self._on_changed)
        store.removed.connect(self._on_changed)
        self._refresh()

    def show_item(self, offer_id: str) -> None:
        if not self.queue.choose(offer_id):
            self._context.toast("warning", self.tr("This offer is no longer here."))

    def _on_changed(self, kind: str, item_id: str) -> None:
        if kind == "offer":
            self._refresh()
            self.review.offer_changed(item_id)
        elif kind in ("run", "dataset", "federation"):
            self.review.world_changed(kind, item_id)

    def _refresh(self) -> None:
        offers = self._context.store.offers.values()
        waiting = sum(offer.state == "offered" for offer in offers)
        self._header.set_subtitle(
            self.tr("Waiting for your decision: {0}").format(waiting)
            if waiting
            else self.tr("Nothing waits for your decision.")
        )
        self._stack.setCurrentIndex(0 if offers else 1)
        self.queue.refresh()
        if self.queue.current_id:
            self.review.offer_changed(self.queue.current_id)
