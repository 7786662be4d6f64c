"""Messages between the ranks of one MPI world: bytes in, bytes out, bounded, never blocking, past dead ranks.

Buffers only, never the calls of mpi4py that pickle. Every send is synchronous in MPI's sense (``Issend``): it is done
when the other rank has begun to take the message, so that what waits at a receiver that does not take is bounded by
what its senders may have under way. Order is kept within one stream and pair of ranks, whatever the tag. A rank that
died never takes what was sent: such sends are let go of, with their buffers kept, for MPI may still read them.

All calls come from one thread, the one that initialised MPI. Knows no relay and no meaning of a message.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any

Payload = bytes | bytearray | memoryview
BLOCK_BYTES = 1 << 20
MOST_COUNT = (1 << 31) - 1  # of elements, in every MPI before 4.0


class Stream(IntEnum):
    """Each has a communicator of its own. The first two are the relay's lanes."""

    MAIL = 0
    BULK = 1
    RANKS = 2  # what the ranks say to each other apart from all mail


class Tag(IntEnum):
    MESSAGE = 1  # an end's, opaque
    WORD = 2  # a rank's


UNDER_WAY = {Stream.MAIL: 64, Stream.BULK: 8, Stream.RANKS: 4}  # of one rank and stream: sent and not yet taken
TAKING = {Stream.MAIL: 64, Stream.BULK: 8, Stream.RANKS: 64}  # of one stream: taken, their bytes not yet all here
_AT_ONCE = 32  # messages of one stream that one turn takes, so that no stream starves another


