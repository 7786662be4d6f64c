"""Workers of one silo as real processes of one gloo group, each with an engine on the digits example."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from octopus_desktop.jobs.manifest import RunConfig, Training
from octopus_desktop.training.engine import Engine, TaskInput, initial_model
from octopus_desktop.training.spec import DataSource
from octopus_desktop.training.state import is_shard

DIGITS = Path(__file__).parents[2] / "resources" / "examples" / "digits"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One run of ``rounds`` rounds. ``batch``: hyperparameter batch_size."""

    name: str
    batch: int
    shares: tuple[float, ...] | str = ()
    rounds: int = 1
    training: dict[str, Any] = field(default_factory=dict)
    package: str = str(DIGITS)
    trainer: str = "trainer:DigitsTrainer"
    words: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)


def make_rows(home: Path, training_rows: int) -> Path:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    count = next(n for n in range(len(labels)) if n - -(-n // 5) == training_rows)
    np.savez(home / "digits.npz", images=images[:count].astype(np.float32), labels=labels[:count])
    first = initial_model(DIGITS, "trainer:DigitsTrainer", config(Case(name="", batch=1)), home / "first")
    assert first.size
    return home


def config(case: Case) -> RunConfig:
    chosen = {"learning_rate": 0.1, "batch_size": case.batch, "epochs": 1}
    return RunConfig(rounds=3, seed=5, hyperparameters=chosen, training=Training(**case.training))


def run(home: Path, case: Case, rank: int = 0, world_size: int = 1) -> tuple[dict[str, np.ndarray], list[Any]]:
    """The model after the last round, on rank 0, and [examples, steps, shares afterwards, numbers held] a round."""
    source = DataSource(alias="digits", path=str(home / "digits.npz"), kind="npz", digest="")
    one = Engine(
        Path(case.package), case.trainer, config(case), "north", {"digits": source},
        rank=rank, world_size=world_size, shares=case.shares if world_size > 1 else (),
    )  # fmt: skip
    model, facts = home / "first", []
    for round_ in range(1, case.rounds + 1):
        out = home / f"{case.name}-{world_size}-{round_}"
        task = TaskInput(task="train", round=round_, rounds=3, model=model, config=case.words)
        task = replace(task, shared={name: Path(path) for name, path in case.shared.items()})
        result = one.run(task, out)
        facts.append([result.examples, result.steps, list(one.shares), held(one)])
        if world_size > 1:
            import torch.distributed as dist

            dist.barrier()
        model = out
    return (load_file(model) if rank == 0 else {}), facts


def held(one: Engine) -> int:
    """Numbers in the parameters that this rank holds."""
    return sum((p.to_local() if is_shard(p) else p).numel() for p in one._structure().parameters())  # type: ignore[operator]


def run_group(home: Path, world_size: int, cases: list[Case]) -> dict[str, tuple[dict[str, np.ndarray], list[Any]]]:
    """All cases, one after the other, in one group of processes."""
    folder = home / f"group-{world_size}-{len(list(home.glob('group-*')))}"
    folder.mkdir()
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    root = str(Path(__file__).parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.training.groups", str(home), str(folder), str(rank), str(world_size)],
            env=environment, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(world_size)
    ]  # fmt: skip
    try:
        for worker in workers:
            _, said = worker.communicate(timeout=100)
            assert worker.returncode == 0, said[-4000:]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    facts = json.loads((folder / "facts.json").read_text())
    ends = {case.name: home / f"{case.name}-{world_size}-{case.rounds}" for case in cases}
    return {name: (load_file(end), facts[name]) for name, end in ends.items()}


def _worker(home: Path, folder: Path, rank: int, world_size: int) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world_size)
    facts = {}
    for value in json.loads((folder / "cases.json").read_text()):
        shares = value.pop("shares")
        case = Case(**value, shares=shares if isinstance(shares, str) else tuple(shares))
        facts[case.name] = run(home, case, rank, world_size)[1]
    if rank == 0:
        (folder / "facts.json").write_text(json.dumps(facts))
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    _worker(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
