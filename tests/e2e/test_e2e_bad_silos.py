"""Silos and trainers that misbehave, in runs of real processes: each named with its reason, and nobody else held up."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan, octopus
from tests.e2e.house import below, daemon_process, finish, kill, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

NAMES = ("alpha", "beta", "gamma")
CHILD = "36007.25"  # seconds that a forgotten child would sleep: how it is known
JOB = """
[job]
name = "mischief"
version = "1.0.0"
trainer = "trainer:Trainer"
purpose = "What becomes of a silo that misbehaves in a round, as 'modes' says."

[[data]]
alias = "rows"
columns = { a = "number", b = "number", y = "integer" }

[run]
rounds = 3
seed = 1
quorum = 2

[hyperparameters]
modes = ""
"""
TRAINER = """
import os, subprocess, sys, time
import torch
from torch import nn
from octopus_desktop.training.sdk import ClientTrainer

class Trainer(ClientTrainer):
    def build_model(self, ctx):
        return nn.Linear(2, 2)

    def rows(self, ctx):
        table = ctx.dataset("rows").columns(["a", "b", "y"])
        return torch.tensor([table["a"], table["b"]], dtype=torch.float32).T, torch.tensor(table["y"])

    def train(self, ctx, model):
        modes = dict(word.split(":") for word in ctx.hyperparameters["modes"].split())
        mode = modes.get(f"{ctx.silo}@{ctx.round}", "")
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in ctx.epochs(1):
            for x, y in ctx.loader(self.rows(ctx), batch_size=8):
                loss = nn.functional.cross_entropy(model(x), y)
                optimiser.zero_grad(); loss.backward(); optimiser.step()
        with torch.no_grad():
            if mode == "nan":
                model.weight.fill_(float("nan"))
            if mode == "far":
                model.weight.mul_(1e6)
        if mode == "shape":
            model.weight = nn.Parameter(torch.zeros(3, 3))
        if mode == "dtype":
            model.double()
        if mode in ("none", "negative"):
            ctx.examples = 0 if mode == "none" else -5
        if mode == "raises":
            raise ValueError("patient 4711")
        if mode == "exits":
            sys.exit(3)
        if mode == "memory":
            torch.empty(1 << 50, dtype=torch.uint8)
        if mode == "children":
            subprocess.Popen(["sleep", "CHILD"], start_new_session=True)
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "CHILD"])
        if mode == "waits":
            time.sleep(0.3)
        return {"loss": loss.item()}

    def evaluate(self, ctx, model):
        x, y = self.rows(ctx)
        ctx.examples = len(y)
        return {"loss": nn.functional.cross_entropy(model(x), y).item()}
""".replace("CHILD", CHILD)


def write_rows(path: Path, count: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a,b,y\n" + "".join(f"{i % 7 / 7},{i % 5 / 5},{i % 2}\n" for i in range(count)))
    return path


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    root = tmp_path_factory.mktemp("bad-silos")
    plans = [
        SiloPlan(
            name=name,
            organisation=name.title(),
            administrator=f"Dr. {name.title()}",
            data={"rows": write_rows(root / "data" / f"{name}.csv", count)},
            rule={"effect": "approve", "job": "*", "allow_high_findings": True},
        )
        for name, count in zip(NAMES, (20, 1, 30), strict=True)
    ]
    with running(LocalFederation(root, "Unlucky Alliance", plans)) as house:
        yield house


@pytest.fixture(scope="module")
def job(federation: LocalFederation) -> str:
    folder = federation.root / "mischief"
    (folder / "code").mkdir(parents=True)
    (folder / "job.toml").write_text(JOB)
    (folder / "code" / "trainer.py").write_text(TRAINER)
    return federation.submit(folder)


def start(federation: LocalFederation, job: str, modes: str = "", **run: Any) -> str:
    return federation.start_run(job, {"run": run, "hyperparameters": {"modes": modes}})


def until(federation: LocalFederation, run_id: str, condition: Callable[[Any], bool]) -> Any:
    for run in federation.watch(run_id):
        if condition(run):
            return run
    raise AssertionError("the run ended before")


def alone(run: Any) -> bool:
    """Whether a round went by without beta alone."""
    return any(list(row.missing) == ["beta"] for row in run.history)


def reasons(run: Any) -> dict[str, str]:
    return {silo.silo: silo.reason for silo in run.silos}


def nothing_runs(federation: LocalFederation) -> None:
    """Neither a worker nor what one of them started; the processes of an ended run are given their moment to end."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        children = [p for p in psutil.process_iter(["cmdline"]) if CHILD in (p.info["cmdline"] or [])]
        left = [p for place in range(len(NAMES)) for p in below(daemon_process(federation, place), "training.")]
        if not left + children:
            return
        time.sleep(0.1)
    raise AssertionError(f"still there: {left + children}")


FAULTS = {
    "nan": "OCT-MODEL-NAN",
    "far": "OCT-MODEL-NORM",
    "shape": "OCT-MODEL-SHAPE",
    "dtype": "OCT-MODEL-SHAPE",
    "none": "OCT-MODEL-WEIGHT",
    "negative": "OCT-MODEL-WEIGHT",
    "raises": "OCT-RUN-TRAINER",
    "exits": "OCT-RUN-TRAINER",
    "memory": "OCT-RUN-MEMORY",
}


