"""An endpoint process's side of ``relay``: threads and blocking calls. Needs neither asyncio, torch nor MPI.

The endpoint keeps its own buffers bounded by two habits: what it takes, it answers with ``room`` once it was handed on
(the end sends no more than ``relay_frames.WINDOW`` bytes of a peer and lane without), and ``give`` returns only when
the end's socket has taken the message, so that a slow end holds back whoever sends.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from octopus_desktop.communication.relay_frames import VERSION, FrameReader, Kind, Relayed, head, pack_fault
from octopus_desktop.communication.wires import Lane
from octopus_desktop.system.endpoint import read_token
from octopus_desktop.wire.errors import UserError

_Bytes = bytes | bytearray | memoryview
_SMALL_BYTES = 4096  # copied into one write with its header
_JOINED_BYTES = 64 << 10


class RelayClient:
    """One connection to the end. One thread takes; any thread gives."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._lock = threading.Lock()
        self._frames = FrameReader()

    @classmethod
    def inherited(cls, descriptor: int) -> RelayClient:
        """Over the socket that the end left open for this process."""
        return cls(socket.socket(fileno=descriptor))

    @classmethod
    def attach(cls, path: Path, wait_s: float = 60.0) -> RelayClient:
        """Over the Unix socket where the end listens; waits while there is none.

        Raises:
            UserError: OCT-DAEMON-AWAY when nobody listens for ``wait_s``.
            PermissionError: the socket belongs to somebody else.
        """
        until = time.monotonic() + wait_s
        while True:
            line = socket.socket(socket.AF_UNIX)
            try:
                token = read_token(path, lambda: _away(path))
                line.connect(str(path))
                client = cls(line)
                client._say(Kind.HELLO, payload=token.encode())
                return client
            except (UserError, ConnectionError, FileNotFoundError) as error:
                line.close()
                if time.monotonic() > until:
                    raise _away(path) from error
                time.sleep(0.1)
            except BaseException:
                line.close()
                raise

    def ready(self) -> None:
        """Messages can pass from now on."""
        self._say(Kind.READY, payload=VERSION.to_bytes(2, "big"))

    def messages(self) -> Iterator[Relayed]:
        """The end's messages, each a ``Relayed`` with ``lane``, ``peer``, ``payload``; is over when the end is gone or
        has closed. Answers the end's PINGs, so take them without long pauses."""
        while True:
            try:
                count = self._line.recv_into(self._frames.buffer())
            except OSError:
                return
            if count == 0:
                return
            for frame in self._frames.took(count):
                if frame.kind is Kind.MESSAGE:
                    yield frame
                elif frame.kind is Kind.PING:
                    self._say(Kind.PONG)

    def give(self, peer: str, lane: Lane, message: _Bytes) -> None:
        """Hand the end a message from ``peer``; returns when the socket has it. Raises OSError when the end is gone."""
        self._say(Kind.MESSAGE, lane=lane, peer=peer, payload=message)

    def give_all(self, peer: str, lane: Lane, messages: Sequence[_Bytes]) -> None:
        """``give`` for several; small ones go together."""
        small: list[_Bytes] = []
        held = 0
        for message in messages:
            if len(message) > _SMALL_BYTES or held > _JOINED_BYTES:
                self._send(small)
                small, held = [], 0
            if len(message) > _SMALL_BYTES:
                self.give(peer, lane, message)
            else:
                small += (head(Kind.MESSAGE, lane=lane, peer=peer, payload_bytes=len(message)), message)
                held += len(message)
        self._send(small)

    def room(self, peer: str, lane: Lane, count: int) -> None:
        """``count`` bytes of the end's messages were handed on, or had nobody to go to."""
        self._say(Kind.ROOM, lane=lane, peer=peer, payload=count.to_bytes(4, "big"))

    def gone(self, peer: str) -> None:
        self._say(Kind.GONE, peer=peer)

    def note(self, text: str) -> None:
        """A line for the end's log; heard before ``ready`` only."""
        self._say(Kind.NOTE, payload=text[:400].encode())

    def fault(self, error: UserError) -> None:
        """Tell the end why this endpoint ends."""
        self._say(Kind.FAULT, payload=pack_fault(error))

    def close(self) -> None:
        """Ends ``messages`` too, in whatever thread it waits."""
        try:
            self._line.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._line.close()

    def _say(self, kind: Kind, *, lane: Lane = Lane.MAIL, peer: str = "", payload: _Bytes = b"") -> None:
        begun = head(kind, lane=lane, peer=peer, payload_bytes=len(payload))
        if len(payload) <= _SMALL_BYTES:
            self._send((begun, payload))
            return
        with self._lock:
            sent = self._line.sendmsg([begun, payload])
            if sent < len(begun):  # a signal in the middle; as good as never
                self._line.sendall(begun[sent:])
                sent = len(begun)
            self._line.sendall(memoryview(payload)[sent - len(begun) :])

    def _send(self, parts: Sequence[_Bytes]) -> None:
        if parts:
            with self._lock:
                self._line.sendall(b"".join(parts))


def _away(path: Path) -> UserError:
    return UserError(
        "OCT-DAEMON-AWAY",
        "There is nobody to relay messages to.",
        f"No daemon or server listens at {path}.",
        "Start it, or see in its log why it does not use this carrier.",
    )
