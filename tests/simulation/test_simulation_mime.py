"""Mime and Mime Lite: whole rounds against the same rounds calculated by hand in NumPy, and what they bring on digits.

The rounds by hand are a linear regression of unequal silos, whose gradients are written down here and not taken from
torch; only the order of the examples, which is the loader's, is asked of torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from octopus_desktop.simulation import example_data, layout
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult, simulate
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "resources" / "examples"
TOML = """
[job]
name = "lines"
version = "1.0.0"
trainer = "trainer:Line"

[[data]]
alias = "points"

[run]
rounds = 5
seed = 3

[hyperparameters]
learning_rate = 0.2
batch_size = 4
"""
DECLARED = """
import torch
from octopus_desktop.training.sdk import ClientTrainer, Rows

class Line(ClientTrainer):
    def build_model(self, ctx):
        model = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.zeros_(model.weight)
        return model

    def rows(self, ctx):
        columns = ctx.dataset("points").columns(["a", "b", "y"])
        a, b, y = (torch.tensor(columns[name].copy(), dtype=torch.float32) for name in ("a", "b", "y"))
        return Rows(train=(torch.stack([a, b], 1), y))

    def losses(self, ctx, model, batch):
        inputs, wanted = batch
        return 0.5 * (model(inputs)[:, 0] - wanted).square()
"""
OWN_LOOP = (
    DECLARED.replace("    def rows", "    def own_rows").replace("    def losses", "    def own_losses")
    + """
    def train(self, ctx, model):
        rows = self.own_rows(ctx).train
        optimiser = torch.optim.SGD(model.parameters(), lr=ctx.hyperparameters["learning_rate"])
        for batch in ctx.loader(rows, batch_size=ctx.hyperparameters["batch_size"]):
            optimiser.zero_grad()
            self.own_losses(ctx, model, batch).mean().backward()
            optimiser.step()
"""
)
RATE, BATCH, ROUNDS, SEED = 0.2, 4, 5, 3
SIZES = {"ada": 10, "bob": 23, "cyd": 5}


class Lab:
    def __init__(self, root: Path, code: str) -> None:
        self.root, self.count = root, 0
        (root / "job" / "code").mkdir(parents=True)
        (root / "job" / "job.toml").write_text(TOML)
        (root / "job" / "code" / "trainer.py").write_text(code)
        random, self.words, self.rows = np.random.default_rng(5), [], {}
        for number, (name, size) in enumerate(SIZES.items()):
            inputs = random.normal(size=(size, 2)).astype(np.float32)
            wanted = (inputs @ np.float32([1.0 + number, -number])).astype(np.float32)
            self.rows[name] = inputs.astype(np.float64), wanted.astype(np.float64)
            path = root / f"{name}.csv"
            lines = [f"{a!r},{b!r},{y!r}" for (a, b), y in zip(inputs.tolist(), wanted.tolist(), strict=True)]
            path.write_text("a,b,y\n" + "\n".join(lines) + "\n")
            self.words.append(f"{name}:points={path}")
        self.job: Job

    def run(self, strategy: str, parameters: dict[str, Any] | None = None, **more: Any) -> SimulationResult:
        self.count += 1
        wish = {"strategy": {"name": strategy, **(parameters or {})}, **more}
        return simulate(self.job, layout.explicit(self.job, self.words), wish, work=self.root / f"run-{self.count}")


@pytest.fixture
def lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(tmp_path, getattr(request, "param", DECLARED))
    with open_job(made.root / "job", made.root / "opened") as made.job:
        yield made


def weights(result: SimulationResult) -> Any:
    return load_file(result.model)["weight"][0]


def gradient(w: Any, inputs: Any, wanted: Any) -> Any:
    """Of ½ mean (x·w − y)²."""
    return inputs.T @ (inputs @ w - wanted) / len(wanted)


def batches(silo: str, round_: int, size: int) -> list[Any]:
    """The rows of each batch of the only pass, as ``Context.loader`` cuts them; its first loader of the task."""
    seed = derive_seed(SEED, round_, silo, "loader", "train", 1) >> 8
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).numpy()
    return [order[start : start + BATCH] for start in range(0, size, BATCH)]


def by_hand(lab: Lab, *, corrected: bool, beta1: float, beta2: float = 0.0, tau: float = 0.0) -> Any:
    x, m, v, c = np.zeros(2), np.zeros(2), np.full(2, tau**2), None
    total = sum(SIZES.values())
    for round_ in range(1, ROUNDS + 1):
        ends, means = [], []
        for silo, (inputs, wanted) in lab.rows.items():
            y = x.copy()
            for rows in batches(silo, round_, len(wanted)):
                g = gradient(y, inputs[rows], wanted[rows])
                if corrected and c is not None:
                    g = g - gradient(x, inputs[rows], wanted[rows]) + c
                step = (1 - beta1) * g + beta1 * m
                y = y - RATE * (step / (np.sqrt(v) + tau) if tau else step)
            ends.append(SIZES[silo] / total * y)
            means.append(SIZES[silo] / total * gradient(x, inputs, wanted))
        x, c = sum(ends), sum(means)
        m = (1 - beta1) * c + beta1 * m
        v = (1 - beta2) * c**2 + beta2 * v
    return x


@pytest.mark.parametrize("lab", [DECLARED, OWN_LOOP], indirect=True, ids=["declared", "own loop"])
def test_mime_lite_with_momentum(lab: Lab) -> None:
    done = weights(lab.run("mimelite", {"beta1": 0.7}))
    np.testing.assert_allclose(done, by_hand(lab, corrected=False, beta1=0.7), rtol=2e-5)


def test_mime_lite_with_adam(lab: Lab) -> None:
    wish = {"optimiser": "adam", "beta1": 0.6, "beta2": 0.9, "tau": 0.5}
    wanted = by_hand(lab, corrected=False, beta1=0.6, beta2=0.9, tau=0.5)
    np.testing.assert_allclose(weights(lab.run("mimelite", wish)), wanted, rtol=2e-5)


def test_mime(lab: Lab) -> None:
    wanted = by_hand(lab, corrected=True, beta1=0.7)
    np.testing.assert_allclose(weights(lab.run("mime", {"beta1": 0.7})), wanted, rtol=2e-5)
    assert abs(wanted - by_hand(lab, corrected=False, beta1=0.7)).max() > 1e-3, "the correction is what is tested"


def test_differences_several_workers_and_collected_batches_give_the_same(lab: Lab) -> None:
    """A gradient over all examples is one, whatever the workers and batches are: 10, 23 and 5 rows over 2 workers."""
    wish = {"beta1": 0.7}
    one = weights(lab.run("mime", wish, hyperparameters={"batch_size": 64}))
    sent = weights(lab.run("mime", wish, hyperparameters={"batch_size": 64}, run={"update": "difference"}))
    np.testing.assert_allclose(sent, one, rtol=2e-5)
    collected = weights(lab.run("mime", wish, hyperparameters={"batch_size": 4}, training={"accumulate": 100}))
    np.testing.assert_allclose(collected, one, rtol=2e-5)


def test_with_beta_nought_mime_lite_is_fedavg_to_the_bit(lab: Lab) -> None:
    assert lab.run("mimelite", {"beta1": 0.0}).digest == lab.run("fedavg").digest


@pytest.mark.parametrize("lab", [OWN_LOOP], indirect=True)
def test_mime_wants_a_declared_loss(lab: Lab) -> None:
    with pytest.raises(UserError, match="does not declare its training") as told:
        lab.run("mime")
    assert told.value.code == "OCT-STRATEGY-PARAMETER" and "mimelite" in told.value.next_step


@pytest.mark.parametrize(
    "lab",
    [
        OWN_LOOP.replace("ctx.loader(rows, ", "my_batches(rows, ")
        + """
