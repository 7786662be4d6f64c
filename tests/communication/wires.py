"""A wire in memory, between named parties, that a test can disturb, slow down and cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.wires import Gone, Lane, Receive
from octopus_desktop.wire.errors import UserError

QUEUED = 4  # messages of one lane that wait for one party; a sender waits with the next

# What becomes of one message: (seconds until it arrives, the message), none, one or several times.
Fate = Sequence[tuple[float, bytes]]
Disturb = Callable[[str, str, Lane, bytes], Fate]


def untouched(source: str, target: str, lane: Lane, message: bytes) -> Fate:
    return [(0.0, message)]


class Hub:
    """Where all parties meet. Several may bear one name: each gets what is sent to it, as with a broker's topic.

    Attributes:
        disturb: decides on each message.
        refuse: no party can open its wire while it is set, for this reason.
        frozen: nothing arrives, and nobody is told.
        rate: bytes a second that arrive at one party and lane; 0 for no bound.
        passed: bytes that arrived, by target.
    """

    def __init__(self, message_bytes: int = 1 << 20) -> None:
        self.message_bytes = message_bytes
        self.disturb: Disturb = untouched
        self.refuse: UserError | None = None
        self.frozen = False
        self.rate = 0
        self.passed: dict[str, int] = {}
        self._open: list[HubWire] = []

    def wire(self, name: str) -> HubWire:
        return HubWire(self, name)

    def cut(self) -> None:
        """Every wire breaks; what is on the way is lost."""
        for wire in list(self._open):
            wire.snap(link_down("The hub", "The test cut the wire."))

    def leave(self, name: str) -> None:
        """The wire of this name is gone, and the others are told, as by a last will."""
        for wire in list(self._open):
            if wire.name == name:
                wire.snap(link_down("The hub", "It was taken away."))
        for wire in list(self._open):
            wire.told_gone(name)

    async def carry(self, source: str, target: str, lane: Lane, message: bytes) -> None:
        if self.frozen:
            return
        assert len(message) <= self.message_bytes
        for delay, each in self.disturb(source, target, lane, message):
            for wire in [wire for wire in self._open if wire.name == target]:
                await wire.take(source, lane, each, delay)

    def joined(self, wire: HubWire) -> None:
        if self.refuse:
            raise self.refuse
        self._open.append(wire)

    def left(self, wire: HubWire) -> None:
        if wire in self._open:
            self._open.remove(wire)


class HubWire:
    """Implements ``Wire``."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name, self.message_bytes = hub, name, hub.message_bytes
        self._queues: dict[Lane, asyncio.Queue[tuple[str, bytes]]] = {}
        self._pumps: list[asyncio.Task[None]] = []
        self._broken: asyncio.Future[Exception] | None = None

    async def open(self, receive: Receive, gone: Gone) -> None:
        await self.close()
        self.hub.joined(self)
        self._broken = asyncio.get_running_loop().create_future()
        self._receive, self._told_gone = receive, gone
        self._queues = {lane: asyncio.Queue(QUEUED) for lane in Lane}
        self._pumps = [asyncio.create_task(self._pump(lane)) for lane in Lane]

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        if self._broken is None or self._broken.done():
            raise link_down("The hub", "The wire is broken.")
        await self.hub.carry(self.name, peer, lane, message)

    async def broken(self) -> Exception:
        assert self._broken is not None
        return await asyncio.shield(self._broken)

    async def close(self) -> None:
        self.hub.left(self)
        for pump in self._pumps:
            pump.cancel()
        if self._pumps:
            await asyncio.wait(self._pumps)
        self._pumps = []
        self._drop()

    def snap(self, error: UserError) -> None:
        self.hub.left(self)
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(error)
        for pump in self._pumps:
            pump.cancel()
        self._drop()

    def told_gone(self, name: str) -> None:
        self._told_gone(name)

    async def take(self, source: str, lane: Lane, message: bytes, delay: float) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, self._late, source, lane, message)
        elif self._queues:
            await self._queues[lane].put((source, message))

    def _late(self, source: str, lane: Lane, message: bytes) -> None:
        if self._broken is not None and not self._broken.done() and self._pumps:
            self._receive(source, lane, message)

    def _drop(self) -> None:
        """Empty the queues, so that nobody waits for room in them."""
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            while not queue.empty():
                queue.get_nowait()

    async def _pump(self, lane: Lane) -> None:
        queue = self._queues[lane]
        while True:
            source, message = await queue.get()
            self.hub.passed[self.name] = self.hub.passed.get(self.name, 0) + len(message)
            if not self.hub.frozen:
                self._receive(source, lane, message)
            if self.hub.rate:
                await asyncio.sleep(len(message) / self.hub.rate)
