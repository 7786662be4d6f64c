"""What our worker costs beside bare torchrun: ``python -m tests.benchmarks.ddp [--workers 2] [--rounds 5]``.

Both sides train the same MLP on the same rows with the same loop, threads, batches and deterministic kernels, over gloo
on this machine; both are warm from the second round on. The two take turns, so that what else the machine does falls on
both. ``train``: seconds of one round's training loop; ``CPU``: its processor seconds, mean of the workers, which say
more on a machine that others use. ``round``: with what our worker does around it: the model in and out of a file, the
check for NaN, the answer to the runner; bare torchrun does nothing there. ``start``: until the first round has ended,
interpreter and torch included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import frames
from octopus_desktop.training.launcher import Workers
from octopus_desktop.training.spec import DataSource, RunnerSpec

ROWS, WIDTH, BATCH, RATE = 12_800, 256, 32, 0.05

LOOP = """
import time
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

def build():
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))

def fit(model, batches):
    optimiser = torch.optim.SGD(model.parameters(), lr=RATE)
    total, began = 0.0, time.process_time()
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item()
    return total, time.process_time() - began
""".replace("WIDTH", str(WIDTH)).replace("RATE", str(RATE))

TRAINER = """
import torch
import loop
from octopus_desktop.training.sdk import ClientTrainer

class Trainer(ClientTrainer):
    def build_model(self, ctx):
        return loop.build()

    def train(self, ctx, model):
        arrays = ctx.cached("rows", lambda: [torch.from_numpy(ctx.dataset("d").arrays()[n].copy()) for n in "xy"])
        loss, cpu = loop.fit(model, ctx.loader(arrays, batch_size=BATCH))
        return {"loss": loss, "cpu": cpu}
""".replace("BATCH", str(BATCH))

BARE = """
import json, sys, time
import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DistributedSampler, TensorDataset
import loop

torch.set_num_threads(1)
torch.set_deterministic_debug_mode("error")
dist.init_process_group("gloo")
held = np.load(sys.argv[1])
rows = TensorDataset(*(torch.from_numpy(held[n]) for n in "xy"))
torch.manual_seed(0)
model = DistributedDataParallel(loop.build())
sampler = DistributedSampler(rows)

def batches():  # as ours: no DataLoader, whose work for each batch would hide what is compared
    for where in torch.tensor(list(sampler)).split(BATCH):
        yield [tensor[where] for tensor in rows.tensors]

for epoch in range(int(sys.argv[2])):
    dist.barrier()
    began = time.perf_counter()
    sampler.set_epoch(epoch)
    _, cpu = loop.fit(model, batches())
    taken = time.perf_counter() - began
    mean = torch.tensor(cpu)
    dist.all_reduce(mean)
    if dist.get_rank() == 0:
        print(json.dumps([taken, time.time(), mean.item() / dist.get_world_size()]), flush=True)
del model
dist.barrier()
sys.stdout.flush()
import os
os._exit(0)
""".replace("BATCH", str(BATCH))


class Nobody:
    def heard(self, frame: frames.Frame) -> None:
        pass


Turn = tuple[list[float], list[float], list[float], float]  # of each round: train, whole, CPU; then the start


def bare(root: Path, workers: int, rounds: int) -> Turn:
    began = time.time()
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers),
            str(root / "package" / "code" / "bare.py"), str(root / "d.npz"), str(rounds),
        ],
        env=environment, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    taken = [seconds for seconds, *_ in told]
    return taken, taken, [cpu for *_, cpu in told], told[0][1] - began


async def ours(root: Path, workers: int, rounds: int, turn: int) -> Turn:
    folder = root / f"run-{turn}"
    folder.mkdir()
    spec = RunnerSpec(
        run_id="r", silo="s", package=str(root / "package"), trainer="trainer:Trainer", blobs=str(root / "blobs"),
        config=RunConfig(rounds=rounds).to_dict(), workers=workers,
        data=(asdict(DataSource(alias="d", path=str(root / "d.npz"), kind="npz", digest="")),),
    )  # fmt: skip
    spec.write(folder / "runner.json")
    began, first = time.time(), 0.0
    group = Workers(folder, spec, Nobody())
    await group.start()
    trained, whole, cpu = [], [], []
    try:
        for number in range(1, rounds + 1):
            out = str(folder / "work" / "out")
            words = {"task": "train", "round": number, "rounds": rounds, "model": str(root / "first"), "config": {}}
            clock = time.perf_counter()
            answer = await group.run({**words, "shared": {}, "keep": "", "out": out})
            whole.append(time.perf_counter() - clock)
            trained.append(float(answer["train_seconds"]))
            cpu.append(float(answer["metrics"]["train/cpu"]))
            first = first or time.time() - began
    finally:
        await group.stop()
    return trained, whole, cpu, first


def make(root: Path) -> None:
    from octopus_desktop.training.engine import initial_model

    code = root / "package" / "code"
    code.mkdir(parents=True)
    for name, text in (("loop.py", LOOP), ("trainer.py", TRAINER), ("bare.py", BARE)):
        (code / name).write_text(text)
    random = np.random.default_rng(0)
    x = random.normal(size=(ROWS, 64)).astype(np.float32)
    np.savez(root / "d.npz", x=x, y=random.integers(0, 10, ROWS))
    initial_model(root / "package", "trainer:Trainer", RunConfig(), root / "first")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3)
    chosen = parser.parse_args()
    found: dict[str, list[Turn]] = {"bare torchrun": [], "our worker": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        for turn in range(chosen.turns):
            found["bare torchrun"].append(bare(root, chosen.workers, chosen.rounds))
            found["our worker"].append(asyncio.run(ours(root, chosen.workers, chosen.rounds, turn)))
    steps = ROWS // chosen.workers // BATCH
    print(f"{chosen.workers} workers on the processor, {steps} steps a round, rounds 2 to {chosen.rounds}, best of all")
    columns = "".join(
        f"{title:>10}" for title in ("train s", "median", "CPU s", "round s", "start s", "over bare", "in CPU")
    )
    print(f"{'':16}{columns}")
    floor: list[float] = []
    for name, turns in found.items():
        trained, whole, cpu = ([seconds for turn in turns for seconds in turn[what][1:]] for what in range(3))
        floor = floor or [min(trained), min(cpu)]
        over, over_cpu = (
            f"{100 * (min(mine) / bare - 1):+.1f} %" for mine, bare in zip((trained, cpu), floor, strict=True)
        )
        start = min(turn[3] for turn in turns)
        print(
            f"{name:16}{min(trained):10.3f}{statistics.median(trained):10.3f}{min(cpu):10.3f}{min(whole):10.3f}"
            f"{start:10.2f}{over:>10}{over_cpu:>10}"
        )


if __name__ == "__main__":
    main()
