"""A TCP proxy on loopback that a test can cut, slow down, and count."""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType

from tests.communication.mischief import Mischief

PIECE_BYTES = 64 << 10
STANDS_BYTES = 8 << 10  # a TLS handshake is shorter; disturbed, it costs the whole time-out of a dial


class Proxy:
    """Forwards a port of its own to ``target``.

    Attributes:
        up, down: bytes forwarded from the dialling side, and to it.
        rate: bytes a second and direction at most; 0 for no bound.
        frozen: nothing is forwarded while set, and connections stay open: a dead line.
        refuse: connections are closed as soon as they are made.
        mischief: befalls pieces of the stream, once a connection stands.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, 0
        self.up = self.down = 0
        self.rate = 0
        self.cuts = 0
        self.refuse = False
        self.mischief: Mischief | None = None
        self._passed = asyncio.Event()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    @property
    def frozen(self) -> bool:
        return not self._flowing.is_set()

    @frozen.setter
    def frozen(self, value: bool) -> None:
        if value:
            self._flowing.clear()
        else:
            self._flowing.set()

    async def passed(self, *, up: int = 0, down: int = 0) -> None:
        """Wait until so many bytes went through."""
        while self.up < up or self.down < down:
            self._passed.clear()
            await self._passed.wait()

    def cut(self) -> None:
        """Reset every connection, as a pulled cable with an impatient firewall does."""
        self.cuts += 1
        for writer in list(self._writers):
            raw = writer.get_extra_info("socket")
            if raw is not None and raw.fileno() >= 0:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._flowing.set()
        self._server.close()
        self.cut()

    async def _serve(self, near_in: asyncio.StreamReader, near_out: asyncio.StreamWriter) -> None:
        if self.refuse:
            near_out.transport.abort()
            return
        try:
            far_in, far_out = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            near_out.transport.abort()
            return
        self._writers |= {near_out, far_out}
        pumps = [
            asyncio.create_task(self._pump(near_in, far_out, "up")),
            asyncio.create_task(self._pump(far_in, near_out, "down")),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        except asyncio.CancelledError:  # the test is over
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            for writer in (near_out, far_out):
                self._writers.discard(writer)
                writer.transport.abort()

    @staticmethod
    def _struck(mischief: Mischief, data: bytes, held: bytes) -> bytes:
        """What goes on of a piece; of a reordered one nothing yet."""
        changed = {"double": data + data, "corrupt": mischief.corrupted(data)}
        return changed.get(mischief.kind, b"") + held

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, way: str) -> None:
        held, passed = b"", 0
        while data := await source.read(PIECE_BYTES):
            await self._flowing.wait()
            setattr(self, way, getattr(self, way) + len(data))
            self._passed.set()
            passed += len(data)
            if self.mischief and passed > STANDS_BYTES and self.mischief.strikes():
                data, held = self._struck(self.mischief, data, held), data if self.mischief.kind == "reorder" else b""
            else:
                data, held = data + held, b""
            sink.write(data)
            await sink.drain()
            if self.rate:
                await asyncio.sleep(len(data) / self.rate)
