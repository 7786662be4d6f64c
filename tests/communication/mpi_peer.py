"""A server of the MPI carrier in a process of its own, for a rank 0 that finds it at ROOT's place:
``python -m tests.communication.mpi_peer ROOT``. ROOT/place names the directory of the socket.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from octopus_desktop.communication.mpi import MpiServerEnd
from octopus_desktop.communication.settings import MpiOffer
from tests.communication.peers import peer_owner


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    run_dir = Path((root / "place").read_text())
    end = MpiServerEnd(
        offer=MpiOffer(), run_dir=run_dir, party=keys.server_party(), owner=owner, version="1", boot_id="s"
    )
    await end.start()
    print("attached", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
