"""A wire in memory, between named parties; parties of other processes reach it over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.wires import Gone, Lane, Receive
from octopus_desktop.wire.errors import UserError

Deliver = Callable[[str, Lane, bytes], Awaitable[None]]
QUEUED = 4  # messages of one lane that wait for one party; a sender waits with the next
MESSAGE_BYTES = 1 << 20
_HEAD = struct.Struct(">IBB")  # bytes of the rest, lane, bytes of the name that follows


class Hub:
    """Where all parties meet. Several may bear one name: each gets what is sent to it, as with a broker's topic.

    Attributes:
        refuse: no party can open its wire while it is set, for this reason.
        strangers: messages that came for a name that nobody bears.
    """

    def __init__(self, message_bytes: int = MESSAGE_BYTES) -> None:
        self.message_bytes = message_bytes
        self.refuse: UserError | None = None
        self.strangers = 0
        self._open: list[HubWire] = []
        self._server: asyncio.Server | None = None

    def wire(self, name: str) -> HubWire:
        return HubWire(self, name)

    def cut(self) -> None:
        """Every wire breaks; what is on the way is lost."""
        for wire in list(self._open):
            wire.snap(link_down("The hub", "The test cut the wire."))

    def gone(self, name: str) -> None:
        """All are told that this party left, as by a last will."""
        for wire in list(self._open):
            wire.told_gone(name)

    async def carry(self, source: str, target: str, lane: Lane, message: bytes) -> None:
        assert len(message) <= self.message_bytes
        wires = [wire for wire in self._open if wire.name == target]
        self.strangers += not wires
        for wire in wires:
            await wire.take(source, lane, message)

    def joined(self, wire: HubWire) -> None:
        if self.refuse:
            raise self.refuse
        self._open.append(wire)

    def left(self, wire: HubWire) -> None:
        if wire in self._open:
            self._open.remove(wire)

    # over a socket

    async def listen(self, path: Path) -> None:
        if self._server is None:
            self._server = await asyncio.start_unix_server(self._serve, path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = (await reader.readline()).decode().strip()
        wire, full = self.wire(name), asyncio.Lock()

        async def forward(source: str, lane: Lane, message: bytes) -> None:
            async with full:
                _write(writer, source, lane, message)
                await writer.drain()

        try:
            await wire.open_async(forward)
            while True:
                target, lane, message = await _read(reader)
                await self.carry(name, target, lane, message)
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            await wire.close()
            writer.close()
            self.gone(name)


class HubWire:
    """Implements ``Wire``."""

    def __init__(self, hub: Hub, name: str) -> None:
        self.hub, self.name, self.message_bytes = hub, name, hub.message_bytes
        self._queues: dict[Lane, asyncio.Queue[tuple[str, bytes]]] = {}
        self._pumps: list[asyncio.Task[None]] = []
        self._broken: asyncio.Future[Exception] | None = None

    async def open(self, receive: Receive, gone: Gone) -> None:
        async def deliver(source: str, lane: Lane, message: bytes) -> None:
            receive(source, lane, message)

        await self.open_async(deliver, gone)

    async def open_async(self, deliver: Deliver, gone: Gone = lambda peer: None) -> None:
        await self.close()
        self.hub.joined(self)
        self._broken = asyncio.get_running_loop().create_future()
        self.told_gone = gone
        self._queues = {lane: asyncio.Queue(QUEUED) for lane in Lane}
        self._pumps = [asyncio.create_task(self._pump(self._queues[lane], lane, deliver)) for lane in Lane]

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        if self._broken is None or self._broken.done():
            raise link_down("The hub", "The wire is broken.")
        await self.hub.carry(self.name, peer, lane, message)

    async def broken(self) -> Exception:
        assert self._broken is not None
        return await asyncio.shield(self._broken)

    async def close(self) -> None:
        self._drop()
        if self._pumps:
            await asyncio.wait(self._pumps)
        self._pumps = []

    def snap(self, error: UserError) -> None:
        self._drop()
        if self._broken is not None and not self._broken.done():
            self._broken.set_result(error)

    async def take(self, source: str, lane: Lane, message: bytes) -> None:
        if self._queues:
            await self._queues[lane].put((source, message))

    def _drop(self) -> None:
        """Take part no more, and let nobody wait for room."""
        self.hub.left(self)
        for pump in self._pumps:
            pump.cancel()
        queues, self._queues = self._queues, {}
        for queue in queues.values():
            while not queue.empty():
                queue.get_nowait()

    async def _pump(self, queue: asyncio.Queue[tuple[str, bytes]], lane: Lane, deliver: Deliver) -> None:
        with contextlib.suppress(OSError):
            while True:
                source, message = await queue.get()
                await deliver(source, lane, message)


class SocketWire:
    """Implements ``Wire`` for a party in another process than its hub's."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.message_bytes = path, name, MESSAGE_BYTES
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[Exception] | None = None
        self._full = asyncio.Lock()

    async def open(self, receive: Receive, gone: Gone) -> None:
        reader, self._writer = await asyncio.open_unix_connection(self.path)
        self._writer.write(self.name.encode() + b"\n")
        self._reading = asyncio.create_task(self._read(reader, receive))

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        assert self._writer is not None
        async with self._full:
            _write(self._writer, peer, lane, message)
            await self._writer.drain()

    async def broken(self) -> Exception:
        assert self._reading is not None
        return await asyncio.shield(self._reading)

    async def close(self) -> None:
        if self._writer is not None and self._reading is not None:
            self._writer.close()
            self._reading.cancel()

    async def _read(self, reader: asyncio.StreamReader, receive: Receive) -> Exception:
        try:
            while True:
                receive(*await _read(reader))
        except (asyncio.IncompleteReadError, OSError) as error:
            return error


def _write(writer: asyncio.StreamWriter, name: str, lane: Lane, message: bytes) -> None:
    writer.writelines((_HEAD.pack(len(name) + len(message), lane, len(name)), name.encode(), message))


async def _read(reader: asyncio.StreamReader) -> tuple[str, Lane, bytes]:
    size, lane, named = _HEAD.unpack(await reader.readexactly(_HEAD.size))
    rest = await reader.readexactly(size)
    return rest[:named].decode(), Lane(lane), rest[named:]
