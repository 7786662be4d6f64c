"""The silo's end of every message carrier: opens the wire, agrees on a session, keeps it, and makes it anew.

Knows no particular wire, and nothing of what the mail means.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from octopus_desktop.communication.chunk_way import ChunkWay
from octopus_desktop.communication.contract import (
    HEARTBEAT_S,
    PROTOCOL,
    SERVER,
    SILENCE_S,
    LinkPhase,
    LinkState,
    MailOwner,
)
from octopus_desktop.communication.links import LinkEnded, link_down, protocol_differs
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.message_link import DIAL_S, MessageLink
from octopus_desktop.communication.parties import BlobWay, Session, SiloParty
from octopus_desktop.communication.redial import Shown, keep_dialling
from octopus_desktop.communication.sealing import Dialling, Header, SealError, Seals, told_unknown
from octopus_desktop.communication.transfer import TRANSFERS, BlobLocks
from octopus_desktop.communication.wires import Lane, Wire
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer, Hello

AGAIN_S = 0.3  # an Opening without an answer is sent again after this, then after twice as long, and so on
WHERE = "The federation server"

_log = logging.getLogger(__name__)


class MessageSiloEnd:
    """Implements ``SiloEnd`` over a ``Wire``.

    Arguments:
        wire: the silo's connection; its only peer is "server".
        party: this silo and the server's key, from enrolment.
        owner: the silo's mail and blobs.
        version, boot_id: this program's version, and what is new with each start of this process.
        blob_way: makes what moves blobs over one session.
        accept_unsealed: this silo's consent that blob bytes pass in the clear.
        on_carriers: told at each greeting of the carriers that the server offers.
        heartbeat_s, silence_s: see ``contract``.
        protocol: what this side speaks.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        party: SiloParty,
        owner: MailOwner,
        version: str,
        boot_id: str,
        blob_way: Callable[[Session], BlobWay] = ChunkWay,
        accept_unsealed: bool = False,
        on_carriers: Callable[[Sequence[CarrierOffer]], None] = lambda offers: None,
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = SILENCE_S,
        protocol: int = PROTOCOL,
    ) -> None:
        self.wire, self._party, self._owner = wire, party, owner
        self._hello = Hello(protocol=protocol, name=owner.name, boot_id=boot_id, version=version)
        self._blob_way, self._accept_unsealed, self._on_carriers = blob_way, accept_unsealed, on_carriers
        self._heartbeat_s, self._silence_s = heartbeat_s, silence_s
        self._shown = Shown(owner, SERVER)
        self._link: MessageLink | None = None
        self._dialling: Dialling | None = None
        self._agreed: asyncio.Future[Seals] | None = None
        self._foreign = 0  # answers to the current Opening that the server's key did not sign
        self._broken: asyncio.Task[Exception] | None = None  # while the wire is open
        self._threads: ThreadPoolExecutor | None = None
        self._locks = BlobLocks()

    @property
    def state(self) -> LinkState:
        return self._shown.state

    def outbox_changed(self) -> None:
        if self._link:
            self._link.changed()

    def send_live(self, envelope: Envelope) -> None:
        if self._link:
            self._link.send_live(envelope)

    async def run(self) -> None:
        """See ``SiloEnd``. After it returned, ``state`` is revoked and says why."""
        self._threads = blob_threads(2 * TRANSFERS)
        try:
            await keep_dialling(self._connection, self._shown)
        finally:
            await self._close()
            self._threads.shutdown(wait=False)

    async def _connection(self) -> UserError:
        """One session, from dialling to its end; returns why it ended."""
        try:
            if self._broken is None:
                await self.wire.open(self._received, self._gone)
                self._broken = asyncio.create_task(self.wire.broken())
                self._broken.add_done_callback(self._wire_broke)
            await self._carry()
            raise AssertionError("a session ends by an exception")
        except LinkEnded as ended:
            return ended.fault or link_down(WHERE, "The server closed the link.")
        except UserError as error:
            return error
        except TimeoutError:
            return link_down(WHERE, f"The server did not answer within {DIAL_S:.0f} s.{self._foreign_words()}")
        except Exception as error:  # a bug, told in the log; the link must outlive it
            _log.exception("the link to the server broke")
            return link_down(WHERE, f"An internal error ended the link: {error!r}")
        finally:
            self._link = self._dialling = self._agreed = None
            if self._broken is not None and self._broken.done():
                await self._close()

    async def _carry(self) -> None:
        seals = await self._agree()
        assert self._threads is not None
        self._link = link = MessageLink(
            self._owner,
            SERVER,
            seals,
            send=lambda lane, message: self.wire.send(SERVER, lane, message),
            message_bytes=self.wire.message_bytes,
            shown=self._shown,
            blob_way=self._blob_way,
            threads=self._threads,
            locks=self._locks,
            heartbeat_s=self._heartbeat_s,
            silence_s=self._silence_s,
            greeted=lambda hello: self._on_carriers(list(hello.carriers)),
        )
        await link.run(self._greet, self._up, dials=True)

    async def _agree(self) -> Seals:
        """Send the Opening until it is answered. Raises the server's refusal, or TimeoutError."""
        self._foreign = 0
        self._agreed = asyncio.get_running_loop().create_future()
        self._dialling = Dialling(self._party, self._hello.protocol, unsealed=self._accept_unsealed)
        pause = AGAIN_S
        async with asyncio.timeout(DIAL_S):
            while True:
                await self.wire.send(SERVER, Lane.MAIL, self._dialling.message)
                done, _ = await asyncio.wait((self._agreed,), timeout=pause)
                if done:
                    return self._agreed.result()
                pause *= 2

    def _greet(self) -> Hello:
        hello = Hello()
        hello.CopyFrom(self._hello)
        hello.runs.extend(self._owner.open_runs())
        return hello

    def _up(self, hello: Hello) -> None:
        if hello.protocol != self._hello.protocol:
            raise protocol_differs(hello.protocol, self._hello.protocol, "server")
        self._shown.show(phase=LinkPhase.UP)
        self._owner.peer_greeted(SERVER, list(hello.runs))
        self._on_carriers(list(hello.carriers))

    # from the wire

    def _received(self, peer: str, lane: Lane, message: bytes) -> None:
        if peer != SERVER:
            return
        try:
            header = Header.read(message)
        except SealError:
            self._greeting(message)
            return
        if self._link and header.session == self._link.seals.session and header.lane is lane:
            self._link.received(header, message)

    def _greeting(self, message: bytes) -> None:
        if self._link:
            if fault := told_unknown(message, self._link.seals, self._party):
                self._link.told(fault)
        elif self._dialling and self._agreed and not self._agreed.done():
            try:
                seals = self._dialling.accepted(message)
            except UserError as error:
                self._agreed.set_exception(error)
                return
            if seals is None:
                self._foreign += 1
            else:
                self._agreed.set_result(seals)

    def _foreign_words(self) -> str:
        if not self._foreign:
            return ""
        return (
            f" {self._foreign} answers were not signed by the key that this silo got at its enrolment, and were "
            "ignored: either somebody else writes in the server's name, or the server was set up anew."
        )

    def _gone(self, peer: str) -> None:
        if peer == SERVER:
            self._stop(link_down(WHERE, "The carrier reports that the server left."))

    def _wire_broke(self, broken: asyncio.Task[Exception]) -> None:
        if not broken.cancelled():
            self._stop(wire_fault(broken))

    def _stop(self, fault: UserError) -> None:
        if self._link:
            self._link.end(fault)
        elif self._agreed and not self._agreed.done():
            self._agreed.set_exception(fault)

    async def _close(self) -> None:
        if self._broken is not None:
            broken, self._broken = self._broken, None
            broken.cancel()
            await asyncio.wait((broken,))
        await self.wire.close()


def wire_fault(broken: asyncio.Task[Exception]) -> UserError:
    """What broke a wire, as something a person can act on."""
    error = broken.exception() or broken.result()
    return error if isinstance(error, UserError) else link_down(WHERE, f"The carrier's connection broke: {error}")
