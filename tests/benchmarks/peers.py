"""The processes that ``measure.Peers`` runs: ``python -m tests.benchmarks.peers WAY server|silo ROOT NAME [PORT]``.

Words on stdin, one JSON line each: ``prepare`` {size, silos}, ``go``, ``usage``; each is answered by one line.
"""

from __future__ import annotations

import asyncio
import json
import os
import queue
import resource
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, ClientCredentials, server_credentials
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from tests.communication.parts import ANSWER, MIB, Keys, Owner, authenticate

PIECE = os.urandom(MIB)
OPTIONS = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


class Usage:
    """CPU seconds since the last reset, and peak resident MiB."""

    def reset(self) -> None:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu = spent.ru_utime + spent.ru_stime
        Path("/proc/self/clear_refs").write_text("5")

    def read(self) -> dict[str, float]:
        spent = resource.getrusage(resource.RUSAGE_SELF)
        lines = Path("/proc/self/status").read_text().splitlines()
        rss = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
        return {"cpu": spent.ru_utime + spent.ru_stime - self._cpu, "rss": rss}


def pieces(size: int) -> Iterator[bytes]:
    for _ in range(size // MIB):
        yield PIECE


def obey(work: Any) -> None:
    """Answer the parent's words until stdin ends. ``work``: ``prepare(size, silos)`` and ``go()``."""
    usage = Usage()
    for line in sys.stdin:
        order = json.loads(line)
        if order["word"] == "prepare":
            work.prepare(order["size"], order["silos"])
            usage.reset()
            say(ready=True)
        elif order["word"] == "go":
            work.go()
            say(done=True)
        else:
            say(**usage.read())
    os._exit(0)


# raw TLS 1.3


class Tls:
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int) -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if role == "server" else ssl.PROTOCOL_TLS_CLIENT)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        pems = keys.server_pems() if role == "server" else vars_of(keys.silo(name))
        for word, pem in pems.items():
            (root / f"{name}-{word}.pem").write_bytes(pem)
        self.context.load_cert_chain(root / f"{name}-chain.pem", root / f"{name}-key.pem")
        self.context.load_verify_locations(root / f"{name}-root.pem")
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.role, self.links = role, list[ssl.SSLSocket]()
        self.arriving = queue.SimpleQueue[ssl.SSLSocket]()
        if role == "server":
            listener = socket.create_server(("127.0.0.1", 0))
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            say(port=listener.getsockname()[1])
        else:
            raw = socket.create_connection(("127.0.0.1", port))
            self.links.append(self.context.wrap_socket(raw, server_hostname="127.0.0.1"))
            say(up=True)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            raw, _ = listener.accept()
            self.arriving.put(self.context.wrap_socket(raw, server_side=True))

    def prepare(self, size: int, silos: int) -> None:
        self.size = size
        while self.role == "server" and len(self.links) < silos:
            self.links.append(self.arriving.get())

    def go(self) -> None:
        if self.role == "server":
            with ThreadPoolExecutor(len(self.links)) as pool:
                list(pool.map(self._serve, self.links))
        else:
            self._take(self.links[0])
            self._give(self.links[0])

    def _serve(self, link: ssl.SSLSocket) -> None:
        self._give(link)
        self._take(link)

    def _give(self, link: ssl.SSLSocket) -> None:
        for piece in pieces(self.size):
            link.sendall(piece)

    def _take(self, link: ssl.SSLSocket) -> None:
        buffer, left = bytearray(MIB), self.size
        while left:
            count = link.recv_into(buffer, min(left, MIB))
            if not count:
                raise ConnectionError
            left -= count


# a bare gRPC stream


def vars_of(credentials: ClientCredentials) -> dict[str, bytes]:
    return {"root": credentials.root, "key": credentials.key, "chain": credentials.chain}


def client_credentials(keys: Keys, name: str) -> grpc.ChannelCredentials:
    mine = keys.silo(name)
    return grpc.ssl_channel_credentials(mine.root, mine.key, mine.chain)


class GrpcSync:
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int) -> None:
        self.role, self.size = role, 0
        if role == "server":
            self.left = threading.Semaphore(0)
            server = grpc.server(ThreadPoolExecutor(16), options=OPTIONS)
            handlers = {
                "Get": grpc.unary_stream_rpc_method_handler(lambda _, __: pieces(self.size)),
                "Put": grpc.stream_unary_rpc_method_handler(self._put),
            }
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
            port = server.add_secure_port("127.0.0.1:0", server_credentials(**keys.server_pems()))
            server.start()
            self.server = server
            say(port=port)
        else:
            channel = grpc.secure_channel(f"127.0.0.1:{port}", client_credentials(keys, name), options=OPTIONS)
            grpc.channel_ready_future(channel).result(20)
            self.get, self.put = channel.unary_stream("/Bare/Get"), channel.stream_unary("/Bare/Put")
            say(up=True)

    def _put(self, messages: Iterator[bytes], _: Any) -> bytes:
        for _piece in messages:
            pass
        self.left.release()
        return b""

    def prepare(self, size: int, silos: int) -> None:
        self.size, self.silos = size, silos

    def go(self) -> None:
        if self.role == "server":
            for _ in range(self.silos):
                self.left.acquire()
        else:
            for _piece in self.get(b""):
                pass
            self.put(pieces(self.size))


