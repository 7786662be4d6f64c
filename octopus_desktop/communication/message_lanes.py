"""One lane of one session, in each direction: numbers and seals what goes, opens and orders what comes.

Large messages are sealed and opened in threads (AES-GCM works outside Python's lock), and keep their order. Knows
neither what a message means nor how the wire moves it.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor

from octopus_desktop.communication.sealing import LaneSeal, SealError, Type
from octopus_desktop.communication.wires import CREDIT_BYTES, Lane
from octopus_desktop.wire.errors import UserError

THREAD_BYTES = 128 << 10  # a hop to a thread costs about as much as sealing this
QUEUED = {Lane.MAIL: 64, Lane.BULK: 4}  # messages that wait for the wire; the rest waits where it comes from
AHEAD = 4096  # messages that may have come before one that was sent earlier
HELD_BYTES = 2 * CREDIT_BYTES  # and their bytes
GAP_S = 3.0  # a message that is overtaken for this long is lost
TRAILS_S = (0.5, 4.0, 16.0)  # after the last message, an empty one: so that the loss of the last shows as a gap

_log = logging.getLogger(__name__)


class LaneOut:
    """Sends in order, each message with the next number.

    Arguments:
        part_bytes: what one message of the wire has room for; longer ones go in parts.
        send: hands one message to the wire; waits while it is full.
        moved: told of each message's bytes as they go.
    """

    def __init__(
        self,
        lane: Lane,
        seal: LaneSeal,
        *,
        part_bytes: int,
        send: Callable[[bytes], Awaitable[None]],
        moved: Callable[[int], None],
        threads: Executor,
    ) -> None:
        self._seal, self._send, self._moved, self._threads = seal, send, moved, threads
        self._part_bytes = part_bytes
        self._turn = asyncio.Lock()
        self._room = asyncio.Semaphore(QUEUED[lane])
        self._queue: deque[bytes | asyncio.Future[bytes]] = deque()
        self._work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._counter = 0
        self._trails = 0  # of TRAILS_S that were sent since the last message

    async def put(self, data: bytes, *, trailed: bool = True) -> None:
        """Send one message; returns once it is queued, waits while the queue is full.

        Args:
            trailed: whether its loss has to show soon; else the next message shows it.

        Raises:
            UserError: OCT-LINK-DOWN, when the keys are worn out.
        """
        async with self._turn:
            view = memoryview(data)
            while len(view) > self._part_bytes:
                await self._put(view[: self._part_bytes], part=True)
                view = view[self._part_bytes :]
            await self._put(view, part=False)
            if trailed:
                self._trails = 0

    async def _put(self, data: memoryview, *, part: bool) -> None:
        await self._room.acquire()
        seal = functools.partial(self._seal.seal, self._counter, data, part=part)
        if len(data) >= THREAD_BYTES:
            self._queue.append(asyncio.get_running_loop().run_in_executor(self._threads, seal))
        else:
            self._queue.append(seal())
        self._counter += 1
        self._idle.clear()
        self._work.set()

    async def run(self) -> None:
        """Send until cancelled; an error of ``send`` ends it."""
        self._trails = len(TRAILS_S)
        while True:
            while self._queue:
                message = self._queue.popleft()
                if not isinstance(message, bytes):
                    message = await message
                await self._send(message)
                self._moved(len(message))
                self._room.release()
            self._idle.set()
            self._work.clear()
            try:
                async with asyncio.timeout(TRAILS_S[self._trails] if self._trails < len(TRAILS_S) else None):
                    await self._work.wait()
            except TimeoutError:
                if not self._work.is_set() and not self._turn.locked():  # else something comes anyhow
                    trails = self._trails + 1
                    await self.put(b"")
                    self._trails = trails

    async def drained(self) -> None:
        """Everything that was put is with the wire."""
        await self._idle.wait()


class LaneIn:
    """Opens what comes and delivers each message once, in the order in which it was sent.

    A message that does not open is dropped and counted: anybody at the wire can write one.

    Arguments:
        deliver: takes one opened message; empty ones are not delivered.
        alive: told of each message that opened.
        lost: told that a message did not come within ``GAP_S``.
    """

    def __init__(
        self,
        lane: Lane,
        seal: LaneSeal,
        *,
        deliver: Callable[[bytes | memoryview], None],
        alive: Callable[[], None],
        lost: Callable[[UserError], None],
        threads: Executor,
    ) -> None:
        self._lane, self._seal, self._threads = lane, seal, threads
        self._deliver, self._alive, self._lost = deliver, alive, lost
        self._next = 0
        self._early: dict[int, tuple[bytes | memoryview, bool]] = {}
        self._parts: list[bytes | memoryview] = []  # of a message that goes on
        self._held = 0  # bytes that are in threads or came early
        self._watch: asyncio.TimerHandle | None = None
        self._closed = False
        self.unopened = 0
        self.doubled = 0

    def arrived(self, counter: int, message: bytes) -> None:
        """Take one message of this session and lane, whose header was read."""
        if self._closed:
            return
        if counter < self._next or counter in self._early:
            self.doubled += 1
            return
        if counter >= self._next + AHEAD or self._held + len(message) > HELD_BYTES:
            self._drop("it is too far ahead")
            return
        if len(message) < THREAD_BYTES:
            try:
                opened = self._seal.open(counter, message)
            except SealError as error:
                self._drop(str(error))
                return
            self._opened(counter, opened, message[1] == Type.PART)
            return
        self._held += len(message)
        opening = asyncio.get_running_loop().run_in_executor(self._threads, self._seal.open, counter, message)
        opening.add_done_callback(functools.partial(self._opened_aside, counter, len(message), message[1] == Type.PART))

    def close(self) -> None:
        """Deliver nothing more."""
        self._closed = True
        self._early.clear()
        self._parts.clear()
        if self._watch:
            self._watch.cancel()

    def _opened_aside(self, counter: int, size: int, part: bool, opening: asyncio.Future[bytes | memoryview]) -> None:
        self._held -= size
        if opening.cancelled():
            return
        error = opening.exception()
        if isinstance(error, SealError):
            self._drop(str(error))
        elif error is not None:
            raise error
        else:
            self._opened(counter, opening.result(), part)

    def _opened(self, counter: int, data: bytes | memoryview, part: bool) -> None:
        if self._closed:
            return
        self._alive()
        if counter < self._next or counter in self._early:
            self.doubled += 1
        elif counter > self._next:
            self._early[counter] = (data, part)
            self._held += len(data)
            self._watch_gap()
        else:
            self._take(data, part)
            while not self._closed and (early := self._early.pop(self._next, None)) is not None:
                self._held -= len(early[0])
                self._take(*early)

    def _take(self, data: bytes | memoryview, part: bool) -> None:
        self._next += 1
        if part or self._parts:
            self._parts.append(data)
            self._held += len(data)
            if part:
                return
            self._held -= sum(len(each) for each in self._parts)
            data, self._parts = b"".join(self._parts), []
        if len(data):
            self._deliver(data)

    def _watch_gap(self) -> None:
        if self._watch is None:
            self._watch = asyncio.get_running_loop().call_later(GAP_S, self._look, self._next)

    def _look(self, waited_for: int) -> None:
        self._watch = None
        if self._early and self._next == waited_for:
            self._lost(
                UserError(
                    "OCT-LINK-DOWN",
                    "A message was lost on the way.",
                    f"Message {waited_for} of the {self._lane.name.lower()} lane did not come within {GAP_S:.0f} s of "
                    "later ones.",
                    "The connection is made anew by itself, and what is missing is sent again.",
                )
            )
        elif self._early:
            self._watch_gap()

    def _drop(self, why: str) -> None:
        self.unopened += 1
        if self.unopened & (self.unopened - 1) == 0:  # the first, and then ever more rarely
            _log.warning("dropped a message of the %s lane: %s (%d so far)", self._lane.name, why, self.unopened)
