"""The MPI carrier against the contract, in real worlds of real ranks under mpiexec."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import message_silo
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.mpi import MpiServerEnd, MpiSiloEnd
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.settings import MpiOffer, OwnSide
from tests.communication.mpi_worlds import RunningWorld
from tests.communication.parts import Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance
from tests.communication.unruly import MessageWiring


class MpiWiring(MessageWiring):
    """The ends of one test in a world that lasts longer."""

    def __init__(self, root: Path, world: RunningWorld) -> None:
        super().__init__(root)
        self.world = world

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MessageServerEnd:
        run_dir = self.world.place(SERVER).parent
        return MpiServerEnd(offer=MpiOffer(), run_dir=run_dir, party=party, owner=owner, **options)

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MessageSiloEnd:
        run_dir = self.world.place(owner.name).parent
        return MpiSiloEnd(offer=MpiOffer(), own=OwnSide(), run_dir=run_dir, party=party, owner=owner, **options)

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        (root / "place").write_text(str(self.world.place(SERVER).parent))
        return await PeerProcess.start("tests.communication.mpi_peer", root, self.keys)

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


class TestMpich(RemoteConformance):
    @pytest.fixture(autouse=True)
    def in_one_world(self, world: RunningWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        monkeypatch.setattr(message_silo, "DIAL_S", 3.0)

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MpiWiring]:
        wiring = MpiWiring(tmp_path, self.world)
        await wiring.start(**options)
        try:
            yield wiring
        finally:
            await wiring.stop()
