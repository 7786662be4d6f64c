"""A job on virtual silos: repeatable to the bit, the same with several workers' processes, errors told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octopus_desktop.simulation import layout
from octopus_desktop.simulation.clock import Pace
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult, Step, simulate
from octopus_desktop.wire.errors import UserError

TOML = """
[job]
name = "line"
version = "1.0.0"
trainer = "trainer:Line"

[[data]]
alias = "points"

[data.columns]
x = "number"
y = "number"

[run]
rounds = 3
seed = 5
"""
TRAINER = """
import numpy as np
import torch
from octopus_desktop.training.sdk import ClientTrainer

class Line(ClientTrainer):
    def build_model(self, ctx):
        return torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 1))

    def rows(self, ctx):
        columns = ctx.dataset("points").columns(["x", "y"])
        return [torch.from_numpy(np.array(columns[n], dtype=np.float32)[:, None]) for n in ("x", "y")]

    def train(self, ctx, model):
        optimiser = torch.optim.SGD(model.parameters(), lr=float(ctx.hyperparameters.get("lr", 0.05)))
        for x, y in ctx.loader(tuple(self.rows(ctx)), batch_size=8):
            loss = torch.nn.functional.mse_loss(model(x), y)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        return {"loss": loss.item()}

    def evaluate(self, ctx, model):
        x, y = self.rows(ctx)
        ctx.examples = len(x)
        return {"loss": torch.nn.functional.mse_loss(model(x), y).item()}
"""


class Lab:
    """A job with three silos' data on disk."""

    def __init__(self, root: Path, trainer: str = TRAINER) -> None:
        self.root, self.folder = root, root / "job"
        (self.folder / "code").mkdir(parents=True)
        (self.folder / "job.toml").write_text(TOML)
        (self.folder / "code" / "trainer.py").write_text(trainer)
        random = np.random.default_rng(3)
        self.silos = {}
        for number, name in enumerate(("ada", "bob", "cyd")):
            x = random.normal(size=24 + 8 * number)
            lines = ["x,y", *(f"{a},{2 * a + number}" for a in x)]
            self.silos[name] = root / f"{name}.csv"
            self.silos[name].write_text("\n".join(lines) + "\n")

    def words(self) -> list[str]:
        return [f"{name}:points={path}" for name, path in self.silos.items()]

    def run(self, name: str, job: Job, overrides: dict[str, Any] | None = None, **more: Any) -> SimulationResult:
        data = layout.explicit(job, self.words())
        return simulate(job, data, overrides, work=self.root / name, **more)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    with open_job(lab.folder, lab.root / "opened") as job:
        yield job


def test_the_same_seeds_give_the_same_bits_and_others_do_not(lab: Lab, job: Job) -> None:
    first, again = lab.run("first", job), lab.run("again", job)
    assert first.digest == again.digest
    assert [(r.model, r.metrics) for r in first.rounds] == [(r.model, r.metrics) for r in again.rounds]
    assert lab.run("other", job, {"run": {"seed": 6}}).digest != first.digest


def test_a_run_learns_and_tells_of_each_round_and_silo(lab: Lab, job: Job) -> None:
    steps: list[Step] = []
    result = lab.run("run", job, {"run": {"rounds": 6}}, progress=steps.append)
    assert [row.round for row in result.rounds] == [1, 2, 3, 4, 5, 6]
    assert result.rounds[-1].metrics["eval/loss"] < result.first["eval/loss"]
    assert all(row.answered == ("ada", "bob", "cyd") for row in result.rounds)
    assert result.metrics["eval/examples"] == 24 + 32 + 40
    assert set(result.answers) == {"ada", "bob", "cyd"}
    assert steps[-2].done == steps[-2].total == 3 * 7, "six rounds and the last evaluation, by three silos"
    assert result.model.stat().st_size == result.size
    left = {path.name for path in (lab.root / "run" / "blobs").glob("??/*")}
    assert len(left) == 7, "the models of all rounds stay, no update does"


