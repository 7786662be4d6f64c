"""Strategies that reach into the silos' local steps: whole rounds against the same rounds calculated by hand in NumPy.

Each silo's loss is a parabola, ½ a_k (w − c_k)², so that every gradient, drift and optimum is known exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octopus_desktop.simulation import layout
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult, simulate

TOML = """
[job]
name = "parabolas"
version = "1.0.0"
trainer = "trainer:Parabola"

[[data]]
alias = "points"

[run]
rounds = 12
"""
TRAINER = """
import torch
from octopus_desktop.training.sdk import ClientTrainer

class Parabola(ClientTrainer):
    def build_model(self, ctx):
        model = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def train(self, ctx, model):
        columns = ctx.dataset("points").columns(["x", "y"])
        x, y = (torch.tensor(columns[n].copy(), dtype=torch.float32)[:, None] for n in ("x", "y"))
        optimiser = torch.optim.SGD(model.parameters(), lr=float(ctx.hyperparameters["lr"]))
        for _ in ctx.epochs(int(ctx.hyperparameters["steps"])):
            for bx, by in ctx.loader((x, y), batch_size=len(x)):
                optimiser.zero_grad()
                (0.5 * (model(bx) - by).square().mean()).backward()
                optimiser.step()
        return {}
"""
RATE, STEPS, ROUNDS = 0.1, 8, 12
SILOS = {"ada": (0.5, 4.0), "bob": (2.0, -1.0), "cyd": (1.0, 1.0)}  # curvature a_k, optimum c_k
BEST = sum(a * c for a, c in SILOS.values()) / sum(a for a, _ in SILOS.values())


class Lab:
    def __init__(self, root: Path) -> None:
        self.root = root
        folder = root / "job"
        (folder / "code").mkdir(parents=True)
        (folder / "job.toml").write_text(TOML)
        (folder / "code" / "trainer.py").write_text(TRAINER)
        self.words = []
        for name, (a, c) in SILOS.items():
            x = np.sqrt(a) * np.array([1.0, -1.0, 1.0, -1.0])
            path = root / f"{name}.csv"
            path.write_text("x,y\n" + "\n".join(f"{v!r},{v * c!r}" for v in x.tolist()) + "\n")
            self.words.append(f"{name}:points={path}")

    def run(self, job: Job, name: str, parameters: dict[str, Any], **more: Any) -> SimulationResult:
        wish = {
            "strategy": {"name": name, **parameters},
            "hyperparameters": {"lr": RATE, "steps": STEPS},
            **more,
        }
        return simulate(job, layout.explicit(job, self.words), wish, work=self.root / f"{name}-{len(parameters)}")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    with open_job(lab.root / "job", lab.root / "opened") as job:
        yield job


def weight(result: SimulationResult) -> float:
    from safetensors.numpy import load_file

    return float(load_file(result.model)["weight"][0, 0])


def local(x: float, a: float, c: float, extra: Any = lambda y: 0.0) -> float:
    y = x
    for _ in range(STEPS):
        y -= RATE * (a * (y - c) + extra(y))
    return y


def test_fedprox(lab: Lab, job: Job) -> None:
    x = 0.0
    for _ in range(ROUNDS):
        x = np.mean([local(x, a, c, lambda y, x=x: 0.7 * (y - x)) for a, c in SILOS.values()])
    assert weight(lab.run(job, "fedprox", {"mu": 0.7})) == pytest.approx(x, rel=1e-4)


def test_fedsgd_is_gradient_descent_on_everybodys_data(lab: Lab, job: Job) -> None:
    x = 0.0
    for _ in range(ROUNDS):
        x -= RATE * np.mean([a * (x - c) for a, c in SILOS.values()])
    assert weight(lab.run(job, "fedsgd", {})) == pytest.approx(x, rel=1e-4)


def test_scaffold_and_that_it_ends_at_the_true_optimum_where_fedavg_does_not(lab: Lab, job: Job) -> None:
    x, common, own = 0.0, 0.0, dict.fromkeys(SILOS, 0.0)
    for _ in range(ROUNDS):
        ends, changes = [], []
        for name, (a, c) in SILOS.items():
            y = local(x, a, c, lambda y, name=name, common=common: common - own[name])
            new = own[name] - common + (x - y) / (STEPS * RATE)
            changes.append(new - own[name])
            own[name] = new
            ends.append(y)
        x, common = np.mean(ends), common + sum(changes) / len(SILOS)
    got = weight(lab.run(job, "scaffold", {}))
    assert got == pytest.approx(x, rel=1e-4)
    assert abs(got - BEST) < 0.02
    assert abs(weight(lab.run(job, "fedavg", {})) - BEST) > 0.1, "drift: the mean of local optima is another"


def test_feddyn(lab: Lab, job: Job) -> None:
    alpha, x, h, own = 0.5, 0.0, 0.0, dict.fromkeys(SILOS, 0.0)
    for _ in range(ROUNDS):
        ends = []
        for name, (a, c) in SILOS.items():
            y = local(x, a, c, lambda y, name=name, x=x: -own[name] + alpha * (y - x))
            own[name] -= alpha * (y - x)
            ends.append(y)
        h -= alpha / len(SILOS) * sum(y - x for y in ends)
        x = np.mean(ends) - h / alpha
    assert weight(lab.run(job, "feddyn", {"alpha": alpha})) == pytest.approx(x, rel=1e-4)


def test_several_workers_and_differences_give_the_same(lab: Lab, job: Job) -> None:
    one = weight(lab.run(job, "scaffold", {}, run={"update": "difference", "rounds": 2}))
    two = weight(lab.run(job, "scaffold", {"server_rate": 1.0}, run={"rounds": 2}, resources={"workers": 2}))
    assert one == pytest.approx(two, rel=1e-4)
