"""What a round's aggregation costs: ``python -m tests.benchmarks.fold [--mib 256] [--silos 2 8 16]``.

Beside three floors of the same run: a plain ``torch.add_`` loop over whole tensors in memory (the sum alone), SHA-256
of one model, and writing one model with fsync. The fold reads all updates from files, sums, checks, hashes and writes,
so the time that is left beside the sum is to be compared with the two others. ``of the loop``: the fold's speed by the
loop's. Both also in CPU seconds of all threads, which say more on a machine that others use.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.tensors import make_layout

RUNS = 5


def best(work: Callable[[], object]) -> tuple[float, float]:
    """Least seconds of some runs, and least CPU seconds."""
    taken, cpu = [], []
    for _ in range(RUNS):
        began, before = time.perf_counter(), time.process_time()
        work()
        taken.append(time.perf_counter() - began)
        cpu.append(time.process_time() - before)
    return min(taken), min(cpu)


def measure(root: Path, mib: int, silos: int) -> None:
    elements = mib << 18
    layout = make_layout([("w", "F32", (elements,))])
    block = np.random.default_rng(0).normal(size=1 << 18).astype(np.float32).tobytes()
    paths = [root / f"{silos}-{i}" for i in range(silos + 1)]
    for path in paths:
        with path.open("wb") as file:
            file.write(layout.header)
            for _ in range(mib):
                file.write(block)
    os.sync()
    store, strategy = BlobStore(root / "blobs"), make("fedavg", {})
    updates: list[tuple[str, Path | None]] = [(str(i), path) for i, path in enumerate(paths[1:])]

    def one_fold() -> None:
        done = fold(strategy, model=paths[0], updates=updates, weights=[1 / silos] * silos, store=store)
        store.remove(done.model.digest)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    folded, folded_cpu = best(one_fold)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    def write() -> None:
        with (root / "plain").open("wb") as file:
            for _ in range(mib):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())

    hashed, _ = best(lambda: [hashlib.sha256(block) for _ in range(mib)])
    written, _ = best(write)
    for path in paths:
        path.unlink()
    import torch

    tensors, total = [torch.ones(elements) for _ in range(silos)], torch.zeros(elements)

    def loop() -> None:
        total.zero_()
        for tensor in tensors:
            total.add_(tensor, alpha=1 / silos)

    summed, summed_cpu = best(loop)
    rate = silos * mib / 1024
    print(
        f"{silos:>2} silos x {mib} MiB: fold {folded:.3f} s ({rate / folded:.1f} GiB/s, {folded_cpu:.2f} CPU s, "
        f"+{grown / 1024:.0f} MiB RSS) | torch loop {summed:.3f} s ({rate / summed:.1f} GiB/s, {summed_cpu:.2f} CPU s)"
        f" | {summed / folded:.2f} of the loop | sha256 {hashed:.3f} s | write+fsync {written:.3f} s"
    )


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m tests.benchmarks.fold")
    words.add_argument("--mib", type=int, default=256)
    words.add_argument("--silos", type=int, nargs="+", default=[2, 8, 16])
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="octopus-fold-") as folder:
        for silos in given.silos:
            measure(Path(folder), given.mib, silos)


if __name__ == "__main__":
    main()