def test_the_order_of_silos_is_the_order_of_sums(lab: Lab, job: Job) -> None:
    data = layout.explicit(job, lab.words())
    turned = dict(reversed(data.items()))
    one, two = simulate(job, data, work=lab.root / "one"), simulate(job, turned, work=lab.root / "two")
    assert two.silos == ("cyd", "bob", "ada")
    assert two.metrics["eval/loss"] == pytest.approx(one.metrics["eval/loss"], rel=1e-3)


def test_a_package_gives_the_bits_of_its_folder(lab: Lab, job: Job) -> None:
    from octopus_desktop.jobs.package import build

    build(lab.folder, lab.root / "line.octojob")
    with open_job(lab.root / "line.octojob", lab.root / "unpacked") as packed:
        assert lab.run("packed", packed).digest == lab.run("folder", job).digest


@pytest.mark.timeout(110)
def test_several_workers_are_real_processes_that_end_with_the_run(lab: Lab, job: Job) -> None:
    import psutil

    lab.silos = {"ada": lab.silos["ada"]}
    seen: set[int] = set()

    def look(step: Step) -> None:
        seen.update(
            p.pid for p in psutil.Process().children(recursive=True) if "training.worker" in " ".join(p.cmdline())
        )

    wish = {"run": {"rounds": 1}, "resources": {"workers": 2}}
    result = lab.run("two", job, wish, progress=look)
    assert result.metrics["eval/examples"] == 2 * 24, "each worker evaluates, and their counts are added"
    assert len(seen) >= 2
    _, alive = psutil.wait_procs([psutil.Process(pid) for pid in seen if psutil.pid_exists(pid)], timeout=20)
    assert alive == []


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam"])
@pytest.mark.parametrize("update", ["weights", "difference"])
def test_strategies_with_state_run_over_rounds(lab: Lab, job: Job, strategy: str, update: str) -> None:
    result = lab.run("run", job, {"strategy": strategy, "run": {"update": update, "rounds": 2}})
    assert len(result.rounds) == 2
    assert np.isfinite(result.metrics["eval/loss"])


def test_a_clipped_silo_moves_the_model_no_further_than_its_bound(lab: Lab, job: Job) -> None:
    from safetensors.numpy import load_file

    def moved(name: str, overrides: dict[str, Any]) -> float:
        result = lab.run(name, job, {"run": {"rounds": 1}, **overrides})
        blobs = lab.root / name / "blobs"
        first, last = (load_file(p) for p in sorted(blobs.glob("??/*"), key=lambda p: p.name == result.digest))
        deltas = [(last[n] - first[n]).astype(np.float64) for n in first if first[n].dtype == np.float32]
        return float(np.sqrt(sum((d**2).sum() for d in deltas)))

    assert moved("free", {}) > 0.2
    assert moved("clipped", {"privacy": {"clip_norm": 0.1}}) <= 0.1 * 1.0001


def test_a_trainer_that_fails_is_told_by_its_own_error(tmp_path: Path) -> None:
    lab = Lab(tmp_path, TRAINER.replace("optimiser.step()", "raise ValueError('no step')"))
    with open_job(lab.folder, tmp_path / "opened") as job, pytest.raises(UserError) as error:
        lab.run("run", job)
    assert error.value.code == "OCT-RUN-TRAINER"
    assert "no step" in str(error.value)


def test_a_silo_that_fails_is_left_out_when_the_quorum_allows(lab: Lab, job: Job) -> None:
    lab.silos["bob"].write_text("x,z\n1,2\n")
    result = lab.run("run", job, {"run": {"quorum": 2, "rounds": 1}})
    assert result.rounds[0].missing == ("bob",)
    assert any("bob" in line and "OCT-DATA-COLUMN" in line for line in result.skipped)


def test_impossible_wishes_are_refused(lab: Lab, job: Job) -> None:
    for wish, code in (
        ({"run": {"rounds": 0}}, "OCT-CONFIG-INVALID"),
        ({"strategy": {"name": "fedmagic"}}, "OCT-CONFIG-INVALID"),
        ({"strategy": {"name": "fedavgm", "momentum": 2.0}}, "OCT-STRATEGY-PARAMETER"),
        ({"run": {"quorum": 4}}, "OCT-RUN-QUORUM"),
    ):
        with pytest.raises(UserError) as error:
            lab.run(f"run-{code}-{len(str(wish))}", job, wish)
        assert error.value.code == code


