"""A server of the message link in a process of its own: ``python -m tests.communication.message_peer ROOT``; its wire
is the hub that listens at ROOT/hub."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.message_server import MessageServerEnd
from tests.communication.peers import peer_owner
from tests.communication.wires import SocketWire


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    end = MessageServerEnd(
        wire=SocketWire(root / "hub", SERVER), party=keys.server_party(), owner=owner, version="1", boot_id="s"
    )
    await end.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
