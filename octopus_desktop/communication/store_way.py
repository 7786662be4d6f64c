"""Blobs through an object store, over one session: messages say where an object lies and under which key; the bytes go
by HTTP between each side and the store. The store sees sizes and no content.

Who has credentials stores one object a blob and gives each receiver a signed URL (Ask, Lack, StoredObject). A silo
without credentials asks for a URL a part and says when all are there (PartsWanted, PartUrls, Uploaded); the server
completes, fetches, opens and checks. The receiver ends either with Gained (whole) or Broken. Nothing is believed: sizes
must fit the blob, URLs must lead to the agreed store, and names must lie below the federation's prefix.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.links import blob_forbidden
from octopus_desktop.communication.object_notes import Sent
from octopus_desktop.communication.parties import Session
from octopus_desktop.communication.sealed_object import SealedObject, new_key, sealed_size
from octopus_desktop.communication.store_desk import MadeObjects, StoreDesk, until
from octopus_desktop.communication.store_faults import store_object
from octopus_desktop.communication.store_intake import Intake
from octopus_desktop.communication.store_keeper import Keeper
from octopus_desktop.communication.store_transfer import Layout, ObjectUrl, receive, send_parts
from octopus_desktop.communication.transfer import TRANSFERS, BlobSink
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.sealed_pb2 import (
    Ask,
    Broken,
    Gained,
    Inner,
    Lack,
    PartsWanted,
    PartUrls,
    StoredObject,
    Uploaded,
)

TRIES = 3  # objects of one blob until its damage counts as an error that somebody has to look at
MOST_WORK = 64  # messages of the peer that are being worked on
MOST_REPLIES = 16  # of the peer on one transfer, which this side has not looked at

_log = logging.getLogger(__name__)
M = TypeVar("M", Ask, StoredObject, PartsWanted, Uploaded)


class StoreWay:
    """Implements ``BlobWay``.

    Arguments:
        session: the session that it lives with.
        desk: the bucket, shared by all sessions of this end.
        made: objects that this end makes; None without credentials.
        intake: uploads of peers without credentials; the server's alone.
        keeper: told which receivers have their blobs; the server's alone.
    """

    def __init__(
        self,
        session: Session,
        desk: StoreDesk,
        *,
        made: MadeObjects | None = None,
        intake: Intake | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self._session, self._desk, self._made, self._intake, self._keeper = session, desk, made, intake, keeper
        self._turn, self._in_turn = asyncio.Semaphore(TRANSFERS), asyncio.Semaphore(TRANSFERS)
        self._numbers = 0
        self._replies: dict[int, asyncio.Queue[Inner]] = {}  # to what this side sends, by its own numbers
        self._objects: dict[int, asyncio.Queue[StoredObject]] = {}  # fresh URLs for what comes, by the peer's numbers
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        desk.peers.add(session.peer)

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

    def heard(self, inner: Inner) -> None:
        what = inner.WhichOneof("inner")
        match what:
            case "lack" | "gained" | "part_urls":
                self._reply(getattr(inner, what).transfer, inner)
            case "broken" if not inner.broken.by_sender:
                self._reply(inner.broken.transfer, inner)
            case "ask":
                self._work(self._asked, inner.ask)
            case "object" if inner.object.transfer in self._objects:
                if self._objects[inner.object.transfer].empty():  # else nobody asked for it
                    self._objects[inner.object.transfer].put_nowait(inner.object)
            case "object":
                self._objects[inner.object.transfer] = asyncio.Queue()
                self._work(self._stored, inner.object)
            case "parts_wanted":
                self._work(self._parts_wanted, inner.parts_wanted)
            case "uploaded":
                self._work(self._uploaded, inner.uploaded)

    def heard_bulk(self, message: bytes | memoryview) -> None:
        """Nothing comes there: blobs go through the store."""

    # sending

    async def bring(self, envelope: Envelope) -> None:
        session = self._session
        async with self._turn:
            for ref in envelope.blobs:
                # What a silo sends was decided when it was posted; the server gives to each silo only its own runs'.
                if session.peer != SERVER and not session.owner.may_read(session.peer, envelope.run_id, ref):
                    raise blob_forbidden(ref)
                for tries in range(1, TRIES + 1):
                    try:
                        if self._made is not None:
                            await self._bring_object(self._made, envelope, ref)
                        else:
                            await self._bring_parts(envelope, ref)
                        break
                    except UserError as error:  # somebody changed or removed the object: a new one is made
                        if error.code != "OCT-STORE-OBJECT" or tries == TRIES:
                            raise
                if self._keeper is not None:
                    self._keeper.brought(ref.digest, envelope.id)

    async def _bring_object(self, made: MadeObjects, envelope: Envelope, ref: BlobRef) -> None:
        session, desk = self._session, self._desk
        async with self._conversation() as (number, hear):
            await session.say(Inner(ask=Ask(transfer=number, run_id=envelope.run_id, blob=ref)))
            if (await hear()).lack.whole:
                return
            async with made.lent(ref, envelope.run_id, envelope.round, session.moved) as note:
                told = StoredObject(
                    transfer=number,
                    run_id=envelope.run_id,
                    blob=ref,
                    object=note.object,
                    stored=sealed_size(ref.size),
                    key=bytes.fromhex(note.key),
                )
                try:
                    while True:
                        if session.peer != SERVER:  # the server has credentials of its own
                            assert desk.store is not None
                            told.url = await desk.ask(desk.store.sign_get, note.object, desk.url_s)
                            told.until = until(desk.url_s)
                        await session.say(Inner(object=told))
                        if (await hear()).gained.whole:
                            break
                except UserError as error:
                    if error.code in ("OCT-STORE-OBJECT", "OCT-BLOB-CORRUPT"):
                        made.spoiled(note)
                    raise
            if session.peer == SERVER:
                made.forget_idle(note)

    async def _bring_parts(self, envelope: Envelope, ref: BlobRef) -> None:
        session, desk = self._session, self._desk
        path = session.owner.blobs().path(ref.digest)
        sent = desk.notes.sent(ref.digest)
        layout = Layout.of(sealed_size(ref.size), sent.part_bytes if sent else desk.part_bytes)
        async with self._conversation() as (number, hear):
            urls = _Urls(self, number, hear, envelope.run_id, ref, layout, sent.object if sent else "")
            present = await urls.begin()
            if present is None:
                if sent:
                    desk.notes.drop(sent)
                return
            if sent is None or sent.object != urls.object:
                sent = Sent(
                    object=urls.object,
                    digest=ref.digest,
                    size=ref.size,
                    part_bytes=layout.part_bytes,
                    key=new_key().hex(),
                )
                desk.notes.save(sent)
            session.moved(0, 0, sum(layout.length(part) for part in present))
            key = bytes.fromhex(sent.key)
            try:
                await send_parts(
                    desk.threads,
                    desk.http,
                    path=path,
                    sealed=SealedObject(key, ref.digest, ref.size),
                    layout=layout,
                    parts=[part for part in range(1, layout.count + 1) if part not in present],
                    url=urls.get,
                    moved=session.moved,
                )
                said = Uploaded(
                    transfer=number,
                    run_id=envelope.run_id,
                    blob=ref,
                    object=urls.object,
                    stored=layout.stored,
                    key=key,
                )
                await session.say(Inner(uploaded=said))
                while not (await hear()).gained.whole:
                    pass  # an answer to what was asked before
            except UserError as error:
                if error.code in ("OCT-BLOB-CORRUPT", "OCT-BLOB-FORBIDDEN"):
                    desk.notes.drop(sent)
                raise
            desk.notes.drop(sent)

    @asynccontextmanager
    async def _conversation(self) -> AsyncIterator[tuple[int, Callable[[], Coroutine[Any, Any, Inner]]]]:
        """A number, and a function that waits for the peer's next word on it; a Broken is raised."""
        self._numbers += 1
        number = self._numbers
        queue = self._replies[number] = asyncio.Queue()

        async def hear() -> Inner:
            inner = await queue.get()
            if inner.WhichOneof("inner") == "broken":
                raise UserError.from_fault(inner.broken.fault)
            return inner

        try:
            yield number, hear
        finally:
            del self._replies[number]

    # receiving

    async def _asked(self, ask: Ask) -> None:
        whole = await self._may_take(ask.run_id, ask.blob)
        offset = self._session.owner.blobs().offset(ask.blob.digest)
        await self._session.say(Inner(lack=Lack(transfer=ask.transfer, offset=offset, whole=whole)))

    async def _parts_wanted(self, wanted: PartsWanted) -> None:
        if await self._may_take(wanted.run_id, wanted.blob):
            self._intake_here.drop(self._session.peer, wanted.blob.digest)
            await self._gained(wanted.transfer, wanted.blob)
        else:
            urls = await self._intake_here.urls(self._session.peer, wanted)
            await self._session.say(Inner(part_urls=urls))

    async def _uploaded(self, said: Uploaded) -> None:
        intake = self._intake_here
        if not await self._may_take(said.run_id, said.blob):
            _check_size(said.blob, said.stored)
            note = await intake.complete(self._session.peer, said)
            try:
                await self._fetch(said.blob, said.key, self._own_url(note.object))
            except UserError as error:
                if error.code in ("OCT-STORE-OBJECT", "OCT-BLOB-CORRUPT"):
                    intake.done(note)
                raise
        intake.drop(self._session.peer, said.blob.digest)
        await self._gained(said.transfer, said.blob)

    async def _stored(self, told: StoredObject) -> None:
        session, desk = self._session, self._desk
        try:
            if not await self._may_take(told.run_id, told.blob):
                _check_size(told.blob, told.stored)
                if desk.store is not None and session.peer != SERVER:
                    if not told.object.startswith(desk.prefix) or "/../" in told.object:
                        raise store_object("It lies outside of the federation's prefix.", f"Named: {told.object!r}.")
                    url = self._own_url(told.object)
                else:
                    url = self._given_url(told)
                await self._fetch(told.blob, told.key, url)
            await self._gained(told.transfer, told.blob)
        finally:
            self._objects.pop(told.transfer, None)

    def _own_url(self, name: str) -> ObjectUrl:
        desk, store = self._desk, self._desk.store
        assert store is not None

        async def url(stale: bool) -> str:
            return await desk.ask(store.sign_get, name, desk.url_s)

        return url

    def _given_url(self, told: StoredObject) -> ObjectUrl:
        latest = told

        async def url(stale: bool) -> str:
            nonlocal latest
            if stale:
                offset = self._session.owner.blobs().offset(told.blob.digest)
                await self._session.say(Inner(lack=Lack(transfer=told.transfer, offset=offset)))
                latest = await self._objects[told.transfer].get()
            return self._checked(latest.url)

        return url

    async def _fetch(self, ref: BlobRef, key: bytes, url: ObjectUrl) -> None:
        """Download, open, check. A partial blob that turns out damaged is thrown away and fetched whole, once."""
        session, desk = self._session, self._desk
        sealed = SealedObject(key, ref.digest, ref.size)
        async with self._in_turn, session.locks.held(ref.digest), desk.fetches:
            while not session.owner.blobs().has(ref.digest):
                async with BlobSink(session.threads, session.owner.blobs(), ref) as sink:
                    began = sink.offset
                    session.moved(0, 0, began)
                    await receive(desk.threads, desk.http, sealed=sealed, sink=sink, url=url, moved=session.moved)
                    try:
                        await sink.commit()
                    except UserError as error:
                        if error.code != "OCT-BLOB-CORRUPT" or not began:
                            raise

    async def _may_take(self, run_id: str, ref: BlobRef) -> bool:
        """Whether the blob is whole here already. Raises OCT-BLOB-FORBIDDEN when the peer may not send it."""
        session = self._session
        if not session.owner.may_write(session.peer, run_id, ref):
            raise blob_forbidden(ref)
        store = session.owner.blobs()
        if not store.has(ref.digest) and store.offset(ref.digest) == ref.size:
            async with session.locks.held(ref.digest):
                if not store.has(ref.digest):
                    async with BlobSink(session.threads, store, ref) as sink:
                        try:
                            await sink.commit()
                            session.moved(0, 0, ref.size)
                        except UserError as error:
                            if error.code != "OCT-BLOB-CORRUPT":
                                raise
        return store.has(ref.digest)

    async def _gained(self, transfer: int, ref: BlobRef) -> None:
        await self._session.say(Inner(gained=Gained(transfer=transfer, offset=ref.size, whole=True)))

    # how

    @property
    def _intake_here(self) -> Intake:
        if self._intake is None:
            raise UserError(
                "OCT-CARRIER-REFUSED",
                "This side signs no URLs.",
                f"{self._session.peer} asked for some; only the federation server does that.",
                "Update Octopus Desktop on both sides to versions that fit.",
            )
        return self._intake

    def _checked(self, url: str) -> str:
        if not self._desk.http.allows(url):
            raise store_object("Its URL leads elsewhere.", "It does not begin with the endpoint that was agreed.")
        return url

    def _reply(self, transfer: int, inner: Inner) -> None:
        queue = self._replies.get(transfer)
        if queue and queue.qsize() >= MOST_REPLIES:
            self._fail(_too_much(self._session.peer))
        elif queue:
            queue.put_nowait(inner)

    def _work(self, work: Callable[[M], Coroutine[Any, Any, None]], message: M) -> None:
        """Answer a message of the peer; what goes wrong with it, the peer is told."""
        if len(self._tasks) >= MOST_WORK:
            self._fail(_too_much(self._session.peer))
            return

        async def told() -> None:
            try:
                await work(message)
            except UserError as error:
                if error.code != "OCT-BLOB-FORBIDDEN":
                    _log.warning("a blob from %s: %s", self._session.peer, error)
                    self._session.faulty(error)
                await self._session.say(Inner(broken=Broken(transfer=message.transfer, fault=error.to_fault())))

        task = asyncio.get_running_loop().create_task(told())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)


