"""What a whole federation costs for a small job: ``python -m tests.benchmarks.deployment [--silos 4] [--rounds 20]``.

A server and its silos, each a process of its own, run the job ``digits`` (an MLP 64-128-10) from nothing to the end:
CPU seconds by kind of process and by phase, wall seconds by phase. ``control`` is what the operator types: making the
federation, inviting, enrolling. Beside it, in the same run, the floor: one bare PyTorch process that trains the same
silos, rounds and batches, averages them, and writes nothing.

CPU seconds are sampled from outside, 30 times a second: a process that ends takes at most its last hundredths with it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from octopus_desktop.cli.common import table
from octopus_desktop.cli.demo import examples
from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan
from octopus_desktop.system.processes import adopt_orphans
from tests.e2e.house import APPROVE_ALL, running

KINDS = {
    "-c": "sandbox probe",
    "training.worker": "worker",
    "training.initial": "first model",
    "training.runner": "runner",
    "server.coordinator": "coordinator",
    "server.main": "server",
    "daemon.main": "daemon",
}
TICK = os.sysconf("SC_CLK_TCK")

FLOOR = """
import sys, time
began = time.time()
import numpy as np, torch
from torch import nn
from torch.nn import functional as F
torch.set_num_threads(1)
imported = time.time()
silos = []
for path in sys.argv[2:]:
    held = np.load(path)
    images = torch.from_numpy(held["images"] / np.float32(16))
    labels = torch.from_numpy(held["labels"])
    test = torch.arange(len(labels)) % 5 == 0
    silos.append((images[~test], labels[~test], images[test], labels[test]))
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
held = {n: t.clone() for n, t in model.state_dict().items()}
sizes = [len(s[0]) for s in silos]
first = time.time()
for _ in range(int(sys.argv[1])):
    total = {n: torch.zeros_like(t) for n, t in held.items()}
    for images, labels, *test in silos:
        model.load_state_dict(held)
        with torch.no_grad():
            right = (model(test[0]).argmax(1) == test[1]).float().mean().item()
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        for where in torch.randperm(len(images)).split(32):
            loss = F.cross_entropy(model(images[where]), labels[where])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            loss.item()
        for n, t in model.state_dict().items():
            total[n].add_(t, alpha=len(images) / sum(sizes))
    held = total
