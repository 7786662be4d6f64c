"""The silo's end of the gRPC carrier: dials the federation server, keeps the link, carries mail and blobs.

Two TCP connections to the one port: the link itself, and one for blobs, so that a large model on a slow line delays
neither heartbeats nor the small messages of other runs. Knows nothing of what the mail means.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.communication.contract import (
    CHUNK_BYTES,
    HEARTBEAT_S,
    PROTOCOL,
    SERVER,
    SILENCE_S,
    LinkPhase,
    LinkState,
    MailOwner,
)
from octopus_desktop.communication.grpc_wire import (
    SERVICE,
    ClientCredentials,
    Proxy,
    client_channel,
    decode_chunk,
    encode_data,
    encode_head,
    to_user_error,
    with_own_ca,
)
from octopus_desktop.communication.links import Link, LinkEnded, link_down, protocol_differs
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.redial import Shown, keep_dialling
from octopus_desktop.communication.settings import OwnSide, Secrets
from octopus_desktop.communication.transfer import TRANSFERS, BlobLocks, BlobSink, blob_pieces
from octopus_desktop.identity.certificates import read_peer
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

SMALL_BYTES = 64 << 10  # to send so much costs less than to ask what of it is there
DIAL_S = 20.0  # a server that accepts and does not greet within this time counts as down

_log = logging.getLogger(__name__)


class GrpcSiloEnd:
    """Implements ``SiloEnd`` over gRPC with mutual TLS.

    Arguments:
        address: the server's ``host:port``.
        credentials: the federation's CA, this silo's key and certificate chain, PEM.
        owner: the silo's mail and blobs; ``owner.name`` is the enrolled name.
        version: this program's version, for the other side's eyes.
        boot_id: new with each start of this process.
        protocol: what this side speaks.
        server_name: the name to expect in the server's certificate, where it differs from the address's host.
        own: this silo's own side: ``proxy`` (an HTTP CONNECT proxy, with ``username`` and the secret ``password`` where
            it asks for a login), and ``ca_file``, a CA that may stand for the server beside the federation's.
        secrets: see ``own``. Raises OCT-CONFIG-INVALID where the CA's file cannot be read.
        heartbeat_s, silence_s, chunk_bytes: see ``contract``.
        on_carriers: told what the federation offers, at each greeting.
    """

    def __init__(
        self,
        *,
        address: str,
        credentials: ClientCredentials,
        owner: MailOwner,
        version: str,
        boot_id: str,
        protocol: int = PROTOCOL,
        server_name: str = "",
        own: OwnSide | None = None,
        secrets: Secrets | None = None,
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = SILENCE_S,
        chunk_bytes: int = CHUNK_BYTES,
        on_carriers: Callable[[Sequence[CarrierOffer]], None] = lambda offers: None,
    ) -> None:
        self._address, self._owner, self._on_carriers = address, owner, on_carriers
        self._hello = Hello(protocol=protocol, name=owner.name, boot_id=boot_id, version=version)
        proxy, believed = Proxy.of(own, secrets), with_own_ca(credentials, own)
        self._proxy = proxy.url
        self._dial = lambda: client_channel(address, believed, server_name=server_name, proxy=proxy)
        self._expires = read_peer(credentials.chain).not_after
        self._heartbeat_s, self._silence_s, self._chunk_bytes = heartbeat_s, silence_s, chunk_bytes
        self._shown = Shown(owner, SERVER)
        self._show, self._moved = self._shown.show, self._shown.moved
        self._link: Link | None = None

    @property
    def state(self) -> LinkState:
        return self._shown.state

    def outbox_changed(self) -> None:
        if self._link:
            self._link.outlet.changed()

    def send_live(self, envelope: Envelope) -> None:
        if self._link:
            self._link.send_live(envelope)

    async def run(self) -> None:
        """See ``SiloEnd``. After it returned, ``state`` is revoked and says why."""
        await keep_dialling(self._connection, self._shown)

    async def _connection(self) -> UserError:
        """One connection, from dialling to its end; returns why it ended."""
        if self._expires < time.time():  # said here, for the server's refusal of it looks like any broken connection
            return UserError(
                "OCT-CERT-EXPIRED",
                f"The certificate of {self._owner.name} for {self._address} is past its validity.",
                f"It was valid until {time.strftime('%Y-%m-%d %H:%M', time.gmtime(self._expires))} UTC.",
                "Check this machine's clock; if it is right, ask the coordinator for a new invitation.",
            )
        channel, blob_channel = self._dial(), self._dial()
        executor = blob_threads(2 * TRANSFERS)
        try:
            await self._carry(channel, _Blobs(self, blob_channel, executor))
            raise AssertionError("a link ends by an exception")
        except LinkEnded as ended:
            return ended.fault or link_down(self._address, "The server closed the link.")
        except UserError as error:
            return error
        except grpc.RpcError as error:
            return to_user_error(error, self._address, self._proxy)
        except TimeoutError:
            return link_down(self._address, f"The server did not greet within {DIAL_S:.0f} s.")
        except Exception as error:  # a bug, told in the log; the link must outlive it
            _log.exception("the link to %s broke", self._address)
            return link_down(self._address, f"An internal error ended the link: {error!r}")
        finally:
            self._link = None
            await channel.close(None)
            await blob_channel.close(None)
            executor.shutdown(wait=False)

    async def _carry(self, channel: grpc.aio.Channel, blobs: _Blobs) -> None:
        call: Any = channel.stream_stream(
            f"/{SERVICE}/Link",
            request_serializer=Frame.SerializeToString,
            response_deserializer=Frame.FromString,
        )()
        async with asyncio.timeout(DIAL_S):
            hello = Hello()
            hello.CopyFrom(self._hello)
            hello.runs.extend(self._owner.open_runs())
            await call.write(Frame(hello=hello))
            first = await call.read()
        if first is grpc.aio.EOF:
            raise await _status(call)
        if first.WhichOneof("frame") == "fault":
            raise UserError.from_fault(first.fault)
        self._check(first.hello)

        async def write(frame: Frame) -> None:
            try:
                await call.write(frame)
            except asyncio.InvalidStateError:
                raise await _status(call) from None

        async def frames() -> AsyncIterator[Frame]:
            while (frame := await call.read()) is not grpc.aio.EOF:
                yield frame
            raise await _status(call)

        link = Link(
            self._owner,
            SERVER,
            write=write,
            bring=blobs.bring,
            fetch=blobs.fetch,
            latency=self._latency,
            clock=self._shown.clock,
            moved=self._moved,
            faulty=lambda _, fault: self._show(fault=fault),
            heartbeat_s=self._heartbeat_s,
            silence_s=self._silence_s,
            greeted=lambda hello: self._on_carriers(list(hello.carriers)),
        )
        blobs.heard = link.heard
        self._link = link
        self._show(phase=LinkPhase.UP)
        self._owner.peer_greeted(SERVER, list(first.hello.runs))
        self._on_carriers(list(first.hello.carriers))
        await link.run(frames())

    def _check(self, hello: Hello) -> None:
        if hello.protocol != self._hello.protocol:
            raise protocol_differs(hello.protocol, self._hello.protocol, "server")

    def _latency(self, ms: float) -> None:
        self._show(latency_ms=ms)


class _Blobs:
    """Blob transfers of one connection. The server never dials: the silo puts what it sends and gets what it lacks."""

    def __init__(self, end: GrpcSiloEnd, channel: grpc.aio.Channel, executor: ThreadPoolExecutor) -> None:
        self._end, self._executor = end, executor
        self._store = end._owner.blobs()
        self._have = channel.unary_unary(
            f"/{SERVICE}/Have",
            request_serializer=HaveRequest.SerializeToString,
            response_deserializer=HaveReply.FromString,
        )
        self._put = channel.stream_unary(
            f"/{SERVICE}/Put", request_serializer=None, response_deserializer=PutReply.FromString
        )
        self._get = channel.unary_stream(
            f"/{SERVICE}/Get", request_serializer=GetRequest.SerializeToString, response_deserializer=None
        )
        self._up, self._down = asyncio.Semaphore(TRANSFERS), asyncio.Semaphore(TRANSFERS)
        self._locks = BlobLocks()
        self.heard: Callable[[], None] = lambda: None

    async def bring(self, envelope: Envelope) -> None:
        """Make the envelope's blobs whole at the server. Raises UserError."""
        async with self._up:
            try:
                if all(ref.size <= SMALL_BYTES for ref in envelope.blobs) and await self._sent_unasked(envelope):
                    return
                reply = await self._have(
                    HaveRequest(blobs=envelope.blobs, run_id=envelope.run_id), timeout=self._end._silence_s
                )
                for ref, offset in zip(envelope.blobs, reply.offsets, strict=True):
                    if offset < ref.size or not ref.size:
                        await self._send(ref, offset, envelope.run_id)
            except grpc.RpcError as error:
                raise to_user_error(error, self._end._address, self._end._proxy) from error

    async def _sent_unasked(self, envelope: Envelope) -> bool:
        """Small blobs from their beginning; False when the server has a part of one already."""
        try:
            for ref in envelope.blobs:
                await self._send(ref, 0, envelope.run_id)
        except grpc.RpcError as error:
            if to_user_error(error, self._end._address, self._end._proxy).code != "OCT-BLOB-OFFSET":
                raise
            return False
        return True

    async def _send(self, ref: BlobRef, offset: int, run_id: str) -> None:
        path = self._store.path(ref.digest)
        self._end._moved(0, 0, offset)
        call: Any = self._put()
        try:
            await call.write(encode_head(ref, offset, run_id))
            pieces = blob_pieces(self._executor, path, offset, self._end._chunk_bytes, encode_data)
            async with aclosing(pieces):
                async for piece in pieces:
                    async with asyncio.timeout(self._end._silence_s):
                        await call.write(piece)
                    self._end._moved(0, len(piece))
            await call.done_writing()
            await call
        except asyncio.InvalidStateError:
            await call  # the server ended the call early: with an error, or because the blob is whole there by now
        except TimeoutError as error:
            raise link_down(self._end._address, "A blob's transfer stood still.") from error
        finally:
            call.cancel()
        self._end._show()

    async def fetch(self, envelope: Envelope, missing: Sequence[BlobRef]) -> None:
        """Get what the envelope names and this side lacks. Raises UserError."""
        async with self._down:
            for ref in missing:
                async with self._locks.held(ref.digest):
                    if not self._store.has(ref.digest):
                        await self._receive(ref, envelope.run_id)

    async def _receive(self, ref: BlobRef, run_id: str) -> None:
        async with BlobSink(self._executor, self._store, ref) as sink:
            self._end._moved(0, 0, sink.offset)
            call: Any = self._get(GetRequest(blob=ref, offset=sink.offset, run_id=run_id))
            try:
                while True:
                    async with asyncio.timeout(self._end._silence_s):
                        message = await call.read()
                    if message is grpc.aio.EOF:
                        break
                    self.heard()
                    self._end._moved(len(message), 0)
                    piece = decode_chunk(message)
                    if piece.data:
                        await sink.write(piece.data)
                if (status := await _status(call)).code() is not grpc.StatusCode.OK:
                    raise status
            except grpc.RpcError as error:
                raise to_user_error(error, self._end._address, self._end._proxy) from error
            except TimeoutError as error:
                raise link_down(self._end._address, "A blob's transfer stood still.") from error
            finally:
                call.cancel()
            await sink.commit()
        self._end._show()


async def _status(call: Any) -> grpc.aio.AioRpcError:
    """How a call ended, as an error that can be raised."""
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), await call.details()
    )
