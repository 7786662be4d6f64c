"""Moves one blob between a file and a sealed object: parts up and ranges down, several at once, with bounded memory.

Up, each part is read, sealed and sent segment by segment in a thread, so that a part's size costs no memory. Down,
ranges come in parallel and go into the sink in order. Where URLs come from, and what is to be done about an error, the
callers know; this asks them once more for a URL that was past its time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from octopus_desktop.communication.memory import kept_buffers
from octopus_desktop.communication.sealed_object import SEALED_SEGMENT_BYTES, SEGMENT_BYTES, SealedObject
from octopus_desktop.communication.signed_http import SignedHttp, Transfer
from octopus_desktop.communication.transfer import BlobSink
from octopus_desktop.wire.errors import UserError

PARTS_UNDER_WAY = 4
RANGES_UNDER_WAY = 4
RANGE_SEGMENTS = 4
MOST_PARTS = 10_000  # S3's bound
LEAST_PART_BYTES = 5 << 20  # S3's bound, but for the last part

T = TypeVar("T")
Moved = Callable[[int, int, int], None]
PartUrl = Callable[[int, bool], Awaitable[str]]  # (part, a fresh one: the last was past its time)
ObjectUrl = Callable[[bool], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How an object is cut into parts: whole segments each, numbered from 1. One part: a plain PUT will do."""

    stored: int
    part_bytes: int
    count: int

    @classmethod
    def of(cls, stored: int, part_bytes: int) -> Layout:
        """``part_bytes`` is rounded up to whole segments, and raised where there would be too many parts."""
        wanted = max(part_bytes, LEAST_PART_BYTES, -(-stored // MOST_PARTS))
        rounded = -(-wanted // SEALED_SEGMENT_BYTES) * SEALED_SEGMENT_BYTES
        return cls(stored=stored, part_bytes=rounded, count=max(1, -(-stored // rounded)))

    def length(self, part: int) -> int:
        return min(self.part_bytes, self.stored - (part - 1) * self.part_bytes)

    def segments(self, part: int) -> tuple[int, int]:
        """First segment of the part, and the one after its last."""
        each = self.part_bytes // SEALED_SEGMENT_BYTES
        return (part - 1) * each, part * each

    def missing(self, present: dict[int, int]) -> list[int]:
        """Parts that the store lacks. ``present``: bytes by number."""
        return [part for part in range(1, self.count + 1) if present.get(part) != self.length(part)]


async def in_thread(executor: Executor, work: Callable[[Transfer], T], transfer: Transfer | None = None) -> T:
    """Run blocking ``work``; when this is cancelled, the work is stopped and ends soon by itself."""
    transfer = transfer or Transfer()
    try:
        return await asyncio.wrap_future(executor.submit(work, transfer))
    except asyncio.CancelledError:
        transfer.stop()
        raise


async def send_parts(
    executor: Executor,
    http: SignedHttp,
    *,
    path: Path,
    sealed: SealedObject,
    layout: Layout,
    parts: Sequence[int],
    url: PartUrl,
    moved: Moved,
) -> None:
    """Seal and send these parts.

    Raises:
        UserError: OCT-STORE-… of the first part that could not be sent; the others' threads are stopped.
    """
    left = deque(parts)

    def put(part: int, where: str, transfer: Transfer) -> None:
        http.put(where, layout.length(part), _sealed_pieces(path, sealed, *layout.segments(part)), transfer)

    async def one(part: int, fresh: bool) -> None:
        where, transfer = await url(part, fresh), Transfer()
        try:
            await in_thread(executor, lambda t: put(part, where, t), transfer)
        finally:
            moved(0, transfer.sent, 0)

    async def worker() -> None:
        while left:
            part = left.popleft()
            try:
                await one(part, False)
            except UserError as error:
                if error.code not in ("OCT-STORE-EXPIRED", "OCT-STORE-DOWN"):
                    raise
                await one(part, True)  # past its time, or the connection was cut before the store could say so

    with kept_buffers():
        await _all_of(worker() for _ in range(min(PARTS_UNDER_WAY, len(left))))


def _sealed_pieces(path: Path, sealed: SealedObject, first: int, end: int) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        file.seek(first * SEGMENT_BYTES)
        for index, _ in sealed.spans(first, end):
            plain = file.read(sealed.plain_bytes(index))
            if len(plain) != sealed.plain_bytes(index):
                raise UserError(
                    "OCT-BLOB-CORRUPT",
                    "A blob's file is shorter than the blob.",
                    f"{path} ends before byte {index * SEGMENT_BYTES + sealed.plain_bytes(index)}.",
                    "Check the disk; the file was cut since it was stored.",
                )
            yield sealed.seal(index, plain)


async def receive(
    executor: Executor, http: SignedHttp, *, sealed: SealedObject, sink: BlobSink, url: ObjectUrl, moved: Moved
) -> None:
    """Fetch, open and write what the sink lacks. Commits nothing.

    Raises:
        UserError: OCT-STORE-…; OCT-STORE-OBJECT when a segment does not open, also when it is fetched once more.
    """
    if sink.offset >= sealed.size and sealed.size:
        return
    first = sink.offset // SEGMENT_BYTES
    skip = sink.offset - first * SEGMENT_BYTES
    source = _Url(url)
    coming: deque[asyncio.Task[list[bytes]]] = deque()

    def get(begin: int, where: str, transfer: Transfer) -> list[bytes]:
        spans = list(sealed.spans(begin, begin + RANGE_SEGMENTS))
        pieces = http.get(where, begin * SEALED_SEGMENT_BYTES, [n for _, n in spans], sealed.stored, transfer)
        return [sealed.open(index, piece) for (index, _), piece in zip(spans, pieces, strict=True)]

    async def one(begin: int, where: str) -> list[bytes]:
        transfer = Transfer()
        try:
            return await in_thread(executor, lambda t: get(begin, where, t), transfer)
        finally:
            moved(transfer.received, 0, 0)

    async def ranged(begin: int) -> list[bytes]:
        where = await source.get("")
        try:
            return await one(begin, where)
        except UserError as error:
            if error.code == "OCT-STORE-EXPIRED":
                where = await source.get(where)
            elif error.code not in ("OCT-STORE-OBJECT", "OCT-STORE-DOWN"):
                raise
            return await one(begin, where)

    try:
        with kept_buffers():
            ahead = first
            while coming or ahead < sealed.count:
                while ahead < sealed.count and len(coming) < RANGES_UNDER_WAY:
                    coming.append(asyncio.create_task(ranged(ahead)))
                    ahead += RANGE_SEGMENTS
                for piece in await coming[0]:
                    await sink.write(memoryview(piece)[skip:])
                    skip = 0
                coming.popleft()
    finally:
        await _end(coming)


class _Url:
    """The object's URL as several ranges share it: one that is past its time is replaced once for all of them."""

    def __init__(self, ask: ObjectUrl) -> None:
        self._ask, self._now = ask, ""
        self._lock = asyncio.Lock()

    async def get(self, stale: str) -> str:
        async with self._lock:
            if self._now == stale:
                self._now = await self._ask(bool(stale))
            return self._now


async def _all_of(works: Iterator[Awaitable[None]]) -> None:
    """Run all; the first error ends the others and is raised as it is."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        for done in asyncio.as_completed(tasks):
            await done
    finally:
        await _end(tasks)


async def _end(tasks: Sequence[asyncio.Future[T]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
        for task in tasks:
            _ = task.cancelled() or task.exception()  # seen: the first one was raised


__all__ = ["PARTS_UNDER_WAY", "Layout", "in_thread", "receive", "send_parts"]
