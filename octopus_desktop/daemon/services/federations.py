"""Federations: enrolment, by a call or by files, and certificates. Knows no run; links are ``links``'.

The silo's key for a federation is made here and stays in the store of secrets.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from octopus_desktop.communication.settings import GrpcOffer, OwnSide, Secrets
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services import carrier_views as views
from octopus_desktop.daemon.services.carriers import check_own_side, read_own_side
from octopus_desktop.daemon.services.credentials import PASSWORD, Credentials
from octopus_desktop.daemon.services.link_check import CarrierCase, Case, examine
from octopus_desktop.daemon.services.links import GONE, Links
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity import enrol_files, invitations, member
from octopus_desktop.identity.authority import ca_fingerprint
from octopus_desktop.identity.certificates import key_from_pem, load, read_peer, to_pem
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import EnrolReply, EnrolRequest, Invitation, RenewRequest

log = logging.getLogger(__name__)

CALL_S = 30.0
RENEW_LOOK_S = 6 * 3600.0
RENEW_BEFORE_S = 14 * 86400.0
LEAVE_S = 3.0
LEAVE_LOOK_S = 0.05
ASKED = "enrolling/"  # rows of requests that were written to a file and are not answered


class Federations:
    """The noun ``federation``.

    Attributes:
        leaving: told before a federation is left; ends its runs.
    """

    def __init__(self, silo: Silo, keys: SiloKeys, credentials: Credentials, links: Links) -> None:
        self._silo, self._keys, self._credentials, self._links = silo, keys, credentials, links
        self.leaving: Callable[[str], None] = lambda federation_id: None

    # commands

    def inspect(self, text: str) -> pb.InvitationView:
        invitation = invitations.decode(text)
        return pb.InvitationView(
            federation=invitation.federation,
            server=invitation.server,
            ca_fingerprint=ca_fingerprint(invitation.ca_der),
            expires_at=invitation.expires_at,
            role=invitation.role,
            id=invitation.id,
        )

    async def enrol(self, text: str, name: str, contact: str, own_json: str = "", secret: bytes = b"") -> pb.Federation:
        """Use an invitation. Interrupted, it may be called again with the same one: the key is kept meanwhile.

        ``own_json``, ``secret``: this silo's own side of gRPC (proxy, CA file), used for this call and kept.
        """
        own = read_own_side(own_json or "{}")
        check_own_side(GrpcOffer(), own, password=bool(secret), store=False)
        invitation, key_pem, request = await self._request(text, name, contact)
        invitation_key, invitation_chain = invitations.tls_identity(invitation)
        reply: EnrolReply = await self._call(
            "Enrol", request, invitation.server, invitation.ca_der, invitation_key, invitation_chain,
            own, Secrets(password=secret.decode(errors="replace")),
        )  # fmt: skip
        if reply.ca_der != invitation.ca_der:
            raise UserError(
                "OCT-ENROL-CA",
                "The server answered with another CA than the invitation's.",
                f"Its fingerprint is {ca_fingerprint(reply.ca_der)}.",
                "Compare the fingerprint with the coordinator by telephone, and ask for a new invitation.",
            )
        federation = self._joined(reply, key_pem, invitation.server, invitation.federation)
        self._add_carriers(federation, reply, "grpc")
        grpc = views.view(federation, "grpc")
        assert grpc is not None
        grpc.own_json, grpc.secret_kept = own.to_json(), bool(secret)  # it carried the enrolment: it is set up
        if secret:
            await asyncio.to_thread(self._credentials.keep_secret, federation.id, "grpc", PASSWORD, secret)
        await self._keep(federation, reply, key_pem, "federation.enrolled", asked=invitation.id)
        self._links.settle(federation.id)
        return federation

    async def request_file(self, text: str, name: str, contact: str) -> pb.FileReply:
        """The same request as a file, for a site without a route to the server. It holds no secret; the key stays here
        until the coordinator's answer comes (``enrol_file``)."""
        invitation, _, request = await self._request(text, name, contact)
        file = enrol_files.write_request(request, invitation)
        kept = {
            "server": invitation.server,
            "federation": invitation.federation,
            "ca": base64.b64encode(invitation.ca_der).decode(),
        }
        reply = pb.FileReply(file=file, name=f"{name}.octorequest")
        with self._silo.change():
            self._silo.db.set(f"{ASKED}{invitation.id}", json.dumps(kept).encode())
            detail = {"federation": invitation.federation, "name": name, "ca": ca_fingerprint(invitation.ca_der)}
            self._silo.record(self._silo.administrator, "federation.enrolment-requested", invitation.id, detail)
            self._silo.answer(reply)
        return reply

    async def enrol_file(self, content: bytes) -> pb.Federation:
        """Take the coordinator's answer to a request. Control then goes by MQTT, since the server is out of reach.

        Raises OCT-ENROL-INVALID, OCT-SIGN-BAD, OCT-STATE-EXISTS, or OCT-CARRIER-REFUSED when the federation offers no
        carrier for such a site.
        """
        asked, facts, key_pem, reply = await asyncio.to_thread(self._answered, content, self._asked())
        self._must_be_new(base64.b64decode(facts["ca"]))
        federation = self._joined(reply, key_pem, str(facts["server"]), str(facts["federation"]))
        names = [offer.name for offer in reply.carriers]
        control = next((name for name in views.WITHOUT_ROUTE if name in names), "")
        if not control:
            raise UserError(
                "OCT-CARRIER-REFUSED",
                f"{federation.name} cannot be reached without a route to its server.",
                f"It offers {', '.join(names) or 'gRPC alone'}; such a site needs {' or '.join(views.WITHOUT_ROUTE)}.",
                "Ask the coordinator to offer one ('octopus server carrier put mqtt') and to answer the request anew.",
            )
        self._add_carriers(federation, reply, control)
        await self._keep(federation, reply, key_pem, "federation.enrolled", asked=asked)
        await self._links.arrange(federation.id)
        return self._known(federation.id)

    async def renew(self, federation_id: str) -> pb.Federation:
        """A new key and a certificate for it; the link is made anew with them."""
        federation = self._known(federation_id)
        grpc = views.view(federation, "grpc")
        if why := views.reason_not_ready(grpc) if grpc else "gRPC is not offered":
            raise UserError(
                "OCT-CARRIER-REFUSED",
                "The certificate cannot be renewed by this silo itself.",
                f"Renewal is a call to the federation's server; {why}.",
                f"Nothing is to be done: the link by {federation.carrier} rests on the silo's signing key and needs no "
                "certificate. If the server can be reached, set up gRPC with 'octopus federation carrier set'.",
            )
        row = self._credentials.row(federation_id)
        old = await asyncio.to_thread(self._credentials.open, row)
        key_pem, csr_der = member.make_request(federation.silo_name)
        assert grpc is not None
        secrets = await asyncio.to_thread(self._credentials.secrets, federation_id, "grpc")
        reply: EnrolReply = await self._call(
            "Renew", RenewRequest(csr_der=csr_der), federation.server, old.ca_der, old.key_pem,
            to_pem(old.certificate_der), views.own_side(grpc), secrets,
        )  # fmt: skip
        peer = member.accept_certificate(reply.certificate_der, old.ca_der, key_pem)
        federation = self._known(federation_id)
        federation.certificate_expires, federation.certificate_fingerprint = peer.not_after, peer.fingerprint
        await self._keep(federation, reply, key_pem, "federation.renewed")
        await asyncio.to_thread(self._keys.store.delete, row[3])
        await self._links.arrange(federation_id)
        return federation

    async def leave(self, federation_id: str) -> None:
        """Stop its runs here, tell the server where it can be reached, and forget the key."""
        federation = self._known(federation_id)
        self.leaving(federation_id)
        if federation.link == "up":
            await self._until_sent(federation_id)
        await self._links.disconnect(federation_id)
        key_name = str(self._credentials.row(federation_id)[3])
        with self._silo.change():
            federation = self._silo.need("federation", federation_id)
            federation.link, federation.error, federation.error_code = "left", "", ""
            federation.link_since = round(time.time(), 3)
            self._silo.put("federation", federation)
            self._silo.db.execute("DELETE FROM credentials WHERE federation_id=?", federation_id)
            self._silo.record(
                self._silo.administrator, "federation.left", federation_id, {"federation": federation.name}
            )
            self._silo.answer(pb.Ack())
        names = [carrier.name for carrier in federation.carriers]
        await asyncio.to_thread(self._credentials.forget, federation_id, names, key_name)

    async def check(self, federation_id: str) -> pb.CheckReply:
        federation = self._known(federation_id)
        row = self._credentials.row(federation_id)
        enrolled = await asyncio.to_thread(self._credentials.open, row)
        cases = []
        for carrier in federation.carriers:
            secrets = await asyncio.to_thread(self._credentials.secrets, federation_id, carrier.name)
            cases.append(
                CarrierCase(
                    offer=views.offer_of(carrier),
                    own=views.own_side(carrier),
                    secrets=secrets,
                    state=self._links.state(federation_id, carrier.name),
                    wanted=carrier.control or carrier.in_use,
                )
            )
        return await examine(
            Case(
                server=federation.server,
                silo=federation.silo_name,
                ca_fingerprint=federation.ca_fingerprint,
                certificate_der=enrolled.certificate_der,
                ca_der=enrolled.ca_der,
                key_pem=enrolled.key_pem,
                carriers=cases,
            )
        )

    async def renew_in_time(self) -> None:
        """Look a few times a day whether a certificate comes to its end, and renew it where that can be done: a silo
        without a route needs none (its links rest on its signing key)."""
        while True:
            for federation in self._silo.all("federation"):
                grpc = views.view(federation, "grpc")
                if federation.link in GONE or grpc is None or views.reason_not_ready(grpc):
                    continue
                if federation.certificate_expires - time.time() < RENEW_BEFORE_S:
                    try:
                        await self.renew(federation.id)
                    except UserError as error:
                        log.warning("the certificate of %s was not renewed: %s", federation.name, error)
            await asyncio.sleep(RENEW_LOOK_S)

    def bring_up_to_date(self) -> None:
        """Federations that an older version enrolled know no carriers: theirs is gRPC, as it was then."""
        for federation in self._silo.all("federation"):
            if not federation.carriers:
                with self._silo.change():
                    federation = self._known(federation.id)
                    self._add_carriers(federation, EnrolReply(), "grpc")
                    carrier = federation.carriers[0]
                    carrier.own_json = "{}"
                    carrier.bytes_in, carrier.bytes_out = federation.bytes_in, federation.bytes_out
                    self._silo.put("federation", federation)

    # enrolment's parts

    def _may_enrol(self, invitation: Invitation) -> None:
        if invitation.role != "silo":
            raise UserError(
                "OCT-ENROL-ROLE",
                "This invitation is not for a silo.",
                f"It is for the role {invitation.role!r}.",
                "Ask the coordinator for an invitation for a silo.",
            )
        if not self._silo.status.configured:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "This silo has no name yet.",
                "The federation is told the organisation's name at enrolment.",
                "Run 'octopus setup', or the window's first-run wizard.",
            )
        self._must_be_new(invitation.ca_der)

    def _must_be_new(self, ca_der: bytes) -> None:
        fingerprint = ca_fingerprint(ca_der)
        for federation in self._silo.all("federation"):
            if federation.ca_fingerprint == fingerprint and federation.link not in GONE:
                raise UserError(
                    "OCT-STATE-EXISTS",
                    f"This silo is enrolled in {federation.name} already.",
                    f"Its name there is {federation.silo_name}.",
                    "Leave the federation first, if another name is wanted.",
                )

    async def _request(self, text: str, name: str, contact: str) -> tuple[Invitation, bytes, EnrolRequest]:
        """The invitation, our key for it, and the request: the same at a second attempt."""
        invitation = invitations.decode(text)
        invitations.check_current(invitation)
        self._may_enrol(invitation)
        key_pem, csr_der = await asyncio.to_thread(self._key_for, invitation.id, name)
        signing = await asyncio.to_thread(lambda: self._keys.silo)
        organisation = self._silo.status.organisation
        return invitation, key_pem, member.enrol_request(csr_der, name, signing, organisation, contact)

    def _key_for(self, invitation_id: str, name: str) -> tuple[bytes, bytes]:
        place = f"enrol/{invitation_id}"
        kept = self._keys.store.get(place)
        if kept:
            return kept, member.renew_request(kept, name)
        key_pem, csr_der = member.make_request(name)
        self._keys.store.set(place, key_pem)
        return key_pem, csr_der

    def _asked(self) -> dict[str, dict[str, str]]:
        """Requests that were written to a file: invitation -> what was kept of it."""
        rows = self._silo.db.rows("SELECT key, value FROM meta WHERE substr(key,1,?)=?", len(ASKED), ASKED)
        return {key.removeprefix(ASKED): json.loads(value) for key, value in rows}

    def _answered(
        self, content: bytes, asked: Mapping[str, dict[str, str]]
    ) -> tuple[str, dict[str, str], bytes, EnrolReply]:
        """The request that this file answers, our key for it, and the answer, checked."""
        fault = UserError(
            "OCT-ENROL-INVALID",
            "This file answers no request of this silo.",
            "It asked for nothing, or for another federation.",
            "Write a request with 'octopus federation request', and let the coordinator answer that one.",
        )
        for invitation_id, facts in asked.items():
            ca_der = base64.b64decode(facts["ca"])
            try:
                reply = enrol_files.read_reply(content, ca_der)
            except UserError as error:
                fault = error
                continue
            key_pem = self._keys.store.get(f"enrol/{invitation_id}")
            if key_pem and load(reply.certificate_der).public_key() == key_from_pem(key_pem).public_key():
                return invitation_id, facts, key_pem, reply
        raise fault

    def _joined(self, reply: EnrolReply, key_pem: bytes, server: str, name: str) -> pb.Federation:
        """The federation's entity, once the certificate is ours."""
        peer = member.accept_certificate(reply.certificate_der, reply.ca_der, key_pem)
        now = round(time.time(), 3)
        return pb.Federation(
            id=new_id("f"),
            name=reply.federation or name,
            server=server,
            link="connecting",
            certificate_expires=peer.not_after,
            ca_fingerprint=ca_fingerprint(reply.ca_der),
            certificate_fingerprint=peer.fingerprint,
            silo_name=reply.name or peer.name,
            enrolled_at=now,
            link_since=now,
        )

    def _add_carriers(self, federation: pb.Federation, reply: EnrolReply, control: str) -> None:
        federation.carrier = control
        views.merge(federation, reply.carriers)
        if views.view(federation, control) is None:  # a server that tells of none
            federation.carriers.append(views.new_view(control))
        for carrier in federation.carriers:
            carrier.control = carrier.name == control

    async def _call(
        self, method: str, request: Any, address: str, ca_der: bytes, key_pem: bytes, chain_pem: bytes,
        own: OwnSide, secrets: Secrets,
    ) -> Any:  # fmt: skip
        """One call of the Enrolment service over mutual TLS."""
        import grpc

        from octopus_desktop.communication.grpc_wire import (
            ClientCredentials,
            Proxy,
            client_channel,
            to_user_error,
            with_own_ca,
        )
        from octopus_desktop.wire.pb.federation_pb2_grpc import EnrolmentStub

        credentials = ClientCredentials(root=to_pem(ca_der), key=key_pem, chain=to_pem(chain_pem))
        channel = client_channel(address, with_own_ca(credentials, own), proxy=Proxy.of(own, secrets))
        try:
            return await getattr(EnrolmentStub(channel), method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            known = to_user_error(error, address, own.proxy)
            if known.code == "OCT-LINK-TLS":
                known = UserError(
                    "OCT-ENROL-CA",
                    f"The server at {address} is not the federation that the invitation means.",
                    known.why,
                    "Compare address and CA fingerprint with the coordinator; ask for a new invitation.",
                )
            raise known from error
        finally:
            await channel.close(None)

    async def _keep(
        self, federation: pb.Federation, reply: EnrolReply, key_pem: bytes, action: str, *, asked: str = ""
    ) -> None:
        """Store an enrolment or a renewal. ``asked``: the invitation that is used up by it."""
        key_name = f"federation/{federation.id}/{new_id()}"
        await asyncio.to_thread(self._keys.store.set, key_name, key_pem)
        with self._silo.change():
            self._credentials.put_row(federation.id, reply, key_name)
            self._silo.put("federation", federation)
            self._silo.db.execute("DELETE FROM meta WHERE key=?", f"{ASKED}{asked}")
            detail: Mapping[str, Any] = {
                "federation": federation.name,
                "server": federation.server,
                "name": federation.silo_name,
                "ca": federation.ca_fingerprint,
                "certificate": federation.certificate_fingerprint,
                "serial": read_peer(reply.certificate_der).serial,
                "carrier": federation.carrier,
            }
            self._silo.record(self._silo.administrator, action, federation.id, detail)
            self._silo.answer(federation)
        if asked:
            await asyncio.to_thread(self._keys.store.delete, f"enrol/{asked}")

    def _known(self, federation_id: str) -> pb.Federation:
        federation: pb.Federation = self._silo.need("federation", federation_id)
        return federation

    async def _until_sent(self, federation_id: str) -> None:
        """Give what was posted a moment to leave."""
        for _ in range(int(LEAVE_S / LEAVE_LOOK_S)):
            if not self._silo.db.one(
                "SELECT 1 FROM outbox WHERE delivered_at IS NULL AND federation_id=?", federation_id
            ):
                return
            await asyncio.sleep(LEAVE_LOOK_S)
