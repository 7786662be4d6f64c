"""The PyTorch RPC carrier against the contract, with real endpoint processes over real RPC on loopback.

The contract's tests fork their endpoints from one that has torch imported; each test of starts and of the sandbox is in
``test_communication_torch_rpc_fence.py``.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer
from octopus_desktop.communication.torch_rpc import TorchRpcServerEnd, TorchRpcSiloEnd
from tests.communication.conformance import CarrierConformance
from tests.communication.parts import Keys, Owner
from tests.communication.rpc_zygote import Zygote

LOOPBACK = ("127.0.0.0/8",)


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    made = Zygote()
    yield made
    made.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RpcWiring:
    def __init__(self, root: Path, zygote: Zygote, *, sealed: bool = True, **options: Any) -> None:
        self.root, self.zygote, self.keys = root, zygote, Keys()
        self.offer = TorchRpcOffer(host="127.0.0.1", port=free_port(), networks=LOOPBACK, sealed=sealed)
        self.server = Owner(root / "server", SERVER, self.keys)
        self.server_end = self.make_server(**options)
        self.cuts = 0

    def make_server(self, **options: Any) -> TorchRpcServerEnd:
        return TorchRpcServerEnd(
            offer=self.offer,
            party=self.keys.server_party(),
            owner=self.server,
            run_dir=self.root,
            launch=self.zygote.launch,
            version="1",
            boot_id="s",
            **options,
        )

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(
        self, owner: Owner, *, own: OwnSide | None = None, keys: Keys | None = None, **options: Any
    ) -> TorchRpcSiloEnd:
        return TorchRpcSiloEnd(
            offer=self.offer,
            own=own or OwnSide(),
            party=(keys or self.keys).silo_party(owner.name),
            owner=owner,
            run_dir=self.root,
            launch=self.zygote.launch,
            version="1",
            boot_id="c",
            **options,
        )

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        """Signal the endpoint processes of one side."""
        for endpoint in self.zygote.endpoints:
            if endpoint.plan.name == name and endpoint.plan.port == self.offer.port:
                endpoint.kill(how)

    def cut(self) -> None:
        """Kill an endpoint: by turns the silo's and the server's, which takes the rendezvous with it."""
        self.cuts += 1
        self.kill("alpha" if self.cuts % 2 else SERVER)


class TestTorchRpc(CarrierConformance):
    @pytest.fixture(autouse=True)
    def _warm(self, zygote: Zygote) -> None:
        self.zygote = zygote

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[RpcWiring]:
        wiring = RpcWiring(tmp_path, self.zygote, **options)
        await wiring.server_end.start()
        try:
            yield wiring
        finally:
            await wiring.server_end.stop(1)
