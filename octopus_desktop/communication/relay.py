"""A wire whose far part is a process of its own: what daemon and server hold of PyTorch RPC and of MPI.

The end keeps keys, mail and blobs; the endpoint process only carries sealed bytes, and is not trusted: it may die at
any time, lie, or fill its socket. ``RelayWire`` is a ``Wire``; how its endpoint comes to be is a ``Source``
(``relay_sources``): spawned with one half of a socket pair, or attached by itself to a Unix socket in a private
directory. An endpoint that ended breaks the wire with a typed error, and the link's redial makes a new one. The
endpoint's own side is ``relay_client``. Knows neither torch nor MPI.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections import deque
from collections.abc import Callable

from octopus_desktop.communication.relay_frames import (
    MESSAGE_BYTES,
    VERSION,
    WINDOW,
    FrameError,
    FrameReader,
    Kind,
    Relayed,
    head,
    readable,
    unpack_fault,
)
from octopus_desktop.communication.relay_sources import LEAVE_S, Source
from octopus_desktop.communication.wires import Gone, Lane, Receive
from octopus_desktop.wire.errors import UserError

START_S = 60.0  # from the spawn, or the opening, until messages can pass
PING_S = 5.0
DEAF_S = 30.0  # an endpoint that answers nothing for so long is taken for dead
NOTES = 20  # that one endpoint may leave in the log
_JOINED_BYTES = 64 << 10  # small frames go to the kernel together

_log = logging.getLogger(__name__)


class _Room:
    """What of one peer and lane is on its way through the endpoint; whoever must wait does so in turn."""

    __slots__ = ("freed", "turn", "used", "users")

    def __init__(self) -> None:
        self.used, self.users = 0, 0
        self.turn = asyncio.Lock()
        self.freed = asyncio.Event()


class RelayWire:
    """Implements ``Wire`` over an endpoint process.

    Arguments:
        source: makes the endpoint, anew for each ``open``.
        fault: builds the carrier's error out of a sentence that says what became of the endpoint.
        faults: codes that an endpoint may itself give as its reason. Words that it gives after it had spoken with
            peers may be theirs: pass ``told`` to replace them.
        told: the error to show for a reason that a ready endpoint gave.
        hush_s: an endpoint that brought messages, and then none for so long, is replaced: links bring heartbeats, and
            one that only swallows may be in foreign hands. 0: never.
    """

    def __init__(
        self,
        source: Source,
        *,
        fault: Callable[[str], UserError],
        faults: frozenset[str] = frozenset(),
        told: Callable[[UserError], UserError] = lambda error: error,
        message_bytes: int = MESSAGE_BYTES,
        start_s: float = START_S,
        ping_s: float = PING_S,
        deaf_s: float = DEAF_S,
        hush_s: float = 0.0,
    ) -> None:
        self.message_bytes = min(message_bytes, MESSAGE_BYTES)
        self._source, self._make_fault, self._faults, self._told = source, fault, faults, told
        self._start_s, self._ping_s, self._deaf_s, self._hush_s = start_s, ping_s, deaf_s, hush_s
        self._line: socket.socket | None = None
        self._receive: Receive = lambda peer, lane, message: None
        self._gone: Gone = lambda peer: None
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._frames = FrameReader()
        self._rooms: dict[tuple[str, Lane], _Room] = {}
        self._out: tuple[deque[bytes], deque[bytes]] = (deque(), deque())
        self._writing: list[memoryview] = []
        self._reason: UserError | None = None
        self._notes = 0
        self._brought = 0.0  # when the newest message came; 0: none yet
        self._heard = time.monotonic()
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        self._broken = asyncio.Event()
        self._flushed = asyncio.Event()
        self._flushed.set()

    # Wire

    async def open(self, receive: Receive, gone: Gone) -> None:
        """Make an endpoint and wait until messages can pass. Raises UserError."""
        await self.close()
        self._begin_anew()
        self._receive, self._gone = receive, gone
        try:
            async with asyncio.timeout(self._start_s):
                self._line = await self._source.begin()
                loop = asyncio.get_running_loop()
                loop.add_reader(self._line, self._on_readable)
                self._tasks.append(loop.create_task(self._watch()))
                await self._until_ready()
        except TimeoutError:
            await self.close()
            raise self._make_fault(f"It was not ready within {self._start_s:.0f} s.") from None
        except OSError as error:
            await self.close()
            raise self._make_fault(f"It could not be started: {error}.") from error
        except BaseException:
            await self.close()
            raise

    async def _until_ready(self) -> None:
        waits = [asyncio.ensure_future(self._ready.wait()), asyncio.ensure_future(self._broken.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self._reason is not None:
            await self._broken.wait()
            raise self._reason

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        """Hand a message to the endpoint; waits while it holds ``WINDOW`` bytes of this peer and lane."""
        if self._line is None or self._reason is not None:
            raise self._reason or self._make_fault("It is not there.")
        begun = head(Kind.MESSAGE, lane=lane, peer=peer, payload_bytes=len(message))
        room = self._rooms.setdefault((peer, lane), _Room())
        room.users += 1
        try:
            async with room.turn:
                while room.used and room.used + len(message) > WINDOW[lane] and self._reason is None:
                    room.freed.clear()
                    await room.freed.wait()
                if self._reason is not None:
                    raise self._reason
                room.used += len(message)
                self._put(lane, begun, message)
        finally:
            room.users -= 1

    async def broken(self) -> Exception:
        await self._broken.wait()
        assert self._reason is not None
        return self._reason

    async def close(self) -> None:
        """Let what was sent reach the endpoint, part with it, and see its end."""
        if self._line is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._flushed.wait(), LEAVE_S)
        line, self._line = self._line, None
        if line is not None:
            self._let_go(line)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
            self._tasks.clear()
        self._reason = self._reason or self._make_fault("It was closed.")
        self._wake_senders()
        await self._source.end()

    # the socket

    def _put(self, lane: Lane, *parts: bytes) -> None:
        self._out[lane].extend(parts)
        if self._flushed.is_set():
            self._flushed.clear()
            self._on_writable(first=True)

    def _on_writable(self, first: bool = False) -> None:
        """Write what the socket takes now: mail before bulk, each frame whole."""
        line = self._line
        if line is None:
            return
        try:
            if not self._writing and not self._next_frames():
                return
            sent = line.sendmsg(self._writing)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._break("")
            return
        while self._writing and sent >= len(self._writing[0]):
            sent -= len(self._writing.pop(0))
        if sent:
            self._writing[0] = self._writing[0][sent:]
        if self._writing or self._out[Lane.MAIL] or self._out[Lane.BULK]:
            if first:
                asyncio.get_running_loop().add_writer(line, self._on_writable)
        else:
            self._flushed.set()
            if not first:
                asyncio.get_running_loop().remove_writer(line)

    def _next_frames(self) -> bool:
        mail, bulk = self._out
        lane = mail or bulk
        parts: list[bytes] = []
        held = 0
        while lane and held + len(lane[1]) <= _JOINED_BYTES:
            parts += [lane.popleft(), lane.popleft()]
            held += len(parts[-2]) + len(parts[-1])
        if parts:
            self._writing = [memoryview(b"".join(parts))]
        elif lane:
            self._writing = [memoryview(lane.popleft()), memoryview(lane.popleft())]
        return bool(self._writing)

    def _on_readable(self) -> None:
        """One read a turn of the loop, so that a flood of frames holds nothing else up."""
        line = self._line
        if line is None:
            return
        try:
            count = line.recv_into(self._frames.buffer())
            if count == 0:
                self._break("")
                return
            self._heard = time.monotonic()
            for frame in self._frames.took(count):
                self._take(frame)
                if self._reason is not None or self._line is None:
                    return
        except (BlockingIOError, InterruptedError):
            return
        except FrameError as error:
            self._break(f"It sent {error}.")
        except OSError:
            self._break("")

    def _take(self, frame: Relayed) -> None:
        kind, lane, peer, payload = frame
        if kind is Kind.MESSAGE and self._ready.is_set():
            self._brought = self._heard
            self._receive(peer, lane, bytes(payload))
        elif kind is Kind.ROOM:
            room = self._rooms.get((peer, lane))
            if room is not None and len(payload) == 4:
                room.used = max(0, room.used - int.from_bytes(payload, "big"))
                room.freed.set()
                if not room.used and not room.users:
                    del self._rooms[peer, lane]
        elif kind is Kind.GONE and self._ready.is_set():
            self._gone(peer)
        elif kind is Kind.READY:
            if int.from_bytes(payload[:2], "big") == VERSION:
                self._ready.set()
            else:
                self._break("It is of another version of Octopus Desktop.")
        elif kind is Kind.FAULT:
            told = unpack_fault(payload, self._faults)
            if told is not None and self._ready.is_set():
                told = self._told(told)
            self._break("It gave a reason that cannot be read.", told)
        elif kind is Kind.NOTE and not self._ready.is_set() and self._notes < NOTES:
            self._notes += 1
            _log.warning("endpoint: %s", readable(bytes(payload[:4096]).decode(errors="replace")))

    async def _watch(self) -> None:
        """Break with an endpoint that still holds its socket and answers nothing: stopped, or caught in a loop."""
        while True:
            self._put(Lane.MAIL, head(Kind.PING), b"")
            await asyncio.sleep(self._ping_s)
            now = time.monotonic()
            if not self._ready.is_set():
                continue  # until then ``start_s`` is its bound
            if now - self._heard > self._deaf_s:
                self._break(f"It answered nothing for {now - self._heard:.0f} s.")
                return
            if self._hush_s and self._brought and now - self._brought > self._hush_s:
                self._break(f"It brought no message for {now - self._brought:.0f} s, so a new one takes its place.")
                return

    def _break(self, why: str, told: UserError | None = None) -> None:
        """The endpoint is lost; ``why`` "" means that its own end tells."""
        if self._reason is not None or self._line is None:
            return
        self._reason = told or self._make_fault(why)
        line, self._line = self._line, None
        self._let_go(line)
        self._wake_senders()
        self._tasks.append(asyncio.get_running_loop().create_task(self._tell(why, told)))

    async def _tell(self, why: str, told: UserError | None) -> None:
        if told is None and not why:
            self._reason = self._make_fault(await self._source.epitaph(self._ready.is_set()))
        self._broken.set()

    def _let_go(self, line: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(line)
        loop.remove_writer(line)
        line.close()
        self._out[Lane.MAIL].clear()
        self._out[Lane.BULK].clear()
        self._writing.clear()
        self._flushed.set()

    def _wake_senders(self) -> None:
        for room in self._rooms.values():
            room.freed.set()
