"""Federations: with whom we work. Enrol, check the link, renew the certificate, leave."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QHBoxLayout, QMenu, QSplitter, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.enrol import EnrolDialog
from octopus_desktop.gui.dialogs.form import confirm
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import (
    Card,
    EmptyState,
    Facts,
    PageHeader,
    button,
    clear,
    label,
    page_layout,
    scroll,
)
from octopus_desktop.gui.widgets.status import StatusBadge, look
from octopus_desktop.gui.widgets.table import Column, Table
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


class FederationsPage(QWidget):
    icon = "federations"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Federations")
        tr, theme = self.tr, context.theme
        column = page_layout(self)
        header = PageHeader(self.title, tr("Whom we work with, and over which link"))
        self._enrol = button(theme, tr("Enrol…"), self.enrol, icon="plus", kind="primary")
        header.buttons.addWidget(self._enrol)
        column.addWidget(header)
        self.table = Table(
            theme,
            context.settings,
            "federations",
            [
                Column(key="name", title=tr("FEDERATION"), text=lambda f: f.name, tooltip=lambda f: f.name, width=0),
                Column(
                    key="link",
                    title=tr("LINK"),
                    text=lambda f: look("link", f.link).text,
                    look=lambda f: look("link", f.link),
                    width=128,
                ),
                Column(
                    key="latency",
                    title=tr("LATENCY"),
                    text=lambda f: f"{f.latency_ms:.1f} ms" if f.link == "up" and f.latency_ms else formats.DASH,
                    sort=lambda f: f.latency_ms,
                    number=True,
                    width=90,
                    searched=False,
                ),
                Column(key="as", title=tr("WE ARE"), text=lambda f: f.silo_name, width=150, muted=True),
                Column(
                    key="expires",
                    title=tr("CERTIFICATE"),
                    text=lambda f: formats.until(f.certificate_expires),
                    sort=lambda f: f.certificate_expires,
                    tooltip=lambda f: formats.instant_utc(f.certificate_expires),
                    number=True,
                    width=104,
                    searched=False,
                ),
            ],
            lambda f: f.id,
            empty=EmptyState(
                theme,
                "federations",
                tr("This silo belongs to no federation yet"),
                tr("A federation trains one model over the data of its members, without anybody showing theirs. Its "
                   "coordinator sends you an invitation: as text, as a file, or as an octopus:// link."),
                tr("Enrol…"),
                self.enrol,
            ),
            placeholder=tr("Filter federations"),
        )  # fmt: skip
        self._detail = _Detail(context, self)
        split = QSplitter(Qt.Orientation.Horizontal)
        split.setChildrenCollapsible(False)
        split.addWidget(self.table)
        self._detail_area = scroll(self._detail)
        split.addWidget(self._detail_area)
        split.setSizes([680, 440])
        split.setHandleWidth(2 * GRID)
        column.addWidget(split, 1)
        self.table.chosen.connect(lambda _id: self._show_detail())
        store = context.store
        store.reset.connect(self._on_reset)
        store.changed.connect(self._on_changed)
        store.removed.connect(lambda kind, _id: self._on_reset() if kind == "federation" else None)
        self._on_reset()

    def show_item(self, item_id: str) -> None:
        self.table.choose(item_id)

    def enrol(self, invitation: str = "") -> None:
        """Open the enrolment, with an invitation when one is known."""
        EnrolDialog(self._context, self, invitation).open()

    def renew(self, federation: pb.Federation) -> None:
        def renewed(after: pb.Federation) -> None:
            until = formats.instant(after.certificate_expires)
            self._context.toast("ok", self.tr("The certificate at {0} is valid until {1}").format(after.name, until))

        self._context.client.call(
            "Federations.Renew", pb.ById(id=federation.id), renewed, self._context.show_error, owner=self
        )

    def leave(self, federation: pb.Federation) -> None:
        running = [run for run in self._context.store.active_runs() if run.federation_id == federation.id]
        text = self.tr(
            "The link to {0} is closed and its offers are dropped. What was trained stays; "
            "the audit record stays. To come "
            "back, the coordinator must invite you again."
        ).format(federation.name)
        if running:
            text += " " + self.tr("{0} active runs are stopped.").format(len(running))
        dialog = confirm(self._context.theme, self, self.tr("Leave the federation?"), text, self.tr("Leave"))
        dialog.accepted.connect(
            lambda: self._context.client.call(
                "Federations.Leave", pb.ById(id=federation.id), failed=self._context.show_error, owner=self
            )
        )
        dialog.open()

    def _on_reset(self) -> None:
        federations = list(self._context.store.federations.values())
        chosen = self.table.current_id()
        self.table.set_rows(federations)
        if federations and not self.table.choose(chosen):
            self.table.choose(self.table.model.id_at(0))
        self._detail_area.setVisible(bool(federations))
        self._enrol.setVisible(bool(federations))
        self._show_detail()

    def _on_changed(self, kind: str, item_id: str) -> None:
        if kind == "federation":
            if self.table.model.get(item_id) is None:
                self._on_reset()
                self.table.choose(item_id)
            else:
                self.table.model.put(self._context.store.federations[item_id])
                self._show_detail()

    def _show_detail(self) -> None:
        federation = self._context.store.federations.get(self.table.current_id())
        self._detail.setVisible(federation is not None)
        if federation is not None:
            self._detail.set_federation(federation)


class _Detail(QWidget):
    """One federation: its link, our certificate, and the steps of a check."""

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
        self._check = button(theme, tr("Check the link"), self._on_check, icon="refresh")
        acts.addWidget(self._check)
        acts.addWidget(button(theme, tr("Renew"), lambda: page.renew(self._federation), icon="key"))
        more = button(theme, tr("More"), icon="more")
        menu = QMenu(more)
        menu.addAction(tr("Leave…"), lambda: page.leave(self._federation))
        more.setMenu(menu)
        acts.addWidget(more)
        acts.addStretch(1)
        card.body.addLayout(acts)
        column.addWidget(card)
        self._steps = Card(tr("Check of the link"))
        self._rows = QVBoxLayout()
        self._rows.setSpacing(GRID)
        self._steps.body.addLayout(self._rows)
        self._steps.hide()
        column.addWidget(self._steps)
        column.addStretch(1)

    def set_federation(self, federation: pb.Federation) -> None:
        tr = self.tr
        if federation.id != self._federation.id:
            self._steps.hide()
        self._federation = federation
        self._name.setText(federation.name)
        self._badge.set_state("link", federation.link)
        code = f" [{federation.error_code}]" if federation.error_code else ""
        self._problem.setText(f"{federation.error}{code}")
        self._problem.setVisible(bool(federation.error))
        since = formats.age(federation.link_since)
        self._facts.set_facts(
            [
                (tr("Server"), federation.server),
                (tr("Carrier"), {"grpc": "gRPC, mutual TLS 1.3"}.get(federation.carrier, federation.carrier)),
                (tr("Link since"), since),
                (tr("We are"), federation.silo_name),
                (tr("Received"), formats.size(federation.bytes_in)),
                (tr("Sent"), formats.size(federation.bytes_out)),
                (tr("Certificate"), tr("until {0}").format(formats.instant(federation.certificate_expires))),
                (tr("Its fingerprint"), federation.certificate_fingerprint),
                (tr("CA fingerprint"), federation.ca_fingerprint),
                (tr("Enrolled"), formats.instant(federation.enrolled_at)),
            ]
        )

    def _on_check(self) -> None:
        self._check.setEnabled(False)
        self._check.setText(self.tr("Checking…"))
        self._context.client.call(
            "Federations.Check", pb.ById(id=self._federation.id), self._on_checked, self._on_failed, owner=self
        )

    def _on_checked(self, reply: pb.CheckReply) -> None:
        self._ready_again()
        clear(self._rows)
        for step in reply.steps:
            line = QHBoxLayout()
            line.addWidget(StatusBadge(self._context.theme, "step", "ok" if step.ok else "failed"))
            line.addWidget(label(step.name, "strong"))
            line.addStretch(1)
            line.addWidget(label(f"{step.ms:.0f} ms" if step.ms else "", "caption"))
            self._rows.addLayout(line)
            detail = "\n".join(part for part in (step.detail, step.next_step) if part)
            if detail:
                self._rows.addWidget(label(detail, "muted", wrap=True))
        self._steps.show()

    def _on_failed(self, error: UserError) -> None:
        self._ready_again()
        self._context.show_error(error)

    def _ready_again(self) -> None:
        self._check.setEnabled(True)
        self._check.setText(self.tr("Check the link"))
