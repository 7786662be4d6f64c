"""One session of a message carrier, as either end sees it: from its keys to its end. Knows no wire and no party.

It drives an unchanged ``links.Link`` with the frames inside ``Inner``, hands everything else to the session's
``BlobWay``, and ends by an exception, as a ``Link`` does. Connecting, identity and what follows are the ends' own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor

from google.protobuf.message import DecodeError

from octopus_desktop.communication.contract import MailOwner
from octopus_desktop.communication.links import Link, LinkEnded, fault_frame
from octopus_desktop.communication.message_lanes import LaneIn, LaneOut
from octopus_desktop.communication.parties import BlobWay, Session
from octopus_desktop.communication.redial import Shown
from octopus_desktop.communication.sealing import OVERHEAD_BYTES, Header, Seals
from octopus_desktop.communication.transfer import BlobLocks
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.federation_pb2 import Frame, Hello
from octopus_desktop.wire.pb.sealed_pb2 import Inner

DIAL_S = 20.0  # a peer that does not greet within this time counts as away
INBOX = 4096  # frames that came and were not looked at; each is quick
GOODBYE_S = 2.0  # what a full wire may keep a dead session waiting

_log = logging.getLogger(__name__)


class MessageLink:
    """Mail and blobs of one session.

    Arguments:
        seals: the session's keys.
        send: hands one message of a lane to the wire.
        message_bytes: the largest that ``send`` takes.
        shown: where bytes, latency and faults go.
        blob_way: makes what moves the blobs.
        threads, locks: the end's, see ``parties.Session``.
        first: told once, when the first sealed message opened: the peer has the keys.
        greeted: told of a further Hello.
    """

    def __init__(
        self,
        owner: MailOwner,
        peer: str,
        seals: Seals,
        *,
        send: Callable[[Lane, bytes], Awaitable[None]],
        message_bytes: int,
        shown: Shown,
        blob_way: Callable[[Session], BlobWay],
        threads: Executor,
        locks: BlobLocks,
        heartbeat_s: float,
        silence_s: float,
        first: Callable[[], None] = lambda: None,
        greeted: Callable[[Hello], None] = lambda hello: None,
    ) -> None:
        self.peer, self.seals = peer, seals
        self._owner, self._shown, self._first = owner, shown, first
        self._inbox: asyncio.Queue[Frame] = asyncio.Queue()
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        self._greeted = False

        def lane_out(lane: Lane) -> LaneOut:
            async def send_one(message: bytes) -> None:
                await send(lane, message)

            return LaneOut(
                lane,
                seals.mine[lane],
                part_bytes=message_bytes - OVERHEAD_BYTES,
                send=send_one,
                moved=lambda size: shown.moved(0, size),
                threads=threads,
            )

        def lane_in(lane: Lane, deliver: Callable[[bytes | memoryview], None]) -> LaneIn:
            return LaneIn(lane, seals.theirs[lane], deliver=deliver, alive=self._alive, lost=self.end, threads=threads)

        self._out = {lane: lane_out(lane) for lane in Lane}
        self._in = {Lane.MAIL: lane_in(Lane.MAIL, self._mail), Lane.BULK: lane_in(Lane.BULK, self._bulk)}
        self._way = blob_way(
            Session(
                owner=owner,
                peer=peer,
                say=self._say,
                bulk=self._out[Lane.BULK].put,
                bulk_bytes=message_bytes - OVERHEAD_BYTES,
                moved=shown.moved,
                alive=self._alive,
                unsealed=seals.unsealed,
                faulty=lambda fault: shown.show(fault=fault),
                threads=threads,
                locks=locks,
            )
        )
        self._link = Link(
            owner,
            peer,
            write=self._write,
            bring=self._way.bring,
            fetch=_cannot_fetch,
            latency=lambda ms: shown.show(latency_ms=ms),
            clock=shown.clock,
            moved=lambda incoming, outgoing: None,  # the lanes count what passes, sealed
            faulty=lambda _, fault: shown.show(fault=fault),
            heartbeat_s=heartbeat_s,
            silence_s=silence_s,
            greeted=greeted,
        )

    # from outside

    def received(self, header: Header, message: bytes) -> None:
        """A message of this session came from the wire."""
        self._shown.moved(len(message), 0)
        self._in[header.lane].arrived(header.counter, message)

    def end(self, fault: UserError | None) -> None:
        """End the session now, for this reason."""
        if not self._ended.done():
            self._ended.set_exception(LinkEnded(fault))

    def told(self, fault: UserError) -> None:
        """The other side says outside of the session why it is over; a reason that it gave within came first."""
        self._inbox.put_nowait(fault_frame(fault))

    def changed(self) -> None:
        """The owner has new rows for the peer."""
        self._link.outlet.changed()

    def greet(self, hello: Hello) -> None:
        """Say a Hello anew."""
        self._link.greet(hello)

    def send_live(self, envelope: Envelope) -> None:
        self._link.send_live(envelope)

    def discard(self) -> None:
        """Forget a session that never ran."""
        for lane in self._in.values():
            lane.close()
        self._ended.cancel()

    async def run(self, greet: Callable[[], Hello], up: Callable[[Hello], None], *, dials: bool) -> None:
        """Greet, carry, and say goodbye. Always raises: LinkEnded, or what broke the session.

        Args:
            greet: this side's Hello, as it is now.
            up: told of the other side's; raises UserError for one that is refused.
            dials: whether this side greets first.
        """
        pumps = [asyncio.create_task(lane.run()) for lane in self._out.values()]
        work = [*pumps, asyncio.create_task(self._way.run()), asyncio.create_task(self._carry(greet, up, dials))]
        last: BaseException | None = None
        try:
            done, _ = await asyncio.wait((*work, self._ended), return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
            raise AssertionError("a session ends by an exception")
        except BaseException as error:
            last = error
            raise
        finally:
            for lane in self._in.values():
                lane.close()
            for task in work[len(pumps) :]:
                task.cancel()
            await asyncio.wait(work[len(pumps) :])
            if not any(pump.done() for pump in pumps):
                goodbye = asyncio.create_task(self._goodbye(last))
                await asyncio.wait((goodbye, *pumps), timeout=GOODBYE_S, return_when=asyncio.FIRST_COMPLETED)
                pumps.append(goodbye)
            for task in pumps:
                task.cancel()
            await asyncio.wait(pumps)
            for over in (*work, *pumps, self._ended):
                if over.done() and not over.cancelled():
                    over.exception()  # seen; the first of them was raised
            self._ended.cancel()

    # how

    async def _carry(self, greet: Callable[[], Hello], up: Callable[[Hello], None], dials: bool) -> None:
        if dials:
            await self._write(Frame(hello=greet()))
        async with asyncio.timeout(DIAL_S):
            first = await self._inbox.get()
        if first.WhichOneof("frame") == "fault":
            raise LinkEnded(UserError.from_fault(first.fault))
        if first.WhichOneof("frame") != "hello" or first.hello.name != self.peer:
            raise _no_greeting(self.peer)
        if not dials:
            await self._write(Frame(hello=greet()))
        up(first.hello)
        await self._link.run(self._frames())

    async def _frames(self) -> AsyncIterator[Frame]:
        while True:
            yield await self._inbox.get()

    async def _write(self, frame: Frame) -> None:
        trailed = frame.WhichOneof("frame") != "heartbeat"
        await self._out[Lane.MAIL].put(Inner(frame=frame).SerializeToString(), trailed=trailed)

    async def _say(self, inner: Inner) -> None:
        await self._out[Lane.MAIL].put(inner.SerializeToString())

    def _mail(self, data: bytes | memoryview) -> None:
        try:
            inner = Inner.FromString(bytes(data))
        except DecodeError:
            self.end(_malformed(self.peer))
            return
        if inner.WhichOneof("inner") == "frame":
            self._inbox.put_nowait(inner.frame)
            if self._inbox.qsize() > INBOX:
                self.end(_flooded(self.peer))
        else:
            self._way.heard(inner)

    def _bulk(self, data: bytes | memoryview) -> None:
        self._way.heard_bulk(data)

    def _alive(self) -> None:
        self._link.heard()
        if not self._greeted:
            self._greeted = True
            self._first()

    async def _goodbye(self, last: BaseException | None) -> None:
        """Tell the other side why this session ends, so that it need not wait for silence."""
        fault = last if isinstance(last, UserError) else last.fault if isinstance(last, LinkEnded) else None
        mail = self._out[Lane.MAIL]
        await mail.put(Inner(frame=fault_frame(fault or _left())).SerializeToString(), trailed=False)
        await mail.drained()


async def _cannot_fetch(envelope: Envelope, missing: Sequence[BlobRef]) -> None:
    raise UserError(
        "OCT-BLOB-MISSING",
        f"Blob {missing[0].digest[:12]} of a message is not here.",
        "Blobs are sent before the message that names them, and this one is not whole.",
        "It is sent again by itself.",
    )


def _left() -> UserError:
    return UserError(
        "OCT-LINK-DOWN",
        "The other side ended the link.",
        "It stops, or makes the connection anew.",
        "Nothing is lost; the link comes back with the other side.",
    )


def _no_greeting(peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        "A session did not begin with its greeting.",
        f"{peer!r} sent another message first, or greeted under another name.",
        "Update Octopus Desktop on both sides to versions that fit.",
    )


def _flooded(peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        f"{peer} sends more messages than can be looked at.",
        f"More than {INBOX} wait.",
        "The connection is made anew; if it repeats, the other side's version is faulty.",
    )


def _malformed(peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        "A sealed message cannot be read.",
        f"What {peer!r} sealed is no message of this version.",
        "Update Octopus Desktop on both sides to versions that fit.",
    )
