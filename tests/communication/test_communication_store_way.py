"""Blobs through a real S3 store: stored once, resumed, refused, removed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.object_store import ObjectStore
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.sealed_object import sealed_size
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER
from tests.communication.parts import MIB, Keys
from tests.communication.store_parts import Side, keyless, linked


@asynccontextmanager
async def sides(root: Path, seaweed: Seaweed, *silos: str, **options: Any) -> AsyncIterator[list[Side]]:
    keys = Keys()
    for name in silos:
        keys.silo(name)
    prefix = f"octopus/{root.name}/"
    access = seaweed.access()
    server = Side(root, SERVER, keys, access, prefix=prefix, **options)
    others = [Side(root, name, keys, keyless(access), prefix=prefix) for name in silos]
    async with server.kept():
        try:
            yield [server, *others]
        finally:
            for other in others:
                await other.desk.close()


async def names(side: Side) -> list[str]:
    assert side.desk.store is not None
    store = side.desk.store
    return [name for name, _ in await side.desk.ask(lambda: list(store.names(side.desk.prefix)))]


async def test_a_blob_goes_down_and_another_up(tmp_path: Path, seaweed: Seaweed) -> None:
    async with sides(tmp_path, seaweed, "alpha") as (server, alpha), linked(server, alpha) as (down, up):
        for size in (0, 1, MIB, 3 * MIB + 7, 12 * MIB):
            ref = server.owner.blob(size)
            await down.bring(server.owner.post("alpha", blobs=[ref]))
            assert alpha.owner.store.has(ref.digest)
            ref = alpha.owner.blob(size)
            await up.bring(alpha.owner.post(SERVER, kind=ANSWER, blobs=[ref]))
            assert server.owner.store.has(ref.digest)
        assert alpha.outgoing == sum(sealed_size(s) for s in (1, MIB, 3 * MIB + 7, 12 * MIB))
