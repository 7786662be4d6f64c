"""The server's end of the gRPC carrier: answers the silos' links, takes their blobs and gives them theirs.

It registers a servicer on a ``grpc.aio`` server that somebody else makes, binds and starts. Who the caller is, a
callback reads from the TLS peer. Knows nothing of what the mail means.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.communication.contract import (
    CHUNK_BYTES,
    HEARTBEAT_S,
    PROTOCOL,
    SILENCE_S,
    LinkPhase,
    LinkState,
    MailOwner,
)
from octopus_desktop.communication.grpc_wire import SERVICE, abort, decode_chunk, encode_data
from octopus_desktop.communication.links import (
    Link,
    LinkEnded,
    blob_forbidden,
    fault_frame,
    link_down,
    protocol_differs,
    replaced,
)
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.transfer import BlobLocks, BlobSink, blob_pieces
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.federation_pb2 import (
    CarrierOffer,
    Frame,
    GetRequest,
    HaveReply,
    HaveRequest,
    Hello,
    PutReply,
)

THREADS = 4
GOODBYE_S = 2.0  # what a peer that no longer reads may keep a dead link's handler waiting

_log = logging.getLogger(__name__)

AuthContext = Mapping[str, Sequence[bytes]]


@dataclasses.dataclass(slots=True)
class _Peer:
    """What is known of one silo, connected or not."""

    state: LinkState
    link: Link | None = None
    end: asyncio.Future[UserError | None] | None = None  # set: the connection is to end, for this reason
    calls: set[asyncio.Task[Any]] = dataclasses.field(default_factory=set)


class GrpcServerEnd:
    """Implements ``ServerEnd`` over gRPC. Construct it before ``server.start()``.

    Arguments:
        server: a ``grpc.aio`` server, made with ``grpc_wire.SERVER_OPTIONS`` and ``grpc_wire.server_credentials``.
        owner: the server's mail and blobs; ``owner.name`` is "server".
        authenticate: the silo's name, from ``context.auth_context()`` (``x509_pem_cert`` is the peer's certificate);
            raises UserError (OCT-CERT-REVOKED, OCT-ENROL-ROLE, ...) for who may not pass. Called for each call.
        version, boot_id, protocol, heartbeat_s, silence_s, chunk_bytes: as in ``GrpcSiloEnd``.
        carriers: what the federation offers, now; goes out with each Hello.
    """

    def __init__(
        self,
        *,
        server: grpc.aio.Server,
        owner: MailOwner,
        authenticate: Callable[[AuthContext], str],
        version: str,
        boot_id: str,
        protocol: int = PROTOCOL,
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = SILENCE_S,
        chunk_bytes: int = CHUNK_BYTES,
        carriers: Callable[[], Sequence[CarrierOffer]] = tuple,
    ) -> None:
        self._owner, self._authenticate, self._carriers = owner, authenticate, carriers
        self._hello = Hello(protocol=protocol, name=owner.name, boot_id=boot_id, version=version)
        self._heartbeat_s, self._silence_s, self._chunk_bytes = heartbeat_s, silence_s, chunk_bytes
        self._peers: dict[str, _Peer] = {}
        self._executor = blob_threads(THREADS)
        self._locks = BlobLocks()
        server.add_generic_rpc_handlers((self._handlers(),))

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Link": grpc.stream_stream_rpc_method_handler(
                    self._on_link, request_deserializer=Frame.FromString, response_serializer=Frame.SerializeToString
                ),
                "Have": grpc.unary_unary_rpc_method_handler(
                    self._on_have,
                    request_deserializer=HaveRequest.FromString,
                    response_serializer=HaveReply.SerializeToString,
                ),
                "Put": grpc.stream_unary_rpc_method_handler(
                    self._on_put, request_deserializer=None, response_serializer=PutReply.SerializeToString
                ),
                "Get": grpc.unary_stream_rpc_method_handler(
                    self._on_get, request_deserializer=GetRequest.FromString, response_serializer=None
                ),
            },
        )

    # ServerEnd

    async def start(self) -> None:
        """Nothing to dial: silos come by themselves once the gRPC server listens."""

    async def stop(self, grace_s: float) -> None:
        """End all links; silos dial again by themselves. Waits up to ``grace_s`` for running calls."""
        running = set()
        for peer in self._peers.values():
            running |= peer.calls
            self._end(peer, None)
        if running:
            await asyncio.wait(running, timeout=grace_s)
        for task in running:
            task.cancel()
        self._executor.shutdown(wait=False)

    def outbox_changed(self, peer: str) -> None:
        known = self._peers.get(peer)
        if known and known.link:
            known.link.outlet.changed()

    def disconnect(self, peer: str, fault: UserError) -> None:
        known = self._peers.get(peer)
        if known:
            phase = LinkPhase.REVOKED if fault.code == "OCT-CERT-REVOKED" else LinkPhase.DOWN
            self._show(known, phase=phase, fault=fault)
            self._end(known, fault)
            self._cancel_transfers(known)

    @property
    def fault(self) -> UserError | None:
        return None

    def announce(self) -> None:
        for peer in self._peers.values():
            if peer.link:
                peer.link.greet(self._greeting())

    def _greeting(self) -> Hello:
        hello = Hello(runs=self._owner.open_runs(), carriers=self._carriers())
        hello.MergeFrom(self._hello)
        return hello

    def states(self) -> Sequence[LinkState]:
        return [peer.state for peer in self._peers.values()]

    # calls

    async def _caller(self, context: Any, name: str) -> _Peer:
        try:
            silo = self._authenticate(context.auth_context())
        except UserError as error:
            await abort(context, error)
        peer = self._peers.get(silo)
        if peer is None:
            state = LinkState(peer=silo, phase=LinkPhase.CONNECTING, since=time.time())
            peer = self._peers[silo] = _Peer(state)
        task = asyncio.current_task()
        assert task is not None
        task.set_name(name)
        peer.calls.add(task)
        task.add_done_callback(peer.calls.discard)
        return peer

    async def _on_link(self, frames: AsyncIterator[Frame], context: Any) -> None:
        peer = await self._caller(context, "link")
        silo = peer.state.peer
        first = await context.read()
        if first is grpc.aio.EOF:
            return
        hello = first.hello
        if first.WhichOneof("frame") != "hello" or hello.protocol != self._hello.protocol:
            await context.write(fault_frame(protocol_differs(hello.protocol, self._hello.protocol, "silo")))
            return
        if peer.end is not None:
            self._end(peer, replaced(silo))
            self._cancel_transfers(peer)
        end = peer.end = asyncio.get_running_loop().create_future()
        await context.write(Frame(hello=self._greeting()))

        async def write(frame: Frame) -> None:
            try:
                await context.write(frame)
            except grpc.aio.BaseError as error:
                raise LinkEnded from error

        link = Link(
            self._owner,
            silo,
            write=write,
            bring=_nothing_to_bring,
            fetch=_cannot_fetch,
            latency=lambda ms: self._show(peer, latency_ms=ms),
            moved=lambda incoming, outgoing: self._moved(peer, incoming, outgoing),
            faulty=lambda _, fault: self._show(peer, fault=fault),
            heartbeat_s=self._heartbeat_s,
            silence_s=self._silence_s,
        )
        peer.link = link
        self._show(peer, phase=LinkPhase.UP)
        self._owner.peer_greeted(silo, list(hello.runs))
        carrying = asyncio.create_task(link.run(_frames(context)))
        carrying.add_done_callback(_report_bug)
        fault: UserError | None = None
        try:
            await asyncio.wait((carrying, end), return_when=asyncio.FIRST_COMPLETED)
            carrying.cancel()
            try:
                await carrying
            except LinkEnded as ended:
                fault = ended.fault
            except UserError as error:
                fault = error
            except asyncio.CancelledError:
                if not end.done():
                    raise
            except Exception as error:
                fault = link_down("The server", f"An internal error ended the link: {error!r}")
            if end.done():
                fault = end.result()
            if fault:
                await _say_goodbye(context, fault)
        finally:
            carrying.cancel()
            if peer.link is link:
                peer.link = peer.end = None
                if peer.state.phase is not LinkPhase.REVOKED:
                    self._show(peer, phase=LinkPhase.DOWN, fault=fault)

    async def _on_have(self, request: HaveRequest, context: Any) -> HaveReply:
        peer = await self._caller(context, "blob")
        for ref in request.blobs:
            if not self._owner.may_write(peer.state.peer, request.run_id, ref):
                await abort(context, blob_forbidden(ref))
        try:
            return HaveReply(offsets=[await self._offset(ref) for ref in request.blobs])
        except UserError as error:
            await abort(context, error)

    async def _offset(self, ref: BlobRef) -> int:
        """Bytes of a blob that are here; its whole size only when it is whole, checked and visible."""
        store = self._owner.blobs()
        async with self._locks.held(ref.digest):
            if not store.has(ref.digest) and 0 < ref.size <= store.offset(ref.digest):
                try:  # an earlier transfer broke off between its last byte and its check
                    async with BlobSink(self._executor, store, ref) as sink:
                        await sink.commit()
                except UserError as error:
                    if error.code != "OCT-BLOB-CORRUPT":
                        raise
            return store.offset(ref.digest)

    async def _on_put(self, messages: AsyncIterator[bytes], context: Any) -> PutReply:
        peer = await self._caller(context, "blob")
        try:
            return await self._take(peer, context)
        except UserError as error:
            await abort(context, error)

    async def _take(self, peer: _Peer, context: Any) -> PutReply:
        message = await context.read()
        head = _decode(message) if message is not grpc.aio.EOF else None
        if head is None or head.blob is None:
            raise _malformed()
        ref = head.blob
        if not self._owner.may_write(peer.state.peer, head.run_id, ref):
            raise blob_forbidden(ref)
        store = self._owner.blobs()
        async with self._locks.held(ref.digest):
            if store.has(ref.digest):
                return PutReply(size=ref.size)
            async with BlobSink(self._executor, store, ref) as sink:
                if sink.offset != head.offset:
                    raise UserError(
                        "OCT-BLOB-OFFSET",
                        f"Blob {ref.digest[:12]} goes on at another place.",
                        f"The sender began at {head.offset}, {sink.offset} bytes are here.",
                        "The transfer is begun anew by itself.",
                    )
                self._moved(peer, 0, 0, sink.offset)
                if head.data:
                    await sink.write(head.data)
                while True:
                    async with asyncio.timeout(self._silence_s):
                        message = await context.read()
                    if message is grpc.aio.EOF:
                        break
                    if peer.link:
                        peer.link.heard()
                    self._moved(peer, len(message), 0)
                    await sink.write(_decode(message).data)
                await sink.commit()
        self._show(peer)
        return PutReply(size=ref.size)

    async def _on_get(self, request: GetRequest, context: Any) -> None:
        peer = await self._caller(context, "blob")
        ref = request.blob
        if not self._owner.may_read(peer.state.peer, request.run_id, ref):
            await abort(context, blob_forbidden(ref))
        try:
            path = self._owner.blobs().path(ref.digest)
        except UserError as error:
            await abort(context, error)
        self._moved(peer, 0, 0, request.offset)
        pieces = blob_pieces(self._executor, path, request.offset, self._chunk_bytes, encode_data)
        async with aclosing(pieces):
            async for piece in pieces:
                async with asyncio.timeout(self._silence_s):
                    try:
                        await context.write(piece)
                    except grpc.aio.BaseError:
                        return  # the silo is gone; it asks for the rest when it is back
                self._moved(peer, 0, len(piece))
        self._show(peer)

    # state

    def _end(self, peer: _Peer, fault: UserError | None) -> None:
        if peer.end is not None and not peer.end.done():
            peer.end.set_result(fault)

    def _cancel_transfers(self, peer: _Peer) -> None:
        """Transfers over a dead or replaced connection would keep the blob's lock; the rest is asked for anew."""
        for task in peer.calls:
            if task.get_name() == "blob":
                task.cancel()

    def _moved(self, peer: _Peer, incoming: int, outgoing: int, resumed: int = 0) -> None:
        state = peer.state
        peer.state = dataclasses.replace(
            state,
            bytes_in=state.bytes_in + incoming,
            bytes_out=state.bytes_out + outgoing,
            bytes_resumed=state.bytes_resumed + resumed,
        )

    def _show(self, peer: _Peer, *, phase: LinkPhase | None = None, **changes: Any) -> None:
        if phase is not None and phase is not peer.state.phase:
            changes = {"phase": phase, "since": time.time(), "fault": None, **changes}
        peer.state = dataclasses.replace(peer.state, **changes)
        self._owner.link_changed(peer.state)


