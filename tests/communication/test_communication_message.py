"""The message link against the contract, over a wire in memory: what MQTT, PyTorch RPC and MPI stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import message_silo
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.parties import ServerParty, SiloParty
from tests.communication.parts import Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance
from tests.communication.unruly import MessageWiring
from tests.communication.wires import Hub


class HubWiring(MessageWiring):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.hub = Hub()

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MessageServerEnd:
        return MessageServerEnd(wire=self.hub.wire(SERVER), party=party, owner=owner, **options)

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MessageSiloEnd:
        return MessageSiloEnd(wire=self.hub.wire(owner.name), party=party, owner=owner, **options)

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        await self.hub.listen(root / "hub")
        return await PeerProcess.start("tests.communication.message_peer", root, self.keys)


class TestMessage(RemoteConformance):
    @pytest.fixture(autouse=True)
    def silence_shows_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(message_silo, "DIAL_S", 3.0)

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[HubWiring]:
        wiring = HubWiring(tmp_path)
        await wiring.start(**options)
        try:
            yield wiring
        finally:
            await wiring.stop()
            await wiring.hub.close()
