"""The port at which a silo's further machines come in: mutual TLS 1.3, certificates of the silo's own CA.

Who may join and who is known, the desk decides; this file carries frames, notices silence, and cuts links. Knows no
database.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import grpc.aio

from octopus_desktop.communication.contract import CHUNK_BYTES
from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, abort, encode_data, server_credentials
from octopus_desktop.communication.links import fault_frame, link_down, replaced
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.transfer import TRANSFERS, blob_pieces
from octopus_desktop.identity.authority import Authority, check_address
from octopus_desktop.identity.certificates import Peer, read_peer
from octopus_desktop.nodes import REPORT_S, SERVICE, SILENCE_S
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import GetRequest, Heartbeat
from octopus_desktop.wire.pb.local_pb2 import Node
from octopus_desktop.wire.pb.node_pb2 import (
    AgentFrame,
    AgentHello,
    JoinReply,
    JoinRequest,
    NodeAnswer,
    NodeAsk,
    NodeRenewReply,
    NodeRenewRequest,
    PortFrame,
    PortHello,
    RunWords,
)

GREET_S = 20.0  # who connects and does not greet within this time is sent away
GOODBYE_S = 2.0


class Desk(Protocol):
    """Who decides. All calls come from the port's event loop; each may raise UserError, which the caller gets."""

    def join(self, peer: Peer, request: JoinRequest) -> JoinReply: ...

    def caller(self, peer: Peer) -> str:
        """The node whose certificate this is."""

    def renew(self, peer: Peer, request: NodeRenewRequest) -> NodeRenewReply: ...

    def answered(self, node_id: str, answer: NodeAnswer) -> None:
        """What its agent saw, when it was asked."""

    def greeted(self, node_id: str, hello: AgentHello) -> PortHello:
        """Its agent is here; what to answer."""

    def told(self, node_id: str, machine: Node) -> None: ...

    def said(self, node_id: str, words: RunWords) -> None:
        """What its part of a run says."""

    def blob(self, node_id: str, request: GetRequest) -> Path:
        """Where a blob lies that a run of this node needs."""

    def gone(self, node_id: str, fault: UserError | None) -> None: ...


@dataclass(slots=True)
class _Link:
    """One agent's connection. ``end``: set when it is to end, and why."""

    end: asyncio.Future[UserError | None]
    outgoing: asyncio.Queue[PortFrame] = field(default_factory=asyncio.Queue)


