"""Blobs in chunks over one session of a message carrier: ask, hear what is lacking, send within the credit.

The sender asks (``Ask``); the receiver, once it may take the blob, says from which offset on it lacks it (``Lack``);
chunks follow on the bulk lane, never further than ``CREDIT_BYTES`` beyond what the receiver said it has written
(``Gained``); the receiver checks the digest and says so. Whatever is lost with a session is asked for again, and goes
on at the offset that is reached. Knows no wire and no key.

A chunk is the transfer's number and the offset, eight bytes each, and the data.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from octopus_desktop.communication.contract import CHUNK_BYTES, SERVER
from octopus_desktop.communication.links import blob_forbidden
from octopus_desktop.communication.parties import Session
from octopus_desktop.communication.transfer import BATCH_BYTES, TRANSFERS, BlobSink, blob_pieces
from octopus_desktop.communication.wires import CREDIT_BYTES
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.sealed_pb2 import Ask, Broken, Gained, Inner, Lack

GAIN_BYTES = CREDIT_BYTES // 8  # the receiver speaks up after so much
_HEAD = struct.Struct(">QQ")

_log = logging.getLogger(__name__)


class ChunkWay:
    """Implements ``BlobWay``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._store = session.owner.blobs()
        self._piece_bytes = min(session.bulk_bytes - _HEAD.size, CHUNK_BYTES)
        self._turn = asyncio.Semaphore(TRANSFERS)
        self._numbers = 0
        self._outgoing: dict[int, _Outgoing] = {}
        self._incoming: dict[int, _Incoming] = {}
        self._held = 0  # bytes that came and are not written yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._credit = _Credit(CREDIT_BYTES)

    async def run(self) -> None:
        try:
            await self._failed
        finally:
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            if self._failed.done() and not self._failed.cancelled():
                self._failed.exception()

    # sending

    async def bring(self, envelope: Envelope) -> None:
        async with self._turn:
            for ref in envelope.blobs:
                # What a silo sends was decided when it was posted; the server gives to each silo only its own runs'.
                peer = self._session.peer
                if peer != SERVER and not self._session.owner.may_read(peer, envelope.run_id, ref):
                    raise blob_forbidden(ref)
                await self._send(ref, envelope.run_id)

    async def _send(self, ref: BlobRef, run_id: str) -> None:
        path = self._store.path(ref.digest)
        self._numbers += 1
        number = self._numbers
        out = self._outgoing[number] = _Outgoing()
        try:
            await self._session.say(Inner(ask=Ask(transfer=number, run_id=run_id, blob=ref)))
            offset = await out.lack
            if offset is None:
                return
            self._session.moved(0, 0, offset)
            out.sent = out.gained = offset

            def pack(data: bytes) -> bytes:
                nonlocal offset
                assert offset is not None
                chunk = b"".join((_HEAD.pack(number, offset), data))
                offset += len(data)
                return chunk

            async with aclosing(blob_pieces(self._session.threads, path, offset, self._piece_bytes, pack)) as pieces:
                async for piece in pieces:
                    size = len(piece) - _HEAD.size
                    await self._credit.take(size, out)
                    if out.whole.done():
                        break  # broken, or whole by another way
                    await self._session.bulk(piece)
            if out.sent < ref.size and not out.whole.done():
                await self._say_broken(number, _damaged(ref, out.sent), by_sender=True)
                raise _damaged(ref, out.sent)
            await out.whole
        except (UserError, asyncio.CancelledError):
            raise
        except OSError as error:
            fault = _unreadable(ref, error)
            await self._say_broken(number, fault, by_sender=True)
            raise fault from error
        finally:
            del self._outgoing[number]
            self._credit.give(out.sent - out.gained)
            out.end()

    # receiving

    def heard(self, inner: Inner) -> None:
        what = inner.WhichOneof("inner")
        if what == "ask":
            self._asked(inner.ask)
        elif what == "lack" and (out := self._outgoing.get(inner.lack.transfer)):
            if not out.lack.done():
                out.lack.set_result(None if inner.lack.whole else inner.lack.offset)
        elif what == "gained" and (out := self._outgoing.get(inner.gained.transfer)):
            gained = min(max(inner.gained.offset, out.gained), out.sent)
            self._credit.give(gained - out.gained)
            out.gained = gained
            if inner.gained.whole and not out.whole.done():
                out.whole.set_result(None)
                self._credit.stir()
        elif what == "broken":
            self._broken(inner.broken)

    def _broken(self, broken: Broken) -> None:
        if broken.by_sender:
            incoming = self._incoming.get(broken.transfer)
            if incoming and incoming.task:
                incoming.task.cancel()
        elif out := self._outgoing.get(broken.transfer):
            fault = UserError.from_fault(broken.fault)
            if not out.lack.done():
                out.lack.set_exception(fault)
            elif not out.whole.done():
                out.whole.set_exception(fault)
                self._credit.stir()

    def heard_bulk(self, message: bytes | memoryview) -> None:
        if len(message) <= _HEAD.size:
            return
        number, offset = _HEAD.unpack_from(message)
        incoming = self._incoming.get(number)
        if incoming is None:
            return  # of a transfer that ended here a moment ago
        data = memoryview(message)[_HEAD.size :]
        self._held += len(data)
        if self._held > CREDIT_BYTES + BATCH_BYTES:
            self._fail(_beyond_credit(self._session.peer))
            return
        incoming.chunks.append((offset, data))
        incoming.came.set()

    def _asked(self, ask: Ask) -> None:
        if ask.transfer in self._incoming or len(self._incoming) >= 2 * TRANSFERS:
            self._fail(_beyond_credit(self._session.peer))
        elif not self._session.owner.may_write(self._session.peer, ask.run_id, ask.blob):
            self._spawn(self._say_broken(ask.transfer, blob_forbidden(ask.blob)))
        else:
            incoming = self._incoming[ask.transfer] = _Incoming()
            incoming.task = self._spawn(self._receive(ask.transfer, ask.blob, incoming))

    async def _receive(self, number: int, ref: BlobRef, incoming: _Incoming) -> None:
        end: Inner | None = None
        try:
            async with self._session.locks.held(ref.digest):
                if self._store.has(ref.digest):
                    end = Inner(lack=Lack(transfer=number, offset=ref.size, whole=True))
                else:
                    await self._take(number, ref, incoming)
                    end = Inner(gained=Gained(transfer=number, offset=ref.size, whole=True))
        except UserError as error:
            if error.code == "OCT-DISK-FULL":
                self._session.faulty(error)
            end = Inner(broken=Broken(transfer=number, fault=error.to_fault()))
        finally:
            del self._incoming[number]
            self._held -= sum(len(data) for _, data in incoming.chunks)
        await self._session.say(end)

    async def _take(self, number: int, ref: BlobRef, incoming: _Incoming) -> None:
        async with BlobSink(self._session.threads, self._store, ref) as sink:
            at = told = sink.offset
            self._session.moved(0, 0, at)
            await self._session.say(Inner(lack=Lack(transfer=number, offset=at)))
            while at < ref.size:
                offset, data = await incoming.next()
                self._held -= len(data)
                if offset != at:
                    raise _elsewhere(ref, offset, at)
                at += len(data)
                await sink.write(data)
                if at - told >= GAIN_BYTES and at < ref.size:
                    told = at
                    await self._session.say(Inner(gained=Gained(transfer=number, offset=at)))
            await sink.commit()

    # how

    async def _say_broken(self, number: int, fault: UserError, *, by_sender: bool = False) -> None:
        await self._session.say(Inner(broken=Broken(transfer=number, fault=fault.to_fault(), by_sender=by_sender)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)


@dataclass(slots=True)
class _Outgoing:
    sent: int = 0
    gained: int = 0
    lack: asyncio.Future[int | None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    whole: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end(self) -> None:
        for future in (self.lack, self.whole):
            if not future.cancel() and not future.cancelled():
                future.exception()  # seen; it was raised, or the transfer ended for another reason


@dataclass(slots=True)
class _Incoming:
    chunks: deque[tuple[int, memoryview]] = field(default_factory=deque)
    came: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    async def next(self) -> tuple[int, memoryview]:
        while not self.chunks:
            self.came.clear()
            await self.came.wait()
        return self.chunks.popleft()


class _Credit:
    """Bytes of one direction that may still be sent without the receiver's word, over all its transfers."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._more = asyncio.Event()

    async def take(self, size: int, out: _Outgoing) -> None:
        """Wait for room; at once when the transfer has ended meanwhile."""
        while self._free < size and not out.whole.done():
            self._more.clear()
            await self._more.wait()
        self._free -= size
        out.sent += size

    def give(self, size: int) -> None:
        self._free += size
        self._more.set()

    def stir(self) -> None:
        """A transfer ended: who waits for room looks again."""
        self._more.set()


def _damaged(ref: BlobRef, there: int) -> UserError:
    return UserError(
        "OCT-BLOB-CORRUPT",
        f"Blob {ref.digest[:12]} cannot be sent: its file is damaged.",
        f"The file ends after {there} of {ref.size} bytes.",
        "Check the sender's disk; what made the blob has to make it again.",
    )


def _unreadable(ref: BlobRef, error: OSError) -> UserError:
    return UserError(
        "OCT-BLOB-MISSING",
        f"Blob {ref.digest[:12]} cannot be read.",
        str(error),
        "Check the sender's disk; what made the blob has to make it again.",
    )


def _elsewhere(ref: BlobRef, offset: int, at: int) -> UserError:
    return UserError(
        "OCT-BLOB-OFFSET",
        f"Blob {ref.digest[:12]} goes on at another place.",
        f"The sender is at {offset}, {at} bytes are here.",
        "The transfer is begun anew by itself.",
    )


def _beyond_credit(peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        f"{peer} sends more of its blobs than it was given room for.",
        f"At most {TRANSFERS} blobs and {CREDIT_BYTES} bytes of one direction may be on the way.",
        "The connection is made anew; if it repeats, the other side's version is faulty.",
    )
