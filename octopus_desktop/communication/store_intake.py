"""Uploads of peers that have no credentials: the server begins them, signs a URL a part, and completes them.

A URL is for one part of one object and for its exact length, which the store enforces; so a silo can put into the
bucket what it was allowed and nothing beyond. Whether it may send a blob at all, the caller has asked before.
"""

from __future__ import annotations

from collections.abc import Sequence

from octopus_desktop.communication.object_notes import Taken
from octopus_desktop.communication.object_store import ObjectStore
from octopus_desktop.communication.sealed_object import sealed_size
from octopus_desktop.communication.store_desk import StoreDesk, until
from octopus_desktop.communication.store_faults import store_object
from octopus_desktop.communication.store_transfer import Layout
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.sealed_pb2 import PartsWanted, PartUrl, PartUrls, Uploaded

MOST_URLS = 16  # of one answer, which has to fit into one message of the wire
MOST_UPLOADS = 64  # of one peer
MOST_PART_BYTES = 2 << 30


class Intake:
    """What peers put into the bucket."""

    def __init__(self, desk: StoreDesk) -> None:
        self._desk = desk
        self._taken = {note.object: note for note in desk.notes.all(Taken)}

    def __contains__(self, name: object) -> bool:
        return name in self._taken

    def __bool__(self) -> bool:
        return bool(self._taken)

    def all(self) -> Sequence[Taken]:
        return list(self._taken.values())

    async def urls(self, peer: str, wanted: PartsWanted) -> PartUrls:
        """URLs for the parts that are wanted, or for the first of those that the store lacks.

        Raises:
            UserError: OCT-LINK-ENVELOPE for sizes that do not fit the blob; OCT-STORE-…
        """
        layout = self._layout(peer, wanted)
        note = self._find(peer, wanted.object, wanted.blob.digest)
        present = None if note is None or wanted.parts else await self._present(note, layout)
        if note is None or (present is None and not wanted.parts):
            note, present = await self._begin(peer, wanted, layout), {}
        missing = list(wanted.parts) or layout.missing(present or {})
        if not all(1 <= part <= layout.count for part in missing):
            raise _does_not_fit(peer, f"it has no such part: {missing[:MOST_URLS]}")
        urls = await self._desk.ask(self._sign, note, layout, missing[:MOST_URLS])
        return PartUrls(
            transfer=wanted.transfer,
            object=note.object,
            urls=urls,
            present=sorted(present or {}),
            until=until(self._desk.url_s),
        )

    async def complete(self, peer: str, said: Uploaded) -> Taken:
        """Make one object of the parts that the peer has sent.

        Raises:
            UserError: OCT-STORE-OBJECT when parts are missing or the peer never began this; OCT-STORE-…
        """
        note = self._find(peer, said.object, said.blob.digest)
        if note is None:
            raise store_object("This side knows no such upload.", f"{peer} says that {said.object!r} is whole.")
        if note.complete:
            return note
        store = self._store
        layout = Layout.of(sealed_size(note.size), note.part_bytes)
        if note.upload:
            parts = await self._desk.ask(store.parts, note.object, note.upload)
            if missing := layout.missing({n: size for n, (_, size) in parts.items()}):
                raise store_object("It lacks parts.", f"{peer} says that it is whole; missing are {missing[:10]}.")
            await self._desk.ask(store.complete, note.object, note.upload, {n: tag for n, (tag, _) in parts.items()})
        elif await self._desk.ask(store.size, note.object) != layout.stored:
            raise store_object("It is not there, or of another length.", f"{peer} says that it is whole.")
        note.complete = True
        self._desk.notes.save(note)
        return note

    def done(self, note: Taken) -> None:
        """The blob is whole here, or its object is of no use: remove the object."""
        if self._taken.pop(note.object, None) is not None:
            self._desk.notes.drop(note)
            self._desk.aside(self._desk.remove(note.object, "" if note.complete else note.upload))

    def drop(self, peer: str, digest: str) -> None:
        """The peer's upload of this blob is not needed."""
        for note in self.all():
            if (note.peer, note.digest) == (peer, digest):
                self.done(note)

    @property
    def _store(self) -> ObjectStore:
        store = self._desk.store
        assert store is not None
        return store

    def _layout(self, peer: str, wanted: PartsWanted) -> Layout:
        stored = sealed_size(wanted.blob.size)
        layout = Layout.of(stored, min(wanted.part_bytes, MOST_PART_BYTES))
        if wanted.stored != stored or (layout.part_bytes != wanted.part_bytes):
            raise _does_not_fit(peer, f"{wanted.stored} bytes in parts of {wanted.part_bytes}")
        return layout

    def _find(self, peer: str, name: str, digest: str) -> Taken | None:
        note = self._taken.get(name)
        return note if note and (note.peer, note.digest) == (peer, digest) else None

    async def _present(self, note: Taken, layout: Layout) -> dict[int, int] | None:
        """Bytes by part of what the store has; None when the upload is gone."""
        everything = {part: layout.length(part) for part in range(1, layout.count + 1)}
        if note.complete:
            return everything
        if note.upload:
            try:
                found = await self._desk.ask(self._store.parts, note.object, note.upload)
                return {n: size for n, (_, size) in found.items() if n <= layout.count and size == layout.length(n)}
            except UserError as error:
                if error.code != "OCT-STORE-OBJECT":
                    raise
        size = await self._desk.ask(self._store.size, note.object)
        if size == layout.stored:
            note.complete = bool(note.upload)  # completed, and the crash came before that was noted
            return everything
        return None if note.upload else {}

    async def _begin(self, peer: str, wanted: PartsWanted, layout: Layout) -> Taken:
        self.drop(peer, wanted.blob.digest)
        begun = [note for note in self._taken.values() if note.peer == peer]
        if len(begun) >= MOST_UPLOADS:
            self.done(begun[0])  # an honest silo has two at a time; it begins the oldest anew if it needs it still
        note = Taken(
            object=self._desk.new_name(),
            digest=wanted.blob.digest,
            size=wanted.blob.size,
            part_bytes=layout.part_bytes,
            peer=peer,
            run_id=wanted.run_id,
        )
        self._taken[note.object] = note
        self._desk.notes.save(note)  # before the store knows of it: the sweep spares what is noted
        if layout.count > 1:
            try:
                note.upload = await self._desk.ask(self._store.begin, note.object)
            except BaseException:
                self.done(note)
                raise
            self._desk.notes.save(note)
        return note

    def _sign(self, note: Taken, layout: Layout, parts: Sequence[int]) -> list[PartUrl]:
        store, seconds = self._store, self._desk.url_s
        if not note.upload:
            return [PartUrl(part=1, url=store.sign_put(note.object, layout.stored, seconds)) for _ in parts[:1]]
        return [
            PartUrl(part=part, url=store.sign_part(note.object, note.upload, part, layout.length(part), seconds))
            for part in parts
        ]


def _does_not_fit(peer: str, why: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        f"{peer} asks for an upload that cannot be.",
        f"{why[:200]}.",
        "Update Octopus Desktop on both sides to versions that fit.",
    )
