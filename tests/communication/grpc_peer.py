"""A server of the gRPC carrier in a process of its own: ``python -m tests.communication.grpc_peer ROOT``.

Reads the keys in ROOT/keys, keeps its mail and blobs in ROOT, prints its port, and runs until killed.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc.aio

from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, server_credentials
from tests.communication.parts import authenticate
from tests.communication.peers import peer_owner


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    server = grpc.aio.server(options=SERVER_OPTIONS)
    port = server.add_secure_port("127.0.0.1:0", server_credentials(**keys.server_pems()))
    end = GrpcServerEnd(server=server, owner=owner, authenticate=authenticate, version="1", boot_id="s")
    await end.start()
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
