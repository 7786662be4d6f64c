"""A rank's connection to the daemon or server that it serves: made, lost and made again as that comes and goes.

Two threads do the blocking work (``relay_client``), so that the thread that speaks MPI never waits for them: one takes
what the end says, one hands the end what came. Knows no MPI.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from octopus_desktop.communication.relay_client import RelayClient
from octopus_desktop.communication.relay_frames import FrameError, Relayed
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError

LEAVE_S = 2.0
LOOK_S = 5.0  # without anybody to attach to, this is said and tried again
HELD_BYTES = {Lane.MAIL: 2 << 20, Lane.BULK: 8 << 20}  # for an end that does not take; then senders are held back


class Connection:
    """One attachment. Its methods may be called at any time; once it is over they do nothing.

    Attributes:
        inbox: messages from the end, taken from the left by the other thread.
        ready: the end was told that messages can pass.
        over: the end closed it, is gone, or was let go.
    """

    def __init__(self, client: RelayClient, wake: Callable[[], None]) -> None:
        self._client, self._wake = client, wake
        self.inbox: deque[Relayed] = deque()
        self.ready = self.over = self._leaving = False
        self._held = dict.fromkeys(Lane, 0)
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Callable[[], None], Lane, int] | None] = queue.SimpleQueue()
        threading.Thread(target=self._hand_on, name="gives", daemon=True).start()

    @property
    def done(self) -> bool:
        """Over, or about to be."""
        return self.over or self._leaving

    def serve(self) -> None:
        """Take what the end says until it is over."""
        try:
            for frame in self._client.messages():
                if not self._leaving:
                    self.inbox.append(frame)
                    self._wake()
        except FrameError:  # an end of another version
            pass
        self.let_go()

    def full(self, lane: Lane) -> bool:
        return self._held[lane] >= HELD_BYTES[lane]

    def make_ready(self) -> None:
        self.ready = True
        self._put(self._client.ready)

    def give(self, peer: str, lane: Lane, message: bytearray) -> None:
        self._put(lambda: self._client.give(peer, lane, message), lane, len(message))

    def room(self, peer: str, lane: Lane, count: int) -> None:
        self._put(lambda: self._client.room(peer, lane, count))

    def gone(self, peer: str) -> None:
        self._put(lambda: self._client.gone(peer))

    def fault(self, error: UserError) -> None:
        """Tell the end why it is left. It closes when it has read that; to close here could take the words back."""
        self._put(lambda: self._client.fault(error))
        self._leaving = True
        late = threading.Timer(LEAVE_S, self.let_go)
        late.daemon = True
        late.start()

    def let_go(self) -> None:
        if not self.over:
            self.over = True
            self._client.close()
            self._work.put(None)
        self._wake()

    def _put(self, work: Callable[[], None], lane: Lane = Lane.MAIL, count: int = 0) -> None:
        if not self.over and not self._leaving:
            with self._lock:
                self._held[lane] += count
            self._work.put((work, lane, count))

    def _hand_on(self) -> None:
        while (entry := self._work.get()) is not None:
            work, lane, count = entry
            try:
                work()
            except OSError:
                self.let_go()
            was_full = self.full(lane)
            with self._lock:
                self._held[lane] -= count
            if was_full and not self.full(lane):
                self._wake()


class OwnEnd:
    """Attaches to the socket ``place`` again and again.

    A socket that appears while another connection lasts means that a second process has taken the place: the newest
    wins, as with every carrier.

    Arguments:
        wake: called from any thread when there is something to see.
        away: told, about every ``LOOK_S``, that nobody listens.
    """

    def __init__(self, place: Path, wake: Callable[[], None], away: Callable[[], None]) -> None:
        self._place, self._wake, self._away = place, wake, away
        self.current: Connection | None = None
        self._mark: tuple[int, int] | None = None
        threading.Thread(target=self._attend, name="takes", daemon=True).start()

    def look(self) -> None:
        """Call now and then."""
        current = self.current
        mark = _mark(self._place)
        if current is not None and not current.done and mark is not None and mark != self._mark:
            current.fault(
                UserError(
                    "OCT-LINK-REPLACED",
                    "Another process took this one's place at the MPI rank.",
                    f"It listens at {self._place}.",
                    "Run only one daemon or server for this home.",
                )
            )

    def _attend(self) -> None:
        while True:
            try:
                client = RelayClient.attach(self._place, LOOK_S)
            except (UserError, OSError):
                self._away()
                continue
            self._mark = _mark(self._place)  # the end removes it when it has heard us
            connection = self.current = Connection(client, self._wake)
            self._wake()
            with contextlib.suppress(OSError):
                connection.serve()


def _mark(place: Path) -> tuple[int, int] | None:
    """Tells one socket at this place from the next; None while there is none."""
    try:
        found = place.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns
