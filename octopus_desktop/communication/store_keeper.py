"""Keeps the bucket clean: objects go when nobody needs them any more, and a lifecycle rule is the net below.

Runs beside the server's end for as long as that lives. What it cannot do now, it tries again later; nothing waits for
it. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable

from octopus_desktop.communication.contract import BACKOFF_FIRST_S
from octopus_desktop.communication.object_store import ObjectStore
from octopus_desktop.communication.store_desk import MadeObjects, StoreDesk
from octopus_desktop.communication.store_intake import Intake
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef

LIFECYCLE_DAYS = 7
UPLOAD_DAYS = 2
OWN_S = 86400.0  # objects that silos with credentials made, which they remove themselves
RETRY_MOST_S = 300.0

_log = logging.getLogger(__name__)


def lifecycle_rule(prefix: str) -> dict[str, object]:
    """The rule that removes what a crash of everything left below ``prefix``."""
    return {
        "ID": f"octopus-{prefix.strip('/').replace('/', '-')}"[:255],
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Expiration": {"Days": LIFECYCLE_DAYS},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": UPLOAD_DAYS},
    }


class Keeper:
    """Removes objects of one federation.

    Arguments:
        linger_s: how long objects from before this start stay, though nobody has asked for them: the silos that wait
            for them are not here yet.
    """

    def __init__(self, desk: StoreDesk, made: MadeObjects, intake: Intake, *, linger_s: float) -> None:
        self._desk, self._made, self._intake = desk, made, intake
        self._linger_until = time.monotonic() + linger_s
        self._brought: dict[str, set[str]] = {}  # ids of envelopes by digest that need the object no more

    def brought(self, digest: str, envelope_id: str) -> None:
        """The blob is whole at the receiver of this envelope, whose row stays until its receipt comes."""
        self._brought.setdefault(digest, set()).add(envelope_id)
        self._made.released.set()

    def changed(self) -> None:
        """The owner's outbox changed."""
        if self._made or self._intake:
            self._made.released.set()

    async def run(self) -> None:
        """Until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._at_first(self._sweep))
                group.create_task(self._at_first(self._set_lifecycle))
                group.create_task(self._tidy_always())
        except Exception:  # a bug, told in the log; the carrier must outlive it
            _log.exception("the bucket is kept clean no longer; its lifecycle rule is left")

    async def _at_first(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do it once, whenever the store lets us."""
        pause = BACKOFF_FIRST_S
        while True:
            try:
                await work()
                return
            except UserError as error:
                _log.warning("the bucket: %s", error)
                if error.code == "OCT-STORE-DENIED":
                    return  # said; the transfers themselves may still be allowed
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MOST_S)

    async def _sweep(self) -> None:
        """Remove what lies below this federation's prefix and what no note of this side names."""
        desk, store = self._desk, self._store
        now = time.time()
        for name, began in await desk.ask(lambda: list(store.names(desk.prefix))):
            if not self._known(name, now - began):
                await desk.ask(store.remove, name)
        for name, upload, began in await desk.ask(lambda: list(store.uploads(desk.prefix))):
            if not self._known(name, now - began):
                await desk.ask(store.abort, name, upload)

    def _known(self, name: str, age: float) -> bool:
        own = name.startswith(f"{self._desk.prefix}own-") and age < OWN_S
        return own or name in self._made or name in self._intake

    async def _set_lifecycle(self) -> None:
        desk, store = self._desk, self._store
        rule = lifecycle_rule(desk.prefix)
        try:
            rules = await desk.ask(store.rules)
            if not any(r.get("ID") == rule["ID"] for r in rules):
                await desk.ask(store.set_rules, [*rules, rule])
        except UserError as error:
            if error.code in ("OCT-STORE-DOWN", "OCT-STORE-BUCKET"):
                raise
            _log.warning(
                "The bucket's lifecycle could not be read or set (%s). Objects are removed all the same; as a net, let "
                "the bucket's owner add this rule: %s",
                error.why,
                json.dumps(rule),
            )

    async def _tidy_always(self) -> None:
        while True:
            wait = self._linger_until - time.monotonic()
            try:
                async with asyncio.timeout(wait if wait > 0 else None):
                    await self._made.released.wait()
            except TimeoutError:
                pass
            self._made.released.clear()
            began = time.perf_counter()
            self._tidy(inherited=time.monotonic() >= self._linger_until)
            await asyncio.sleep(5 * (time.perf_counter() - began))  # a long outbox is not read for each single row

    def _tidy(self, *, inherited: bool) -> None:
        owner = self._desk.owner
        idle = self._made.idle(inherited=inherited)
        if idle:
            pending = [e for peer in sorted(self._desk.peers) for e in owner.pending(peer) if e.blobs]
            waiting = {e.id for e in pending}
            self._brought = {d: left for d, ids in self._brought.items() if (left := ids & waiting)}
            needed = {b.digest for e in pending for b in e.blobs if e.id not in self._brought.get(b.digest, ())}
            newest = self._made.rounds()
            for note in idle:
                if note.digest not in needed or note.round < newest.get(note.run_id, 0):
                    self._made.forget(note)
        for taken in self._intake.all():
            ref = BlobRef(digest=taken.digest, size=taken.size)
            if owner.blobs().has(taken.digest) or not owner.may_write(taken.peer, taken.run_id, ref):
                self._intake.done(taken)

    @property
    def _store(self) -> ObjectStore:
        assert self._desk.store is not None
        return self._desk.store


__all__ = ["Keeper", "lifecycle_rule"]
