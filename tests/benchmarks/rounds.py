"""What a round costs beside the training: ``python -m tests.benchmarks.rounds --mib 1,100,1024 --silos 2``.

A whole federation of real processes runs the job ``echo``, over each of ``--carriers``, beside two floors of the same
run, which move the same bytes (one model down to each silo, one update up from each) and do nothing else: a raw TLS 1.3
socket, and a bare gRPC stream with mutual TLS. Peak resident memory is sampled per role. What the carriers alone cost,
beside floors of their own, is in ``carriers``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from octopus_desktop.cli.common import table
from octopus_desktop.cli.demo import examples
from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan
from tests.e2e.house import APPROVE_ALL, all_processes, finish, running

ROLES = {
    "server.main": "server",
    "server.coordinator": "coordinator",
    "daemon.main": "daemon",
    "training.runner": "runner",
    "training.worker": "worker",
}


class Sampler:
    """Peak resident MiB of the largest process of each role, and the CPU seconds of all, sampled from outside."""

    def __init__(self, federation: LocalFederation) -> None:
        self._federation = federation
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.peak: dict[str, float] = {}
        self.cpu: dict[int, float] = {}

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._end.wait(0.1):
            for process in all_processes(self._federation):
                try:
                    line = " ".join(process.cmdline())
                    role = next((name for word, name in ROLES.items() if word in line), "")
                    if role:
                        info = process.memory_full_info()
                        own = (info.uss + getattr(info, "swap", 0)) / (1 << 20)
                        self.peak[role] = max(self.peak.get(role, 0), own)
                        self.cpu[process.pid] = sum(process.cpu_times()[:2])
                except psutil.Error:
                    continue


def one(mib: int, silos: int, rounds: int, carrier: str) -> dict[str, Any]:
    """Median-free and plain: the best and the mean seconds of the rounds after the first."""
    names = [f"silo-{number + 1}" for number in range(silos)]
    plans = [SiloPlan(name=n, organisation=n, administrator="admin", rule=APPROVE_ALL) for n in names]
    with (
        tempfile.TemporaryDirectory() as folder,
        running(LocalFederation(Path(folder), "bench", plans, carrier=carrier)) as house,
    ):
        job = house.submit(examples() / "echo")
        with Sampler(house) as sampler:
            began = time.perf_counter()
            run = finish(house, house.start_run(job, {"run": {"rounds": rounds}, "hyperparameters": {"mib": mib}}))
            whole = time.perf_counter() - began
        if run.state != "completed":
            raise SystemExit(f"the run is {run.state}: {run.code} {run.reason}")
        taken = [row.seconds for row in run.history][1:] or [row.seconds for row in run.history]
        return {
            "carrier": carrier,
            "mib": mib,
            "silos": silos,
            "seconds": sum(taken) / len(taken),
            "best": min(taken),
            "whole": whole,
            "cpu": sum(sampler.cpu.values()),
            "peak": sampler.peak,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", default="1,100,1024")
    parser.add_argument("--silos", default="2")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--carriers", default="grpc", help="with commas between")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    from tests.benchmarks.measure import floors

    results = []
    for silos in (int(n) for n in words.silos.split(",")):
        for mib in (int(n) for n in words.mib.split(",")):
            bare = floors(mib, silos)
            for carrier in words.carriers.split(","):
                results.append({**one(mib, silos, words.rounds, carrier), "floors": bare})
    if words.json:
        print(json.dumps(results, indent=2))
        return
    rows = []
    for r in results:
        tls, stream, peak = r["floors"]["tls"], r["floors"]["grpc"], r["peak"]
        rows.append(
            (r["carrier"], r["mib"], r["silos"],
             f"{r['seconds']:.3f}", f"{tls:.3f}", f"{stream:.3f}", f"{r['seconds'] / stream:.2f}",
             f"{peak.get('server', 0) + peak.get('coordinator', 0):.0f}",
             f"{peak.get('daemon', 0) + peak.get('runner', 0):.0f}", f"{peak.get('worker', 0):.0f}", f"{r['cpu']:.1f}")
        )  # fmt: skip
    columns = [
        "carrier", "MiB", "silos", "s a round", "raw TLS", "bare gRPC", "ratio", "server+coordinator MiB",
        "daemon+runner MiB", "worker MiB", "CPU s",
    ]  # fmt: skip
    table("What a round costs (own memory, peak)", columns, rows, right=columns[1:])


if __name__ == "__main__":
    main()
