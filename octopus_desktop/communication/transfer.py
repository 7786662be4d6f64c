"""Blob bytes between disk and an asyncio link, with flat memory: work on disk and hashes in threads, in large batches.

A thread hop costs about as much as writing 1 MiB, so hops are per batch; while one batch is written, the next arrives.
Knows no protocol: takes and gives byte strings.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor, Future
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType

from octopus_desktop.communication.memory import kept_buffers
from octopus_desktop.storage.blobs import BlobStore, BlobWriter
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef

BATCH_BYTES = 4 << 20
TRANSFERS = 2  # blobs that one link moves at once in one direction


class BlobLocks:
    """One writer a digest: a second transfer of the same blob waits for the first, and then finds it whole."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def held(self, digest: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(digest, (asyncio.Lock(), 0))
        self._locks[digest] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(digest)
            if users > 1:
                self._locks[digest] = (lock, users - 1)


class BlobSink:
    """Receives one blob. Use as an async context manager: leaving early keeps what came for a later resumption.

    ``offset`` says from where on bytes are wanted. Holds at most two batches in memory.
    """

    def __init__(self, executor: Executor, store: BlobStore, ref: BlobRef) -> None:
        self._executor, self._store, self._ref = executor, store, ref
        self._writer: BlobWriter | None = None
        self._parts: list[memoryview] = []
        self._held = 0
        self._busy: Future[None] | None = None
        self._buffers = ExitStack()
        self.offset = 0

    async def __aenter__(self) -> BlobSink:
        opening = self._executor.submit(self._store.writer, self._ref.digest, self._ref.size)
        try:
            self._writer = await asyncio.wrap_future(opening)
        except asyncio.CancelledError:
            opening.add_done_callback(
                lambda done: None if done.cancelled() or done.exception() else done.result().close()
            )
            raise
        self.offset = self._writer.offset
        self._buffers.enter_context(kept_buffers())
        return self

    async def write(self, data: memoryview) -> None:
        """Take the next bytes; waits while the disk is behind. The bytes may not change afterwards."""
        self._parts.append(data)
        self._held += len(data)
        if self._held >= BATCH_BYTES:
            await self._flush()

    async def commit(self) -> None:
        """Write the rest, check the digest, make the blob visible. Raises OCT-BLOB-CORRUPT."""
        assert self._writer is not None
        await self._idle()
        parts, self._parts, self._held = self._parts, [], 0
        self._busy = self._executor.submit(_write_and_commit, self._writer, parts)
        await self._idle()

    async def discard(self) -> None:
        """Throw away what came: it is known to be damaged."""
        assert self._writer is not None
        await self._idle()
        await asyncio.wrap_future(self._executor.submit(self._writer.discard))

    async def _flush(self) -> None:
        await self._idle()
        parts, self._parts, self._held = self._parts, [], 0
        if parts:
            assert self._writer is not None
            self._busy = self._executor.submit(_write_all, self._writer, parts)

    async def _idle(self) -> None:
        if self._busy is not None:
            await asyncio.wrap_future(self._busy)
            self._busy = None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        writer, busy = self._writer, self._busy
        assert writer is not None
        if busy is not None and not busy.done():
            busy.cancel()
            await asyncio.gather(asyncio.wrap_future(busy), return_exceptions=True)
        writer.close()
        self._parts = []
        self._buffers.close()


def _write_all(writer: BlobWriter, parts: list[memoryview]) -> None:
    for part in parts:
        writer.write(part)


def _write_and_commit(writer: BlobWriter, parts: list[memoryview]) -> None:
    _write_all(writer, parts)
    writer.commit()


async def blob_pieces(
    executor: Executor, path: Path, offset: int, piece_bytes: int, pack: Callable[[bytes], bytes]
) -> AsyncGenerator[bytes, None]:
    """A file's bytes from ``offset`` on, each piece through ``pack``; the next batch is read while this one is sent."""
    count = max(BATCH_BYTES // piece_bytes, 1)
    file, batch = await asyncio.wrap_future(executor.submit(_open_and_read, path, offset, piece_bytes, count, pack))
    coming: Future[list[bytes]] | None = None
    try:
        with kept_buffers():
            while batch:
                offset += count * piece_bytes
                if len(batch) == count:
                    coming = executor.submit(_read_batch, file, offset, piece_bytes, count, pack)
                for piece in batch:
                    yield piece
                batch = await asyncio.wrap_future(coming) if coming else []
                coming = None
    finally:
        if coming is None or coming.cancel():
            file.close()
        else:
            coming.add_done_callback(lambda _: file.close())  # not while a thread still reads


def _open_and_read(
    path: Path, offset: int, piece_bytes: int, count: int, pack: Callable[[bytes], bytes]
) -> tuple[io.FileIO, list[bytes]]:
    """One hop for what a small blob needs."""
    file = open(path, "rb", buffering=0)  # noqa: SIM115 (the caller's)
    try:
        return file, _read_batch(file, offset, piece_bytes, count, pack)
    except BaseException:
        file.close()
        raise


def _read_batch(
    file: io.FileIO, offset: int, piece_bytes: int, count: int, pack: Callable[[bytes], bytes]
) -> list[bytes]:
    pieces: list[bytes] = []
    file.seek(offset)
    while len(pieces) < count and (data := file.read(piece_bytes)):
        pieces.append(pack(data))
    return pieces
