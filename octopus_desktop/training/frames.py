"""Words between runner and workers on a Unix socket: a length (4 bytes, big-endian) and a JSON object. Never pickle.

Worker to runner: ``hello`` {rank, pid, restart}, ``ready``, ``failed`` {fault}, ``metrics``, ``progress``, ``log``,
``span``, ``trained`` {number, passes}, ``place`` {passes}, ``result`` {number, …} and ``error`` {number, fault}.
Runner to worker: ``task`` {number, …}, ``where``, which ``place`` answers at once.
"""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

MOST_BYTES = 8 << 20
SOCKET_VARIABLE = "OCTOPUS_WORKER_SOCKET"

Frame = dict[str, Any]


def pack(word: str, **fields: Any) -> bytes:
    raw = json.dumps({"word": word, **fields}, separators=(",", ":")).encode()
    return len(raw).to_bytes(4, "big") + raw


def receive(connection: socket.socket) -> Frame | None:
    """The next frame, blocking; None at the end of the stream."""
    head = _exactly(connection, 4)
    if head is None:
        return None
    raw = _exactly(connection, _length(head))
    return None if raw is None else _parse(raw)


async def read(reader: asyncio.StreamReader) -> Frame | None:
    """The next frame; None at the end of the stream or when the other side does not keep to the form."""
    try:
        head = await reader.readexactly(4)
        return _parse(await reader.readexactly(_length(head)))
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None


def _length(head: bytes) -> int:
    length = int.from_bytes(head, "big")
    if length > MOST_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return length


def _parse(raw: bytes) -> Frame:
    value = json.loads(raw)
    if not isinstance(value, dict) or not isinstance(value.get("word"), str):
        raise ValueError("not a frame")
    return value


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        part = connection.recv(count - len(parts))
        if not part:
            return None
        parts += part
    return bytes(parts)
