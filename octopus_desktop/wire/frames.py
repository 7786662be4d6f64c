"""Words between two processes on one machine, over a stream socket: a length (4 bytes, big-endian) and a JSON object.

Never pickle: the other side may be somebody's code. Knows nothing of what the words mean.
"""

from __future__ import annotations

import asyncio
import json
import math
import socket
import time
from typing import Any

MOST_BYTES = 8 << 20

Frame = dict[str, Any]


def pack(word: str, **fields: Any) -> bytes:
    raw = json.dumps({"word": word, **fields}, separators=(",", ":")).encode()
    return len(raw).to_bytes(4, "big") + raw


def receive(connection: socket.socket, deadline: float = math.inf, most: int = MOST_BYTES) -> Frame | None:
    """The next frame, blocking; None at the end of the stream.

    ``deadline``: of ``time.monotonic``, for the whole frame. ``most``: its bytes.

    Raises:
        TimeoutError: the deadline passed.
        ValueError: what came is no frame.
    """
    head = _exactly(connection, 4, deadline)
    if head is None:
        return None
    raw = _exactly(connection, _length(head, most), deadline)
    return None if raw is None else _parse(raw)


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream or when the other side does not keep to the form."""
    try:
        head = await reader.readexactly(4)
        return _parse(await reader.readexactly(_length(head, MOST_BYTES)))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None


def _length(head: bytes, most: int) -> int:
    length = int.from_bytes(head, "big")
    if length > most:
        raise ValueError(f"a frame of {length} bytes")
    return length


def _parse(raw: bytes) -> Frame:
    try:
        value = json.loads(raw)
    except RecursionError:
        value = None
    if not isinstance(value, dict) or not isinstance(value.get("word"), str):
        raise ValueError("not a frame")
    return value


def _exactly(connection: socket.socket, count: int, deadline: float) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        if deadline < math.inf:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
        part = connection.recv(min(count - len(parts), 1 << 20))
        if not part:
            return None
        parts += part
    return bytes(parts)