def spec(mpi: Any, payload: Payload) -> tuple[list[Any], Any]:
    """A buffer as MPI calls take it, and a datatype to free afterwards (None: nothing).

    From MPI 4.0 on counts have 64 bits. Before, a message of 2 GiB or more is one element of a datatype that stands for
    all its bytes; either side may do either, for the signature is the same: so many bytes.
    """
    count = len(payload)
    if count <= MOST_COUNT or mpi.Get_version() >= (4, 0):
        return [payload, count, mpi.BYTE], None
    block = mpi.BYTE.Create_contiguous(BLOCK_BYTES)
    blocks = block.Create_contiguous(count // BLOCK_BYTES)
    whole = mpi.Datatype.Create_struct([1, count % BLOCK_BYTES], [0, count - count % BLOCK_BYTES], [blocks, mpi.BYTE])
    whole.Commit()
    block.Free()
    blocks.Free()
    return [payload, 1, whole], whole


class _Send:
    __slots__ = ("done", "kind", "payload", "request", "tag")

    def __init__(self, payload: Payload, tag: Tag, done: Callable[[], None]) -> None:
        self.payload, self.tag, self.done = payload, tag, done
        self.request: Any = None
        self.kind: Any = None


class _Out:
    """What goes to one rank in one stream."""

    __slots__ = ("under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Send] = deque()
        self.under_way: deque[_Send] = deque()


class Lines:
    """The lines from this rank to all others.

    Arguments:
        mpi: the module ``mpi4py.MPI``.
        comm: the communicator of the world. All ranks must make their ``Lines`` at the same time.
        receive: told of each message that came whole, in order: ``receive(rank, stream, tag, payload)``.

    Attributes:
        heard: for each rank, the monotonic time at which something last came from it, or was taken by it.
        failed: ranks for which MPI itself reported an error.
    """

    def __init__(self, mpi: Any, comm: Any, receive: Callable[[int, Stream, Tag, bytearray], None]) -> None:
        self._mpi, self._receive = mpi, receive
        self._comms = {stream: comm.Dup() for stream in Stream}
        for each in self._comms.values():
            each.Set_errhandler(mpi.ERRORS_RETURN)
        self._status = mpi.Status()
        self._out: dict[tuple[int, Stream], _Out] = {}
        self._in: dict[tuple[int, Stream], deque[tuple[Any, bytearray, Any, Tag]]] = {}
        self._taking = dict.fromkeys(Stream, 0)
        self._lost: list[Any] = []
        now = time.monotonic()
        self.heard = dict.fromkeys(range(comm.Get_size()), now)
        self.failed: set[int] = set()

    def put(
        self,
        rank: int,
        stream: Stream,
        payload: Payload,
        tag: Tag = Tag.MESSAGE,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Queue a message; ``done`` is called when the other rank takes it, or when it is dropped."""
        self._out.setdefault((rank, stream), _Out()).waiting.append(_Send(payload, tag, done))

    def waits(self, rank: int, stream: Stream) -> bool:
        """Whether anything for this rank and stream has not yet been taken."""
        return (rank, stream) in self._out

    @property
    def idle(self) -> bool:
        """Nothing is under way in either direction."""
        return not self._out and not self._in

    def drop(self, rank: int) -> None:
        """Let go of all that is under way to and from a rank that is dead."""
        for key in [key for key in self._out if key[0] == rank]:
            out = self._out.pop(key)
            for send in (*out.under_way, *out.waiting):
                if send.request is not None:
                    self._lost.append((send.request, send.payload, send.kind))
                send.done()
        for key in [key for key in self._in if key[0] == rank]:
            taking = self._in.pop(key)
            self._taking[key[1]] -= len(taking)
            self._lost += taking

    def turn(self, streams: Iterable[Stream]) -> bool:
        """Let everything go on as far as it can without waiting; new messages are taken of these streams alone.

        Returns whether anything moved.
        """
        moved = False
        for key in list(self._out):
            moved |= self._send(key)
        for key in list(self._in):
            moved |= self._finish(key)
        for stream in streams:
            moved |= self._take(stream)
        return moved

    def _send(self, key: tuple[int, Stream]) -> bool:
        rank, stream = key
        out, moved = self._out.get(key), False
        if out is None:  # dropped in the meantime
            return False
        try:
            while out.under_way and out.under_way[0].request.Test():
                send = out.under_way.popleft()
                if send.kind is not None:
                    send.kind.Free()
                self.heard[rank] = time.monotonic()
                send.done()
                moved = True
            while out.waiting and len(out.under_way) < UNDER_WAY[stream]:
                send = out.waiting.popleft()
                buffer, send.kind = spec(self._mpi, send.payload)
                out.under_way.append(send)
                send.request = self._comms[stream].Issend(buffer, dest=rank, tag=send.tag)
                moved = True
        except self._mpi.Exception:
            self.failed.add(rank)
            return moved
        if not out.under_way and not out.waiting:
            self._out.pop(key, None)
        return moved

    def _take(self, stream: Stream) -> bool:
        moved = False
        for _ in range(_AT_ONCE):
            if self._taking[stream] >= TAKING[stream]:
                break
            message = self._comms[stream].Improbe(status=self._status)
            if message is None:
                break
            rank, tag = self._status.Get_source(), Tag(self._status.Get_tag())
            payload = bytearray(self._status.Get_elements(self._mpi.BYTE))
            buffer, kind = spec(self._mpi, payload)
            self._in.setdefault((rank, stream), deque()).append((message.Irecv(buffer), payload, kind, tag))
            self._taking[stream] += 1
            self.heard[rank] = time.monotonic()
            moved = True
            self._finish((rank, stream))
        return moved

    def _finish(self, key: tuple[int, Stream]) -> bool:
        """Hand on what has come whole, oldest first."""
        rank, stream = key
        taking, moved = self._in.get(key), False
        if taking is None:  # dropped in the meantime
            return False
        try:
            while taking and taking[0][0].Test():
                _, payload, kind, tag = taking.popleft()
                if kind is not None:
                    kind.Free()
                self._taking[stream] -= 1
                self.heard[rank] = time.monotonic()
                moved = True
                self._receive(rank, stream, tag, payload)
        except self._mpi.Exception:
            self.failed.add(rank)
            return moved
        if not taking:
            self._in.pop(key, None)
        return moved
