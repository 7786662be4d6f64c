"""What all sessions of one end share about the bucket: the connections, the threads, the notes, and the objects that
this end makes. Objects are named by chance: a name tells nothing of run, silo or content.

An end without credentials has connections and notes alone.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from octopus_desktop.communication.contract import MailOwner
from octopus_desktop.communication.object_notes import Made, ObjectNotes
from octopus_desktop.communication.object_store import Access, ObjectStore
from octopus_desktop.communication.sealed_object import SealedObject, new_key
from octopus_desktop.communication.signed_http import SignedHttp
from octopus_desktop.communication.store_transfer import Layout, Moved, in_thread, send_parts
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef

TRANSFER_THREADS = 16
CALL_THREADS = 4  # for what is quick: no signature waits behind a transfer
FETCHES = 4  # blobs that come at once, over all peers: memory does not grow with their number
_log = logging.getLogger(__name__)
T = TypeVar("T")


class StoreDesk:
    """The bucket as one end uses it.

    Arguments:
        access: the bucket; with a key id there are credentials, and objects can be made.
        owner: whose blobs they are.
        prefix: of all names of this federation, ending in "/".
        part_bytes, url_s: see ``settings.MqttS3Offer``.
    """

    def __init__(self, access: Access, owner: MailOwner, *, prefix: str, part_bytes: int, url_s: int) -> None:
        self.owner, self.prefix, self.part_bytes, self.url_s = owner, prefix, part_bytes, url_s
        self.http = SignedHttp(access)
        self.store = ObjectStore(access) if access.key_id else None
        self.threads = ThreadPoolExecutor(TRANSFER_THREADS, thread_name_prefix="octopus-store")
        self._calls = ThreadPoolExecutor(CALL_THREADS, thread_name_prefix="octopus-store-calls")
        self.fetches = asyncio.Semaphore(FETCHES)
        self.notes = ObjectNotes(Path(owner.blobs().root) / "objects")
        self.peers: set[str] = set()  # those that were here since this end began
        self._tasks: set[asyncio.Task[None]] = set()
        self._asides: set[asyncio.Task[None]] = set()

    async def ask(self, what: Callable[..., T], *values: Any) -> T:
        """One call of the store, in a thread."""
        return await in_thread(self._calls, lambda _: what(*values))

    def new_name(self, kind: str = "") -> str:
        return f"{self.prefix}{kind}{secrets.token_hex(16)}"

    def aside(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that nobody waits for, such as a removal; what it cannot do now, the next sweep does."""

        async def quietly() -> None:
            try:
                await work
            except UserError as error:
                _log.warning("in the bucket: %s", error)

        task = self.begin(quietly())
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)

    def begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start something that outlives a session, but not this end."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        _ = task.cancelled() or task.exception()  # raised where it was awaited, if anybody still waits

    async def close(self) -> None:
        """Give removals a moment, then end. Sessions are over by now."""
        for task in self._tasks - self._asides:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2.0)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.threads.shutdown(wait=False)
        self._calls.shutdown(wait=False)
        self.http.close()
        if self.store:
            self.store.close()

    async def remove(self, name: str, upload: str = "") -> None:
        """Remove an object and, where it has one, its unfinished upload."""
        assert self.store is not None
        if upload:
            await self.ask(self.store.abort, name, upload)
        await self.ask(self.store.remove, name)


class _Entry:
    """An object that this end makes, or has made."""

    def __init__(self, note: Made, *, inherited: bool) -> None:
        self.note = note
        self.users = 0
        self.inherited = inherited  # from before this process began: who needs it, is not known yet
        self.spoiled = False  # replaced by another; those who still use it may finish
        self.making: asyncio.Task[None] | None = None