def test_a_silo_that_fails_in_every_way_is_left_out_each_time_and_the_simulation_does_the_same(
    federation: LocalFederation, job: str
) -> None:
    modes = " ".join(f"beta@{round_}:{mode}" for round_, mode in enumerate(FAULTS, start=2))
    rounds = len(FAULTS) + 2
    run = finish(federation, start(federation, job, modes, rounds=rounds, most_norm=50.0))
    assert run.state == "completed", f"{run.code} {run.reason}"
    sound = [list(row.answered) == list(NAMES) for row in run.history]
    assert sound == [True, *[False] * len(FAULTS), True], "it takes part before and after"
    assert all(list(row.missing) == ["beta"] for row in run.history[1:-1])
    told = [line for line in (federation.home.root / "logs" / "server.log").read_text().splitlines() if run.id in line]
    for round_, (mode, code) in enumerate(FAULTS.items(), start=2):
        said = [line for line in told if f"round {round_}:" in line and "beta" in line]
        assert any(f"[{code}]" in line for line in said), f"{mode}: {said}"
    assert not any("4711" in line for line in told), "what an exception quotes stays at the silo"
    assert reasons(run)["beta"].startswith(f"round {rounds - 1}: beta could not train: The training ran out of memory")
    own = json.loads(federation.silos[1].command("logs", "--run", run.id, "--limit", "500").stdout)
    assert "patient 4711" in json.dumps(own), "its administrator reads it"

    words = ["simulate", str(federation.root / "mischief.octojob")]
    words += ["--set", f"run.rounds={rounds}", "--set", "run.most_norm=50", "--set", f"hyperparameters.modes={modes}"]
    for silo in federation.silos:
        words += ["--silo", f"{silo.plan.name}:rows={silo.plan.data['rows']}"]
    assert json.loads(octopus(*words).stdout)["model"]["digest"] == run.model.digest
    nothing_runs(federation)


def test_where_every_answer_is_needed_the_run_fails_with_the_silos_own_reason_everywhere(
    federation: LocalFederation, job: str
) -> None:
    run = finish(federation, start(federation, job, "beta@2:nan", quorum=0))
    assert (run.state, run.code, len(run.history)) == ("failed", "OCT-RUN-QUORUM", 1)
    assert "needs 3 answers and can have 2" in run.reason and "beta: The update holds NaN" in run.reason
    for silo in federation.silos:
        own = json.loads(silo.command("runs", "show", run.id).stdout)["run"]
        assert (own["state"], own["code"], own["reason"]) == ("failed", run.code, run.reason)
    nothing_runs(federation)


def test_children_that_a_trainer_leaves_behind_end_with_the_run(federation: LocalFederation, job: str) -> None:
    run = finish(federation, start(federation, job, "gamma@1:children"))
    assert run.state == "completed" and all(list(row.answered) == list(NAMES) for row in run.history)
    nothing_runs(federation)


def test_a_silo_that_falls_silent_is_named_holds_nobody_up_and_joins_again(
    federation: LocalFederation, job: str
) -> None:
    waits = " ".join(f"alpha@{round_}:waits" for round_ in range(1, 21))
    run_id = start(federation, job, waits, rounds=20, round_deadline_s=6.0)
    until(federation, run_id, lambda run: len(run.history) > 0)
    still = [daemon_process(federation, 1), *daemon_process(federation, 1).children(recursive=True)]
    for process in still:
        process.suspend()
    try:
        later = until(federation, run_id, alone)
    finally:
        for process in still:
            process.resume()
    assert "beta: no answer by the deadline" in reasons(later)["beta"]
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert list(after.history[-1].answered) == list(NAMES), "it takes part again"
    nothing_runs(federation)


def test_when_all_silos_are_gone_the_run_ends_at_its_deadline_and_names_each(
    federation: LocalFederation, job: str
) -> None:
    waits = " ".join(f"alpha@{round_}:waits" for round_ in range(1, 201))
    run_id = start(federation, job, waits, rounds=200, round_deadline_s=6.0)
    until(federation, run_id, lambda run: len(run.history) > 0)
    for place in range(len(NAMES)):
        kill(daemon_process(federation, place))
    run = finish(federation, run_id)
    assert (run.state, run.code) == ("failed", "OCT-RUN-QUORUM")
    named = [name for name in NAMES if f"{name}: no answer by the deadline: it is not connected" in run.reason]
    assert "needs 2 answers" in run.reason and len(named) >= 2, f"who had answered is not missing: {run.reason}"
    for silo in federation.silos:
        silo.start()
    for silo in federation.silos:
        deadline = time.monotonic() + 60
        own: dict[str, Any] = {}
        while own.get("state") != "failed" and time.monotonic() < deadline:
            own = json.loads(silo.command("runs", "show", run_id).stdout)["run"]
        assert (own["state"], own["code"]) == ("failed", "OCT-RUN-QUORUM"), "it hears of it when it is back"
    nothing_runs(federation)
