"""A hostile machine in the trusted network: ``python -m tests.communication.rpc_hostile HOST PORT NAME``.

It joins the rendezvous like any silo's endpoint, under a name of its choice, and does what RPC lets anybody do. Orders
come as JSON lines on stdin: {"run": source} runs Python at the server's endpoint while it unpickles an argument, and
prints what the source leaves in ``result``; {"flood": count} sends garbage on both lanes.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from octopus_desktop.communication import torch_rpc_endpoint
from octopus_desktop.communication.torch_rpc_endpoint import SERVER, Endpoint, Plan, deliver

_RUN = "(lambda names: (exec({source!r}, names), names.get('result'))[1])({{}})"


class Evil:
    """Pickled, it is a call of ``eval``."""

    def __init__(self, source: str) -> None:
        self.source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (_RUN.format(source=self.source),)


class Nobody:
    """In the place of the relay to an end."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def main(host: str, port: int, name: str) -> None:
    torch_rpc_endpoint._import_torch()
    import torch
    from torch.distributed import rpc

    plan = Plan(name=name, host=host, port=port, address=host, interface="lo", networks=("127.0.0.0/8",))
    torch_rpc_endpoint._endpoint = endpoint = Endpoint(Nobody(), plan)  # type: ignore[arg-type]
    endpoint.join()
    print("joined", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "run" in order:
            try:
                answer = rpc.rpc_sync(SERVER, repr, args=(Evil(order["run"]),), timeout=30)
            except Exception as error:
                answer = f"failed: {str(error)[:200]!r}"
        else:
            dice = random.Random(3)
            for i in range(order["flood"]):
                size = dice.choice((1, 44, 300, 70_000))
                garbage = torch.frombuffer(bytearray(dice.randbytes(size)), dtype=torch.uint8)
                rpc.rpc_sync(SERVER, deliver, args=(endpoint._own_name, i % 2, [[size]], [garbage]), timeout=30)
            answer = "flooded"
        print(json.dumps(answer), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
