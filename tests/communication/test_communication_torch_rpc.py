"""The PyTorch RPC carrier against the contract, with real endpoint processes over real RPC on loopback.

Endpoints are forked here from a process that has torch imported; what concerns their real start and their sandbox is in
``test_communication_torch_rpc_fence.py``.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import message_silo, torch_rpc
from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.relay import RelayWire
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer
from octopus_desktop.communication.torch_rpc import TorchRpcServerEnd, TorchRpcSiloEnd
from octopus_desktop.communication.wires import Lane
from tests.communication.conformance import running
from tests.communication.parts import ANSWER, MIB, Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance
from tests.communication.rpc_zygote import Zygote
from tests.communication.unruly import MessageWiring

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


class RpcWiring(MessageWiring):
    def __init__(self, root: Path, zygote: Zygote, *, sealed: bool = True) -> None:
        super().__init__(root)
        self.zygote = zygote
        self.offer = TorchRpcOffer(host="127.0.0.1", port=free_port(), networks=LOOPBACK, sealed=sealed)
        self.cuts = 0

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> TorchRpcServerEnd:
        return TorchRpcServerEnd(
            offer=self.offer, party=party, owner=owner, run_dir=self.root, launch=self.zygote.launch, **options
        )

    def make_silo_end(
        self, party: SiloParty, owner: Owner, *, own: OwnSide | None = None, **options: Any
    ) -> TorchRpcSiloEnd:
        return TorchRpcSiloEnd(
            offer=self.offer,
            own=own or OwnSide(),
            party=party,
            owner=owner,
            run_dir=self.root,
            launch=self.zygote.launch,
            **options,
        )

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        (root / "rpc.json").write_text(self.offer.to_json())
        return await PeerProcess.start("tests.communication.rpc_peer", root, self.keys)

    def kill(self, name: str, how: int = signal.SIGKILL) -> None:
        """Signal the endpoint processes of one side."""
        for endpoint in self.zygote.endpoints:
            if endpoint.plan.name == name and endpoint.plan.port == self.offer.port:
                endpoint.kill(how)

    def cut(self) -> None:
        """Kill an endpoint: by turns the silo's and the server's, which takes the rendezvous with it."""
        self.cuts += 1
        self.kill("alpha" if self.cuts % 2 else SERVER)


class TestTorchRpc(RemoteConformance):
    @pytest.fixture(autouse=True)
    def _soon(self, zygote: Zygote, monkeypatch: pytest.MonkeyPatch) -> None:
        self.zygote = zygote
        monkeypatch.setattr(message_silo, "DIAL_S", 3.0)

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, *, sealed: bool = True, **options: Any) -> AsyncIterator[RpcWiring]:
        wiring = RpcWiring(tmp_path, self.zygote, sealed=sealed)
        await wiring.start(**options)
        try:
            yield wiring
        finally:
            await wiring.stop()

    async def test_an_endpoint_that_stands_still_is_noticed_by_both_sides(self, tmp_path: Path) -> None:
        soon = {"heartbeat_s": 0.2, "silence_s": 1.0}
        async with self.wiring(tmp_path, **soon) as wiring, running(wiring, **soon) as silo:
            wiring.kill("alpha", signal.SIGSTOP)
            await silo.owner.until(lambda: silo.end.state.phase is not LinkPhase.UP)
            await wiring.server.until(lambda: not wiring.server.is_up)
            sent = silo.owner.post(SERVER, kind=ANSWER)
            wiring.kill("alpha", signal.SIGCONT)
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])

    async def test_a_silo_waits_for_a_server_that_is_away_and_says_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(torch_rpc, "REACH_S", 1.0)
        wiring = RpcWiring(tmp_path, self.zygote)
        alpha = wiring.owner("alpha")
        sent = alpha.post(SERVER, kind=ANSWER)
        async with running(wiring, alpha, wait_up=False) as silo:
            await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
            fault = silo.end.state.fault
            assert fault is not None and fault.code == "OCT-RPC-PEER"
            assert not self.zygote.endpoints, "no process is started for nothing"
            await wiring.start()
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
            await wiring.stop()

    async def test_who_answers_at_the_port_and_is_no_rendezvous_is_named(self, tmp_path: Path) -> None:
        wiring = RpcWiring(tmp_path, self.zygote)
        alpha = wiring.owner("alpha")

        async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        listening = await asyncio.start_server(mute, "127.0.0.1", wiring.offer.port)
        async with listening, running(wiring, alpha, join_s=1.0, wait_up=False) as silo:
            await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
            fault = silo.end.state.fault
            assert fault is not None and fault.code == "OCT-RPC-PEER" and "rendezvous" in fault.why

    async def test_a_port_that_is_taken_is_named(self, tmp_path: Path) -> None:
        wiring = RpcWiring(tmp_path, self.zygote)
        with socket.socket() as other:
            other.bind(("127.0.0.1", wiring.offer.port))
            other.listen()
            await wiring.start()
            faults = [state.fault for state in wiring.server_end.states()]
            await wiring.stop()
        assert [fault.code for fault in faults if fault] == ["OCT-PORT-USED"]

    @pytest.mark.parametrize("sealed, accepts", [(True, True), (False, False), (False, True)])
    async def test_blobs_pass_in_the_clear_only_where_both_sides_said_so(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool, accepts: bool
    ) -> None:
        async with self.wiring(tmp_path, sealed=sealed) as wiring:
            own = OwnSide(accept_unsealed=accepts)
            async with running(wiring, own=own) as silo:
                seen = bytearray()
                send = RelayWire.send

                async def watched(wire: RelayWire, peer: str, lane: Lane, message: bytes) -> None:
                    seen.extend(message)
                    await send(wire, peer, lane, message)

                monkeypatch.setattr(RelayWire, "send", watched)
                ref = wiring.server.blob(MIB)
                wiring.server.post("alpha", blobs=[ref], body=b"the body of an envelope")
                wiring.server_end.outbox_changed("alpha")
                await silo.owner.until(lambda: len(silo.owner.accepted) == 1)
                assert (wiring.server.store.path(ref.digest).read_bytes()[:1000] in seen) is (not sealed and accepts)
                assert b"the body of an envelope" not in seen, "envelopes are sealed always"

    async def test_silos_join_whoever_was_killed_before(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            for _ in range(5):
                async with running(wiring) as silo:
                    wiring.kill("alpha")
                    await silo.owner.until(lambda silo=silo: silo.end.state.phase is LinkPhase.DOWN)
            async with running(wiring, "beta") as beta:
                sent = wiring.server.post("beta")
                wiring.server_end.outbox_changed("beta")
                await beta.owner.until(lambda: beta.owner.accepted == [sent.id])
