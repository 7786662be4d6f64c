"""An HTTP CONNECT proxy on loopback, as hospitals have them: with or without a login, and with rules of its own."""

from __future__ import annotations

import asyncio
import base64
from types import TracebackType


class ConnectProxy:
    """Tunnels to wherever CONNECT asks; ``reach`` maps a name that only the proxy knows to a port of loopback.

    Attributes:
        login: ``user:password`` that it wants, or "".
        refuse: the status line's rest that it answers with instead of a tunnel, such as ``403 Forbidden``.
        asked: the targets of all CONNECTs that came.
        tunnels: how many were opened.
    """

    def __init__(self, *, login: str = "", refuse: str = "", reach: dict[str, int] | None = None) -> None:
        self.login, self.refuse, self.reach = login, refuse, reach or {}
        self.asked: list[str] = []
        self.tunnels = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> ConnectProxy:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._tunnel(near, back)
        except (asyncio.CancelledError, asyncio.IncompleteReadError, OSError):
            pass  # the test is over, or a side is gone
        finally:
            self._tasks.discard(task)
            back.transport.abort()

    async def _tunnel(self, near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        head = (await near.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        target = head[0].split()[1]
        self.asked.append(target)
        wanted = f"Proxy-Authorization: Basic {base64.b64encode(self.login.encode()).decode()}"
        if self.login and wanted not in head:
            answer = "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=site"
        else:
            answer = self.refuse or "200 Connection established"
        if not answer.startswith("200"):
            back.write(f"HTTP/1.1 {answer}\r\n\r\n".encode())
            await back.drain()
            return
        host, _, port = target.rpartition(":")
        here = self.reach.get(host)
        far, there = await asyncio.open_connection("127.0.0.1" if here else host, here or int(port))
        self.tunnels += 1
        back.write(b"HTTP/1.1 200 Connection established\r\n\r\n")

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(1 << 16):
                sink.write(data)
                await sink.drain()

        pumps = [asyncio.ensure_future(pump(near, there)), asyncio.ensure_future(pump(far, back))]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for one in pumps:
                one.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            there.transport.abort()
