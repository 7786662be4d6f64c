"""The engine's promise: the result depends on package, configuration, data, model and place, and on nothing else."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import initial
from octopus_desktop.training.engine import Engine, TaskInput, TaskResult, initial_model
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout

TRAINER = """
import random
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
import helper
from octopus_desktop.training.sdk import ClientTrainer

class Trainer(ClientTrainer):
    def build_model(self, ctx):
        model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 1))
        model.register_buffer("passing", torch.zeros(1), persistent=False)
        if ctx.hyperparameters.get("wide"):
            model.append(nn.Linear(1, 1))
        return model

    def rows(self, ctx):
        return ctx.cached("rows", lambda: self.read(ctx))

    def read(self, ctx):
        c = ctx.dataset("d").columns()
        x = torch.tensor(np.stack([c[n] for n in "abcd"], 1), dtype=torch.float32) + 0.01 * torch.rand(1)
        return x, torch.tensor(c["y"], dtype=torch.float32)

    def train(self, ctx, model):
        h = ctx.hyperparameters
        x, y = self.rows(ctx)
        if h.get("empty"):
            ctx.loader((x[:0], y[:0]), batch_size=8)
            return {}
        if h.get("none"):
            return {}
        inner = getattr(model, "module", model)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
        inner.passing += 1
        noise = random.random() + np.random.rand()
        for _ in ctx.epochs(2):
            for batch, target in ctx.loader((x, y), batch_size=8):
                loss = F.binary_cross_entropy_with_logits(model(batch * (1 + 1e-3 * noise)).squeeze(1), target)
                optimiser.zero_grad(); loss.backward(); optimiser.step()
        if h.get("freeze"):
            inner[0].weight.requires_grad_(False)
        if h.get("nan"):
            inner[0].weight.data[0, 0] = float(h["nan"])
        if h.get("reshape"):
            inner[0].bias = nn.Parameter(torch.zeros(3))
        if h.get("memory"):
            raise MemoryError
        if h.get("raise"):
            helper.fail("patient 4711")
        return {"loss": loss.item(), "passing": inner.passing.item(), "odd": float("nan"), "text": "x"}

    def evaluate(self, ctx, model):
        x, y = self.rows(ctx)
        right = seen = 0
        for batch, target in ctx.loader((x, y), batch_size=7):
            right += ((model(batch).squeeze(1) > 0) == (target > 0.5)).sum().item()
            seen += len(target)
        return {"accuracy": right / seen, "seen": seen}
"""
HELPER = "def fail(text):\n    raise KeyError(text)\n"
GROUP = """
import json, os, sys
from pathlib import Path
import torch.distributed as dist
sys.path.insert(0, {root!r})
from tests.training.test_training_engine import engine, train
def main():
    dist.init_process_group("gloo")
    rank = dist.get_rank()
    one = engine(Path({home!r}), rank=rank, world_size=2)
    results = []
    for round_ in {rounds}:
        out = Path({home!r}) / f"group-{{round_}}-{{rank}}"
        results.append(train(one, Path({home!r}) / "first", out, round_))
    if rank == 0:
        facts = [[r.digest, r.examples, r.steps, r.metrics] for r in results]
        Path({home!r}, "facts.json").write_text(json.dumps(facts))
    else:
        assert all(r.update is None for r in results)
    del one
    dist.destroy_process_group()
    sys.stdout.flush()
    os._exit(0)