def _report_bug(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error and not isinstance(error, LinkEnded | UserError):
        _log.error("a link broke", exc_info=error)


async def _say_goodbye(context: Any, fault: UserError) -> None:
    try:
        async with asyncio.timeout(GOODBYE_S):
            await context.write(fault_frame(fault))
    except (grpc.aio.BaseError, TimeoutError):
        pass  # it is gone already


async def _frames(context: Any) -> AsyncIterator[Frame]:
    while (frame := await context.read()) is not grpc.aio.EOF:
        yield frame


async def _nothing_to_bring(envelope: Envelope) -> None:
    """The silo gets what it lacks by itself."""


async def _cannot_fetch(envelope: Envelope, missing: Sequence[BlobRef]) -> None:
    raise UserError(
        "OCT-BLOB-MISSING",
        f"Blob {missing[0].digest[:12]} of a message is not here.",
        "The silo sends blobs before the message that names them, and this one is not whole.",
        "The silo sends it again by itself.",
    )


def _decode(message: bytes) -> Any:
    try:
        return decode_chunk(message)
    except ValueError as error:
        raise _malformed() from error


def _malformed() -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        "A blob's transfer is malformed.",
        "Its first chunk does not name the blob, or a chunk cannot be read.",
        "Update Octopus Desktop on both sides to versions that fit.",
    )
