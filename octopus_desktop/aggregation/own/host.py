"""Starts, asks and ends the process of a job's own strategy. Nothing here imports anything of a package.

The process is confined as a training worker is: bubblewrap where it can be had, and where not it runs without, which
is said. It sees the interpreter and the package's ``code/``, has no network, writes nothing, starts nothing, and ends
with this process. What it answers is only believed as far as it can be checked.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.aggregation.own.memory import Cells, Plan, shared_file
from octopus_desktop.system.processes import leashed
from octopus_desktop.system.sandbox import Confinement, plain_obstacle
from octopus_desktop.wire import frames
from octopus_desktop.wire.errors import UserError

MODULE = "octopus_desktop.aggregation.own.process"
PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "OPENBLAS_CORETYPE",
)  # fmt: skip
START_S = 30.0
GRACE_S = 5.0  # beside the strategy's own time
END_S = 5.0
LINES_MOST = 500
LINE_BYTES = 2000
TEXT_MOST = 2000
OUR_CODES = frozenset(
    {"OCT-JOB-STRATEGY", "OCT-RUN-STRATEGY", "OCT-STRATEGY-PARAMETER", "OCT-MODEL-WEIGHT", "OCT-RUN-QUORUM"}
)

Say = Callable[[str, str, str], None]
"""Told of (level, source, text), as ``wire.child.ParentLink.log`` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """``answer_s``: seconds for one answer. ``memory_bytes``: address space beside what the silos' tiles need."""

    answer_s: float = 120.0
    memory_bytes: int = 2 << 30