def my_batches(rows, batch_size):
    yield [tensor[:batch_size] for tensor in rows]
"""
    ],
    indirect=True,
)
def test_batches_of_the_trainers_own_give_no_gradient_over_all_examples(lab: Lab) -> None:
    with pytest.raises(UserError, match=r"made no whole pass over ctx\.loader"):
        lab.run("mimelite")


def test_batched_simulation_says_why_it_cannot(lab: Lab) -> None:
    with pytest.raises(UserError, match="has each silo return the gradient"):
        simulate(
            lab.job,
            layout.explicit(lab.job, lab.words),
            {"strategy": {"name": "mimelite"}},
            work=lab.root / "batched",
            batched=True,
        )


def test_an_encoding_that_sends_few_elements_is_refused(lab: Lab) -> None:
    with pytest.raises(UserError, match="'topk'"):
        lab.run("mimelite", run={"encoding": "topk"})


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("digits")
    words = [f"{silo}:digits={path}" for silo, path in example_data.digits(root / "data").items()]
    with open_job(EXAMPLES / "digits", root) as job:
        count = iter(range(100))

        def run(strategy: dict[str, Any], **more: Any) -> SimulationResult:
            wish = {"strategy": strategy, **more}
            return simulate(job, layout.explicit(job, words), wish, work=root / f"run-{next(count)}")

        yield run


@pytest.mark.parametrize(
    ("strategy", "rate"),
    [
        ({"name": "mimelite", "optimiser": "adam", "tau": 0.01}, 0.01),
        ({"name": "mime", "beta1": 0.5}, 0.1),
        ({"name": "mime", "optimiser": "adam", "tau": 0.01}, 0.003),
    ],
)
def test_learns_digits(digits: Any, strategy: dict[str, Any], rate: float) -> None:
    done = digits(strategy, run={"rounds": 15}, hyperparameters={"learning_rate": rate})
    assert done.metrics["eval/accuracy"] > 0.89, done.metrics


def test_the_gradient_is_counted_encoded_and_clipped(digits: Any) -> None:
    """What leaves is two tensors files for each answer; both pass the encoding and the privacy filters."""
    one = {"rounds": 1}
    plain, lite = digits({"name": "fedavg"}, run=one), digits({"name": "mimelite"}, run=one)
    assert lite.transferred - plain.transferred == len(plain.silos) * plain.size
    short = digits({"name": "mimelite"}, run={**one, "encoding": "int8"})
    assert short.transferred < plain.transferred
    clipped = digits({"name": "mimelite", "beta1": 0.9}, run={"rounds": 3}, privacy={"clip_norm": 0.01})
    assert clipped.digest != digits({"name": "mimelite", "beta1": 0.9}, run={"rounds": 3}).digest
