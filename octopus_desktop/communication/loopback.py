"""Both ends of a carrier in one process and one event loop, for simulation and tests: no socket, no encryption.

The mail goes through the same lanes, windows and receipts as on a wire, and blobs are copied and checked between the
two stores (nothing is copied where both sides share one). Knows nothing of what the mail means.
"""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Any

from octopus_desktop.communication.contract import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    CHUNK_BYTES,
    HEARTBEAT_S,
    SERVER,
    SILENCE_S,
    LinkPhase,
    LinkState,
    MailOwner,
)
from octopus_desktop.communication.links import Link, LinkEnded, blob_forbidden, link_down, replaced
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.transfer import TRANSFERS, BlobLocks, BlobSink, blob_pieces
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope
from octopus_desktop.wire.pb.federation_pb2 import Frame

QUEUED_FRAMES = 64
WHERE = "The server in this process"


class LoopbackServerEnd:
    """Implements ``ServerEnd``; silos reach it by holding it."""

    def __init__(self, owner: MailOwner) -> None:
        self.owner = owner
        self.open = False
        self.locks = BlobLocks()
        self._states: dict[str, LinkState] = {}
        self._links: dict[str, _Joint] = {}

    async def start(self) -> None:
        self.open = True

    async def stop(self, grace_s: float) -> None:
        self.open = False
        for joint in list(self._links.values()):
            joint.cut(None)

    def outbox_changed(self, peer: str) -> None:
        if joint := self._links.get(peer):
            joint.server.outlet.changed()

    def disconnect(self, peer: str, fault: UserError) -> None:
        if joint := self._links.get(peer):
            joint.cut(fault)

    @property
    def fault(self) -> UserError | None:
        return None

    def announce(self) -> None:
        """Nothing: within one process there is no choice of carriers."""

    def states(self) -> Sequence[LinkState]:
        return list(self._states.values())

    def joined(self, joint: _Joint) -> None:
        """A silo's connection begins; an older one of the same silo ends."""
        if older := self._links.get(joint.silo.name):
            older.cut(replaced(joint.silo.name))
        self._links[joint.silo.name] = joint
        self.show(joint.silo.name, phase=LinkPhase.UP, fault=None)

    def left(self, joint: _Joint, fault: UserError | None) -> None:
        if self._links.get(joint.silo.name) is joint:
            del self._links[joint.silo.name]
            self.show(joint.silo.name, phase=LinkPhase.DOWN, fault=fault)

    def show(self, silo: str, **changes: Any) -> None:
        state = self._states.get(silo) or LinkState(peer=silo, phase=LinkPhase.CONNECTING, since=time.time())
        self._states[silo] = _changed(state, changes)
        self.owner.link_changed(self._states[silo])

    def moved(self, silo: str, incoming: int, outgoing: int) -> None:
        self._states[silo] = _moved(self._states[silo], incoming, outgoing)


