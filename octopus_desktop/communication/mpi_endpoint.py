"""One rank of an MPI world: ``python -m octopus_desktop.communication.mpi_endpoint TABLE``, started by ``mpi_keeper``.

Carries sealed bytes between its own end (``mpi_own_end``: the daemon or server named in the rank table) and the other
ranks (``mpi_lines``): rank 0 with every silo's, a silo's with rank 0. It holds no key, no data and no file. Ends come
and go as they like; the rank stays and attaches again. What it has to tell, and what its keeper has (a line of JSON on
standard input), goes to rank 0 and from there as lines of JSON to standard output. The end of rank 0's standard input
ends the world.

A rank that dies cannot come back into its world. The others go on without it: on the same machine its death is seen
within half a second, elsewhere by its silence (``DEAD_S``). Without rank 0 the world is over. mpi4py is imported in
``start_mpi`` alone; MPI is called by the main thread alone.

MPI cannot wait for a message and for anything else at once, nor with a time limit. So this asks, and sleeps between,
twice as long each time that nothing came, from 20 µs to ``SLEEP_S``; what the own end says wakes it at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.communication.contract import PROTOCOL
from octopus_desktop.communication.mpi_lines import Lines, Stream, Tag
from octopus_desktop.communication.mpi_own_end import Connection, OwnEnd
from octopus_desktop.communication.mpi_start import differing, fields, machine, rank_lost, start_mpi
from octopus_desktop.communication.mpi_table import RankTable
from octopus_desktop.communication.relay_client import RelayClient
from octopus_desktop.communication.relay_frames import VERSION, Relayed
from octopus_desktop.communication.wires import Lane
from octopus_desktop.system.lock import lock_holder
from octopus_desktop.system.processes import alive
from octopus_desktop.wire.errors import UserError

SLEEP_S = 0.005  # the longest that an idle rank leaves a message lying; costs 1 to 2 % of a core
TICK_S = 0.5
GREET_S = 60.0  # for all ranks to say who they are
DEAD_S = 30.0  # of silence, on another machine
LEAVE_S = 5.0
FINALIZE_S = 5
LAST_WORDS_S = 1.0  # to find the own end, when a world cannot be
QUIET_S = 1.5  # without messages, before a world ends that nobody needs any more
QUIET_MOST_S = 30.0
_LANES = {Stream.MAIL: Lane.MAIL, Stream.BULK: Lane.BULK}
_STREAMS = {lane: stream for stream, lane in _LANES.items()}


@dataclasses.dataclass(slots=True)
class Peer:
    """Another rank, as far as it is known here.

    Attributes:
        pid: on this machine; 0 on another.
        here: its end is attached to it.
        left: it said farewell.
        told: that it was taken for dead.
    """

    rank: int
    name: str
    pid: int = 0
    here: bool = False
    dead: bool = False
    left: bool = False
    told: bool = False
    bytes_in: int = 0
    bytes_out: int = 0


class Rank:
    """This rank at work.

    Arguments:
        tell: takes one event, as a JSON object; at rank 0 it goes to standard output.
        dead_s: see ``DEAD_S``.
    """

    def __init__(
        self, mpi: Any, comm: Any, table: RankTable, *, tell: Callable[[dict[str, Any]], None], dead_s: float = DEAD_S
    ) -> None:
        self._mpi, self._comm, self._table, self._tell, self._dead_s = mpi, comm, table, tell, dead_s
        self.rank: int = comm.Get_rank()
        self.name = table.ranks[self.rank].name
        others = range(1, len(table.ranks)) if self.rank == 0 else [0]
        self._peers = {rank: Peer(rank=rank, name=table.ranks[rank].name) for rank in others}
        self._by_name = {peer.name: peer for peer in self._peers.values()}
        self._lines = Lines(mpi, comm, self._received)
        self._words: deque[tuple[int, dict[str, Any]]] = deque()
        self._asides: deque[dict[str, Any]] = deque()  # from the other thread, to be reported
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._end: OwnEnd | None = None
        self._connection: Connection | None = None
        self._away_since_told = False
        self._moved_at = time.monotonic()
        self._over_at = 0.0
        self.over = threading.Event()  # set from any thread: end the world when it is quiet

    # the course of a rank

    def run(self) -> int:
        """Carry until the world ends; returns the exit code."""
        self._say(self._peers, hello=self._card())
        place = self._table.ranks[self.rank].end()
        fault = self._greet()
        if fault is not None:
            self._tell({"event": "fault", "name": self.name, **fields(fault)})
            with contextlib.suppress(UserError, OSError):
                connection = Connection(RelayClient.attach(place, LAST_WORDS_S), self.wake)
                connection.fault(fault)
                connection.serve()
            return 1
        self._end = OwnEnd(place, self.wake, self._on_away)
        return self._carry()

    def _card(self) -> dict[str, Any]:
        """Who this rank is; its form must stay readable by all versions."""
        return {
            "version": octopus_desktop.__version__,
            "protocol": PROTOCOL,
            "relay": VERSION,
            "machine": machine(),
            "pid": os.getpid(),
            "name": self.name,
        }

    def _greet(self) -> UserError | None:
        """Rank 0 hears every rank's card and decides; the others hear its verdict. Returns why this world cannot be."""
        cards = {self.rank: self._card()}
        until = time.monotonic() + GREET_S
        while time.monotonic() < until:
            if not self._turn():
                self._sleep(SLEEP_S)
            for rank, word in self._heard():
                if "hello" in word:
                    cards[rank] = word["hello"]
                elif "refused" in word:
                    return UserError(*word["refused"])
                elif "welcome" in word:
                    self._know(0, word["welcome"])
                    return None
            if self.rank == 0 and len(cards) == len(self._table.ranks):
                return self._judge(cards)
            if self.rank == 0 and (dead := [r for r, card in cards.items() if r and self._is_dead(card)]):
                return rank_lost(f"{self._whose(dead)} died at the start.")
        missing = [rank for rank in self._peers if rank not in cards]
        return rank_lost(f"{self._whose(missing)} did not say who they are within {GREET_S:.0f} s.")

    def _judge(self, cards: dict[int, dict[str, Any]]) -> UserError | None:
        fault = differing(cards, self._table)
        for rank in self._peers:
            self._know(rank, cards[rank])
        if fault is None:
            self._say(self._peers, welcome=cards[0])
            library = self._mpi.Get_library_version().split("\n")[0].split(",")[0].replace("Version:", "")
            ranks = [{"name": self._table.ranks[r].name, "pid": cards[r]["pid"]} for r in sorted(cards)]
            self._tell({"event": "world", "mpi": " ".join(library.split())[:60], "ranks": ranks})
            return None
        self._say(self._peers, refused=list(fields(fault).values()))
        self._flush(LEAVE_S)
        return fault

    def _know(self, rank: int, card: dict[str, Any]) -> None:
        self._peers[rank].pid = int(card["pid"]) if card["machine"] == machine() else 0

    def _is_dead(self, card: dict[str, Any]) -> bool:
        return card["machine"] == machine() and not alive(int(card["pid"]))

    def _carry(self) -> int:
        next_tick, pause = 0.0, 0.0
        while True:
            moved = self._turn()
            for rank, word in self._heard():
                code = self._obey(self._peers[rank], word)
                if code is not None:
                    return code
            now = time.monotonic()
            if now >= next_tick:
                next_tick = now + TICK_S
                code = self._tick(now)
                if code is not None:
                    return code
            pause = 0.0 if moved else min(SLEEP_S, 2 * pause or 2e-5)
            if pause:
                self._sleep(pause)

    def _turn(self) -> bool:
        """Let everything go on as far as it can; returns whether anything moved."""
        if self._connection is not None and self._connection.over:
            self._detached()
        newest = self._end.current if self._end is not None else None
        if newest is not None and newest is not self._connection and not newest.over:
            self._attached(newest)
        connection = self._connection
        moved = False
        while connection is not None and connection.inbox:
            self._forward(connection, connection.inbox.popleft())
            moved = True
        open_ = [stream for stream, lane in _LANES.items() if connection is None or not connection.full(lane)]
        return self._lines.turn([Stream.RANKS, *open_]) or moved

    def _sleep(self, pause: float) -> None:
        """Sleep, unless something wakes this rank."""
        self._woken.settimeout(pause)
        try:
            self._woken.recv(4096)
        except TimeoutError:
            pass

    def wake(self) -> None:
        """From any thread: there is something to do."""
        try:
            self._waker.send(b"!")
        except BlockingIOError:
            pass  # it is awake

    # between the own end and the others

    def _forward(self, connection: Connection, frame: Relayed) -> None:
        peer, count = self._by_name.get(frame.peer), len(frame.payload)
        self._moved_at = time.monotonic()
        if peer is None or peer.dead or not peer.here:
            connection.room(frame.peer, frame.lane, count)  # nobody is there: as good as lost on the way
            return
        peer.bytes_out += count
        self._lines.put(
            peer.rank,
            _STREAMS[frame.lane],
            frame.payload,
            done=lambda: connection.room(frame.peer, frame.lane, count),
        )

    def _received(self, rank: int, stream: Stream, tag: Tag, payload: bytearray) -> None:
        if tag is Tag.WORD and stream is Stream.RANKS:
            self._words.append((rank, json.loads(payload)))
            return
        peer, connection = self._peers.get(rank), self._connection
        if peer is not None and not peer.dead and tag is Tag.WORD:
            self._end_moved(peer, bool(json.loads(payload)["here"]))
            return
        if peer is None or peer.dead or connection is None or not connection.ready:
            return
        self._moved_at = time.monotonic()
        peer.bytes_in += len(payload)
        connection.give(peer.name, _LANES[stream], payload)

    def _attached(self, connection: Connection) -> None:
        self._connection = connection
        self._away_since_told = False
        if self.rank == 0 or self._peers[0].here:
            connection.make_ready()
        self._show(True)
        self._report({"event": "attached", "name": self.name})

    def _detached(self) -> None:
        self._connection = None
        self._show(False)
        self._report({"event": "detached", "name": self.name})

    # words between ranks

    def _say(self, ranks: Iterable[int], **word: Any) -> None:
        payload = json.dumps(word).encode()
        for rank in ranks:
            if not self._peers[rank].dead:
                self._lines.put(rank, Stream.RANKS, payload, Tag.WORD)

    def _show(self, here: bool) -> None:
        """Tell the others whether the own end is attached; in order with its mail, so that old news ends no session."""
        payload = json.dumps({"here": here}).encode()
        for peer in self._peers.values():
            if not peer.dead:
                self._lines.put(peer.rank, Stream.MAIL, payload, Tag.WORD)

    def _heard(self) -> Iterator[tuple[int, dict[str, Any]]]:
        while self._words:
            yield self._words.popleft()

    def _obey(self, peer: Peer, word: dict[str, Any]) -> int | None:
        if peer.dead:
            if not peer.told:  # it was silent for too long, and is here after all
                peer.told = True
                self._lines.put(peer.rank, Stream.RANKS, json.dumps({"buried": True}).encode(), Tag.WORD)
            return None
        if "event" in word:
            self._tell(word)
        elif "farewell" in word:
            return self._leave()
        elif "left" in word:
            peer.left = True
        elif "buried" in word:
            return self._dead(peer, "it had taken this rank for dead, after a long silence.")
        return None

    def _end_moved(self, peer: Peer, here: bool) -> None:
        """The end of another rank came or went."""
        peer.here = here
        connection = self._connection
        if connection is None:
            return
        if self.rank == 0:
            if not here:
                connection.gone(peer.name)
        elif here and not connection.ready:
            connection.make_ready()
        elif not here and connection.ready:
            connection.fault(
                UserError(
                    "OCT-LINK-DOWN",
                    "The federation server has left the MPI world for now.",
                    "Its end of rank 0 closed: the server stopped, or no open run asks for MPI.",
                    "It is tried again by itself, and nothing is lost.",
                )
            )

    def _report(self, event: dict[str, Any]) -> None:
        """To standard output, by way of rank 0."""
        if self.rank == 0:
            self._tell(event)
        else:
            self._say([0], **event)

    def pass_on(self, event: dict[str, Any]) -> None:
        """Report this; from any thread."""
        self._asides.append(event)
        self.wake()

    def _on_away(self) -> None:
        """Nobody listens at the own end's place; from another thread."""
        if self._away_since_told:
            return
        self._away_since_told = True
        place = self._table.ranks[self.rank]
        lock = place.lock()
        who = "federation server" if place.is_server else "daemon"
        runs = lock is not None and lock_holder(lock)
        why = f"A {who} runs, but no open run of its asks for MPI." if runs else f"No {who} listens at {place.end()}."
        event = {
            "event": "away",
            "name": self.name,
            "code": "OCT-DAEMON-AWAY",
            "what": f"Nobody attaches to the rank of {self.name}.",
            "why": why,
            "next_step": "It is awaited. Approve the run, and end any other MPI world."
            if runs
            else f"Start the {who}.",
        }
        self.pass_on(event)

    # life and death

    def _tick(self, now: float) -> int | None:
        while self._asides:
            self._report(self._asides.popleft())
        if self._end is not None:
            self._end.look()
        for peer in self._peers.values():
            if peer.dead:
                continue
            if not self._lines.waits(peer.rank, Stream.RANKS):
                self._say([peer.rank], beat=True)
            silent = now - self._lines.heard[peer.rank]
            if peer.pid and not alive(peer.pid):
                code = self._dead(peer, "Its process is gone.")
            elif peer.rank in self._lines.failed:
                code = self._dead(peer, "MPI reports that it failed.")
            elif not peer.pid and silent > self._dead_s:
                code = self._dead(peer, f"Nothing came from it for {silent:.0f} s.")
            else:
                continue
            if code is not None:
                return code
        if self.rank == 0 and self.over.is_set():
            return self._leave_when_quiet(now)
        return None

    def _dead(self, peer: Peer, why: str) -> int | None:
        fault = rank_lost(f"Rank {peer.rank} ({peer.name}) died: {why}")
        peer.dead, peer.here = True, False
        self._lines.drop(peer.rank)
        connection = self._connection
        if self.rank == 0:
            if connection is not None:
                connection.gone(peer.name)
            self._tell({"event": "gone", "rank": peer.rank, "name": peer.name, **fields(fault)})
            return None if any(not other.dead for other in self._peers.values()) else 1
        if connection is not None:
            connection.fault(fault)
            self._await(lambda: connection.over, LEAVE_S)
        return 1

    def _leave_when_quiet(self, now: float) -> int | None:
        self._over_at = self._over_at or now
        if now - self._moved_at < QUIET_S and now - self._over_at < QUIET_MOST_S:
            return None
        self._say(self._peers, farewell=True)
        living = [peer for peer in self._peers.values() if not peer.dead]
        self._await(lambda: all(peer.left or peer.dead for peer in living), LEAVE_S)
        rows = [
            {"name": p.name, "rank": p.rank, "dead": p.dead, "bytes_in": p.bytes_in, "bytes_out": p.bytes_out}
            for p in self._peers.values()
        ]
        self._tell({"event": "ended", "peers": rows})
        return self._leave()

    def _leave(self) -> int:
        if self.rank:
            self._say([0], left=True)
        self._flush(LEAVE_S)
        if self._connection is not None:
            self._connection.fault(rank_lost("The MPI world has ended."))
            self._await(lambda: self._connection is None, 1.0)
        return 0

    def _flush(self, most_s: float) -> None:
        self._await(lambda: self._lines.idle, most_s)

    def _await(self, reached: Callable[[], bool], most_s: float) -> None:
        until = time.monotonic() + most_s
        while not reached() and time.monotonic() < until:
            if not self._turn():
                self._sleep(0.001)
            for rank, word in self._heard():
                if "left" in word:
                    self._peers[rank].left = True
            for peer in self._peers.values():
                if not peer.dead and peer.pid and not peer.left and not alive(peer.pid):
                    peer.dead = True
                    self._lines.drop(peer.rank)

    @property
    def whole(self) -> bool:
        """Nobody died: MPI can be finalised, which waits for all."""
        return not any(peer.dead for peer in self._peers.values())

    def _whose(self, ranks: list[int]) -> str:
        return ", ".join(f"rank {rank} ({self._table.ranks[rank].name})" for rank in ranks)


def main(arguments: list[str]) -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), flush=True)

    try:
        table = RankTable.load(Path(arguments[0]))
        mpi = start_mpi()
        table.fits(mpi.COMM_WORLD.Get_size())
    except UserError as error:
        tell({"event": "fault", "name": "", **fields(error)})
        return 1
    rank = Rank(mpi, mpi.COMM_WORLD, table, tell=tell)
    threading.Thread(target=_listen, args=(rank,), daemon=True).start()
    code = rank.run()
    if code == 0 and rank.whole:
        # waits for all, of whom one may have died since, and holds the interpreter: nothing but a signal ends that
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(FINALIZE_S)
        mpi.Finalize()
        signal.alarm(0)
    return code


def _listen(rank: Rank) -> None:
    """To the keeper."""
    for line in sys.stdin:
        with contextlib.suppress(ValueError):
            rank.pass_on(json.loads(line))
    if rank.rank == 0:
        rank.over.set()
        rank.wake()


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # threads wait in system calls, and MPI was dealt with
