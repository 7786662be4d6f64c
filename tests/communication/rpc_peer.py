"""One side of the PyTorch RPC carrier in a process of its own: ``python -m tests.communication.rpc_peer ROOT [SILO]``.

The server's, or that of a silo with its mail below ROOT/SILO. Reads ROOT/keys and ROOT/rpc.json (an offer), prints
"ready" when others can reach it, then a line for each envelope that it accepts and each fault of a link.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from octopus_desktop.communication.contract import LinkState
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer, offer
from octopus_desktop.communication.torch_rpc import TorchRpcServerEnd, TorchRpcSiloEnd
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from tests.communication.parts import Keys, Owner
from tests.communication.peers import peer_owner


class TellingOwner(Owner):
    def accept(self, envelope: Envelope) -> bool:
        new = super().accept(envelope)
        print("accepted", envelope.id, flush=True)
        return new

    def link_changed(self, state: LinkState) -> None:
        super().link_changed(state)
        if state.fault is not None:
            print("fault", state.fault.code, flush=True)


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    end = TorchRpcServerEnd(
        offer=_offer(root), party=keys.server_party(), owner=owner, run_dir=root, version="1", boot_id="s"
    )
    await end.start()
    for state in end.states():
        assert state.fault is None, state.fault
    print("ready", flush=True)
    await asyncio.Event().wait()


async def dial(root: Path, name: str) -> None:
    keys = Keys.load(root / "keys")
    end = TorchRpcSiloEnd(
        offer=_offer(root),
        own=OwnSide(),
        party=keys.silo_party(name),
        owner=TellingOwner(root / name, name, keys),
        run_dir=root,
        version="1",
        boot_id="c",
    )
    print("ready", flush=True)
    await end.run()


def _offer(root: Path) -> TorchRpcOffer:
    found = offer("torch_rpc", (root / "rpc.json").read_text())
    assert isinstance(found, TorchRpcOffer)
    return found


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])) if len(sys.argv) == 2 else dial(Path(sys.argv[1]), sys.argv[2]))
