"""What a benchmark's processes say to their parent, one JSON line each, and the bytes that they move."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

MIB = 1 << 20
PIECE = os.urandom(MIB)


def say(**fields: Any) -> None:
    print(json.dumps(fields), flush=True)


def pieces(size: int, piece: bytes = PIECE) -> Iterator[bytes]:
    """``size`` bytes, a whole number of pieces."""
    for _ in range(size // len(piece)):
        yield piece


def obey(work: Any) -> None:
    """Answer the parent's words until stdin ends. ``work``: ``prepare(size, silos)``, and ``go()``, whose bytes in and
    out the answer gives where the way counts them itself."""
    for line in sys.stdin:
        order = json.loads(line)
        if order["word"] == "prepare":
            work.prepare(order["size"], order["silos"])
            say(ready=True)
        else:
            say(done=True, bytes=work.go() or 0)
    os._exit(0)


class InLoop:
    """For the asyncio ways: a loop in a thread, and the words from this one."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()