main()
"""


def package(home: Path, trainer: str = TRAINER) -> Path:
    code = home / "package" / "code"
    code.mkdir(parents=True, exist_ok=True)
    (code / "trainer.py").write_text(trainer)
    (code / "helper.py").write_text(HELPER)
    random = np.random.default_rng(3)
    x = random.normal(size=(45, 4))
    rows = ["a,b,c,d,y"] + [",".join(map(str, [*r, int(r.sum() > 0)])) for r in x]
    (home / "d.csv").write_text("\n".join(rows) + "\n")
    return home / "package"


def make_config(**changes: Any) -> RunConfig:
    return replace(RunConfig(rounds=3, seed=11), **changes)


def engine(home: Path, config: RunConfig | None = None, silo: str = "north", **place: Any) -> Engine:
    source = DataSource(alias="d", path=str(home / "d.csv"), kind="csv", digest="")
    return Engine(home / "package", "trainer:Trainer", config or make_config(), silo, {"d": source}, **place)


def train(one: Engine, model: Path, out: Path, round_: int = 1) -> TaskResult:
    return one.run(TaskInput(task="train", round=round_, rounds=3, model=model), out)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    package(tmp_path)
    initial_model(tmp_path / "package", "trainer:Trainer", make_config(), tmp_path / "first")
    return tmp_path


def test_a_warm_engine_gives_the_bits_of_a_fresh_one(home: Path) -> None:
    warm = engine(home)
    warm.warm_up()
    model, digests = home / "first", []
    for round_ in (1, 2, 3):
        fresh = train(engine(home), model, home / "fresh", round_)
        digests.append(train(warm, model, home / f"warm{round_}", round_).digest)
        assert digests[-1] == fresh.digest
        assert fresh.metrics["train/passing"] == 1, "a buffer outside of the state dict starts anew each task"
        model = home / f"warm{round_}"
    assert len(set(digests)) == 3
    assert train(warm, home / "first", home / "again", 1).digest == digests[0], "earlier tasks leave no trace"


def test_what_a_task_does_to_the_process_does_not_reach_the_next(home: Path) -> None:
    calm = train(engine(home), home / "first", home / "a").digest
    freezing = make_config(hyperparameters={"freeze": True})
    warm = engine(home, freezing)
    first = train(warm, home / "first", home / "b").digest
    torch.manual_seed(99)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(False)
    torch.set_default_dtype(torch.float64)
    try:
        assert train(warm, home / "first", home / "c").digest == first == calm
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.get_num_threads() == 1


def test_silo_round_and_seed_each_give_other_bits(home: Path) -> None:
    base = train(engine(home), home / "first", home / "o").digest
    others = {
        train(engine(home, silo="south"), home / "first", home / "o").digest,
        train(engine(home), home / "first", home / "o", 2).digest,
        train(engine(home, make_config(seed=12)), home / "first", home / "o").digest,
    }
    assert len(others | {base}) == 4


def test_metrics_speak_of_the_incoming_model_and_only_numbers_pass(home: Path) -> None:
    one = engine(home)
    judged = one.run(TaskInput(task="evaluate", round=1, rounds=3, model=home / "first"), home / "no")
    trained = train(one, home / "first", home / "out")
    assert judged.update is None and not (home / "no").exists()
    assert judged.metrics["eval/accuracy"] == trained.metrics["eval/accuracy"]
    assert judged.examples == 45 and trained.examples == 45 and trained.steps == 12
    assert trained.metrics["eval/examples"] == 45
    assert "train/odd" not in trained.metrics and "train/text" not in trained.metrics
    after = one.run(TaskInput(task="evaluate", round=2, rounds=3, model=home / "out"), home / "no")
    assert after.metrics["eval/accuracy"] > judged.metrics["eval/accuracy"]
    assert [step for _, step, _, _ in trained.spans] == ["load", "evaluate", "train", "save"]


def test_the_update_keeps_the_models_layout_and_its_buffers(home: Path) -> None:
    result = train(engine(home), home / "first", home / "out")
    before, after = read_layout(home / "first"), read_layout(home / "out")
    assert before.header == after.header and result.size == after.size
    assert {"1.running_mean", "1.num_batches_tracked"} <= {t.name for t in after}


def test_a_difference_added_to_the_model_is_the_trained_model(home: Path) -> None:
    from safetensors.numpy import load_file

    train(engine(home), home / "first", home / "weights")
    train(engine(home, make_config(update="difference")), home / "first", home / "difference")
    base, weights, difference = (load_file(home / n) for n in ("first", "weights", "difference"))
    for name in base:
        np.testing.assert_array_equal(weights[name] - base[name], difference[name])


@pytest.mark.parametrize(
    ("hyperparameters", "code"),
    [
        ({"nan": math.inf}, "OCT-MODEL-NAN"),
        ({"nan": math.nan}, "OCT-MODEL-NAN"),
        ({"reshape": True}, "OCT-MODEL-SHAPE"),
        ({"empty": True}, "OCT-MODEL-WEIGHT"),
        ({"none": True}, "OCT-MODEL-WEIGHT"),
        ({"raise": True}, "OCT-RUN-TRAINER"),
        ({"memory": True}, "OCT-RUN-MEMORY"),
    ],
)
def test_a_bad_training_has_its_code_writes_nothing_and_spoils_nothing(
    home: Path, hyperparameters: dict[str, Any], code: str
) -> None:
    one = engine(home, make_config(hyperparameters=hyperparameters))
    for _ in range(2):  # the second time on what the first left behind
        with pytest.raises(UserError) as caught:
            train(one, home / "first", home / "out")
        assert caught.value.code == code
        assert not (home / "out").exists()


def test_a_trainers_failure_names_the_packages_lines_and_publishes_no_values(home: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(engine(home, make_config(hyperparameters={"raise": True})), home / "first", home / "out")
    assert "4711" in caught.value.why and "helper.py:2 in fail" in caught.value.why
    assert "engine.py" not in str(caught.value)
    public = caught.value.public()  # type: ignore[attr-defined]
    assert "4711" not in public and "helper.py:2 in fail" in public


def test_memory_that_lacks_outside_of_the_trainer_is_told_alike(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(UserError, match="building the model") as caught:
        engine(home).warm_up()
    assert caught.value.code == "OCT-RUN-MEMORY" and "2.00 GiB" in caught.value.why and caught.value.next_step


def test_a_model_of_another_form_is_refused(home: Path) -> None:
    wide = make_config(hyperparameters={"wide": True})
    with pytest.raises(UserError) as caught:
        train(engine(home, wide), home / "first", home / "out")
    assert caught.value.code == "OCT-MODEL-SHAPE" and "5.bias" in caught.value.why


def test_two_packages_with_the_same_module_names_do_not_meet(home: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    package(other, TRAINER.replace("nn.Linear(16, 1)", "nn.Linear(16, 1, bias=False)"))
    initial_model(other / "package", "trainer:Trainer", make_config(), other / "first")
    left, right = engine(home), engine(other)
    first = train(left, home / "first", home / "a").digest
    train(right, other / "first", other / "a")
    assert train(left, home / "first", home / "b").digest == first
    assert "trainer" not in sys.modules and "helper" not in sys.modules
    assert not list(home.rglob("__pycache__")), "the package's bytes stay as they were approved"


@pytest.mark.parametrize(
    ("trainer", "source", "told"),
    [
        ("trainer", TRAINER, "module:Class"),
        ("nothing:Trainer", TRAINER, "holds no module"),
        ("trainer:ClientThing", TRAINER, "not a class"),
        ("trainer:Trainer", "import no_such_package\n", "no_such_package"),
        ("trainer:Trainer", "raise SystemExit(4)\n", "SystemExit"),
    ],
)
def test_an_unusable_trainer_is_told(tmp_path: Path, trainer: str, source: str, told: str) -> None:
    package(tmp_path, source)
    with pytest.raises(UserError) as caught:
        Engine(tmp_path / "package", trainer, make_config(), "north", {})
    assert caught.value.code == "OCT-JOB-TRAINER" and told in str(caught.value)


def test_a_package_may_not_hide_the_runtimes_modules(home: Path) -> None:
    (home / "package" / "code" / "random.py").write_text("")
    with pytest.raises(UserError, match="OCT-JOB-TRAINER"):
        engine(home)


def test_data_that_was_not_approved_is_refused(home: Path) -> None:
    one = Engine(home / "package", "trainer:Trainer", make_config(), "north", {})
    with pytest.raises(UserError) as caught:
        train(one, home / "first", home / "out")
    assert caught.value.code == "OCT-DATA-ALIAS"


def test_the_first_model_in_a_process_of_its_own_has_the_same_bits(home: Path) -> None:
    spec = {"package": str(home / "package"), "trainer": "trainer:Trainer", "config": make_config().to_dict()}
    (home / "spec.json").write_text(json.dumps(spec))
    initial.build(home / "spec.json", home / "second")
    assert (home / "second").read_bytes() == (home / "first").read_bytes()
    (home / "spec.json").write_text(json.dumps({**spec, "trainer": "trainer:Nobody"}))
    with pytest.raises(UserError) as caught:
        initial.build(home / "spec.json", home / "third")
    assert caught.value.code == "OCT-JOB-TRAINER" and not (home / "third").exists()


def test_two_ranks_give_the_same_bits_again_and_warm_as_fresh(home: Path) -> None:
    both = run_group(home, [1, 2])
    fresh = run_group(home, [2])
    assert both[1] == fresh[0], "round 2 after round 1 is round 2 in fresh workers"
    digest, examples, steps, metrics = both[0]
    assert examples == 45 and steps == 6
    assert metrics["eval/examples"] == 45
    assert digest != both[1][0]


def run_group(home: Path, rounds: list[int]) -> list[Any]:
    script = home / "group.py"
    script.write_text(GROUP.format(root=str(Path(__file__).parents[2]), home=str(home), rounds=rounds))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--nnodes", "1", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    command = [sys.executable, "-m", "torch.distributed.run", *words, "--nproc-per-node", "2", str(script)]
    import os

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=100, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return list(json.loads((home / "facts.json").read_text()))
