"""The MPI carrier against the contract, in real worlds of real ranks under mpiexec."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mpi import MpiServerEnd, MpiSiloEnd
from octopus_desktop.communication.settings import MpiOffer, OwnSide
from tests.communication.conformance import CarrierConformance
from tests.communication.mpi_worlds import RunningWorld
from tests.communication.parts import Keys, Owner


class MpiWiring:
    """The ends of one test in a world that lasts longer."""

    def __init__(self, root: Path, world: RunningWorld, **options: Any) -> None:
        self.root, self.world, self.keys = root, world, Keys()
        self.server = Owner(root / "server", SERVER, self.keys)
        self.server_end = MpiServerEnd(
            offer=MpiOffer(),
            run_dir=world.place(SERVER).parent,
            party=self.keys.server_party(),
            owner=self.server,
            version="1",
            boot_id="s",
            **options,
        )

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, *, keys: Keys | None = None, **options: Any) -> MpiSiloEnd:
        return MpiSiloEnd(
            offer=MpiOffer(),
            own=OwnSide(),
            run_dir=self.world.place(owner.name).parent,
            party=(keys or self.keys).silo_party(owner.name),
            owner=owner,
            version="1",
            boot_id="c",
            **options,
        )

    def cut(self) -> None:
        self.world.cut()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorld]:
    """One world for all tests of the contract: ends come to its ranks and go, as daemons do."""
    world = RunningWorld(tmp_path_factory.mktemp("w"))
    try:
        world.until("world")
        yield world
        world.end()
    finally:
        world.stop()


class TestMpich(CarrierConformance):
    @pytest.fixture(autouse=True)
    def _in(self, world: RunningWorld) -> None:
        self.world = world

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MpiWiring]:
        wiring = MpiWiring(tmp_path, self.world, **options)
        await wiring.server_end.start()
        try:
            yield wiring
        finally:
            await wiring.server_end.stop(1)
            await asyncio.sleep(0)
