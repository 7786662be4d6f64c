"""One link as either end sees it: a single writer of frames, heartbeats, receipts, and the lanes behind them.

The end that owns it supplies ``write`` and the frames that come; connecting, identity and blobs are the ends' own.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from octopus_desktop.communication.contract import MailOwner
from octopus_desktop.communication.lanes import Inlet, Outlet
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.federation_pb2 import Fault, Frame, Heartbeat, Hello, Receipt


class LinkEnded(Exception):
    """The stream is over; ``fault`` is what the peer gave as its reason, if it gave one."""

    def __init__(self, fault: UserError | None = None) -> None:
        super().__init__(fault.what if fault else "the other side closed the link")
        self.fault = fault


class Link:
    """Mail over one stream, until the stream ends.

    Arguments:
        write: sends one frame; awaits the stream's own flow control. Called by one task only.
        bring, fetch: see ``lanes``.
        latency: told of each measured round trip in milliseconds.
        moved: told of bytes that came in and went out (``moved(incoming, outgoing)``).
        faulty: told of errors that concern one envelope.
        greeted: told of a further Hello of the peer, which says anew what it offers.
        clock: told by how many seconds the peer's clock is ahead of this one's, before each ``latency``.
    """

    def __init__(
        self,
        owner: MailOwner,
        peer: str,
        *,
        write: Callable[[Frame], Awaitable[None]],
        bring: Callable[[Envelope], Awaitable[None]],
        fetch: Callable[[Envelope, Sequence[BlobRef]], Awaitable[None]],
        latency: Callable[[float], None],
        moved: Callable[[int, int], None],
        faulty: Callable[[Envelope, UserError], None],
        heartbeat_s: float,
        silence_s: float,
        greeted: Callable[[Hello], None] = lambda hello: None,
        clock: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._write, self._latency, self._moved, self._greeted = write, latency, moved, greeted
        self._clock = clock
        self._heartbeat_s, self._silence_s = heartbeat_s, silence_s
        self.outlet = Outlet(owner, peer, send=self._send, bring=bring, faulty=faulty)
        self._inlet = Inlet(owner, peer, fetch=fetch, reply=self._reply, faulty=faulty)
        self._urgent: deque[Frame] = deque()  # receipts and heartbeats: as many as the peer's own window lets arise
        self._live: dict[str, Envelope] = {}
        self._turn: deque[tuple[Envelope, asyncio.Future[None]]] = deque()
        self._work = asyncio.Event()
        self._heard = time.monotonic()

    def heard(self) -> None:
        """Something came from the peer, here or on a transfer beside the link."""
        self._heard = time.monotonic()

    def send_live(self, envelope: Envelope) -> None:
        self._live[envelope.run_id] = envelope
        self._work.set()

    def greet(self, hello: Hello) -> None:
        """Say a Hello anew, before everything that waits."""
        self._put_urgent(Frame(hello=hello))

    async def run(self, frames: AsyncIterator[Frame]) -> None:
        """Carry mail. Raises LinkEnded when the stream is over, or what broke it."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._writer(), self._watch(), self.outlet.run()):
                    group.create_task(work)
                await self._read(group, frames)
        except* Exception as broken:
            raise _first(broken) from None

    async def _read(self, group: asyncio.TaskGroup, frames: AsyncIterator[Frame]) -> None:
        async for frame in frames:
            self.heard()
            what = frame.WhichOneof("frame")
            if what == "envelope":
                self._moved(frame.ByteSize(), 0)
                self._inlet.arrived(group, frame.envelope)
            elif what == "receipt":
                self.outlet.receipt(frame.receipt)
            elif what == "heartbeat":
                self._beat(frame.heartbeat)
            elif what == "hello":
                self._greeted(frame.hello)
            elif what == "fault":
                raise LinkEnded(UserError.from_fault(frame.fault))
        raise LinkEnded

    def _beat(self, beat: Heartbeat) -> None:
        if beat.echo:
            trip = time.monotonic() - beat.echo
            if beat.clock:
                self._clock(beat.clock - (time.time() - trip / 2))
            self._latency(trip * 1000)
        if beat.at:
            self._put_urgent(Frame(heartbeat=Heartbeat(echo=beat.at, clock=time.time())))

    async def _writer(self) -> None:
        while True:
            if self._urgent:
                await self._write(self._urgent.popleft())
            elif self._live:
                envelope = self._live.pop(next(iter(self._live)))
                frame = Frame(envelope=envelope)
                self._moved(0, frame.ByteSize())
                await self._write(frame)
            elif self._turn:
                envelope, gone = self._turn.popleft()
                frame = Frame(envelope=envelope)
                self._moved(0, frame.ByteSize())
                await self._write(frame)
                if not gone.done():
                    gone.set_result(None)
            else:
                self._work.clear()
                await self._work.wait()

    async def _watch(self) -> None:
        while True:
            self._put_urgent(Frame(heartbeat=Heartbeat(at=time.monotonic())))
            await asyncio.sleep(self._heartbeat_s)
            silent = time.monotonic() - self._heard
            if silent > self._silence_s:
                raise LinkEnded(
                    UserError(
                        "OCT-LINK-DOWN",
                        "The other side has fallen silent.",
                        f"Nothing came for {silent:.0f} s, not even a heartbeat.",
                        "The connection is made anew by itself.",
                    )
                )

    async def _send(self, envelope: Envelope) -> None:
        gone = asyncio.get_running_loop().create_future()
        self._turn.append((envelope, gone))
        self._work.set()
        await gone

    def _reply(self, receipt: Receipt) -> None:
        self._put_urgent(Frame(receipt=receipt))

    def _put_urgent(self, frame: Frame) -> None:
        self._urgent.append(frame)
        self._work.set()


def fault_frame(error: UserError) -> Frame:
    return Frame(fault=Fault(code=error.code, what=error.what, why=error.why, next_step=error.next_step))


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# faults that several ends give


def link_down(address: str, why: str) -> UserError:
    return UserError(
        "OCT-LINK-DOWN",
        f"{address} cannot be reached.",
        why[:300],
        "Nothing is lost, it is tried again by itself. If it lasts, check network and firewall (outgoing).",
    )


def protocol_differs(theirs: int, ours: int, who: str) -> UserError:
    older = "the other side" if theirs < ours else "this side"
    return UserError(
        "OCT-LINK-PROTOCOL",
        f"The {who} speaks another version of the protocol.",
        f"It speaks {theirs}, this side speaks {ours}.",
        f"Update Octopus Desktop on {older}.",
    )


def blob_forbidden(ref: BlobRef) -> UserError:
    return UserError(
        "OCT-BLOB-FORBIDDEN",
        f"Blob {ref.digest[:12]} may not pass.",
        "It does not belong to a run in which this silo takes part now.",
        "Nothing is to be done if the run has ended; else ask the federation's coordinator.",
    )


def replaced(silo: str) -> UserError:
    return UserError(
        "OCT-LINK-REPLACED",
        "Another connection took this link's place.",
        f"A second process connected with the certificate of {silo!r}.",
        "Run only one daemon for this silo; if you did not start another, ask the coordinator for a revocation.",
    )
