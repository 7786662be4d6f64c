"""Federations: enrolment, certificates, and one link each that is kept up. Knows no run.

The silo's key for a federation is made here and stays in the store of secrets. A link's end is made from rows alone, so
that a restart finds everything again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from octopus_desktop import __version__
from octopus_desktop.communication.contract import LinkPhase, LinkState, MailOwner, SiloEnd
from octopus_desktop.communication.settings import GrpcOffer
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.link_check import CarrierCase, Case, examine
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity import invitations, member
from octopus_desktop.identity.authority import ca_fingerprint
from octopus_desktop.identity.certificates import read_peer, to_pem
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import EnrolReply, Invitation, RenewRequest

log = logging.getLogger(__name__)

CALL_S = 30.0
DOWN_LONG_S = 300.0
RENEW_LOOK_S = 6 * 3600.0
RENEW_BEFORE_S = 14 * 86400.0
LEAVE_S = 3.0
LEAVE_LOOK_S = 0.05


def _tell_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception():
        log.error("a link ended by a bug", exc_info=task.exception())


class Federations:
    """The noun ``federation``.

    Attributes:
        make_owner: (federation) -> MailOwner, set by ``app``.
        make_end: (address, credentials, owner) -> SiloEnd; the carrier.
        leaving: told before a federation is left; ends its runs.
    """

    def __init__(self, silo: Silo, keys: SiloKeys) -> None:
        self._silo, self._keys = silo, keys
        self._ends: dict[str, SiloEnd] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._bases: dict[str, tuple[int, int]] = {}
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self.make_owner: Callable[[pb.Federation], MailOwner]
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

    async def enrol(self, text: str, name: str, contact: str) -> pb.Federation:
        """Use an invitation. Interrupted, it may be called again with the same one: the key is kept meanwhile."""
        invitation = invitations.decode(text)
        invitations.check_current(invitation)
        self._may_enrol(invitation)
        key_pem, csr_der = await asyncio.to_thread(self._request, invitation.id, name)
        signing = await asyncio.to_thread(lambda: self._keys.silo)
        request = member.enrol_request(csr_der, name, signing, self._silo.status.organisation, contact)
        invitation_key, invitation_chain = invitations.tls_identity(invitation)
        reply: EnrolReply = await self._call(
            "Enrol", request, invitation.server, invitation.ca_der, invitation_key, invitation_chain
        )
        if reply.ca_der != invitation.ca_der:
            raise UserError(
                "OCT-ENROL-CA",
                "The server answered with another CA than the invitation's.",
                f"Its fingerprint is {ca_fingerprint(reply.ca_der)}.",
                "Compare the fingerprint with the coordinator by telephone, and ask for a new invitation.",
            )
        peer = member.accept_certificate(reply.certificate_der, invitation.ca_der, key_pem)
        federation = pb.Federation(
            id=new_id("f"),
            name=reply.federation or invitation.federation,
            server=invitation.server,
            carrier="grpc",
            link="connecting",
            certificate_expires=peer.not_after,
            ca_fingerprint=ca_fingerprint(invitation.ca_der),
            certificate_fingerprint=peer.fingerprint,
            silo_name=reply.name or name,
            enrolled_at=round(time.time(), 3),
            link_since=round(time.time(), 3),
        )
        await self._keep(federation, reply, key_pem, "federation.enrolled")
        await asyncio.to_thread(self._keys.store.delete, f"enrol/{invitation.id}")
        self.connect(federation.id)
        return federation

    async def renew(self, federation_id: str) -> pb.Federation:
        """A new key and a certificate for it; the link is made anew with them."""
        federation = self._known(federation_id)
        old_key, certificate_der, ca_der, _ = self._credentials(federation_id)
        key_pem, csr_der = member.make_request(federation.silo_name)
        reply: EnrolReply = await self._call(
            "Renew", RenewRequest(csr_der=csr_der), federation.server, ca_der, old_key, to_pem(certificate_der)
        )
        peer = member.accept_certificate(reply.certificate_der, ca_der, key_pem)
        federation = self._known(federation_id)
        federation.certificate_expires, federation.certificate_fingerprint = peer.not_after, peer.fingerprint
        before = self._key_name(federation_id)
        await self._keep(federation, reply, key_pem, "federation.renewed")
        if before:
            await asyncio.to_thread(self._keys.store.delete, before)
        await self._disconnect(federation_id)
        self.connect(federation_id)
        return federation

    async def leave(self, federation_id: str) -> None:
        """Stop its runs here, tell the server where it can be reached, and forget the key."""
        federation = self._known(federation_id)
        self.leaving(federation_id)
        if federation.link == "up":
            await self._until_sent(federation_id)
        await self._disconnect(federation_id)
        key_name = self._key_name(federation_id)
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
        if key_name:
            await asyncio.to_thread(self._keys.store.delete, key_name)

    async def check(self, federation_id: str) -> pb.CheckReply:
        federation = self._known(federation_id)
        key, certificate_der, ca_der, _ = self._credentials(federation_id)
        end = self._ends.get(federation_id)
        return await examine(
            Case(
                server=federation.server,
                silo=federation.silo_name,
                ca_fingerprint=federation.ca_fingerprint,
                certificate_der=certificate_der,
                ca_der=ca_der,
                key_pem=key,
                carriers=[CarrierCase(offer=GrpcOffer(), state=end.state if end else None)],
            )
        )

    # links

    def connect_all(self) -> None:
        for federation in self._silo.all("federation"):
            if federation.link not in ("left", "revoked"):
                self.connect(federation.id)

    def connect(self, federation_id: str) -> None:
        self._tasks[federation_id] = task = asyncio.create_task(self._link(federation_id))
        task.add_done_callback(_tell_bug)

    def outbox_changed(self, federation_id: str) -> None:
        end = self._ends.get(federation_id)
        if end:
            end.outbox_changed()

    def send_live(self, federation_id: str, envelope: Any) -> None:
        end = self._ends.get(federation_id)
        if end:
            end.send_live(envelope)

    async def renew_in_time(self) -> None:
        """Look a few times a day whether a certificate comes to its end, and renew it."""
        while True:
            for federation in self._silo.all("federation"):
                if federation.link in ("left", "revoked"):
                    continue
                if federation.certificate_expires - time.time() < RENEW_BEFORE_S:
                    try:
                        await self.renew(federation.id)
                    except UserError as error:
                        log.warning("the certificate of %s was not renewed: %s", federation.name, error)
            await asyncio.sleep(RENEW_LOOK_S)

    async def _link(self, federation_id: str) -> None:
        from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
        from octopus_desktop.communication.grpc_wire import ClientCredentials

        federation = self._silo.get("federation", federation_id)
        try:
            key, certificate_der, ca_der, _ = await asyncio.to_thread(self._secret_of, self._row(federation_id))
            await asyncio.to_thread(lambda: self._keys.silo)
            owner = self.make_owner(federation)
        except UserError as error:
            self._set_link(federation_id, "down", error)
            self._silo.notify("error", error.code, f"{federation.name}: {error.what}", "federation", federation_id)
            return
        self._bases[federation_id] = (federation.bytes_in, federation.bytes_out)
        credentials = ClientCredentials(root=to_pem(ca_der), key=key, chain=to_pem(certificate_der))
        end = GrpcSiloEnd(
            address=federation.server,
            credentials=credentials,
            owner=owner,
            version=__version__,
            boot_id=self._silo.boot_id,
        )
        self._ends[federation_id] = end
        await end.run()

    async def _disconnect(self, federation_id: str) -> None:
        self._ends.pop(federation_id, None)
        task = self._tasks.pop(federation_id, None)
        if task:
            task.cancel()
            await asyncio.wait([task])
        alarm = self._alarms.pop(federation_id, None)
        if alarm:
            alarm.cancel()

    def link_changed(self, federation_id: str, state: LinkState) -> None:
        """What the carrier tells of a link. Stored when its phase moves, shown at once."""
        federation = self._silo.get("federation", federation_id)
        if federation is None or federation.link == "left":
            return
        fault = state.fault
        base_in, base_out = self._bases.get(federation_id, (0, 0))
        federation.bytes_in, federation.bytes_out = base_in + state.bytes_in, base_out + state.bytes_out
        federation.latency_ms = state.latency_ms
        if fault and fault.code == "OCT-DISK-FULL" and federation.error_code != fault.code:
            text = f"{fault.what} {fault.why} {federation.name} waits and goes on by itself."
            self._silo.notify("error", fault.code, text, "federation", federation_id)
        if federation.link != state.phase.value or federation.error_code != (fault.code if fault else ""):
            self._set_link(federation_id, state.phase.value, fault)
        else:
            self._silo.hub.soon("federation", federation)

    def _set_link(self, federation_id: str, link: str, fault: UserError | None) -> None:
        before = self._silo.get("federation", federation_id)
        was_up = before.link == "up"
        try:
            with self._silo.change():
                federation = self._silo.need("federation", federation_id)
                if federation.link != link:
                    federation.link, federation.link_since = link, round(time.time(), 3)
                federation.error_code = fault.code if fault else ""
                federation.error = f"{fault.what} {fault.why}".strip() if fault else ""
                self._silo.put("federation", federation)
                if link == LinkPhase.REVOKED and before.link != link:
                    self._silo.record("server", "federation.revoked", federation_id, {"why": federation.error})
                    self._silo.notify(
                        "error",
                        federation.error_code,
                        f"{federation.name} has revoked this silo's certificate.",
                        "federation",
                        federation_id,
                    )
        except UserError as error:  # shown all the same; the next change stores it
            log.warning("the state of the link was not stored: %s", error.what)
            before.link, before.error_code = link, fault.code if fault else error.code
            before.error = f"{fault.what} {fault.why}".strip() if fault else error.what
            self._silo.hub.soon("federation", before)
        if link == "up":
            alarm = self._alarms.pop(federation_id, None)
            if alarm:
                alarm.cancel()
        elif federation_id not in self._alarms and (was_up or link == "down"):
            loop = asyncio.get_running_loop()
            self._alarms[federation_id] = loop.call_later(DOWN_LONG_S, self._long_down, federation_id)

    def _long_down(self, federation_id: str) -> None:
        federation = self._silo.get("federation", federation_id)
        if federation and federation.link not in ("up", "left"):
            text = f"{federation.name} has been out of reach for {DOWN_LONG_S / 60:.0f} minutes. {federation.error}"
            self._silo.notify("warning", "OCT-LINK-DOWN", text, "federation", federation_id)

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
        fingerprint = ca_fingerprint(invitation.ca_der)
        for federation in self._silo.all("federation"):
            if federation.ca_fingerprint == fingerprint and federation.link not in ("left", "revoked"):
                raise UserError(
                    "OCT-STATE-EXISTS",
                    f"This silo is enrolled in {federation.name} already.",
                    f"Its name there is {federation.silo_name}.",
                    "Leave the federation first, if another name is wanted.",
                )

    def _request(self, invitation_id: str, name: str) -> tuple[bytes, bytes]:
        """The key and certificate request of this invitation: the same at a second attempt."""
        place = f"enrol/{invitation_id}"
        kept = self._keys.store.get(place)
        if kept:
            return kept, member.renew_request(kept, name)
        key_pem, csr_der = member.make_request(name)
        self._keys.store.set(place, key_pem)
        return key_pem, csr_der

    async def _call(
        self, method: str, request: Any, address: str, ca_der: bytes, key_pem: bytes, chain_pem: bytes
    ) -> Any:
        """One call of the Enrolment service over mutual TLS."""
        import grpc

        from octopus_desktop.communication.grpc_wire import ClientCredentials, client_channel, to_user_error
        from octopus_desktop.wire.pb.federation_pb2_grpc import EnrolmentStub

        channel = client_channel(address, ClientCredentials(root=to_pem(ca_der), key=key_pem, chain=to_pem(chain_pem)))
        try:
            return await getattr(EnrolmentStub(channel), method)(request, timeout=CALL_S)
        except grpc.RpcError as error:
            known = to_user_error(error, address)
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

    async def _keep(self, federation: pb.Federation, reply: EnrolReply, key_pem: bytes, action: str) -> None:
        key_name = f"federation/{federation.id}/{new_id()}"
        await asyncio.to_thread(self._keys.store.set, key_name, key_pem)
        with self._silo.change():
            self._silo.db.execute(
                "INSERT OR REPLACE INTO credentials VALUES(?,?,?,?,?,?)",
                federation.id,
                reply.certificate_der,
                reply.ca_der,
                reply.server_signing_key,
                key_name,
                time.time(),
            )
            self._silo.put("federation", federation)
            detail: Mapping[str, Any] = {
                "federation": federation.name,
                "server": federation.server,
                "name": federation.silo_name,
                "ca": federation.ca_fingerprint,
                "certificate": federation.certificate_fingerprint,
                "serial": read_peer(reply.certificate_der).serial,
            }
            self._silo.record(self._silo.administrator, action, federation.id, detail)
            self._silo.answer(federation)

    def server_key(self, federation_id: str) -> bytes:
        return bytes(self._row(federation_id)[2])

    def _row(self, federation_id: str) -> Any:
        row = self._silo.db.one(
            "SELECT certificate_der, ca_der, server_key, key_name FROM credentials WHERE federation_id=?",
            federation_id,
        )
        if row is None:
            raise UserError(
                "OCT-FEDERATION-UNKNOWN",
                "This silo has no certificate of that federation.",
                "It was left, or never joined.",
                "Enrol with a new invitation.",
            )
        return row

    def _key_name(self, federation_id: str) -> str:
        return str(self._row(federation_id)[3])

    def _credentials(self, federation_id: str) -> tuple[bytes, bytes, bytes, bytes]:
        """(key PEM, certificate DER, CA DER, the server's signing key)."""
        return self._secret_of(self._row(federation_id))

    def _secret_of(self, row: Any) -> tuple[bytes, bytes, bytes, bytes]:
        certificate_der, ca_der, server_key, key_name = row
        key = self._keys.store.get(key_name)
        if key is None:
            raise UserError(
                "OCT-SECRET-STORE",
                "The key of this federation is not in the store of secrets.",
                f"Nothing is kept there as {key_name!r}.",
                "Restore the store from a backup, or leave the federation and enrol anew.",
            )
        return key, bytes(certificate_der), bytes(ca_der), bytes(server_key)

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