class Lane:
    """One conversation with the process; one word at a time."""

    def __init__(self, host: Host, number: int, connection: socket.socket) -> None:
        self._host, self.number, self._connection = host, number, connection
        self.cells: Cells

    def send(self, word: str, fd: int = -1, **fields: Any) -> None:
        try:
            self._connection.settimeout(self._host.patience_s)
            self._connection.sendall(frames.pack(word, **fields))
            if fd >= 0:
                socket.send_fds(self._connection, [b"m"], [fd])
        except OSError as error:
            raise self._host.lost("took no word") from error

    @property
    def patience_s(self) -> float:
        return self._host.patience_s

    def hear(self, deadline: float = 0.0) -> frames.Frame:
        """The next word. Raises UserError: a fault of the strategy, its silence or its end. ``deadline``: of
        ``time.monotonic``."""
        try:
            frame = frames.receive(self._connection, deadline or time.monotonic() + self.patience_s)
        except TimeoutError as error:
            raise self._host.lost("did not answer in time") from error
        except (OSError, ValueError) as error:
            raise self._host.lost(f"did not keep to the form of its words ({error})") from error
        if frame is None:
            raise self._host.lost("")
        if frame["word"] == "fault":
            raise _told(frame)
        return frame

    def lost(self, how: str) -> BaseException:
        return self._host.lost(how)

    def ask(self, word: str, **fields: Any) -> frames.Frame:
        self.send(word, **fields)
        return self.hear()

    def shut(self) -> None:
        """Wakes whoever waits here; the socket itself is closed by who holds the lane."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


class Host:
    """One process; ``start`` it, then take lanes.

    Args:
        code: the package's folder ``code``. lanes: how many may speak to the process at a time.
        patience_s: how long an answer may take in any case.
    """

    def __init__(self, code: Path, entry: str, say: Say, *, lanes: int, patience_s: float) -> None:
        self._code, self._entry, self._say, self.patience_s = code, entry, say, patience_s
        self._count = lanes
        self._lanes: list[Lane] = []
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._last: deque[str] = deque(maxlen=20)
        self._ending = threading.Lock()
        self._cause: BaseException | None = None
        self.closed = False

    def start(self) -> None:
        """Raises UserError OCT-RUN-STRATEGY, when no interpreter can be started (in time), or on a system without a way
        to share memory with it."""
        if not hasattr(socket, "send_fds"):
            raise UserError(
                "OCT-RUN-STRATEGY",
                f"The job's own strategy {self._entry} cannot run on this machine.",
                "Its process is made for Linux and macOS.",
                "Run the server, or the simulation, on one of these.",
            )
        why = plain_obstacle()
        if not why:
            try:
                self._begin(confined=True)
                return
            except UserError as error:
                if isinstance(error.__cause__, TimeoutError):
                    raise  # a machine that is slow is no reason to do without
                why = f"bubblewrap does not work here: {self._last[-1][:300] if self._last else 'no message'}"
                self._cause, self.closed = None, False
                self._last.clear()
        self._say("warning", "strategy", f"The job's own strategy runs without a sandbox: {why}")
        self._begin(confined=False)

    def share(self, plan: Plan) -> None:
        """Give the process the memory that tiles lie in."""
        fd = shared_file(plan.size)
        try:
            memory = mmap.mmap(fd, plan.size)
            lane = self._lanes[0]
            lane.send("memory", fd, slots=plan.slots, window=plan.window, cell_bytes=plan.cell_bytes)
            lane.hear()
        finally:
            os.close(fd)
        for lane in self._lanes:
            lane.cells = Cells(plan, lane.number, memory)

    @contextlib.contextmanager
    def lane(self) -> Iterator[Lane]:
        """A lane for this thread. When it is left by an error that is not the strategy's own fault, the process may be
        in the middle of something, and is ended."""
        lane = self._free.get()
        try:
            yield lane
        except BaseException as error:
            if not (isinstance(error, UserError) and error.code in OUR_CODES):
                self._end(error)
            raise
        finally:
            if self.closed:
                lane.close()
            self._free.put(lane)

    def lost(self, how: str) -> BaseException:
        """End the process; why it cannot be spoken to any more, which is the same for all threads."""
        if not how:
            with contextlib.suppress(subprocess.TimeoutExpired):
                if self._process:
                    self._process.wait(END_S)
        status = self._process.poll() if self._process else None
        self._stop()
        last = " | ".join(list(self._last)[-3:])[:600]
        return self._end(
            UserError(
                "OCT-RUN-STRATEGY",
                f"The process of the job's own strategy {self._entry} "
                f"{how or f'ended with status {status}{_meaning(status)}'}.",
                f"Its last words: {last}" if last else "It said nothing.",
                "Look for what ends a process, waits for ever or takes too much memory in the package's strategy.",
            )
        )

    def close(self) -> None:
        """End the process and all that is in its sandbox. May be called again, and from any thread."""
        self._end(UserError("OCT-RUN-STRATEGY", "The strategy's process was ended.", "Nobody needs it any more.", ""))

    def _end(self, cause: BaseException) -> BaseException:
        """The first cause of its end."""
        with self._ending:
            self._cause = self._cause or cause
            self.closed = True
        self._stop()
        for lane in self._lanes:
            lane.shut()
        free: list[Lane] = []
        with contextlib.suppress(queue.Empty):
            while True:
                free.append(self._free.get_nowait())
        for lane in free:
            lane.close()
            self._free.put(lane)  # who waits for one learns by it that there is none
        return self._cause

    def _stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.kill()
        if self._keeper and self._keeper is not threading.current_thread():
            self._keeper.join(END_S)

    def _begin(self, *, confined: bool) -> None:
        pairs = [socket.socketpair() for _ in range(self._count)]
        self._lanes = [Lane(self, number, ours) for number, (ours, _) in enumerate(pairs)]
        self._free = queue.LifoQueue()
        for lane in reversed(self._lanes):
            self._free.put(lane)
        theirs = [end.fileno() for _, end in pairs]
        words = [MODULE, *map(str, theirs)]
        command = (
            Confinement(readable=(self._code,), still=True).command([sys.executable, "-m", *words], _environment())
            if confined
            else list(leashed(*words))
        )
        started = threading.Event()
        self._keeper = threading.Thread(
            target=self._keep, args=(command, theirs, started), name="own strategy", daemon=True
        )
        self._keeper.start()
        started.wait()
        for _, end in pairs:
            end.close()
        if self._lanes[0].hear(time.monotonic() + START_S)["word"] != "up":
            raise self.lost("did not keep to the form of its words")

    def _keep(self, command: list[str], fds: list[int], started: threading.Event) -> None:
        """Start the process and pass on what it prints. This thread lives as long as the process: the kernel takes the
        end of the thread that started it for the end of its parent."""
        try:
            self._process = subprocess.Popen(
                command,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=fds,
            )
        except OSError as error:
            self._last.append(str(error))
            return
        finally:
            started.set()
        assert self._process.stdout
        told, rest = 0, b""
        with self._process.stdout as stream:
            while chunk := stream.read1(1 << 16):  # type: ignore[attr-defined]
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[:LINE_BYTES]
                for line in lines:
                    told = self._print(line, told)
        if rest:
            self._print(rest, told)
        self._process.wait()

    def _print(self, line: bytes, told: int) -> int:
        text = line[:LINE_BYTES].decode(errors="replace").strip()
        if not text:
            return told
        self._last.append(text)
        if told < LINES_MOST:
            self._say("info", "strategy", text)
        elif told == LINES_MOST:
            self._say("warning", "strategy", "The strategy prints more than is passed on; the rest is left out.")
        return told + 1


def _environment() -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    root = str(Path(octopus_desktop.__file__).resolve().parents[1])  # not installed: found by the caller's folder
    if "-packages" not in root:
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, (root, passed.get("PYTHONPATH"))))
    one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
    return {**passed, **one, "HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONHASHSEED": "0"}


def _told(frame: Mapping[str, Any]) -> UserError:
    def text(name: str) -> str:
        return str(frame.get(name, ""))[:TEXT_MOST]

    code = text("code")
    return UserError(code if code in OUR_CODES else "OCT-RUN-STRATEGY", text("what"), text("why"), text("next"))


def _meaning(status: int | None) -> str:
    if status in (137, -9):
        return " (killed, as when the machine has no memory left)"
    if status in (139, -11):
        return " (a crash in native code)"
    return ""