class NodePort:
    """Opened when the first machine is invited; until then nothing listens."""

    def __init__(self, desk: Desk, *, report_s: float = REPORT_S, silence_s: float = SILENCE_S) -> None:
        self._desk, self._report_s, self._silence_s = desk, report_s, silence_s
        self._server: grpc.aio.Server | None = None
        self._links: dict[str, _Link] = {}
        self._executor = blob_threads(TRANSFERS)

    @property
    def is_open(self) -> bool:
        return self._server is not None

    async def open(self, authority: Authority, listen: str, hosts: list[str]) -> None:
        """Listen. ``hosts``: the names by which machines reach this one; a fresh certificate is made for them.

        Raises OCT-PORT-USED, OCT-CONFIG-INVALID.
        """
        await self.close()
        host, port = check_address(listen)
        require_free(host, port)
        key, chain = await asyncio.to_thread(authority.issue_server, hosts)
        server = grpc.aio.server(options=SERVER_OPTIONS)
        try:
            bound = server.add_secure_port(listen, server_credentials(root=authority.ca_pem, key=key, chain=chain))
        except RuntimeError:
            bound = 0
        if bound != port:
            raise _used(host, port)
        server.add_generic_rpc_handlers((self._handlers(),))
        await server.start()
        self._server = server

    async def close(self) -> None:
        """End all links and stop listening; agents dial again by themselves."""
        server, self._server = self._server, None
        if server is None:
            return
        for link in self._links.values():
            _end(link, None)
        await server.stop(GOODBYE_S if self._links else 0)

    def linked(self, node_id: str) -> bool:
        return node_id in self._links

    def greet(self, node_id: str, hello: PortHello) -> None:
        """Tell an agent that its node's state has changed."""
        if link := self._links.get(node_id):
            link.outgoing.put_nowait(PortFrame(hello=hello))

    def say(self, node_id: str, words: RunWords) -> None:
        """To the node's part of a run; lost where it is not linked."""
        if link := self._links.get(node_id):
            link.outgoing.put_nowait(PortFrame(words=words))

    def ask(self, node_id: str, ask: NodeAsk) -> None:
        """Ask its agent to look; lost where it is not linked."""
        if link := self._links.get(node_id):
            link.outgoing.put_nowait(PortFrame(ask=ask))

    def cut(self, node_id: str, fault: UserError) -> None:
        """End this node's link now, for this reason."""
        if link := self._links.get(node_id):
            _end(link, fault)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Join": grpc.unary_unary_rpc_method_handler(
                    self._on_join,
                    request_deserializer=JoinRequest.FromString,
                    response_serializer=JoinReply.SerializeToString,
                ),
                "Link": grpc.stream_stream_rpc_method_handler(
                    self._on_link,
                    request_deserializer=AgentFrame.FromString,
                    response_serializer=PortFrame.SerializeToString,
                ),
                "Renew": grpc.unary_unary_rpc_method_handler(
                    self._on_renew,
                    request_deserializer=NodeRenewRequest.FromString,
                    response_serializer=NodeRenewReply.SerializeToString,
                ),
                "Get": grpc.unary_stream_rpc_method_handler(
                    self._on_get, request_deserializer=GetRequest.FromString, response_serializer=None
                ),
            },
        )

    async def _on_join(self, request: JoinRequest, context: Any) -> JoinReply:
        try:
            return self._desk.join(_peer(context), request)
        except UserError as error:
            await abort(context, error)

    async def _on_renew(self, request: NodeRenewRequest, context: Any) -> NodeRenewReply:
        try:
            return self._desk.renew(_peer(context), request)
        except UserError as error:
            await abort(context, error)

    async def _on_link(self, _: Any, context: Any) -> None:
        try:
            node_id = self._desk.caller(_peer(context))
            async with asyncio.timeout(GREET_S):
                first = await context.read()
            if first is grpc.aio.EOF or first.WhichOneof("frame") != "hello":
                return
            if before := self._links.pop(node_id, None):
                _end(before, replaced(node_id))
                self._desk.gone(node_id, replaced(node_id))
            answer = self._desk.greeted(node_id, first.hello)
        except UserError as error:
            await abort(context, error)
        except TimeoutError:
            return
        link = self._links[node_id] = _Link(asyncio.get_running_loop().create_future())
        fault: UserError | None = None
        try:
            await context.write(PortFrame(hello=answer))
            fault = await self._carry(node_id, link, context)
        except grpc.aio.BaseError:
            fault = link_down(node_id, "The agent's connection broke.")
        finally:
            if self._links.get(node_id) is link:
                del self._links[node_id]
                self._desk.gone(node_id, fault)

    async def _on_get(self, request: GetRequest, context: Any) -> None:
        try:
            node_id = self._desk.caller(_peer(context))
            path = self._desk.blob(node_id, request)
        except UserError as error:
            await abort(context, error)
        pieces = blob_pieces(self._executor, path, request.offset, CHUNK_BYTES, encode_data)
        async with aclosing(pieces):
            async for piece in pieces:
                if not self.linked(node_id):
                    return  # removed meanwhile, or gone
                async with asyncio.timeout(self._silence_s):
                    await context.write(piece)

    async def _carry(self, node_id: str, link: _Link, context: Any) -> UserError | None:
        """Until the link ends; returns why."""
        reading: asyncio.Task[UserError | None] = asyncio.create_task(self._read(node_id, context))
        writing: asyncio.Task[UserError | None] = asyncio.create_task(self._write(link, context))
        try:
            done, _ = await asyncio.wait({reading, writing, link.end}, return_when=asyncio.FIRST_COMPLETED)
            if link.end not in done:
                return next(iter(done)).result()
            fault = link.end.result()
        finally:
            for task in (reading, writing):
                task.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
        if fault:
            with contextlib.suppress(TimeoutError, grpc.aio.BaseError):
                async with asyncio.timeout(GOODBYE_S):
                    await context.write(PortFrame(fault=fault_frame(fault).fault))
        return fault

    async def _read(self, node_id: str, context: Any) -> UserError | None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    frame = await context.read()
            except TimeoutError:
                return link_down(node_id, f"The agent was not heard for {self._silence_s:.0f} s.")
            if frame is grpc.aio.EOF:
                return link_down(node_id, "The agent closed the connection.")
            if frame.WhichOneof("frame") == "machine":
                self._desk.told(node_id, frame.machine)
            elif frame.WhichOneof("frame") == "words":
                self._desk.said(node_id, frame.words)
            elif frame.WhichOneof("frame") == "answer":
                self._desk.answered(node_id, frame.answer)

    async def _write(self, link: _Link, context: Any) -> UserError | None:
        while True:
            try:
                async with asyncio.timeout(self._report_s):
                    frame = await link.outgoing.get()
            except TimeoutError:
                frame = PortFrame(heartbeat=Heartbeat())
            await context.write(frame)


def require_free(host: str, port: int) -> None:
    """gRPC does not say why it could not bind: ask the operating system first."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(found[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(found[4])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise _used(host, port) from error
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The daemon cannot listen for nodes on {host}, port {port}.",
            str(error),
            "Give --listen an address of this machine; ports below 1024 need a privilege.",
        ) from error


def _used(host: str, port: int) -> UserError:
    return UserError(
        "OCT-PORT-USED",
        f"Port {port} on {host} is in use.",
        "Another program listens there.",
        "Stop it, or choose another port for nodes with 'octopus node invite NAME --listen HOST:PORT'.",
    )


def _peer(context: Any) -> Peer:
    try:
        return read_peer(context.auth_context()["x509_pem_cert"][0])
    except (KeyError, IndexError, ValueError) as error:
        raise UserError(
            "OCT-ENROL-CA",
            "The caller showed no certificate of this silo.",
            "Every call needs one.",
            "Join with a code ('octopus node invite' on the silo's first machine).",
        ) from error


def _end(link: _Link, fault: UserError | None) -> None:
    if not link.end.done():
        link.end.set_result(fault)
