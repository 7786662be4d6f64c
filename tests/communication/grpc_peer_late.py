"""As ``grpc_peer``, on a machine whose clock is five minutes ahead."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from tests.communication.grpc_peer import serve

AHEAD_S = 300.0

if __name__ == "__main__":
    right = time.time
    time.time = lambda: right() + AHEAD_S
    asyncio.run(serve(Path(sys.argv[1])))
