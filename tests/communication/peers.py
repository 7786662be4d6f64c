"""Servers in processes of their own, which a test may kill. A carrier's peer is a module with

    if __name__ == "__main__":
        asyncio.run(serve(Path(sys.argv[1])))

whose ``serve`` takes keys and owner from ``peer_owner(root)``, starts the carrier's server end, prints one line (a port
or anything) once silos can reach it, and runs until it is killed.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from octopus_desktop.communication.contract import SERVER
from tests.communication.parts import Keys, Owner
from tests.communication.stores import SlowStore


class PeerProcess:
    """A started peer.

    Attributes:
        said: the line that it printed.
    """

    def __init__(self, process: subprocess.Popen[str], said: str) -> None:
        self.process, self.said = process, said

    @classmethod
    async def start(cls, module: str, root: Path, keys: Keys) -> PeerProcess:
        """``python -m MODULE ROOT``, with the federation's keys below ROOT; its disk is a slow one."""
        root.mkdir(exist_ok=True)
        keys.save(root / "keys")
        return await asyncio.to_thread(cls._start, module, root)

    @classmethod
    def _start(cls, module: str, root: Path) -> PeerProcess:
        process = subprocess.Popen([sys.executable, "-m", module, str(root)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return cls(process, process.stdout.readline().strip())

    async def kill(self) -> None:
        """SIGKILL, and wait until it is dead."""
        self.process.kill()
        await asyncio.to_thread(self.process.wait)
        if self.process.stdout:
            self.process.stdout.close()


def peer_owner(root: Path) -> tuple[Keys, Owner]:
    """Keys and the server's owner, as ``PeerProcess.start`` laid them down."""
    keys = Keys.load(root / "keys")
    owner = Owner(root, SERVER, keys)
    owner.store = SlowStore(root / "blobs")
    return keys, owner
