"""The silo's further machines: inviting, joining, accepting, draining, removing; and the port where they come in.

The silo's own CA says who is a node: its key lies in the store of secrets, its certificate and the nodes' in the
database. The port stays closed until the first machine is invited. Knows what a node is, and no run.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octopus_desktop import __version__
from octopus_desktop.communication.links import blob_forbidden, protocol_differs
from octopus_desktop.daemon.core import Silo, when_possible
from octopus_desktop.daemon.services.node_codes import NodeCodes
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity import certificates, invitations
from octopus_desktop.identity.authority import DAY_S, NODE, Authority, check_address
from octopus_desktop.identity.certificates import Peer
from octopus_desktop.nodes import PROTOCOL
from octopus_desktop.nodes.port import NodePort
from octopus_desktop.nodes.report import TEXT_LIMIT, take
from octopus_desktop.nodes.shares import words_of
from octopus_desktop.wire.canonical import canonical_json, fingerprint, new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import node_pb2 as npb
from octopus_desktop.wire.pb.federation_pb2 import GetRequest

LISTEN = "127.0.0.1:7470"
VALID_S = DAY_S
NODE_VALID_S = 90 * DAY_S  # its agent renews it when two thirds are over
CA_SECRET, CA_ROW, PORT_ROW = "nodes/ca", "nodes/ca", "nodes/port"
MEMBER = "node_member"
EVERYWHERE = ("0.0.0.0", "::")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """Where the port listens, and how machines dial it; both host:port."""

    listen: str
    address: str


class Agents:
    """Further machines. Implements the port's ``Desk``.

    Attributes:
        codes: those that machines join with.

    Set by ``app``:
        up_changed: called when another set of machines can be given work.
        removed: called with the node, inside the change that removes it.
        heard: (node, run, words) of a run's part on a machine.
        may_read: (node, run, digest) -> where the blob lies, None when it is none of theirs.
    """

    def __init__(self, silo: Silo, keys: SiloKeys, *, valid_s: float = NODE_VALID_S) -> None:
        self._silo, self._keys, self._valid_s = silo, keys, valid_s
        self._asked: dict[str, tuple[str, asyncio.Future[pb.NodePlace]]] = {}
        self._port = NodePort(self)
        self._opening = asyncio.Lock()
        self.up_changed: Callable[[], None] = lambda: None
        self.removed: Callable[[str], None] = lambda node: None
        self.heard: Callable[[str, str, dict[str, Any]], None] = lambda node, run, words: None
        self.may_read: Callable[[str, str, str], Path | None] = lambda node, run, digest: None
        self._members = {m.id: m for m in silo.db.all(MEMBER, npb.NodeMember)}
        self.codes = NodeCodes(silo)

    def linked(self, node_id: str) -> bool:
        return self._port.linked(node_id)

    def knows(self, node_id: str) -> bool:
        return node_id in self._members

    def up(self) -> list[str]:
        """The machines that can be given work now: accepted, linked, of our version, not drained."""
        return [n.id for n in self._silo.all("node") if n.id in self._members and n.state == "ready" and not n.fault]

    def say(self, node_id: str, run_id: str, words: dict[str, Any]) -> None:
        """To a run's part on a machine; lost when it is not linked."""
        self._port.say(node_id, npb.RunWords(run_id=run_id, json=json.dumps(words)))

    async def own_address(self) -> str:
        """This machine's IP address as its nodes dial it. Raises OCT-NODE-FURTHER."""
        where = self._where()
        assert where is not None
        host = check_address(where.address)[0]
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except OSError as error:
            raise UserError(
                "OCT-NODE-FURTHER",
                f"{host} is not known on this machine, so its nodes' workers cannot be told where to meet.",
                str(error),
                "Invite nodes with an --address that this machine knows too.",
            ) from error
        return str(found[0][4][0])

    def begin(self) -> None:
        """After a start nobody is linked yet."""
        for node_id in self._members:
            self._show(node_id)

    async def open_port(self) -> None:
        """Listen again where a machine was invited before. A locked store of secrets keeps nodes out, nothing else."""
        where = self._where()
        if where is None:
            return
        try:
            async with self._opening:
                if not self._port.is_open:
                    await self._open(await self._authority(), where)
        except UserError as error:
            log.warning("the port for nodes stays closed: %s", error)
            self._silo.notify("error", error.code, f"Further nodes cannot connect: {error.what} {error.why}")

    async def stop(self) -> None:
        await self._port.close()

    # commands

    async def invite(self, request: pb.InviteNodeRequest) -> pb.InviteNodeReply:
        """A code for one machine. Opens the port; other than before, when ``listen`` or ``address`` say so.

        Raises OCT-ENROL-NAME, OCT-CONFIG-INVALID, OCT-PORT-USED, OCT-SECRET-STORE.
        """
        name = request.name.strip()
        self.codes.check_name(name)
        async with self._opening:
            where = self._wanted(request.listen.strip(), request.address.strip())
            authority = await self._authority()
            if not self._port.is_open or where != self._where():
                await self._open(authority, where)
            invitation = authority.invite(where.address, NODE, request.valid_s or VALID_S)
            kept = npb.NodeInvitation(
                id=invitation.id, name=name, expires_at=invitation.expires_at, made_at=time.time()
            )
            with self._silo.change():
                self._silo.db.set(PORT_ROW, canonical_json(asdict(where)))
                what = {"name": name, "expires_at": round(kept.expires_at, 3), **asdict(where)}
                self._silo.record(self._silo.administrator, "node.invited", kept.id, what)
                self.codes.keep(kept)
        return pb.InviteNodeReply(
            code=invitations.encode(invitation),
            expires_at=invitation.expires_at,
            address=where.address,
            ca_fingerprint=authority.fingerprint,
        )

    def accept(self, node_id: str) -> pb.Node:
        """Take a machine that joined into use."""
        member = self._need(node_id)
        if not member.accepted:
            member.accepted = True
            with self._silo.change():
                node = self._silo.need("node", node_id)
                what = {"name": node.name, "fingerprint": node.fingerprint}
                self._silo.record(self._silo.administrator, "node.accepted", node_id, what)
                self._keep(member)
                self._silo.answer(self._silo.get("node", node_id))
        return self._silo.get("node", node_id)

    def drain(self, node_id: str, drain: bool) -> pb.Node:
        """Let no further work begin there; or let it again."""
        member = self._need(node_id)
        if member.drained != drain:
            member.drained = drain
            with self._silo.change():
                name = self._silo.get("node", node_id).name
                action = "node.drained" if drain else "node.undrained"
                self._silo.record(self._silo.administrator, action, node_id, {"name": name})
                self._keep(member)
                self._silo.answer(self._silo.get("node", node_id))
        return self._silo.get("node", node_id)

    def remove(self, node_id: str) -> None:
        """Its certificate opens nothing from now on; a link of it ends at once."""
        self._need(node_id)
        with self._silo.change():
            node = self._silo.get("node", node_id)
            what = {"name": node.name, "fingerprint": node.fingerprint, "accepted": self._members[node_id].accepted}
            self._silo.record(self._silo.administrator, "node.removed", node_id, what)
            self._silo.db.drop(MEMBER, node_id)
            self.removed(node_id)
            self._silo.drop("node", node_id)
            self._silo.answer(pb.Ack())
            self._silo.afterwards(lambda: self._forget(node_id))
            self._silo.afterwards(self.up_changed)

    def _forget(self, node_id: str) -> None:
        self._members.pop(node_id, None)
        self._port.cut(node_id, _removed(node_id))

    # Desk

    def join(self, peer: Peer, request: npb.JoinRequest) -> npb.JoinReply:
        if peer.role != "invitation":
            raise _wrong_role(peer.role, "a code")
        if request.protocol != PROTOCOL:
            raise protocol_differs(request.protocol, PROTOCOL, "joining machine")
        public = certificates.read_csr(request.csr_der)
        key_der = certificates.public_der(public)
        invitation = self.codes.get(peer.name)
        joined = self._members.get(invitation.node_id) if invitation else None
        try:
            self.codes.check(invitation, key_der, bytes(joined.key_der) if joined else None)
        except UserError as error:
            with self._silo.change():
                what = {"code": error.code, "name": invitation.name if invitation else ""}
                self._silo.record("a joining machine", "node.refused", peer.name, what)
            raise
        assert invitation is not None
        if invitation.node_id:  # its answer was lost on the way
            member = self._members[invitation.node_id]
            return npb.JoinReply(node_id=member.id, name=invitation.name, certificate_der=bytes(member.certificate_der))
        node_id = new_id("n")
        authority = self._loaded
        certificate = authority.issue(request.csr_der, node_id, NODE, self._valid_s)
        known = certificates.read_peer(certificate)
        member = npb.NodeMember(
            id=node_id, serial=known.serial, key_der=key_der, certificate_der=certificate, not_after=known.not_after
        )
        node = pb.Node(
            id=node_id,
            name=invitation.name,
            state="asking",
            registered_at=round(time.time(), 3),
            version=request.hello.version[:TEXT_LIMIT],
            fingerprint=fingerprint(key_der),
            fault=_version_words(request.hello.version),
        )
        take(node, request.machine)
        used = npb.NodeInvitation.FromString(invitation.SerializeToString())
        used.node_id = node_id
        with self._silo.change():
            self._silo.put("node", node)
            self._silo.db.put(MEMBER, node_id, member)
            self.codes.keep(used)
            what = {"name": node.name, "fingerprint": node.fingerprint, "invitation": used.id}
            self._silo.record("a joining machine", "node.joined", node_id, what)
            self._silo.notify("info", "", f"{node.name} asks to be a node of this silo.", "node", node_id)
            self._silo.afterwards(lambda: self._members.update({node_id: member}))
        return npb.JoinReply(node_id=node_id, name=node.name, certificate_der=certificate)

    def caller(self, peer: Peer) -> str:
        if peer.role != NODE:
            raise _wrong_role(peer.role, "a node's own")
        member = self._members.get(peer.name)
        if member is None or peer.serial not in (member.serial, member.former_serial):
            raise _removed(peer.name)
        return peer.name

    def renew(self, peer: Peer, request: npb.NodeRenewRequest) -> npb.NodeRenewReply:
        """A fresh certificate for the key that the node has; the one that was shown stays good until its end, for this
        answer may be lost."""
        node_id = self.caller(peer)
        member = npb.NodeMember.FromString(self._members[node_id].SerializeToString())
        if certificates.public_der(certificates.read_csr(request.csr_der)) != bytes(member.key_der):
            raise UserError(
                "OCT-ENROL-CA",
                "The certificate cannot be renewed for another key.",
                "A node keeps the key that it joined with.",
                "To change it, remove the node and let it join anew.",
            )
        certificate = self._loaded.issue(request.csr_der, node_id, NODE, self._valid_s)
        known = certificates.read_peer(certificate)
        member.former_serial, member.serial = peer.serial, known.serial
        member.certificate_der, member.not_after = certificate, known.not_after
        with self._silo.change():
            self._silo.db.put(MEMBER, node_id, member)
            what = {"name": self._silo.need("node", node_id).name, "not_after": round(known.not_after)}
            self._silo.record("daemon", "node.renewed", node_id, what)
            self._silo.afterwards(lambda: self._members.update({node_id: member}))
        return npb.NodeRenewReply(certificate_der=certificate)

    async def ask(self, node_id: str, ask: npb.NodeAsk) -> pb.NodePlace:
        """Let a node's agent look. Raises its fault, or OCT-NODE-FURTHER when it is not, or no longer, there."""
        name = self._silo.need("node", node_id).name
        member = self._members.get(node_id)
        if member is None or not member.accepted or not self._port.linked(node_id):
            raise _away(name)
        ask.id = new_id("a")
        future: asyncio.Future[pb.NodePlace] = asyncio.get_running_loop().create_future()
        self._asked[ask.id] = (node_id, future)
        try:
            self._port.ask(node_id, ask)
            place = await future
        finally:
            del self._asked[ask.id]
        place.node = node_id
        return place

    def answered(self, node_id: str, answer: npb.NodeAnswer) -> None:
        asked, future = self._asked.get(answer.id, ("", None))
        if future is None or asked != node_id or future.done():
            return
        if answer.HasField("fault"):
            future.set_exception(UserError.from_fault(answer.fault))
        else:
            future.set_result(answer.place)

    def greeted(self, node_id: str, hello: npb.AgentHello) -> npb.PortHello:
        node = self._silo.need("node", node_id)
        node.version, node.seen_at = hello.version[:TEXT_LIMIT], round(time.time(), 3)
        if hello.protocol != PROTOCOL:
            fault = protocol_differs(hello.protocol, PROTOCOL, "node")
            node.fault = f"{fault.what} {fault.why} {fault.next_step}"
        else:
            node.fault = _version_words(hello.version)
            node.state = self._state(self._members[node_id], linked=True)
        with self._silo.change():
            self._silo.put("node", node)
            self._silo.afterwards(self.up_changed)
        if hello.protocol != PROTOCOL:
            log.warning("node %s was not let in: %s", node.name, node.fault)
            raise protocol_differs(hello.protocol, PROTOCOL, "node")
        log.info("node %s is connected", node.name)
        return self._greeting(node.state)

    def told(self, node_id: str, machine: pb.Node) -> None:
        node = self._silo.get("node", node_id)
        if node is not None:
            take(node, machine)
            self._silo.hub.soon("node", node)

    def said(self, node_id: str, words: npb.RunWords) -> None:
        value = words_of(words.json)
        if value is not None and self._members[node_id].accepted:
            self.heard(node_id, words.run_id, value)

    def blob(self, node_id: str, request: GetRequest) -> Path:
        path = self.may_read(node_id, request.run_id, request.blob.digest)
        if path is None or not self._members[node_id].accepted:
            raise blob_forbidden(request.blob)
        return path

    def gone(self, node_id: str, fault: UserError | None) -> None:
        for asked, future in self._asked.values():
            if asked == node_id and not future.done():
                future.set_exception(_away("The node"))
        if node_id in self._members:
            log.info("node %s is gone: %s", node_id, fault.why if fault else "the port was closed")
            when_possible(self._show, node_id)

    # rows

    def _state(self, member: npb.NodeMember, *, linked: bool) -> str:
        if not member.accepted:
            return "asking"
        if not linked:
            return "offline"
        return "drained" if member.drained else "ready"

    def _show(self, node_id: str) -> None:
        """Bring a node's row up to date with what is known of it."""
        member = self._members.get(node_id)
        if member is None:
            return
        node = self._silo.need("node", node_id)
        state = self._state(member, linked=self._port.linked(node_id))
        if node.state == state:
            return
        node.state = state
        with self._silo.change():
            self._silo.put("node", node)
            self._silo.afterwards(self.up_changed)

    def _keep(self, member: npb.NodeMember) -> None:
        """Inside ``change``."""
        linked = self._port.linked(member.id)
        node = self._silo.need("node", member.id)
        node.state = self._state(member, linked=linked)
        self._silo.put("node", node)
        self._silo.db.put(MEMBER, member.id, member)
        self._silo.afterwards(lambda: self._members.update({member.id: member}))
        self._silo.afterwards(self.up_changed)
        self._silo.afterwards(lambda: self._port.greet(member.id, self._greeting(node.state)))

    def _greeting(self, state: str) -> npb.PortHello:
        return npb.PortHello(protocol=PROTOCOL, version=__version__, state=state)

    def _need(self, node_id: str) -> npb.NodeMember:
        """A copy for changing. Raises OCT-NODE-UNKNOWN, OCT-NODE-LOCAL."""
        node = self._silo.need("node", node_id)
        if node.local:
            raise UserError(
                "OCT-NODE-LOCAL",
                f"{node.name} is the daemon's own machine.",
                "Only further machines join, are accepted and are removed.",
                "To let no run begin here, drain it.",
            )
        return npb.NodeMember.FromString(self._members[node_id].SerializeToString())

    # the port

    def _where(self) -> Where | None:
        kept = self._silo.db.get(PORT_ROW)
        return Where(**json.loads(kept)) if kept else None

    def _wanted(self, listen: str, address: str) -> Where:
        before = self._where()
        listen = listen or (before.listen if before else LISTEN)
        if not address:
            address = before.address if before and before.listen == listen else listen
        if check_address(address)[0] in EVERYWHERE:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"{address} is no address to dial.",
                "The port listens on every interface, and a machine needs one name or address to dial.",
                "Give --address with this machine's name or address, as the further machine sees it.",
            )
        check_address(listen)
        return Where(listen=listen, address=address)

    async def _open(self, authority: Authority, where: Where) -> None:
        hosts = [check_address(where.address)[0], check_address(where.listen)[0]]
        before = self._where()
        try:
            await self._port.open(authority, where.listen, [h for h in hosts if h not in EVERYWHERE])
        except UserError:
            if before and before != where:  # the nodes that are there must not be lost by a mistake
                hosts = [check_address(before.address)[0], check_address(before.listen)[0]]
                await self._port.open(authority, before.listen, [h for h in hosts if h not in EVERYWHERE])
            raise
        self._loaded = authority

    async def _authority(self) -> Authority:
        """The silo's own CA, made at the first call. Raises OCT-SECRET-STORE, OCT-SECRET-PASSPHRASE."""
        certificate = self._silo.db.get(CA_ROW)
        if certificate is None:
            name = (self._silo.status.organisation.strip() or "this silo")[:64]
            authority = Authority.create(name if name.isprintable() else "this silo", (NODE,))
            await asyncio.to_thread(lambda: self._keys.store.set(CA_SECRET, authority.key_pem))
            self._silo.db.set(CA_ROW, authority.ca_pem)
            return authority
        key = await asyncio.to_thread(lambda: self._keys.store.get(CA_SECRET))
        if key is None:
            raise UserError(
                "OCT-SECRET-STORE",
                "The key of the silo's own CA is not in the store of secrets.",
                f"Nothing is kept there as {CA_SECRET!r}.",
                "Restore the store from a backup.",
            )
        return Authority.load(certificate, key, (NODE,))


def _version_words(version: str) -> str:
    if version == __version__:
        return ""
    theirs = version[:TEXT_LIMIT] or "an unknown one"
    return f"Its agent is of version {theirs}, this silo's of {__version__}: update it, for they must be the same."


def _wrong_role(role: str, wanted: str) -> UserError:
    return UserError(
        "OCT-ENROL-ROLE",
        f"A certificate of the role {role!r} does not open this door.",
        f"It is opened by {wanted} certificate.",
        "Join with a code ('octopus node join'), then run the agent ('octopus node run').",
    )


def _away(name: str) -> UserError:
    return UserError(
        "OCT-NODE-FURTHER",
        f"{name} cannot be asked now.",
        "Its agent is not connected, or the node was not accepted.",
        "Start the agent there (octopus node run), and try again.",
    )


def _removed(node_id: str) -> UserError:
    return UserError(
        "OCT-CERT-REVOKED",
        "This node was removed from its silo.",
        f"The silo does not know {node_id} any more.",
        "To join again, ask its administrator for a new code and delete this node's directory first.",
    )
