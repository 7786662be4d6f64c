"""What tests of the object store are built of: sides without a wire, and sessions in memory between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.object_store import Access, ObjectStore
from octopus_desktop.communication.parties import Session
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.store_desk import MadeObjects, StoreDesk
from octopus_desktop.communication.store_intake import Intake
from octopus_desktop.communication.store_keeper import Keeper
from octopus_desktop.communication.store_way import StoreWay
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.sealed_pb2 import Inner
from tests.communication.parts import MIB, PATIENCE_S, Keys, Owner
from tests.communication.proxy import Proxy

PART_BYTES = 5 * MIB
# who may use objects below octopus/ and nothing else of the bucket
LIMITED = ("LIMITED", "hush-hush", [f"{right}:octopus/octopus/*" for right in ("Read", "Write", "List")])


class Side:
    """One end without a wire: owner, desk, and what its sessions count."""

    def __init__(self, root: Path, name: str, keys: Keys, access: Access, **options: Any) -> None:
        server, keyed = name == SERVER, bool(access.key_id)
        prefix = options.pop("prefix", "octopus/f00d/")
        linger_s = options.pop("linger_s", 0.0)
        self.owner = Owner(root / name, name, keys)
        options = {"part_bytes": PART_BYTES, "url_s": 900, **options}
        self.desk = StoreDesk(access, self.owner, prefix=prefix, **options)
        self.made = MadeObjects(self.desk, kind="" if server else "own-") if keyed else None
        self.intake = Intake(self.desk) if server else None
        self.keeper: Keeper | None = None
        if server:
            assert self.made is not None and self.intake is not None
            self.keeper = Keeper(self.desk, self.made, self.intake, linger_s=linger_s)
        self.incoming = self.outgoing = self.resumed = 0
        self.faults: list[UserError] = []

    def moved(self, incoming: int, outgoing: int, resumed: int) -> None:
        self.incoming += incoming
        self.outgoing += outgoing
        self.resumed += resumed

    def way(self, peer: str, say: Callable[[Inner], Any]) -> StoreWay:
        async def nothing(message: bytes) -> None:
            raise AssertionError("blobs go through the store")

        session = Session(
            owner=self.owner,
            peer=peer,
            say=say,
            bulk=nothing,
            bulk_bytes=MIB,
            moved=self.moved,
            alive=lambda: None,
            faulty=self.faults.append,
        )
        return StoreWay(session, self.desk, made=self.made, intake=self.intake, keeper=self.keeper)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[Side]:
        """With the keeper at work, closed in the end."""
        task = asyncio.create_task(self.keeper.run()) if self.keeper else None
        try:
            yield self
        finally:
            if task:
                task.cancel()
                await asyncio.wait([task])
            await self.desk.close()

    # what lies in the bucket

    async def names(self) -> list[str]:
        return [name for name, _ in await self.ask(lambda: list(self.store.names(self.desk.prefix)))]

    async def uploads(self) -> list[str]:
        return [name for name, _, _ in await self.ask(lambda: list(self.store.uploads(self.desk.prefix)))]

    async def until_names(self, wanted: Callable[[list[str]], bool]) -> list[str]:
        """Wait until the bucket's content is so."""

        async def so() -> bool:
            return wanted(await self.names())

        await asked_until(so)
        return await self.names()

    @property
    def store(self) -> ObjectStore:
        assert self.desk.store is not None
        return self.desk.store

    @property
    def ask(self) -> Callable[..., Any]:
        return self.desk.ask


@asynccontextmanager
async def linked(
    server: Side, silo: Side, before: Callable[[Inner], Awaitable[None]] | None = None
) -> AsyncIterator[tuple[StoreWay, StoreWay]]:
    """One session of both: (the server's way, the silo's). Messages arrive a turn of the loop later, as copies.

    ``before``: sees each message before it is delivered, and may change it.
    """
    loop = asyncio.get_running_loop()
    ends: dict[str, StoreWay] = {}

    def sayer(to: str) -> Callable[[Inner], Any]:
        async def say(inner: Inner) -> None:
            if before:
                await before(inner)
            raw = inner.SerializeToString()
            assert len(raw) <= 64 << 10, "fits the smallest wire"
            loop.call_soon(lambda: to in ends and ends[to].heard(Inner.FromString(raw)))

        return say

    name = silo.owner.name
    ends[SERVER] = server.way(name, sayer(name))
    ends[name] = silo.way(SERVER, sayer(SERVER))
    both = list(ends.values())
    tasks = [asyncio.create_task(way.run()) for way in both]
    try:
        yield both[0], both[1]
    finally:
        ends.clear()
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()):
                raise error


async def asked_until(so: Callable[[], Awaitable[bool]]) -> None:
    """Wait for something in the store, which tells nobody and has to be asked."""
    async with asyncio.timeout(PATIENCE_S):
        while not await so():  # noqa: ASYNC110 (the store cannot tell)
            await asyncio.sleep(0.02)


@asynccontextmanager
async def line_to(seaweed: Seaweed) -> AsyncIterator[tuple[Proxy, Access]]:
    """A line to the store that can be cut and slowed down, and the access over it."""
    async with Proxy(int(seaweed.endpoint.rpartition(":")[2])) as line:
        yield line, replace(seaweed.access(), endpoint=f"http://127.0.0.1:{line.port}")


def keyless(access: Access, **changes: Any) -> Access:
    return replace(access, key_id="", secret="", **changes)
