"""Floors and measuring for the benchmarks: the same bytes over less machinery, in processes of their own.

A *round* moves one model of so many bytes from the server down to each silo, and an update of the same size up from
each. ``floors`` gives its seconds over a raw TLS 1.3 socket and over a bare gRPC stream with mutual TLS: both move
bytes from memory to nowhere, without disk, digest, resumption or order. ``Peers`` runs the same round over any pair
of roles in ``tests.benchmarks.peers``.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.communication.parts import Keys

MIB = 1 << 20
ROUNDS = 3
FLOORS = ("tls", "grpc-sync", "grpc-aio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The best of some rounds. ``cpu``: seconds of all processes in that round; ``rss``: peak MiB by role, the largest
    silo's among them; ``wire``: bytes that crossed the loopback device meanwhile (true on a quiet machine alone)."""

    seconds: float
    cpu: float
    rss: dict[str, float]
    wire: int


class Child:
    """A process that answers one JSON line with one JSON line."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.peers", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

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

    def ask(self, word: str, **fields: Any) -> dict[str, Any]:
        self.tell(word, **fields)
        return self.hear()

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
        self._folder = tempfile.TemporaryDirectory()
        root = Path(self._folder.name)
        keys = Keys()
        names = [f"silo-{number + 1}" for number in range(silos)]
        for name in names:
            keys.silo(name)
        keys.save(root / "keys")
        self.server = Child(way, "server", str(root), "server")
        port = self.server.hear()["port"]
        self.silos = [Child(way, "silo", str(root), name, str(port)) for name in names]
        for silo in self.silos:
            silo.hear()

    def round(self, size: int) -> Measured:
        everybody = [self.server, *self.silos]
        for child in everybody:
            child.tell("prepare", size=size, silos=len(self.silos))
        for child in everybody:
            child.hear()
        wire, began = loopback_bytes(), time.perf_counter()
        for child in everybody:
            child.tell("go")
        for child in everybody:
            child.hear()
        seconds = time.perf_counter() - began
        wire = loopback_bytes() - wire
        usages = [child.ask("usage") for child in everybody]
        rss = {"server": usages[0]["rss"], "silo": max(usage["rss"] for usage in usages[1:])}
        return Measured(seconds=seconds, cpu=sum(usage["cpu"] for usage in usages), rss=rss, wire=wire)

    def best(self, size: int, rounds: int = ROUNDS) -> Measured:
        return min((self.round(size) for _ in range(rounds)), key=lambda measured: measured.seconds)

    def __enter__(self) -> Peers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for child in (*self.silos, self.server):
            child.close()
        self._folder.cleanup()


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


def loopback_bytes() -> int:
    """Bytes that the loopback device has carried since boot; 0 where the system does not say."""
    try:
        lines = Path("/proc/net/dev").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:")), 0)
