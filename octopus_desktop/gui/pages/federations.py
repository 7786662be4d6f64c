"""Federations: with whom we work. Enrol, check the link, renew the certificate, leave."""

from __future__ import annotations

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.carrier import CarrierDialog
from octopus_desktop.gui.dialogs.enrol import EnrolDialog
from octopus_desktop.gui.dialogs.form import confirm
from octopus_desktop.gui.pages.federations_detail import FederationDetail
from octopus_desktop.gui.pages.list_detail import ListDetailPage
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.carriers import carrier_name
from octopus_desktop.gui.widgets.status import look
from octopus_desktop.gui.widgets.table import Column
from octopus_desktop.wire.pb import local_pb2 as pb


class FederationsPage(ListDetailPage):
    kind, icon = "federation", "federations"

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        tr = self.tr
        self.lay_out(
            title=tr("Federations"),
            subtitle=tr("Whom we work with, and over which link"),
            act=(tr("Enrol…"), self.enrol),
            columns=[
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
                Column(key="by", title=tr("CARRIER"), text=lambda f: carrier_name(f.carrier), width=112, muted=True),
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
            empty=(
                tr("This silo belongs to no federation yet"),
                tr("A federation trains one model over the data of its members, without anybody showing theirs. Its "
                   "coordinator sends you an invitation: as text, as a file, or as an octopus:// link."),
            ),
            placeholder=tr("Filter federations"),
            detail=FederationDetail(context, self),
            sizes=(600, 522),
        )  # fmt: skip

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

    def set_up(self, federation: pb.Federation, carrier: str) -> None:
        """Open the editor of this silo's side of a carrier."""
        CarrierDialog(self._context, self, federation, carrier).open()
