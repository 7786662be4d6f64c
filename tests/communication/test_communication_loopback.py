"""The in-process carrier against the contract, and the registry that names the carriers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import registry
from octopus_desktop.communication.loopback import LoopbackServerEnd, LoopbackSiloEnd
from octopus_desktop.wire.errors import UserError
from tests.communication.conformance import CarrierConformance
from tests.communication.mischief import Mischief
from tests.communication.parts import Keys, Owner


class LoopbackWiring:
    def __init__(self, root: Path) -> None:
        self.root, self.keys = root, Keys()
        self.server = Owner(root / "server", "server", self.keys)
        self.server_end = LoopbackServerEnd(self.server)

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, **options: Any) -> LoopbackSiloEnd:
        return LoopbackSiloEnd(server=self.server_end, owner=owner, **options)

    def disturb(self, mischief: Mischief | None) -> None:
        """In one process there is no message to lose or change; what is left is a link that ends."""
        if mischief:
            self.server.before_accept = lambda _: self.cut() if mischief.strikes() else None

    def cut(self) -> None:
        for state in self.server_end.states():
            self.server_end.disconnect(state.peer, UserError("OCT-LINK-DOWN", "The test cut the wire.", "", ""))


class TestLoopback(CarrierConformance):
    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[LoopbackWiring]:
        wiring = LoopbackWiring(tmp_path)
        await wiring.server_end.start()
        yield wiring
        await wiring.server_end.stop(1)


def test_each_registered_carrier_has_both_its_ends() -> None:
    for name, carrier in registry.CARRIERS.items():
        assert carrier.name == name and carrier.title
        for end in (carrier.silo_end(), carrier.server_end()):
            assert hasattr(end, "outbox_changed")


def test_an_unknown_carrier_names_those_there_are() -> None:
    with pytest.raises(UserError) as caught:
        registry.carrier("pigeon")
    assert caught.value.code == "OCT-CONFIG-INVALID" and "grpc" in caught.value.why
