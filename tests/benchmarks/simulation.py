"""Simulation side by side: one by one with 1 and 2 workers, batched, and bare loops of torch and vmap as floors.

    python -m tests.benchmarks.simulation [--silos 1000] [--per-round 100] [--rounds 10] [--rows 40]

An MLP 64-128-10 on scikit-learn's digits: each silo has ``rows`` of them (a fifth only tests), SGD, batch 32, one
epoch. Every way runs in a process of its own, one after the other. ``silos/s``: training tasks a second from the first
round's begin to the last one's end, opening each silo's file included; ``warm``: the same over the fastest half of the
rounds; ``cpu``: silos a CPU-second in that half, of the process (what a busy machine cannot change much);
``start``: from the process's begin to the first round; ``whole``: everything, with the evaluation of the last
model by all silos, in seconds and in CPU-seconds of all processes; ``MiB``: peak resident memory of the process (of the
main one with workers). The bare loops have their data in memory, evaluate nothing, write nothing, and average at each
round's end.
"""

from __future__ import annotations

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

DIGITS = Path(__file__).parents[2] / "resources" / "examples" / "digits"
Measured = tuple[list[float], list[float], float, float | None]  # rounds' seconds, CPU-seconds, start, accuracy
WAYS = {
    "one by one, 1 worker": {"workers": 1},
    "one by one, 2 workers": {"workers": 2},
    "batched": {"batched": True},
    "bare torch loop": None,
    "bare vmap loop": None,
}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("silos", 1000), ("per-round", 100), ("rounds", 10), ("rows", 40)):
        words.add_argument(f"--{name}", type=int, default=default)
    words.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    words.add_argument("--began", type=float, default=time.time(), help=argparse.SUPPRESS)
    words.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.way:
        print(json.dumps(measure(given)))
        return
    with tempfile.TemporaryDirectory(prefix="octopus-bench-") as folder:
        make_data(Path(folder), given.silos, given.rows)
        print(f"{'':24}{'silos/s':>9}{'warm':>9}{'cpu':>9}{'start s':>9}{'whole s':>9}{'cpu s':>8}{'MiB':>7}  accuracy")
        for way in WAYS:
            command = [sys.executable, "-W", "ignore", "-m", "tests.benchmarks.simulation", "--way", way]
            command += ["--data", folder, "--began", str(time.time())]
            for name in ("silos", "per_round", "rounds", "rows"):
                command += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            r = json.loads(done.stdout.splitlines()[-1])
            line = f"{way:24}{r['silos']:9.0f}{r['warm']:9.0f}{r['cpu']:9.0f}{r['start']:9.2f}{r['whole']:9.2f}"
            line += f"{r['cpu_s']:8.2f}{r['mib']:7.0f}"
            print(line + (f"  {r['accuracy']:.3f}" if r["accuracy"] is not None else ""), flush=True)


def make_data(folder: Path, silos: int, rows: int) -> None:
    import numpy as np
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(0)
    for number in range(silos):
        own = random.choice(len(labels), rows, replace=False)
        np.savez(folder / f"s{number:05}.npz", images=images[own].astype(np.float32), labels=labels[own])


def measure(given: argparse.Namespace) -> dict[str, Any]:
    import resource

    options = WAYS[given.way]
    rounds, busy, start, accuracy = (
        simulated(given, options) if options else bare(given, vmapped=given.way == "bare vmap loop")
    )
    half = max(1, len(rounds) // 2)
    best, least = sorted(rounds)[:half], sorted(busy)[:half]
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "silos": given.per_round * len(rounds) / sum(rounds),
        "warm": given.per_round * half / sum(best),
        "cpu": given.per_round * half / sum(least),
        "cpu_s": sum(one.ru_utime + one.ru_stime for one in spent),
        "start": start,
        "whole": time.time() - given.began,
        "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "accuracy": accuracy,
    }


def simulated(given: argparse.Namespace, options: dict[str, Any]) -> Measured:
    from octopus_desktop.simulation import layout
    from octopus_desktop.simulation.jobs import open_job
    from octopus_desktop.simulation.simulator import Step, simulate

    with tempfile.TemporaryDirectory(prefix="octopus-bench-") as folder, open_job(DIGITS, Path(folder)) as job:
        data = layout.from_folder(job, given.data)
        wish = {"run": {"rounds": given.rounds, "per_round": given.per_round}}
        marks: dict[int, float] = {}

        def progress(step: Step) -> None:
            if step.row:  # told more than once a round: the last time counts
                marks[step.row.round] = time.process_time()

        done = simulate(job, data, wish, work=Path(folder) / "run", progress=progress, **options)
        rounds, busy = [row.seconds for row in done.rounds], [b - a for a, b in itertools.pairwise(marks.values())]
        return rounds, busy, done.opened - given.began, done.metrics["eval/accuracy"]


def bare(given: argparse.Namespace, *, vmapped: bool) -> Measured:
    """What remains when everything but the arithmetic is left out."""
    import numpy as np
    import torch
    from torch.func import functional_call, grad, vmap
    from torch.nn import functional as F

    torch.set_num_threads(1)  # as the simulations that they stand beside
    silos = []
    for path in sorted(given.data.glob("*.npz")):
        with np.load(path) as arrays:
            images, labels = torch.from_numpy(arrays["images"] / 16), torch.from_numpy(arrays["labels"])
        test = torch.arange(len(labels)) % 5 == 0
        silos.append((images[~test], labels[~test].long()))
    model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}

    def loss(own: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(model, own, (images,)), labels)

    random, rounds, busy, began = np.random.default_rng(1), [], [], time.time()
    for _ in range(given.rounds):
        opened, spent = time.perf_counter(), time.process_time()
        cohort = [silos[i] for i in random.choice(len(silos), given.per_round, replace=False)]
        if vmapped:
            stacked = {n: t.expand(len(cohort), *t.shape).clone() for n, t in weights.items()}
            images, labels = (torch.stack(parts) for parts in zip(*cohort, strict=True))
            for first in range(0, images.shape[1], 32):
                slope = vmap(grad(loss))(stacked, images[:, first : first + 32], labels[:, first : first + 32])
                stacked = {n: t - 0.1 * slope[n] for n, t in stacked.items()}
            weights = {n: t.mean(0) for n, t in stacked.items()}
        else:
            total = {n: torch.zeros_like(t) for n, t in weights.items()}
            for images, labels in cohort:
                model.load_state_dict(weights)
                optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
                order = torch.randperm(len(labels))
                for place in order.split(32):
                    optimiser.zero_grad()
                    F.cross_entropy(model(images[place]), labels[place]).backward()
                    optimiser.step()
                for name, value in model.state_dict().items():
                    total[name] += value / len(cohort)
            weights = total
        rounds.append(time.perf_counter() - opened)
        busy.append(time.process_time() - spent)
    return rounds, busy, began - given.began, None


if __name__ == "__main__":
    main()