class LoopbackSiloEnd:
    """Implements ``SiloEnd`` towards a ``LoopbackServerEnd`` in the same event loop."""

    def __init__(
        self,
        *,
        server: LoopbackServerEnd,
        owner: MailOwner,
        heartbeat_s: float = HEARTBEAT_S,
        silence_s: float = SILENCE_S,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.server, self.owner = server, owner
        self.heartbeat_s, self.silence_s, self.chunk_bytes = heartbeat_s, silence_s, chunk_bytes
        self._state = LinkState(peer=SERVER, phase=LinkPhase.CONNECTING, since=time.time())
        self._joint: _Joint | None = None

    @property
    def state(self) -> LinkState:
        return self._state

    def outbox_changed(self) -> None:
        if self._joint:
            self._joint.client.outlet.changed()

    def send_live(self, envelope: Envelope) -> None:
        if self._joint:
            self._joint.client.send_live(envelope)

    async def run(self) -> None:
        most = BACKOFF_FIRST_S
        try:
            while True:
                fault = link_down(WHERE, "It is not started.")
                if self.server.open:
                    most = BACKOFF_FIRST_S
                    fault = await self._connection()
                if fault.code == "OCT-CERT-REVOKED":
                    self.show(phase=LinkPhase.REVOKED, fault=fault)
                    return
                self.show(phase=LinkPhase.DOWN, fault=fault)
                await asyncio.sleep(random.uniform(0, most))
                most = min(2 * most, BACKOFF_MOST_S)
        finally:
            if self._state.phase is not LinkPhase.REVOKED:
                self.show(phase=LinkPhase.DOWN)

    async def _connection(self) -> UserError:
        joint = _Joint(self)
        fault: UserError | None = None
        try:
            self._joint = joint
            self.server.joined(joint)
            self.show(phase=LinkPhase.UP, fault=None)
            self.owner.peer_greeted(SERVER, list(self.server.owner.open_runs()))
            self.server.owner.peer_greeted(self.owner.name, list(self.owner.open_runs()))
            await joint.run()
        except LinkEnded as ended:
            fault = ended.fault
        except UserError as error:
            fault = error
        finally:
            self._joint = None
            self.server.left(joint, fault)
        return fault or link_down(WHERE, "It closed the link.")

    def show(self, **changes: Any) -> None:
        self._state = _changed(self._state, changes)
        self.owner.link_changed(self._state)

    def moved(self, incoming: int, outgoing: int, resumed: int = 0) -> None:
        self._state = _moved(self._state, incoming, outgoing, resumed)


class _Joint:
    """One connection: two links, back to back, and the blobs between the two stores."""

    def __init__(self, end: LoopbackSiloEnd) -> None:
        self._end, self._server = end, end.server
        self.silo = end.owner
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._executor = blob_threads(2 * TRANSFERS)
        self._room = asyncio.Semaphore(2 * TRANSFERS)
        self._locks = BlobLocks()
        self._up: asyncio.Queue[Frame] = asyncio.Queue(QUEUED_FRAMES)
        self._down: asyncio.Queue[Frame] = asyncio.Queue(QUEUED_FRAMES)
        name = end.owner.name
        self.client = Link(
            end.owner,
            SERVER,
            write=lambda frame: self._up.put(_copy(frame)),
            bring=self._bring,
            fetch=self._fetch,
            latency=lambda ms: end.show(latency_ms=ms),
            moved=end.moved,
            faulty=lambda _, fault: end.show(fault=fault),
            heartbeat_s=end.heartbeat_s,
            silence_s=end.silence_s,
        )
        self.server = Link(
            self._server.owner,
            name,
            write=lambda frame: self._down.put(_copy(frame)),
            bring=_by_the_silo,
            fetch=self._bring_again,
            latency=lambda ms: self._server.show(name, latency_ms=ms),
            moved=lambda incoming, outgoing: self._server.moved(name, incoming, outgoing),
            faulty=lambda _, fault: self._server.show(name, fault=fault),
            heartbeat_s=end.heartbeat_s,
            silence_s=end.silence_s,
        )

    def cut(self, fault: UserError | None) -> None:
        """End the connection, as a lost wire or a closing server would."""
        if not self._broken.done():
            self._broken.set_exception(LinkEnded(fault))

    async def run(self) -> None:
        """Carry until cut. Raises LinkEnded or what broke it."""
        both = [
            asyncio.create_task(self.client.run(_frames(self._down))),
            asyncio.create_task(self.server.run(_frames(self._up))),
        ]
        try:
            done, _ = await asyncio.wait((*both, self._broken), return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.wait(both)
            if not self._broken.done():
                self._broken.cancel()
            self._executor.shutdown(wait=False)

    async def _bring(self, envelope: Envelope) -> None:
        mine, theirs = self.silo, self._server.owner
        for ref in envelope.blobs:
            if not theirs.may_write(mine.name, envelope.run_id, ref):
                raise blob_forbidden(ref)
            async with self._room, self._server.locks.held(ref.digest):
                moved = await self._copy(mine, theirs, ref)
            self._end.moved(0, moved)
            self._server.moved(mine.name, moved, 0)

    async def _bring_again(self, envelope: Envelope, missing: Sequence[BlobRef]) -> None:
        raise UserError(
            "OCT-BLOB-MISSING",
            f"Blob {missing[0].digest[:12]} of a message is not here.",
            "It was removed since it came.",
            "It is sent again by itself.",
        )

    async def _fetch(self, envelope: Envelope, missing: Sequence[BlobRef]) -> None:
        mine, theirs = self.silo, self._server.owner
        for ref in missing:
            if not theirs.may_read(mine.name, envelope.run_id, ref):
                raise blob_forbidden(ref)
            async with self._room, self._locks.held(ref.digest):
                moved = await self._copy(theirs, mine, ref)
            self._end.moved(moved, 0)
            self._server.moved(mine.name, 0, moved)

    async def _copy(self, source: MailOwner, target: MailOwner, ref: BlobRef) -> int:
        """Bytes copied from one store to the other, from where an earlier copy broke off."""
        if target.blobs().has(ref.digest):
            return 0
        path = source.blobs().path(ref.digest)
        async with BlobSink(self._executor, target.blobs(), ref) as sink:
            self._end.moved(0, 0, sink.offset)
            moved = 0
            async with aclosing(blob_pieces(self._executor, path, sink.offset, self._end.chunk_bytes, bytes)) as pieces:
                async for piece in pieces:
                    await sink.write(memoryview(piece))
                    moved += len(piece)
            await sink.commit()
            return moved


async def _frames(queue: asyncio.Queue[Frame]) -> AsyncIterator[Frame]:
    while True:
        yield await queue.get()


async def _by_the_silo(envelope: Envelope) -> None:
    """The silo gets what it lacks by itself."""


def _copy(frame: Frame) -> Frame:
    return Frame.FromString(frame.SerializeToString())


def _changed(state: LinkState, changes: dict[str, Any]) -> LinkState:
    if changes.get("phase", state.phase) is not state.phase:
        changes = {"since": time.time(), "fault": None, **changes}
    return dataclasses.replace(state, **changes)


def _moved(state: LinkState, incoming: int, outgoing: int, resumed: int = 0) -> LinkState:
    return dataclasses.replace(
        state,
        bytes_in=state.bytes_in + incoming,
        bytes_out=state.bytes_out + outgoing,
        bytes_resumed=state.bytes_resumed + resumed,
    )
