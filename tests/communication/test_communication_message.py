"""The message link against the contract, over a wire in memory: what MQTT, PyTorch RPC and MPI stand on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from tests.communication.conformance import CarrierConformance
from tests.communication.parts import Keys, Owner
from tests.communication.wires import Hub


class MessageWiring:
    def __init__(self, root: Path, **options: Any) -> None:
        self.root, self.keys, self.hub = root, Keys(), Hub()
        self.server = Owner(root / "server", SERVER, self.keys)
        self.server_end = MessageServerEnd(
            wire=self.hub.wire(SERVER),
            party=self.keys.server_party(),
            owner=self.server,
            version="1",
            boot_id="s",
            **options,
        )

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, *, keys: Keys | None = None, **options: Any) -> MessageSiloEnd:
        return MessageSiloEnd(
            wire=self.hub.wire(owner.name),
            party=(keys or self.keys).silo_party(owner.name),
            owner=owner,
            version="1",
            boot_id="c",
            **options,
        )

    def cut(self) -> None:
        self.hub.cut()


class TestMessage(CarrierConformance):
    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MessageWiring]:
        wiring = MessageWiring(tmp_path, **options)
        await wiring.server_end.start()
        try:
            yield wiring
        finally:
            await wiring.server_end.stop(1)
