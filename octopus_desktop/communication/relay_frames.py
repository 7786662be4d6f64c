"""What passes between a carrier's end and its endpoint process: frames on a stream socket. Does no I/O itself.

A frame is ``length, kind, lane, length of the name`` (8 bytes, network order), the peer's name, the payload; ``length``
counts name and payload. Nothing but this header is ever looked into: payloads are bytes.

    kind     from       payload
    HELLO    endpoint   the token; the first frame of an endpoint that attaches by itself
    READY    endpoint   version (2 bytes); messages can pass from now on
    MESSAGE  both       one message of ``lane`` for, or from, ``peer``
    ROOM     endpoint   4 bytes: so many bytes of ``lane`` for ``peer`` were handed on, or thrown away
    GONE     endpoint   ``peer`` is gone
    FAULT    endpoint   code, what, why, next step (text, parted by 0x1f); the connection ends
    PING     end        answered by PONG at once
    PONG     endpoint
    NOTE     endpoint   a line for the end's log, before READY

Back-pressure: towards the endpoint at most ``WINDOW`` bytes of one peer and lane are without their ROOM; towards the
end the socket itself holds the endpoint back.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError

VERSION = 1
HEAD = struct.Struct("!IBBH")
MESSAGE_BYTES = (1 << 20) + (1 << 14)  # the largest payload: a chunk of 1 MiB, sealed
NAME_BYTES = 128
WINDOW = {Lane.MAIL: 2 << 20, Lane.BULK: 6 << 20}
_READ_BYTES = 1 << 16
_PARTED = "\x1f"


class Kind(IntEnum):
    HELLO = 1
    READY = 2
    MESSAGE = 3
    ROOM = 4
    GONE = 5
    FAULT = 6
    PING = 7
    PONG = 8
    NOTE = 9


class Relayed(NamedTuple):
    """One frame. A large payload is a bytearray of its own, which nobody else holds."""

    kind: Kind
    lane: Lane
    peer: str
    payload: bytes | bytearray


class FrameError(Exception):
    """The other side broke the rules above; says which."""


def head(kind: Kind, *, lane: Lane = Lane.MAIL, peer: str = "", payload_bytes: int = 0) -> bytes:
    """All of a frame but its payload. Raises FrameError for a name or payload that is too long."""
    name = peer.encode()
    if len(name) > NAME_BYTES:
        raise FrameError(f"a name of {len(name)} bytes")
    if payload_bytes > MESSAGE_BYTES:
        raise FrameError(f"a message of {payload_bytes} bytes; {MESSAGE_BYTES} is the most")
    return HEAD.pack(len(name) + payload_bytes, kind, lane, len(name)) + name


class FrameReader:
    """Cuts a stream into frames: read into ``buffer()``, then take the frames that ``took(n)`` gives.

    Holds one frame and ``_READ_BYTES`` at most; large payloads are read straight to where they stay.
    """

    def __init__(self) -> None:
        self._scratch = bytearray(_READ_BYTES)
        self._have = 0
        self._large: bytearray | None = None
        self._filled = 0
        self._begun = (Kind.PING, Lane.MAIL, "")

    def buffer(self) -> memoryview:
        """Where the next bytes belong; never empty."""
        if self._large is not None:
            return memoryview(self._large)[self._filled :]
        return memoryview(self._scratch)[self._have :]

    def took(self, count: int) -> Iterator[Relayed]:
        """``count`` bytes were read into ``buffer()``. Exhaust the iterator before reading on. Raises FrameError."""
        if self._large is not None:
            self._filled += count
            if self._filled == len(self._large):
                whole, self._large = self._large, None
                yield Relayed(*self._begun, whole)
            return
        self._have += count
        at = 0
        while self._have - at >= HEAD.size:
            length, kind, lane, name_bytes = HEAD.unpack_from(self._scratch, at)
            _check(length, kind, lane, name_bytes)
            begin = at + HEAD.size + name_bytes
            end = at + HEAD.size + length
            if self._have < begin:
                break
            if self._have < end and end - at <= _READ_BYTES:
                break
            name = _name(self._scratch[at + HEAD.size : begin])
            if self._have < end:
                self._begun = (Kind(kind), Lane(lane), name)
                self._large = bytearray(end - begin)
                self._filled = self._have - begin
                self._large[: self._filled] = memoryview(self._scratch)[begin : self._have]
                self._have = 0
                return
            yield Relayed(Kind(kind), Lane(lane), name, bytes(memoryview(self._scratch)[begin:end]))
            at = end
        self._scratch[: self._have - at] = self._scratch[at : self._have]
        self._have -= at


def _check(length: int, kind: int, lane: int, name_bytes: int) -> None:
    if name_bytes > min(length, NAME_BYTES):
        raise FrameError(f"a name of {name_bytes} bytes")
    if length - name_bytes > MESSAGE_BYTES:
        raise FrameError(f"a message of {length - name_bytes} bytes; {MESSAGE_BYTES} is the most")
    if not Kind.HELLO <= kind <= Kind.NOTE or lane > Lane.BULK:
        raise FrameError(f"a frame of unknown kind {kind}, lane {lane}")


def _name(raw: bytes | bytearray) -> str:
    try:
        name = raw.decode("ascii")
    except UnicodeDecodeError:
        raise FrameError("a name that is not ASCII") from None
    if not name.isprintable():
        raise FrameError("a name that cannot be printed")
    return name


def pack_fault(error: UserError) -> bytes:
    """The payload of FAULT."""
    return _PARTED.join(part[:400] for part in (error.code, error.what, error.why, error.next_step)).encode()


def unpack_fault(payload: bytes | bytearray, allowed: frozenset[str]) -> UserError | None:
    """What an endpoint gave as its reason, cut and cleaned; None when it is not one of the ``allowed`` codes."""
    parts = [readable(part) for part in bytes(payload[:4096]).decode(errors="replace").split(_PARTED)]
    if len(parts) != 4 or parts[0] not in allowed:
        return None
    return UserError(*parts)


def readable(text: str, most: int = 400) -> str:
    """Foreign text on one line, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:most]).strip()