class InLoop:
    """For the asyncio ways: a loop in a thread, and the words from this one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


class GrpcAio(InLoop):
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int) -> None:
        super().__init__()
        self.role, self.keys, self.name, self.port, self.size = role, keys, name, port, 0
        self.run(self._start())

    async def _start(self) -> None:
        if self.role == "server":
            self.left = asyncio.Semaphore(0)
            self.server = grpc.aio.server(options=OPTIONS)
            handlers = {
                "Get": grpc.unary_stream_rpc_method_handler(self._on_get),
                "Put": grpc.stream_unary_rpc_method_handler(self._on_put),
            }
            self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Bare", handlers),))
            port = self.server.add_secure_port("127.0.0.1:0", server_credentials(**self.keys.server_pems()))
            await self.server.start()
            say(port=port)
        else:
            self.channel = grpc.aio.secure_channel(
                f"127.0.0.1:{self.port}", client_credentials(self.keys, self.name), options=OPTIONS
            )
            await self.channel.channel_ready()
            say(up=True)

    async def _on_get(self, _: bytes, context: Any) -> None:
        for piece in pieces(self.size):
            await context.write(piece)

    async def _on_put(self, messages: AsyncIterator[bytes], context: Any) -> bytes:
        while await context.read() is not grpc.aio.EOF:
            pass
        self.left.release()
        return b""

    def prepare(self, size: int, silos: int) -> None:
        self.size, self.silos = size, silos

    def go(self) -> None:
        self.run(self._go())

    async def _go(self) -> None:
        if self.role == "server":
            for _ in range(self.silos):
                await self.left.acquire()
            return
        call: Any = self.channel.unary_stream("/Bare/Get")(b"")
        while await call.read() is not grpc.aio.EOF:
            pass
        up: Any = self.channel.stream_unary("/Bare/Put")()
        for piece in pieces(self.size):
            await up.write(piece)
        await up.done_writing()
        await up


# ours


class Carrier(InLoop):
    """The gRPC carrier with real mailboxes and blob stores. A silo answers a model with an update prepared before."""

    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int) -> None:
        super().__init__()
        self.role, self.keys, self.port = role, keys, port
        self.owner = Owner(root / name, name, keys)
        self.run(self._start())

    async def _start(self) -> None:
        if self.role == "server":
            self.server = grpc.aio.server(options=SERVER_OPTIONS)
            self.end: Any = GrpcServerEnd(
                server=self.server, owner=self.owner, authenticate=authenticate, version="1", boot_id="s"
            )
            port = self.server.add_secure_port("127.0.0.1:0", server_credentials(**self.keys.server_pems()))
            await self.server.start()
            say(port=port)
            return
        self.end = GrpcSiloEnd(
            address=f"127.0.0.1:{self.port}",
            credentials=self.keys.silo(self.owner.name),
            owner=self.owner,
            version="1",
            boot_id="c",
        )
        self.owner.before_accept = self._answer
        self.task = asyncio.create_task(self.end.run())
        await self.owner.until(lambda: self.owner.is_up)
        say(up=True)

    def _answer(self, envelope: Envelope) -> None:
        self.owner.post("server", kind=ANSWER, blobs=[self.ref])
        self.end.outbox_changed()

    def prepare(self, size: int, silos: int) -> None:
        self.silos = silos
        old = list(self.owner.store.digests())
        self.ref = self.owner.blob(size)
        for digest in old:  # as in a run: what an earlier round left makes room, memory among it, for this one
            self.owner.store.remove(digest)
        self.accepted = len(self.owner.accepted) + (silos if self.role == "server" else 1)

    def go(self) -> None:
        self.run(self._go())

    async def _go(self) -> None:
        if self.role == "server":
            for number in range(self.silos):
                self.owner.post(f"silo-{number + 1}", blobs=[self.ref])
                self.end.outbox_changed(f"silo-{number + 1}")
        await self.owner.until(lambda: len(self.owner.accepted) >= self.accepted, patience_s=600)
        await self.owner.until(lambda: self.owner.open_count() == 0, patience_s=600)


WAYS: dict[str, Any] = {"tls": Tls, "grpc-sync": GrpcSync, "grpc-aio": GrpcAio, "carrier": Carrier}


def main() -> None:
    way, role, folder, name, *port = sys.argv[1:]
    root = Path(folder)
    obey(WAYS[way](role, Keys.load(root / "keys"), root, name, int(port[0]) if port else 0))


if __name__ == "__main__":
    main()