ended = time.time()
print(__import__("json").dumps({"start": first - began, "rounds": ended - first, "accuracy": right}))
"""


class Accounts:
    """CPU seconds of everything below this process, by kind and phase; a sampling thread keeps them."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._lock = threading.Lock()
        self._kind: dict[tuple[int, int], str] = {}
        self._last: dict[tuple[int, int], float] = {}
        self.used: Counter[tuple[str, str]] = Counter()
        self.count: Counter[str] = Counter()
        self.wall: dict[str, float] = {}
        self.phase, self._since = "", time.perf_counter()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Accounts:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.enter("")

    def enter(self, phase: str) -> None:
        """What is used from now on belongs to this phase."""
        with self._lock:
            self._sample()
            now = time.perf_counter()
            if self.phase:
                self.wall[self.phase] = self.wall.get(self.phase, 0.0) + now - self._since
            self.phase, self._since = phase, now

    def _watch(self) -> None:
        while not self._end.wait(0.03):
            with self._lock:
                self._sample()

    def _sample(self) -> None:
        parents: dict[int, int] = {}
        found: dict[int, tuple[tuple[int, int], float]] = {}
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                pid = int(place.name)
                with suppress(OSError):
                    words = (place / "stat").read_text().rpartition(")")[2].split()
                    parents[pid] = int(words[1])
                    found[pid] = ((pid, int(words[19])), (int(words[11]) + int(words[12])) / TICK)
        for pid, (key, seconds) in found.items():
            if key not in self._kind or self._kind[key] == "control":
                if not _is_below(pid, parents):
                    continue
                self._name(key)
            new = seconds - self._last.get(key, 0.0)
            if new:
                self._last[key] = seconds
                self.used[self._kind[key], self.phase] += new

    def _name(self, key: tuple[int, int]) -> None:
        """By its command line, which changes once more when a started process becomes what it is to be."""
        line = ""
        with suppress(OSError):
            line = Path(f"/proc/{key[0]}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        kind = next((kind for word, kind in KINDS.items() if word in line), "control")
        if line.startswith(("bwrap", "/usr/bin/bwrap")):
            kind = "sandbox"
        if kind != self._kind.get(key):
            self.count[kind] += 1
            self.count[self._kind.get(key, "")] -= 1
            self._kind[key] = kind


def _is_below(pid: int, parents: dict[int, int]) -> bool:
    me = os.getpid()
    while pid > 1:
        pid = parents.get(pid, 0)
        if pid == me:
            return True
    return False


def make_data(folder: Path, silos: int) -> list[Path]:
    """scikit-learn's digits, every silo a share."""
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    paths = [folder / f"silo-{number + 1}.npz" for number in range(silos)]
    for number, path in enumerate(paths):
        own = order[number::silos]
        np.savez(path, images=images[own].astype(np.float32), labels=labels[own])
    return paths


def deployment(root: Path, paths: list[Path], rounds: int) -> dict[str, Any]:
    """The whole thing from nothing, and back to nothing."""
    plans = [
        SiloPlan(name=path.stem, organisation=path.stem, administrator="admin", data={"digits": path}, rule=APPROVE_ALL)
        for path in paths
    ]
    adopt_orphans()
    with Accounts() as accounts:
        accounts.enter("federation starts")
        with _ended(running(LocalFederation(root, "bench", plans)), accounts) as house:
            accounts.enter("submit")
            job = house.submit(examples() / "digits")
            accounts.enter("offer, approve, start")
            run_id = house.start_run(job, {"run": {"rounds": rounds}})
            seconds: dict[int, float] = {}
            for run in house.watch(run_id):
                for row in run.history:
                    seconds[row.round] = row.seconds
                if run.round and accounts.phase == "offer, approve, start":
                    accounts.enter("rounds")
            if run.state != "completed":
                raise SystemExit(f"the run is {run.state}: {run.code} {run.reason}")
            started = run.started_at - run.created_at
            whole = run.ended_at - run.started_at
            metrics = dict(run.history[-1].metrics)
    later = [seconds[number] for number in sorted(seconds)[1:]]
    return {
        "used": accounts.used,
        "count": accounts.count,
        "wall": accounts.wall,
        "approve": started,
        "first": whole - sum(later) if later else whole,
        "rounds": sum(seconds.values()),
        "later": sum(later),
        "median": sorted(later)[len(later) // 2] if later else 0.0,
        "metrics": metrics,
    }


@contextmanager
def _ended(house: Any, accounts: Accounts) -> Iterator[LocalFederation]:
    with house as federation:
        yield federation
        accounts.enter("federation ends")


def floor(paths: list[Path], rounds: int) -> dict[str, Any]:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    command = [sys.executable, "-c", FLOOR, str(rounds), *map(str, paths)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout), "cpu": cpu, "wall": time.perf_counter() - began}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--silos", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=20)
    words = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="octopus-bench-") as folder:
        paths = make_data(Path(folder), words.silos)
        bare = floor(paths, words.rounds)
        found = deployment(Path(folder) / "federation", paths, words.rounds)
    phases = list(found["wall"])
    used: Counter[tuple[str, str]] = found["used"]
    kinds = sorted({kind for kind, _ in used}, key=lambda kind: -sum(used[kind, phase] for phase in phases))
    rows = [
        (kind, found["count"][kind], *(f"{used[kind, phase]:.2f}" for phase in phases),
         f"{sum(used[kind, phase] for phase in phases):.2f}")
        for kind in kinds
    ]  # fmt: skip
    sums = [sum(used[kind, phase] for kind in kinds) for phase in phases]
    rows.append(("all", "", *(f"{one:.2f}" for one in sums), f"{sum(sums):.2f}"))
    taken = [found["wall"][phase] for phase in phases]
    rows.append(("wall, s", "", *(f"{one:.2f}" for one in taken), f"{sum(taken):.2f}"))
    columns = ["CPU s", "processes", *phases, "all"]
    table(f"{words.silos} silos, {words.rounds} rounds of digits", columns, rows, right=columns[1:])
    print(
        f"offer to start {found['approve']:.2f} s; start to the end of the first round {found['first']:.2f} s; the "
        f"{words.rounds} rounds {found['rounds']:.2f} s, the later ones {found['later']:.2f} s, "
        f"{1000 * found['median']:.0f} ms each (median)"
    )
    print(
        f"floor, one bare PyTorch process: {bare['cpu']:.2f} CPU s, {bare['wall']:.2f} s; until the first round "
        f"{bare['start']:.2f} s, its rounds {bare['rounds']:.2f} s"
    )
    print("last metrics: " + ", ".join(f"{name} {value:.3f}" for name, value in sorted(found["metrics"].items())))


if __name__ == "__main__":
    main()
