"""One side of the PyTorch RPC carrier in a process of its own: ``python -m tests.communication.rpc_peer ROOT TOLD``.

TOLD is JSON: name, host, port, networks. Reads the keys in ROOT/keys, keeps its mail and blobs in ROOT/NAME, sends what
waits there, and prints a line for each event: "up", "fault CODE", "accepted ID". Runs until killed.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from octopus_desktop.communication.contract import SERVER, LinkState
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer
from octopus_desktop.communication.torch_rpc import TorchRpcServerEnd, TorchRpcSiloEnd
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from tests.communication.parts import Keys, Owner


class Telling(Owner):
    def accept(self, envelope: Envelope) -> bool:
        new = super().accept(envelope)
        print("accepted", envelope.id, flush=True)
        return new

    def link_changed(self, state: LinkState) -> None:
        up = self.is_up
        super().link_changed(state)
        if self.is_up and not up:
            print("up", flush=True)
        elif state.fault is not None:
            print("fault", state.fault.code, flush=True)


async def serve(root: Path, name: str, host: str, port: int, networks: list[str]) -> None:
    keys = Keys.load(root / "keys")
    owner = Telling(root / name, name, keys)
    offer = TorchRpcOffer(host=host, port=port, networks=tuple(networks))
    common = {"owner": owner, "version": "1", "boot_id": name, "run_dir": root}
    if name == SERVER:
        end = TorchRpcServerEnd(offer=offer, party=keys.server_party(), **common)
        await end.start()
        print("started", *(state.fault.code for state in end.states() if state.fault), flush=True)
        await asyncio.Event().wait()
    else:
        await TorchRpcSiloEnd(offer=offer, own=OwnSide(), party=keys.silo_party(name), **common).run()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), **json.loads(sys.argv[2])))
