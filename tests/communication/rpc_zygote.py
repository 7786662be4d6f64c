"""Endpoints of PyTorch RPC without the second that each import of torch takes.

``python -m tests.communication.rpc_zygote DESCRIPTOR PARENT`` imports it once, and forks an endpoint for each plan that
comes, with its socket, over the descriptor. For tests of what the link does; the sandbox and the real start are tested
with real starts.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys

from octopus_desktop.communication import torch_rpc_endpoint
from octopus_desktop.communication.torch_rpc_plan import Plan
from octopus_desktop.system.processes import die_with


class Zygote:
    """``launch`` starts endpoints as forks of one warm process."""

    def __init__(self) -> None:
        self.line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        words = [sys.executable, "-m", __name__, str(theirs.fileno()), str(os.getpid())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR"}
        self.process = subprocess.Popen(words, pass_fds=[theirs.fileno()], env=environment)
        theirs.close()
        self.endpoints: list[Forked] = []

    def launch(self, plan: Plan) -> Forked:
        forked = Forked(self, plan)
        self.endpoints.append(forked)
        return forked

    def close(self) -> None:
        self.line.close()
        self.process.kill()
        self.process.wait()


class Forked:
    """A ``relay.Source``; ``pid`` of its endpoint while there is one."""

    def __init__(self, zygote: Zygote, plan: Plan) -> None:
        self.zygote, self.plan, self.pid = zygote, plan, 0

    async def begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.zygote.line, [self.plan.to_json().encode()], [theirs.fileno()])
        self.pid = int(self.zygote.line.recv(64))
        ours.setblocking(False)
        return ours

    async def epitaph(self, greeted: bool) -> str:
        return "It closed its connection."

    async def end(self) -> None:
        self.kill()
        if self in self.zygote.endpoints:
            self.zygote.endpoints.remove(self)

    def kill(self, how: int = signal.SIGKILL) -> None:
        if self.pid:
            try:
                os.kill(self.pid, how)
            except ProcessLookupError:
                self.pid = 0


def main(line: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    torch_rpc_endpoint._import_torch()
    while True:
        told, descriptors, _, _ = socket.recv_fds(line, 65536, 4)
        if not told:
            return
        if pid := os.fork():
            os.close(descriptors[0])
            line.send(str(pid).encode())
            continue
        line.close()
        die_with(os.getppid())
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        torch_rpc_endpoint.main(dataclasses.replace(Plan.from_json(told.decode()), descriptor=descriptors[0]))


if __name__ == "__main__":
    die_with(int(sys.argv[2]))
    main(socket.socket(fileno=int(sys.argv[1])))
