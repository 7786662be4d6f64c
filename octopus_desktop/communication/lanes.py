"""Order, windows and receipts, apart from any one carrier: what is sent next, and what is done with what arrives.

Envelopes of one run keep their order; runs do not wait for each other. Rows in the owner's mailbox are the truth: these
objects live as long as one connection and hold nothing that may not be lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

from octopus_desktop.communication.contract import BACKOFF_FIRST_S, BACKOFF_MOST_S, MailOwner
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import PROGRESS, BlobRef, Envelope
from octopus_desktop.wire.pb.federation_pb2 import Receipt

WINDOW = 64  # envelopes of one run that may be on the way without a receipt
RESENDS = 3  # times that one connection sends an envelope whose blobs the peer misses or finds corrupt
BLOB_FAULTS = ("OCT-BLOB-MISSING", "OCT-BLOB-CORRUPT", "OCT-BLOB-OFFSET")
# the envelope stays; its turn comes again by itself
RETRY = (
    "OCT-DISK-FULL",
    "OCT-STORE-DOWN",
    "OCT-STORE-DENIED",
    "OCT-STORE-BUCKET",
    "OCT-STORE-FULL",
    "OCT-STORE-EXPIRED",
    "OCT-STORE-OBJECT",
    "OCT-CLOCK-OFF",
)

_log = logging.getLogger(__name__)


class _OutLane:
    __slots__ = ("queue", "resends", "running", "window")

    def __init__(self) -> None:
        self.queue: deque[Envelope] = deque()
        self.window = asyncio.Semaphore(WINDOW)
        self.resends: dict[str, int] = {}
        self.running = False


class Outlet:
    """Sends what the owner holds for one peer, over one connection.

    Arguments:
        send: puts one envelope on the wire; returns when there is room for the next (back-pressure).
        bring: makes the envelope's blobs whole at the peer, where that is this side's task; raises UserError.
        faulty: told of an envelope that the peer refused or that waits for better times.
    """

    def __init__(
        self,
        owner: MailOwner,
        peer: str,
        *,
        send: Callable[[Envelope], Awaitable[None]],
        bring: Callable[[Envelope], Awaitable[None]],
        faulty: Callable[[Envelope, UserError], None],
    ) -> None:
        self._owner, self._peer = owner, peer
        self._send, self._bring, self._faulty = send, bring, faulty
        self._wake = asyncio.Event()
        self._lanes: dict[str, _OutLane] = {}
        self._taken: set[str] = set()  # ids that are queued, on the way, or parked until the next connection
        self._on_the_way: dict[str, tuple[Envelope, _OutLane]] = {}

    def changed(self) -> None:
        """The owner has new rows."""
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled; an error of ``send`` ends it."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._wake.clear()
                began = time.thread_time()  # of this thread alone: a busy machine makes no backlog longer
                for envelope in self._owner.pending(self._peer):
                    if envelope.id not in self._taken:
                        self._taken.add(envelope.id)
                        lane = self._lanes.setdefault(envelope.run_id, _OutLane())
                        lane.queue.append(envelope)
                        self._start(group, lane)
                took = time.thread_time() - began
                await self._wake.wait()
                if took > 0.01:
                    await asyncio.sleep(5 * took)  # a long backlog is not read anew for each single row

    def receipt(self, receipt: Receipt) -> None:
        """The peer has dealt with an envelope."""
        entry = self._on_the_way.pop(receipt.id, None)
        if entry is None:
            return
        envelope, lane = entry
        lane.window.release()
        if receipt.error_code in BLOB_FAULTS:
            fault = UserError(receipt.error_code, "The other side lacks a blob of a message.", receipt.error, "")
            self._again(envelope, lane, fault)
            return
        lane.resends.pop(envelope.id, None)
        self._owner.delivered(envelope)
        self._taken.discard(envelope.id)
        if receipt.error_code:
            self._faulty(
                envelope, UserError(receipt.error_code, "The other side refused a message.", receipt.error, "")
            )

    def _again(self, envelope: Envelope, lane: _OutLane, fault: UserError) -> None:
        lane.resends[envelope.id] = lane.resends.get(envelope.id, 0) + 1
        self._faulty(envelope, fault)
        if lane.resends[envelope.id] <= RESENDS:
            self._taken.discard(envelope.id)  # the row is still pending: the next look finds it
            self._wake.set()

    def _start(self, group: asyncio.TaskGroup, lane: _OutLane) -> None:
        if not lane.running:
            lane.running = True
            group.create_task(self._drain(lane))

    async def _drain(self, lane: _OutLane) -> None:
        try:
            while lane.queue:
                await lane.window.acquire()
                envelope = lane.queue.popleft()
                if await self._brought(envelope, lane):
                    self._on_the_way[envelope.id] = (envelope, lane)
                    await self._send(envelope)
                else:
                    lane.window.release()
        finally:
            lane.running = False

    async def _brought(self, envelope: Envelope, lane: _OutLane) -> bool:
        """True when the envelope may be sent now; False when it was refused or parked."""
        pause = BACKOFF_FIRST_S
        while envelope.blobs:
            try:
                await self._bring(envelope)
                return True
            except UserError as error:
                if error.code in RETRY:
                    self._faulty(envelope, error)
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, BACKOFF_MOST_S)
                elif error.code in BLOB_FAULTS:
                    lane.resends[envelope.id] = lane.resends.get(envelope.id, 0) + 1
                    if lane.resends[envelope.id] > RESENDS:
                        self._faulty(envelope, error)
                        return False  # it stays pending and gets a new chance with the next connection
                elif error.code in ("OCT-BLOB-FORBIDDEN", "OCT-LINK-ENVELOPE"):
                    self._faulty(envelope, error)
                    self._owner.delivered(envelope)
                    return False
                else:
                    raise
        return True


class _InLane:
    __slots__ = ("queue", "running")

    def __init__(self) -> None:
        self.queue: deque[Envelope] = deque()
        self.running = False


class Inlet:
    """Hands what arrives over one connection to the owner, each envelope once its blobs are whole here.

    Arguments:
        fetch: gets the missing blobs, where that is this side's task; else raises OCT-BLOB-MISSING.
        reply: puts a receipt on its way; never blocks.
        faulty: told of an error that keeps an envelope from being taken for now.
    """

    def __init__(
        self,
        owner: MailOwner,
        peer: str,
        *,
        fetch: Callable[[Envelope, Sequence[BlobRef]], Awaitable[None]],
        reply: Callable[[Receipt], None],
        faulty: Callable[[Envelope, UserError], None],
    ) -> None:
        self._owner, self._peer = owner, peer
        self._fetch, self._reply, self._faulty = fetch, reply, faulty
        self._lanes: dict[str, _InLane] = {}

    def arrived(self, group: asyncio.TaskGroup, envelope: Envelope) -> None:
        """Take one envelope, at once where nothing is missing.

        Raises:
            UserError: OCT-LINK-ENVELOPE when the peer sends more than it may before receipts.
        """
        if envelope.sender != self._peer or envelope.recipient != self._owner.name:
            self._refuse(envelope, _not_yours(envelope, self._peer))
            return
        if envelope.kind == PROGRESS:
            self._owner.live(envelope)
            return
        lane = self._lanes.get(envelope.run_id)
        if lane is None and not self._missing(envelope) and self._took(envelope):
            return
        if lane is None:
            lane = self._lanes[envelope.run_id] = _InLane()
        if len(lane.queue) > 2 * WINDOW or len(self._lanes) > 4096:
            raise UserError(
                "OCT-LINK-ENVELOPE",
                f"{self._peer} sends more messages than it may before they are acknowledged.",
                f"{len(lane.queue)} wait for their blobs in one run.",
                "The connection is made anew; if it repeats, the other side's version is faulty.",
            )
        lane.queue.append(envelope)
        if not lane.running:
            lane.running = True
            group.create_task(self._drain(envelope.run_id, lane))

    def _missing(self, envelope: Envelope) -> list[BlobRef]:
        blobs = self._owner.blobs()
        return [ref for ref in envelope.blobs if not blobs.has(ref.digest)]

    def _took(self, envelope: Envelope) -> bool:
        """Hand over and acknowledge; False when it has to wait (disk full)."""
        try:
            new = self._owner.accept(envelope)
        except UserError as error:
            if error.code in RETRY:
                self._faulty(envelope, error)
                return False
            self._refuse(envelope, error)
            return True
        self._reply(Receipt(id=envelope.id, duplicate=not new))
        return True

    def _refuse(self, envelope: Envelope, error: UserError) -> None:
        _log.warning("refused envelope %s from %s: %s", envelope.id[:40], self._peer, error)
        self._reply(Receipt(id=envelope.id, error_code=error.code, error=f"{error.what} {error.why}"))

    async def _drain(self, run_id: str, lane: _InLane) -> None:
        pause = BACKOFF_FIRST_S
        while lane.queue:
            envelope = lane.queue[0]
            try:
                missing = self._missing(envelope)
                if missing:
                    await self._fetch(envelope, missing)
                done = self._took(envelope)
            except UserError as error:
                done = error.code not in RETRY
                if error.code in BLOB_FAULTS or error.code == "OCT-BLOB-FORBIDDEN":
                    self._refuse(envelope, error)
                elif done:
                    raise  # the link itself
                else:
                    self._faulty(envelope, error)
            if done:
                lane.queue.popleft()
                pause = BACKOFF_FIRST_S
            else:
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACKOFF_MOST_S)
        del self._lanes[run_id]


def _not_yours(envelope: Envelope, peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        "A message claims another sender or recipient than its connection.",
        f"{peer!r} sent one from {envelope.sender[:64]!r} to {envelope.recipient[:64]!r}.",
        "Nothing was taken. If you did not expect this, tell the federation's coordinator.",
    )
