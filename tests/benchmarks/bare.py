"""The floors: what bare means move in the same round, from memory to nowhere: no disk, digest, resumption or order.

Each class is one way: made once in each process, then ``prepare(size, silos)`` and ``go()`` for each round, in which
the server gives ``size`` bytes to each silo, and each silo gives as many back.
"""

from __future__ import annotations

import asyncio
import queue
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.communication.grpc_wire import ClientCredentials, server_credentials
from octopus_desktop.communication.settings import MqttOffer
from tests.benchmarks.stage import Stage
from tests.benchmarks.words import MIB, PIECE, InLoop, pieces, say
from tests.communication.parts import Keys

OPTIONS = [("grpc.max_receive_message_length", 8 * MIB), ("grpc.max_send_message_length", 8 * MIB)]


# raw TLS 1.3


class Tls:
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
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
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
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


class GrpcAio(InLoop):
    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
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


# plain paho


class Paho:
    """QoS 1 through the broker, in packets of half a MiB; the receiver asks for the next batch, for a broker throws
    away what a slow reader leaves lying."""

    PACKET, BATCH = PIECE[: MIB // 2], 32

    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
        import paho.mqtt.client as mqtt

        self.role, self.name = role, name
        offer = MqttOffer.from_dict(stage.offer)
        context = ssl.create_default_context(cadata=offer.ca_pem)
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"bare-{name}", protocol=mqtt.MQTTv5)
        self.client.username_pw_set(name, stage.passwords[name])
        self.client.tls_set_context(context)
        self.client.max_inflight_messages_set(20)
        self.packets: dict[str, queue.SimpleQueue[int]] = {}
        self.wanted: dict[str, queue.SimpleQueue[int]] = {}
        for silo in stage.silos:
            self.packets[silo], self.wanted[silo] = queue.SimpleQueue(), queue.SimpleQueue()
        self.client.on_message = self._on_message
        ready = threading.Event()
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.connect(offer.host, offer.port)
        self.client.loop_start()
        self.client.subscribe("octopus/bare/up/#" if role == "server" else f"octopus/bare/down/{name}/#", qos=1)
        ready.wait(20)
        say(port=0)

    def _on_message(self, client: Any, userdata: Any, message: Any) -> None:
        silo = message.topic.split("/")[3]
        box = self.wanted if message.topic.endswith("/next") else self.packets
        box[silo].put(len(message.payload))

    def prepare(self, size: int, silos: int) -> None:
        self.size = size

    def go(self) -> None:
        if self.role == "server":
            with ThreadPoolExecutor(len(self.packets)) as pool:
                list(pool.map(self._serve, self.packets))
        else:
            self._take(self.name, f"octopus/bare/up/{self.name}/next")
            self._give(self.name, f"octopus/bare/up/{self.name}/data")

    def _serve(self, silo: str) -> None:
        self._give(silo, f"octopus/bare/down/{silo}/data")
        self._take(silo, f"octopus/bare/down/{silo}/next")

    def _give(self, silo: str, topic: str) -> None:
        for number, packet in enumerate(pieces(self.size, self.PACKET)):
            if number > self.BATCH and number % self.BATCH == 0:
                self.wanted[silo].get()
            self.client.publish(topic, packet, qos=1)
        if self.size > self.BATCH * len(self.PACKET):
            self.wanted[silo].get()

    def _take(self, silo: str, topic: str) -> None:
        left, number = self.size, 0
        while left:
            left -= self.packets[silo].get()
            number += 1
            if number % self.BATCH == 0 and left:
                self.client.publish(topic, b"", qos=1)


# plain boto3


class Endless:
    """A file of so many bytes to read, and one to write that keeps nothing."""

    def __init__(self, size: int = 0) -> None:
        self.left = size

    def read(self, count: int = -1) -> bytes:
        count = self.left if count < 0 else min(count, self.left)
        self.left -= count
        return (PIECE * (count // MIB + 1))[:count]

    def write(self, data: bytes) -> int:
        return len(data)


class Boto:
    """``upload_fileobj`` and ``download_fileobj`` with their defaults. One object down for all silos."""

    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
        import boto3
        import boto3.s3.transfer

        self.role, self.name, self.silos, self.root, self.rounds = role, name, stage.silos, root, 0
        self.bucket = stage.store["bucket"]
        self.client = boto3.client(
            "s3",
            endpoint_url=stage.store["endpoint"],
            aws_access_key_id=stage.store["key_id"],
            aws_secret_access_key=stage.store["secret"],
            region_name="us-east-1",
        )
        # what is written in order needs no seeking; boto3 does so with one thread alone
        self.in_order = boto3.s3.transfer.TransferConfig(use_threads=False)
        say(port=0)

    def prepare(self, size: int, silos: int) -> None:
        self.size, self.rounds = size, self.rounds + 1

    def go(self) -> None:
        if self.role == "server":
            self._put("model")
            with ThreadPoolExecutor(len(self.silos)) as pool:
                list(pool.map(self._get, self.silos))
        else:
            self._get("model")
            self._put(self.name)

    def _put(self, what: str) -> None:
        self.client.upload_fileobj(Endless(self.size), self.bucket, f"bare/{what}-{self.rounds}")
        (self.root / f"there-{what}-{self.rounds}").touch()

    def _get(self, what: str) -> None:
        while not (self.root / f"there-{what}-{self.rounds}").exists():
            time.sleep(0.001)
        self.client.download_fileobj(self.bucket, f"bare/{what}-{self.rounds}", Endless(), Config=self.in_order)


# bare rpc_sync


class RpcSync:
    """``torch.distributed.rpc`` with byte tensors of up to 16 MiB; what a silo asks for, and what it gives."""

    TENSOR = 16 * MIB
    left = threading.Semaphore(0)

    def __init__(self, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
        import torch
        from torch.distributed import rpc

        self.rpc, self.role, names = rpc, role, ["server", *stage.silos]
        torch.set_num_threads(1)
        self.tensor = torch.frombuffer(bytearray(PIECE * 16), dtype=torch.uint8)
        options = rpc.TensorPipeRpcBackendOptions(init_method=f"tcp://127.0.0.1:{stage.port}", num_worker_threads=16)
        if role == "server":
            say(port=stage.port)  # all meet in there: the silos are started before the server has joined
        rpc.init_rpc(name, rank=names.index(name), world_size=len(names), rpc_backend_options=options)
        if role != "server":
            say(port=0)
        RpcSync.source = self.tensor

    def prepare(self, size: int, silos: int) -> None:
        self.size, self.silos = size, silos

    def go(self) -> None:
        if self.role == "server":
            for _ in range(self.silos):
                self.left.acquire()
            return
        for part in self._parts():
            self.rpc.rpc_sync("server", rpc_give, args=(part,))
        for part in self._parts():
            self.rpc.rpc_sync("server", rpc_take, args=(self.tensor[:part],))
        self.rpc.rpc_sync("server", rpc_done)

    def _parts(self) -> Iterator[int]:
        for at in range(0, self.size, self.TENSOR):
            yield min(self.TENSOR, self.size - at)


def rpc_give(count: int) -> Any:
    return RpcSync.source[:count]  # type: ignore[attr-defined]


def rpc_take(tensor: Any) -> None:
    return None


def rpc_done() -> None:
    RpcSync.left.release()
