"""Measures rounds over any way to move bytes: carriers, and the floors beside them.

A *round* moves one model of so many bytes from the server down to each silo, and an update of the same size up from
each. The ways are named in ``tests.benchmarks.peers`` (carriers, with real mailboxes and stores on disk) and
``tests.benchmarks.bare`` (floors: the same bytes over less machinery, from memory to nowhere); each party is a process
of its own, and what a way needs around them is up before any round (``stage``).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from octopus_desktop.communication import sealing
from octopus_desktop.communication.contract import PROTOCOL
from octopus_desktop.communication.mpi_world import compose, environment, find_launcher
from octopus_desktop.communication.wires import Lane
from tests.benchmarks.stage import staged
from tests.benchmarks.words import MIB, PIECE
from tests.communication.parts import Keys

ROUNDS = 3
FLOORS = ("tls", "grpc-sync", "grpc-aio")
LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "TP_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One round.

    Attributes:
        cpu: seconds of all processes in that round, the broker's and the store's among them.
        rss: peak MiB by role, the largest process's where a role has several.
        wire: bytes that crossed the loopback device meanwhile (true on a quiet machine alone); where a way does not use
            it, bytes that the silos' links counted.
    """

    seconds: float
    cpu: float
    rss: dict[str, float]
    wire: int


class Child:
    """A process that answers one JSON line with one JSON line."""

    def __init__(self, command: Sequence[str], env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**(env or os.environ), **LOOPBACK},
        )
        self.pid = self._process.pid

    def tell(self, word: str, **fields: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"word": word, **fields}) + "\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a peer ended: {self._process.args!r}")
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Peers:
    """A server and its silos of one way to move bytes, each in a process of its own, connected before any round."""

    def __init__(self, way: str, silos: int) -> None:
        self._stack = ExitStack()
        self._children: dict[str, list[Child]] = {}
        try:
            self._start(way, [f"silo-{number + 1}" for number in range(silos)])
        except BaseException:
            self._stack.close()
            raise
        self.silos = silos

    def _start(self, way: str, names: list[str]) -> None:
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        keys = Keys()
        for name in names:
            keys.silo(name)
        keys.save(root / "keys")
        self._stage = self._stack.enter_context(staged(way, root, names))
        if way == "mpi_send":
            launcher = find_launcher()
            command = compose(launcher, len(names) + 1, [sys.executable, "-m", "tests.benchmarks.bare_mpi"])
            self._begin("mpiexec", command, environment(launcher)).hear()
            return
        peer = (sys.executable, "-m", "tests.benchmarks.peers", way)
        port = self._begin("server", (*peer, "server", str(root), "server")).hear().get("port", 0)
        for silo in [self._begin("silo", (*peer, "silo", str(root), name, str(port))) for name in names]:
            silo.hear()

    def _begin(self, role: str, command: Sequence[str], env: dict[str, str] | None = None) -> Child:
        child = Child(command, env)
        self._children.setdefault(role, []).append(child)
        self._stack.callback(child.close)
        return child

    def round(self, size: int) -> Measured:
        everybody = [child for children in self._children.values() for child in children]
        for child in everybody:
            child.tell("prepare", size=size, silos=self.silos)
        for child in everybody:
            child.hear()
        processes = dict(self._processes())
        for process in processes:
            with contextlib.suppress(OSError):
                Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        cpu = {process.pid: _cpu(process) for process in processes}
        wire, began = loopback_bytes(), time.perf_counter()
        for child in everybody:
            child.tell("go")
        counted = sum(child.hear().get("bytes", 0) for child in everybody)
        seconds = time.perf_counter() - began
        wire = loopback_bytes() - wire
        rss: dict[str, float] = {}
        for process, role in processes.items():
            rss[role] = max(rss.get(role, 0.0), _peak_mib(process.pid))
        return Measured(
            seconds=seconds,
            cpu=sum(_cpu(process) - cpu[process.pid] for process in processes),
            rss=rss,
            wire=wire if wire > counted / 2 else counted,
        )

    def _processes(self) -> Iterator[tuple[psutil.Process, str]]:
        """All processes of this way, with what each is."""
        for role, children in self._children.items():
            for child in children:
                yield psutil.Process(child.pid), role
                for below in psutil.Process(child.pid).children(recursive=True):
                    yield below, "rank" if role == "mpiexec" else "endpoint"
        for role, pids in self._stage.pids.items():
            for pid in pids:
                yield psutil.Process(pid), role
                for below in psutil.Process(pid).children(recursive=True):
                    yield below, role

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()


def measured(ways: Sequence[str], mib: int, silos: int, rounds: int = ROUNDS) -> dict[str, Measured]:
    """Each way's best round; the ways take turns, so that a machine that slows down slows all of them."""
    taken: dict[str, list[Measured]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            with Peers(way, silos) as peers:
                peers.round(mib * MIB)  # warm: connections, windows, and the memory behind the page cache
                taken[way].append(peers.round(mib * MIB))
    return {way: min(rounds_, key=lambda one: one.seconds) for way, rounds_ in taken.items()}


def floors(mib: int, silos: int) -> dict[str, float]:
    """Seconds of a round over the floors: ``tls`` and ``grpc`` (the better of the sync and the asyncio stack)."""
    seconds = {way: one.seconds for way, one in measured(FLOORS, mib, silos).items()}
    return {"tls": seconds["tls"], "grpc": min(seconds["grpc-sync"], seconds["grpc-aio"]), **seconds}


def sealing_seconds(mib: int, silos: int, rounds: int = ROUNDS) -> float:
    """CPU seconds to seal and to open the bytes of one round, in messages of 1 MiB, on one core: the best of some."""
    keys = Keys()
    keys.silo("silo-1")
    dialling = sealing.Dialling(keys.silo_party("silo-1"), PROTOCOL)
    opening = sealing.read_opening(dialling.message)
    assert opening is not None
    answer, theirs = sealing.accept(keys.server_party(), opening, address="silo-1")
    ours = dialling.accepted(answer)
    assert ours is not None
    sealer, opener = ours.mine[Lane.BULK], theirs.theirs[Lane.BULK]

    def once(counter: int) -> None:
        for at in range(min(mib, 256)):
            opener.open(counter + at, sealer.seal(counter + at, PIECE))

    taken = []
    for number in range(rounds + 1):
        began = time.process_time()
        once(number << 10)
        taken.append(time.process_time() - began)
    return min(taken) * mib / min(mib, 256) * 2 * silos


def loopback_bytes() -> int:
    """Bytes that the loopback device has carried since boot; 0 where the system does not say."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)


def _cpu(process: psutil.Process) -> float:
    try:
        return sum(process.cpu_times()[:2])
    except psutil.Error:
        return 0.0


def _peak_mib(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0) / 1024
