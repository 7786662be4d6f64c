"""The server's end of every message carrier: one wire, and a session with each silo that opens one.

Knows no particular wire, and nothing of what the mail means.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from octopus_desktop.communication.chunk_way import ChunkWay
from octopus_desktop.communication.contract import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    HEARTBEAT_S,
    PROTOCOL,
    SERVER,
    SILENCE_S,
    LinkPhase,
    LinkState,
    MailOwner,
)
from octopus_desktop.communication.links import LinkEnded, link_down, protocol_differs, replaced
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.message_link import MessageLink
from octopus_desktop.communication.message_silo import wire_fault
from octopus_desktop.communication.parties import BlobWay, ServerParty, Session
from octopus_desktop.communication.redial import HEALTHY_S, Shown
from octopus_desktop.communication.sealing import CLOCK_S, Header, SealError, accept, read_opening, refuse, unknown
from octopus_desktop.communication.transfer import BlobLocks
from octopus_desktop.communication.wires import Lane, Wire
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer, Hello
from octopus_desktop.wire.pb.sealed_pb2 import Opening

THREADS = 4
WAITING = 3  # sessions of one silo that were agreed and not used yet; an older one is forgotten
OPENINGS = 10  # Openings of one silo, or messages of sessions that are unknown, in a burst ...
OPENINGS_A_S = 1.0  # ... and a second; more are not answered
SENDING = 64  # answers to Openings that wait for the wire; more are not sent

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Peer:
    """What is known of one silo, connected or not.

    Attributes:
        link: the session in use.
        waiting: sessions that were agreed; the first sealed message of one makes it the session in use.
        answers: by session, what was answered to its Opening, for one that comes twice; until when.
    """

    shown: Shown
    link: MessageLink | None = None
    waiting: dict[bytes, MessageLink] = field(default_factory=dict)
    answers: dict[bytes, tuple[bytes, float]] = field(default_factory=dict)


class MessageServerEnd:
    """Implements ``ServerEnd`` over a ``Wire``.

    Arguments:
        wire: the server's connection; each silo is a peer by its enrolled name.
        party: this federation, its signing key, and its members' keys.
        owner: the server's mail and blobs.
        version, boot_id, blob_way, heartbeat_s, silence_s, protocol: as in ``MessageSiloEnd``.
        sealed: false: blob bytes pass in the clear with silos that consent too.
        carriers: what the federation offers now, for each greeting.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        party: ServerParty,
        owner: MailOwner,
        version: str,
        boot_id: str,
        blob_way: Callable[[Session], BlobWay] = ChunkWay,
        sealed: bool = True,
        carriers: Callable[[], Sequence[CarrierOffer]] = lambda: (),
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = SILENCE_S,
        protocol: int = PROTOCOL,
    ) -> None:
        self.wire, self._party, self._owner = wire, party, owner
        self._hello = Hello(protocol=protocol, name=owner.name, boot_id=boot_id, version=version)
        self._blob_way, self._sealed, self._carriers = blob_way, sealed, carriers
        self._heartbeat_s, self._silence_s = heartbeat_s, silence_s
        self._peers: dict[str, _Peer] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._threads = blob_threads(THREADS)
        self._locks = BlobLocks()
        self._openings, self._notices = _Budget(party), _Budget(party)
        self._sends: set[asyncio.Task[None]] = set()
        self._keeper: asyncio.Task[None] | None = None
        self._wire_state = LinkState(peer=SERVER, phase=LinkPhase.CONNECTING, since=time.time())

    # ServerEnd

    async def start(self) -> None:
        """Open the wire. Where that fails, it is tried again by itself, and ``states`` says why."""
        tried = asyncio.Event()
        self._keeper = asyncio.create_task(self._keep_open(tried))
        await tried.wait()

    async def stop(self, grace_s: float) -> None:
        """End all sessions; silos dial again by themselves. Waits up to ``grace_s`` for the goodbyes."""
        for peer in self._peers.values():
            self._end(peer, None)
        if self._running:
            await asyncio.wait(self._running, timeout=grace_s)
        rest = [*self._running, *self._sends, *([self._keeper] if self._keeper else [])]
        for task in rest:
            task.cancel()
        if rest:
            await asyncio.wait(rest)
        await self.wire.close()
        self._threads.shutdown(wait=False)

    def outbox_changed(self, peer: str) -> None:
        known = self._peers.get(peer)
        if known and known.link:
            known.link.changed()

    def disconnect(self, peer: str, fault: UserError) -> None:
        known = self._peers.get(peer)
        if known:
            phase = LinkPhase.REVOKED if fault.code == "OCT-CERT-REVOKED" else LinkPhase.DOWN
            known.shown.show(phase=phase, fault=fault)
            self._end(known, fault)

    def announce(self) -> None:
        for peer in self._peers.values():
            if peer.link and peer.shown.state.phase is LinkPhase.UP:
                peer.link.greet(self._greet())

    @property
    def fault(self) -> UserError | None:
        return self._wire_state.fault

    def states(self) -> Sequence[LinkState]:
        """Each silo's; and the wire's own as that of "server", while it is not up."""
        own = [self._wire_state] if self._wire_state.phase is not LinkPhase.UP else []
        return own + [peer.shown.state for peer in self._peers.values()]

    # the wire

    async def _keep_open(self, tried: asyncio.Event) -> None:
        most = BACKOFF_FIRST_S
        while True:
            broken: asyncio.Task[Exception] | None = None
            try:
                await self.wire.open(self._received, self._gone)
                self._wire_state = LinkState(peer=SERVER, phase=LinkPhase.UP, since=time.time())
                tried.set()
                up_at = time.monotonic()
                broken = asyncio.create_task(self.wire.broken())
                await asyncio.wait((broken,))
                fault = wire_fault(broken)
                most = 0.0 if time.monotonic() - up_at > HEALTHY_S else most
            except UserError as error:
                fault = error
            except Exception as error:  # a bug, told in the log; the server must outlive it
                _log.exception("the carrier's connection broke")
                fault = link_down("The carrier", f"An internal error broke its connection: {error!r}")
            finally:
                tried.set()
                if broken is not None:
                    broken.cancel()
            self._wire_state = LinkState(peer=SERVER, phase=LinkPhase.DOWN, since=time.time(), fault=fault)
            _log.warning("the carrier's connection is down: %s", fault)
            for peer in self._peers.values():
                self._end(peer, fault)
            await self.wire.close()
            await asyncio.sleep(random.uniform(0, most))
            most = min(max(2 * most, BACKOFF_FIRST_S), BACKOFF_MOST_S)

    def _received(self, address: str, lane: Lane, message: bytes) -> None:
        try:
            header = Header.read(message)
        except SealError:
            if lane is Lane.MAIL:
                self._opening(address, message)
            return
        peer = self._peers.get(address)
        if header.lane is not lane:
            return
        if peer and peer.link and peer.link.seals.session == header.session:
            peer.link.received(header, message)
        elif peer and (waiting := peer.waiting.get(header.session)):
            waiting.received(header, message)
        elif lane is Lane.MAIL and self._notices.take(address):
            self._answer(address, unknown(self._party, header.session))

    def _gone(self, address: str) -> None:
        if peer := self._peers.get(address):
            self._end(peer, link_down(address, "The carrier reports that it left."))

    # sessions

    def _opening(self, address: str, message: bytes) -> None:
        """Answer an Opening: agree on a session, or say why not. Anybody may have written it."""
        opening = read_opening(message)
        if opening is None or not self._openings.take(address):
            return
        peer = self._peers.get(address)
        if peer and (known := peer.answers.get(opening.session)):
            if opening.session in peer.waiting:
                self._answer(address, known[0])  # the answer was lost, or the Opening came twice
            return
        try:
            answer, link = self._agree(address, opening)
        except UserError as fault:
            _log.warning("refused a session of %r: %s", address[:64], fault)
            self._answer(address, refuse(self._party.signing, opening, fault))
            return
        peer = self._peers[address]
        now = time.monotonic()
        peer.answers = {session: entry for session, entry in peer.answers.items() if entry[1] > now}
        peer.answers[opening.session] = (answer, now + 2 * CLOCK_S)
        peer.waiting[opening.session] = link
        for session in list(peer.waiting)[:-WAITING]:
            peer.waiting.pop(session).discard()
        self._answer(address, answer)

    def _agree(self, address: str, opening: Opening) -> tuple[bytes, MessageLink]:
        fault = None
        if opening.protocol != self._hello.protocol:
            fault = protocol_differs(opening.protocol, self._hello.protocol, "silo")
        answer, seals = accept(self._party, opening, address=address, protocol_fault=fault, unsealed=not self._sealed)
        peer = self._peers.setdefault(address, _Peer(Shown(self._owner, address)))

        def first() -> None:
            self._use(peer, link)

        link = MessageLink(
            self._owner,
            address,
            seals,
            send=lambda lane, message: self.wire.send(address, lane, message),
            message_bytes=self.wire.message_bytes,
            shown=peer.shown,
            blob_way=self._blob_way,
            threads=self._threads,
            locks=self._locks,
            heartbeat_s=self._heartbeat_s,
            silence_s=self._silence_s,
            first=first,
        )
        return answer, link

    def _use(self, peer: _Peer, link: MessageLink) -> None:
        """The silo has used this session's keys: it is the session from now on."""
        name = peer.shown.state.peer
        if peer.link:
            peer.link.end(replaced(name))
        del peer.waiting[link.seals.session]
        for other in peer.waiting.values():
            other.discard()
        peer.waiting.clear()
        peer.link = link
        task = asyncio.get_running_loop().create_task(self._carry(peer, link))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _carry(self, peer: _Peer, link: MessageLink) -> None:
        fault: UserError | None = None

        def up(hello: Hello) -> None:
            if hello.protocol != self._hello.protocol:
                raise protocol_differs(hello.protocol, self._hello.protocol, "silo")
            peer.shown.show(phase=LinkPhase.UP)
            self._owner.peer_greeted(link.peer, list(hello.runs))

        try:
            await link.run(self._greet, up, dials=False)
        except LinkEnded as ended:
            fault = ended.fault
        except UserError as error:
            fault = error
        except TimeoutError:
            fault = link_down(link.peer, "It agreed on a session and did not greet.")
        except Exception as error:  # a bug, told in the log; the other links must outlive it
            _log.exception("the link to %s broke", link.peer)
            fault = link_down("The server", f"An internal error ended the link: {error!r}")
        finally:
            if peer.link is link:
                peer.link = None
                if peer.shown.state.phase is not LinkPhase.REVOKED:
                    peer.shown.show(phase=LinkPhase.DOWN, fault=fault)

    def _end(self, peer: _Peer, fault: UserError | None) -> None:
        for waiting in peer.waiting.values():
            waiting.discard()
        peer.waiting.clear()
        if peer.link:
            peer.link.end(fault)

    def _greet(self) -> Hello:
        hello = Hello()
        hello.CopyFrom(self._hello)
        hello.runs.extend(self._owner.open_runs())
        hello.carriers.extend(self._carriers())
        return hello

    # how

    def _answer(self, address: str, message: bytes) -> None:
        if len(self._sends) >= SENDING:
            return
        task = asyncio.get_running_loop().create_task(self._send(address, message))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    async def _send(self, address: str, message: bytes) -> None:
        try:
            await self.wire.send(address, Lane.MAIL, message)
        except UserError:
            pass  # the wire broke: the silo asks again


class _Budget:
    """What senders of one kind of message may cost. Members have a bucket each; all strangers share one, so that
    invented names take no memory."""

    def __init__(self, party: ServerParty) -> None:
        self._party = party
        self._members: dict[str, _Bucket] = {}
        self._strangers = _Bucket()

    def take(self, address: str) -> bool:
        """Whether this one message may be looked at."""
        bucket = self._members.get(address)
        if bucket is None:
            try:
                self._party.member_key(address)
            except UserError:
                return self._strangers.take()
            bucket = self._members[address] = _Bucket()
        return bucket.take()


class _Bucket:
    """A burst, and a rate after it."""

    def __init__(self) -> None:
        self._left, self._at = float(OPENINGS), time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(OPENINGS, self._left + (now - self._at) * OPENINGS_A_S)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
