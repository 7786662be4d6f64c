"""Numbers the daemon's events and feeds them to whoever watches. Knows no entity's meaning and no database."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

from google.protobuf.message import Message

from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

T = TypeVar("T")

COALESCE_S = 0.1
RING_EVENTS = 1024
QUEUE_EVENTS = 2048


class Hub:
    """Events numbered by one from 1 in each life of the daemon; ``boot_id`` names the life.

    Constraints (checked by tests/daemon/test_daemon_hub.py):
        - a watcher gets a snapshot numbered n and then n+1, n+2, … without a gap;
        - a watcher that names this boot and a number still in the ring gets what it missed, without a snapshot;
        - ``soon`` sends the newest value of each entity at most ten times a second;
        - a watcher that lets QUEUE_EVENTS pile up is cut off with OCT-DAEMON-SLOW, and nobody waits for it.
    """

    def __init__(self, boot_id: str, snapshot: Callable[[], pb.Snapshot]) -> None:
        self.boot_id = boot_id
        self.number = 0
        self._snapshot = snapshot
        self._ring: deque[pb.Event] = deque(maxlen=RING_EVENTS)
        self._feeds: set[Feed[pb.Event]] = set()
        self._soon: dict[tuple[str, str], Message] = {}
        self._timer: asyncio.TimerHandle | None = None
        self.watch_began: Callable[[], None] = lambda: None

    def publish(self, what: str, message: Message) -> None:
        """Send ``message`` as the field ``what`` of the next event."""
        self._soon.pop((what, getattr(message, "id", "")), None)
        self._send(what, message)

    def soon(self, what: str, message: Message, key: str = "") -> None:
        """Send it with the next tick of 10 Hz; a newer one of the same ``key`` (default: its id) replaces it."""
        self._soon[(what, key or getattr(message, "id", ""))] = message
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(COALESCE_S, self._tick)

    def soon_logs(self, lines: list[pb.LogLine]) -> None:
        """Add log lines to the page that goes out with the next tick."""
        page = self._soon.get(("logs", ""))
        if isinstance(page, pb.LogPageReply):
            page.lines.extend(lines)
            del page.lines[:-500]
        else:
            self.soon("logs", pb.LogPageReply(lines=lines))

    async def watch(self, boot_id: str, after: int) -> AsyncIterator[pb.Event]:
        """Events from ``after`` on when the ring reaches so far back, else a snapshot and what follows it."""
        feed: Feed[pb.Event] = Feed(QUEUE_EVENTS)
        oldest = self.number - len(self._ring)
        if boot_id == self.boot_id and 0 < after <= self.number and after >= oldest:
            for event in self._ring:
                if event.number > after:
                    feed.put(event)
        else:
            feed.put(pb.Event(number=self.number, snapshot=self._snapshot()))
        self._feeds.add(feed)
        self.watch_began()
        try:
            async for event in feed:
                yield event
        finally:
            self._feeds.discard(feed)

    @property
    def watched(self) -> bool:
        return bool(self._feeds)

    def _tick(self) -> None:
        self._timer = None
        waiting, self._soon = self._soon, {}
        for (what, _), message in waiting.items():
            self._send(what, message)

    def _send(self, what: str, message: Message) -> None:
        self.number += 1
        event = pb.Event(number=self.number)
        getattr(event, what).CopyFrom(message)
        getattr(event, what).SetInParent()
        self._ring.append(event)
        for feed in self._feeds:
            feed.put(event)


class Feed(Generic[T]):
    """One reader's bounded queue. ``put`` never waits; a reader that fell too far behind gets OCT-DAEMON-SLOW."""

    def __init__(self, limit: int) -> None:
        self._items: deque[T] = deque()
        self._limit = limit
        self._ready = asyncio.Event()
        self._slow = self._closed = False

    def put(self, item: T) -> None:
        if self._slow:
            return
        if len(self._items) >= self._limit:
            self._slow = True
            self._items.clear()
        else:
            self._items.append(item)
        self._ready.set()

    def close(self) -> None:
        self._closed = True
        self._ready.set()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self._slow:
                raise UserError(
                    "OCT-DAEMON-SLOW",
                    "This reader was cut off.",
                    f"More than {self._limit} events waited for it.",
                    "Connect again; a fresh snapshot follows.",
                )
            if self._closed:
                return
            self._ready.clear()
            await self._ready.wait()