class _Urls:
    """Where the parts of one upload go: asked for in small lots, each shortly before it is used."""

    def __init__(
        self,
        way: StoreWay,
        number: int,
        hear: Callable[[], Coroutine[Any, Any, Inner]],
        run_id: str,
        ref: BlobRef,
        layout: Layout,
        name: str,
    ) -> None:
        self._way, self._hear, self.object = way, hear, name
        self._wanted = PartsWanted(
            transfer=number, run_id=run_id, blob=ref, stored=layout.stored, part_bytes=layout.part_bytes
        )
        self._layout = layout
        self._urls: dict[int, tuple[str, float]] = {}
        self._lock = asyncio.Lock()

    async def begin(self) -> set[int] | None:
        """The parts that the store has; None when the blob is whole at the other side."""
        answer = await self._ask([])
        if answer is None:
            return None
        self.object = answer.object
        return set(answer.present)

    async def get(self, part: int, fresh: bool) -> str:
        async with self._lock:
            if fresh:
                self._urls.pop(part, None)
            url, good_until = self._urls.pop(part, ("", 0.0))
            if url and time.monotonic() < good_until:
                return url
            lot = range(part, min(part + 8, self._layout.count + 1))
            answer = await self._ask([n for n in lot if n not in self._urls])
            if answer is None or answer.object != self.object or part not in self._urls:
                raise store_object("The server knows this upload no more.", "It was removed at the server.")
            return self._urls.pop(part)[0]

    async def _ask(self, parts: list[int]) -> PartUrls | None:
        wanted = PartsWanted()
        wanted.CopyFrom(self._wanted)
        wanted.object = self.object
        wanted.parts.extend(parts)
        # by this side's own clock: the server's may be another
        good_until = time.monotonic() + 0.9 * self._way._desk.url_s
        await self._way._session.say(Inner(parts_wanted=wanted))
        inner = await self._hear()
        if inner.WhichOneof("inner") != "part_urls":
            return None
        for url in inner.part_urls.urls:
            self._urls[url.part] = (self._way._checked(url.url), good_until)
        return inner.part_urls


def _check_size(ref: BlobRef, stored: int) -> None:
    if stored != sealed_size(ref.size):
        raise store_object(
            "Its length does not fit the blob.", f"{stored} bytes are said for a blob of {ref.size} bytes."
        )


def _too_much(peer: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        f"{peer} asks for more at once than it may.",
        "Its messages about blobs come faster than they can be worked on.",
        "The connection is made anew; if it repeats, the other side's version is faulty.",
    )
