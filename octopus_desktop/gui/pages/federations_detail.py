"""The detail of one federation: its link, our certificate, its carriers, and a check with its steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QTimer
from PySide6.QtWidgets import QHBoxLayout, QMenu, QScrollArea, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import CarriersCard, CheckCard, carrier_name
from octopus_desktop.gui.widgets.parts import Card, Facts, button, label
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

if TYPE_CHECKING:
    from octopus_desktop.gui.pages.federations import FederationsPage


class FederationDetail(QWidget):
    """One federation. Attributes: ``carriers``, ``check``: the cards."""

    def __init__(self, context: Context, page: FederationsPage) -> None:
        super().__init__()
        self._context, self._federation = context, pb.Federation()
        tr, theme = self.tr, context.theme
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(2 * GRID)
        card = Card()
        self._name = label("", "heading", wrap=True)
        card.body.addWidget(self._name)
        self._badge = StatusBadge(theme)
        card.body.addWidget(self._badge)
        self._problem = label("", wrap=True, selectable=True)
        self._problem.setProperty("tone", "danger")
        card.body.addWidget(self._problem)
        self._facts = Facts(name_width=112)
        card.body.addWidget(self._facts)
        acts = QHBoxLayout()
        acts.setSpacing(GRID)
        self._check = button(theme, tr("Check the links"), self._on_check, icon="refresh")
        acts.addWidget(self._check)
        acts.addWidget(button(theme, tr("Renew"), lambda: page.renew(self._federation), icon="key"))
        more = button(theme, tr("More"), icon="more")
        menu = QMenu(more)
        menu.addAction(tr("Leave…"), lambda: page.leave(self._federation))
        more.setMenu(menu)
        acts.addWidget(more)
        acts.addStretch(1)
        card.body.addLayout(acts)
        self.check = CheckCard(theme)
        self.carriers = CarriersCard(theme, lambda name: page.set_up(self._federation, name))
        for part in (card, self.check, self.carriers):
            column.addWidget(part)
        column.addStretch(1)

    def show_item(self, federation: pb.Federation) -> None:
        tr = self.tr
        if federation.id != self._federation.id:
            self.check.hide()
        self._federation = federation
        self._name.setText(federation.name)
        self._badge.set_state("link", federation.link)
        code = f" [{federation.error_code}]" if federation.error_code else ""
        self._problem.setText(f"{federation.error}{code}")
        self._problem.setVisible(bool(federation.error))
        resumed = tr(", {0} resumed").format(formats.size(federation.bytes_resumed)) if federation.bytes_resumed else ""
        self._facts.set_facts(
            [
                (tr("Server"), federation.server),
                (tr("Control"), tr("by {0}, since {1}").format(carrier_name(federation.carrier),
                                                               formats.instant(federation.link_since))),
                (tr("We are"), federation.silo_name),
                (tr("Bytes"), tr("{0} in, {1} out{2}").format(formats.size(federation.bytes_in),
                                                              formats.size(federation.bytes_out), resumed)),
                (tr("Certificate"), tr("until {0}").format(formats.instant(federation.certificate_expires))),
                (tr("Its fingerprint"), federation.certificate_fingerprint),
                (tr("CA fingerprint"), federation.ca_fingerprint),
                (tr("Enrolled"), formats.instant(federation.enrolled_at)),
            ]
        )  # fmt: skip
        self.carriers.set_carriers(federation.carriers)

    def _on_check(self) -> None:
        self._check.setEnabled(False)
        self._check.setText(self.tr("Checking…"))
        asked = self._federation.id
        self._context.client.call(
            "Federations.Check",
            pb.ById(id=asked),
            lambda reply: self._on_checked(asked, reply),
            self._on_failed,
            owner=self,
        )

    def _on_checked(self, asked: str, reply: pb.CheckReply) -> None:
        self._ready_again()
        if asked == self._federation.id:
            self.check.show_steps(reply)
            QTimer.singleShot(0, self, self._reveal)

    def _reveal(self) -> None:
        """Scroll to the check, once it has its place."""
        area = self.parentWidget().parentWidget()
        if isinstance(area, QScrollArea):
            area.verticalScrollBar().setValue(self.check.y())

    def _on_failed(self, error: UserError) -> None:
        self._ready_again()
        self._context.show_error(error)

    def _ready_again(self) -> None:
        self._check.setEnabled(True)
        self._check.setText(self.tr("Check the links"))