# the command


def octopus(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "octopus_desktop.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=100)


def test_the_command_prints_writes_and_agrees_with_the_function(lab: Lab, job: Job) -> None:
    words = [w for word in lab.words() for w in ("--silo", word)]
    csv_file, model = lab.root / "metrics.csv", lab.root / "model.safetensors"
    done = octopus(
        "--json", "simulate", str(lab.folder), *words, "--csv", str(csv_file), "--out", str(model), "--baselines"
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["model"]["digest"] == lab.run("here", job).digest
    assert set(told["baselines"]) == {"federated", "ada", "bob", "cyd", "pooled"}
    assert told["baselines"]["federated"]["eval/loss"] == pytest.approx(told["metrics"]["eval/loss"])
    rows = csv_file.read_text().splitlines()
    assert rows[0].startswith("round,eval/examples,eval/loss,train/examples,train/loss,answered,seconds,model")
    assert len(rows) == 1 + 1 + 3
    assert model.stat().st_size == told["model"]["size"]


def test_the_command_shows_a_table_and_a_mistake_by_its_code(lab: Lab) -> None:
    done = octopus("simulate", str(lab.folder), "--silos", "2", "--data", str(lab.silos["ada"]), "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "1 rounds over 2 silos" in done.stdout
    assert "The final model in each silo" in done.stdout
    for words, code in (
        (["--silos", "2"], "OCT-CLI-USAGE"),
        (["--silo", "ada:points=nowhere.csv"], "OCT-DATA-MISSING"),
        (["--silo", "ada"], "OCT-CLI-USAGE"),
        (["--silo", f"ada:points={lab.silos['ada']}", "--set", "nonsense"], "OCT-CLI-USAGE"),
    ):
        done = octopus("simulate", str(lab.folder), *words)
        assert done.returncode == 1
        assert code in done.stderr
    assert "OCT-JOB-UNKNOWN" in octopus("simulate", str(lab.root / "nowhere")).stderr


def test_the_command_line_itself_needs_no_torch() -> None:
    program = "import sys, octopus_desktop.cli.simulate; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0


def test_asynchronous_runs_do_not_wait_for_the_slow_silo(lab: Lab, job: Job) -> None:
    slow = {"ada": 1.0, "bob": 1.5, "cyd": 20.0}
    wish = {"run": {"rounds": 30, "mode": "async", "update": "difference"}, "strategy": {"name": "fedbuff"}}
    result = lab.run("async", job, wish, pace=Pace(seconds=slow))
    together = lab.run("sync", job, {"run": {"rounds": 30}}, pace=Pace(seconds=slow))
    assert together.virtual_seconds >= 30 * 20
    assert result.virtual_seconds < 90, "thirty versions while the slow silo trains two or three times"
    assert any("cyd" in row.answered and row.metrics["train/staleness"] > 1 for row in result.rounds)
    assert result.metrics["eval/loss"] < 0.5 * result.first["eval/loss"]
    again = lab.run("again", job, wish, pace=Pace(seconds=slow))
    assert again.digest == result.digest, "in simulated time the order of arrival is given"


def test_a_deadline_leaves_the_slow_silo_out_of_the_round(lab: Lab, job: Job) -> None:
    wish = {"run": {"rounds": 2, "quorum": 2, "round_deadline_s": 10}}
    result = lab.run("late", job, wish, pace=Pace(seconds={"cyd": 60.0}))
    assert all(row.answered == ("ada", "bob") and row.missing == ("cyd",) for row in result.rounds)
    assert result.virtual_seconds >= 20


def test_a_run_ends_early_and_keeps_its_best_model(lab: Lab, job: Job) -> None:
    wish = {"run": {"rounds": 30, "best": "min eval/loss", "patience": 2, "min_delta": 1e6}}
    result = lab.run("early", job, wish)
    assert result.reason.startswith("Ended early: 2 rounds brought no better eval/loss.")
    assert len(result.rounds) == 4, "the round that was open when it showed is finished"
    losses = {row.round: row.metrics["eval/loss"] for row in result.rounds}
    assert result.best and result.best_model
    assert (result.best.round, result.best.value) == min(losses.items(), key=lambda item: item[1])
    assert result.best_model.read_bytes() and result.best.model == result.rounds[result.best.round - 1].model


def test_a_run_that_begins_with_another_runs_model_goes_on_from_there(lab: Lab, job: Job) -> None:
    old = lab.run("old", job)
    new = lab.run("new", job, first=old.model)
    assert new.first["eval/loss"] == old.metrics["eval/loss"], "the model it ended with is the one to begin with"
    assert new.metrics["eval/loss"] < old.metrics["eval/loss"]
    stranger = lab.root / "stranger.safetensors"
    stranger.write_bytes(old.model.read_bytes().replace(b"0.weight", b"9.weight"))
    with pytest.raises(UserError, match="OCT-MODEL-SHAPE"):
        lab.run("wrong", job, first=stranger)


def test_a_late_answer_counts_in_the_next_round(lab: Lab, job: Job) -> None:
    wish = {"run": {"rounds": 4, "quorum": 2, "update": "difference", "round_deadline_s": 1.5, "late": "next"}}
    late = lab.run("late", job, wish, pace=Pace(seconds={"cyd": 2.0}))
    assert [row.late for row in late.rounds] == [(), ("cyd",), ("cyd",), ("cyd",)]
    assert all(row.missing == ("cyd",) for row in late.rounds)
    wish["run"]["late"] = "drop"
    dropped = lab.run("dropped", job, wish, pace=Pace(seconds={"cyd": 2.0}))
    assert not any(row.late for row in dropped.rounds)
    assert dropped.digest != late.digest
    assert (
        lab.run("again", job, {"run": {**wish["run"], "late": "next"}}, pace=Pace(seconds={"cyd": 2.0})).digest
        == late.digest
    )


def test_the_servers_own_evaluation_chooses_the_best_model_and_stops_nothing_when_it_fails(lab: Lab, job: Job) -> None:
    own = layout.explicit(job, [f"server:points={lab.silos['cyd']}"])["server"]
    wish = {"run": {"best": "min central/loss"}, "evaluation": {"central": True}}
    result = lab.run("central", job, wish, central=own)
    losses = {row.round: row.metrics["central/loss"] for row in result.rounds}
    assert result.best and result.best.value == min(losses.values())
    assert {row.metrics["central/examples"] for row in result.rounds} == {40.0}
    assert result.digest == lab.run("plain", job).digest, "it changes no bit of the model"
    lab.silos["cyd"].with_name("odd.csv").write_text("a,b\n1,2\n")
    odd = layout.explicit(job, [f"server:points={lab.silos['cyd'].with_name('odd.csv')}"])["server"]
    broken = lab.run("broken", job, wish, central=odd)
    assert broken.best is None and broken.digest == result.digest
    assert any(line.startswith("server:") and "OCT-DATA-COLUMN" in line for line in broken.skipped)
    for central in (None, {}):
        with pytest.raises(UserError, match="OCT-DATA-ALIAS"):
            lab.run(f"none-{central}", job, wish, central=central)


def test_silos_of_two_workers_keep_their_layers_and_try_the_model_out(lab: Lab, job: Job) -> None:
    from safetensors.numpy import load_file

    wish = {"run": {"rounds": 2}, "resources": {"workers": 2}, "personal": {"layers": ["1.*"], "finetune_steps": 1}}
    data = layout.explicit(job, lab.words()[:2])
    done = simulate(job, data, wish, work=lab.root / "two")
    assert "eval_personal/loss" in done.rounds[-1].metrics
    begun = lab.run("alone", job, {"run": {"rounds": 1}, "personal": {"layers": ["1.*"]}})
    for name, value in load_file(done.model).items():
        same = np.array_equal(value, load_file(begun.model)[name])
        assert same == name.startswith("1."), "the federation's own values are those that it began with"
    kept = [
        load_file(lab.root / "two" / f"silo-{silo}" / "work" / "memory" / "layers" / "2.safetensors") for silo in data
    ]
    assert not np.array_equal(kept[0]["1.running_mean"], kept[1]["1.running_mean"])