class MadeObjects:
    """Blobs that this end has put into the bucket: one object a blob, however many receivers it has.

    Concurrent asks share one upload. It goes on after a crash: name, key and upload id are noted before the first byte
    leaves, and the store says which parts it has; so a crash costs the parts that were under way and no model is sent
    twice. (Beginning anew would need no key on disk, but cost a whole model for each crash.)
    """

    def __init__(self, desk: StoreDesk, *, kind: str = "") -> None:
        self._desk, self._kind = desk, kind
        self._entries = {note.digest: _Entry(note, inherited=True) for note in desk.notes.all(Made)}
        self.released = asyncio.Event()  # an object lost its last user

    def __contains__(self, name: object) -> bool:
        return any(entry.note.object == name for entry in self._entries.values())

    def __bool__(self) -> bool:
        return bool(self._entries)

    def idle(self, *, inherited: bool) -> list[Made]:
        """Objects without a user now. ``inherited``: also those of an earlier process."""
        return [e.note for e in self._entries.values() if not e.users and (inherited or not e.inherited)]

    def rounds(self) -> dict[str, int]:
        """For each run, the newest round that has an object."""
        newest: dict[str, int] = {}
        for entry in self._entries.values():
            if entry.note.done:
                newest[entry.note.run_id] = max(newest.get(entry.note.run_id, 0), entry.note.round)
        return newest

    @asynccontextmanager
    async def lent(self, ref: BlobRef, run_id: str, round: int, moved: Moved) -> AsyncIterator[Made]:
        """The blob's object, stored whole; it stays while the block lasts, unless it is spoiled.

        Raises:
            UserError: OCT-STORE-…; OCT-BLOB-MISSING when the blob is not here.
        """
        path = self._desk.owner.blobs().path(ref.digest)
        entry = self._entries.get(ref.digest)
        if entry is None:
            entry = self._entries[ref.digest] = _Entry(self._new_note(ref), inherited=False)
        entry.inherited = False
        entry.users += 1
        if round >= entry.note.round:
            entry.note.run_id, entry.note.round = run_id, round
        try:
            if not entry.note.done:
                if entry.making is None or entry.making.done():
                    entry.making = self._desk.begin(self._make(entry.note, path, moved))
                await asyncio.shield(entry.making)  # a lost session does not end the upload; the next one joins it
            yield entry.note
        finally:
            entry.users -= 1
            if not entry.users:
                self.released.set()
                if entry.spoiled:
                    self._remove(entry.note)

    def spoiled(self, note: Made) -> None:
        """A receiver says that the object is not what it should be: who needs the blob from now on makes a new one,
        under a new key. It stays for those who are using it: one receiver's word takes nothing from the others."""
        entry = self._entries.get(note.digest)
        if entry and entry.note is note:
            del self._entries[note.digest]
            self._desk.notes.drop(note)
            entry.spoiled = True
            if not entry.users:
                self._remove(note)

    def forget_idle(self, note: Made) -> None:
        """The object's only receiver has it."""
        entry = self._entries.get(note.digest)
        if entry and entry.note is note and not entry.users:
            self.forget(note)

    def forget(self, note: Made) -> None:
        """Remove the object."""
        entry = self._entries.pop(note.digest)
        if entry.making:
            entry.making.cancel()
        self._desk.notes.drop(note)
        self._remove(note)

    def _remove(self, note: Made) -> None:
        self._desk.aside(self._desk.remove(note.object, "" if note.done else note.upload))

    def _new_note(self, ref: BlobRef) -> Made:
        return Made(
            object=self._desk.new_name(self._kind),
            digest=ref.digest,
            size=ref.size,
            part_bytes=self._desk.part_bytes,
            key=new_key().hex(),
        )

    async def _make(self, note: Made, path: Path, moved: Moved) -> None:
        desk, store = self._desk, self._desk.store
        assert store is not None
        sealed = SealedObject(bytes.fromhex(note.key), note.digest, note.size)
        layout = Layout.of(sealed.stored, note.part_bytes)
        present: dict[int, int] = {}
        if note.upload:
            try:
                present = {n: size for n, (_, size) in (await desk.ask(store.parts, note.object, note.upload)).items()}
            except UserError as error:
                if error.code != "OCT-STORE-OBJECT":
                    raise
                if await desk.ask(store.size, note.object) == sealed.stored:
                    note.done = True  # completed, and the crash came before that was noted
                else:
                    note.upload = ""
        desk.notes.save(note)
        if layout.count > 1 and not note.upload:
            note.upload = await desk.ask(store.begin, note.object)
            desk.notes.save(note)
        if not note.done:
            missing = layout.missing(present)
            moved(0, 0, sum(present.values()))

            def sign(part: int) -> str:
                if not note.upload:
                    return store.sign_put(note.object, layout.length(part), desk.url_s)
                return store.sign_part(note.object, note.upload, part, layout.length(part), desk.url_s)

            async def url(part: int, fresh: bool) -> str:
                return await desk.ask(sign, part)

            await send_parts(
                desk.threads, desk.http, path=path, sealed=sealed, layout=layout, parts=missing, url=url, moved=moved
            )
            if note.upload:
                tags = {n: tag for n, (tag, _) in (await desk.ask(store.parts, note.object, note.upload)).items()}
                await desk.ask(store.complete, note.object, note.upload, tags)
            note.done = True
        desk.notes.save(note)


def until(url_s: int) -> float:
    """When a URL that is signed now ends, Unix seconds."""
    return time.time() + url_s
