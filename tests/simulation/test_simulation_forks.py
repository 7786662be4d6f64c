"""A simulated run that begins with another's model carries the strategy's state on, or says why it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from octopus_desktop.cli.simulate import cli
from octopus_desktop.simulation import forks
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult
from octopus_desktop.wire.errors import UserError
from tests.simulation.test_simulation_strategies import Lab, weight


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@pytest.fixture
def job(lab: Lab) -> Iterator[Job]:
    with open_job(lab.root / "job", lab.root / "opened") as job:
        yield job


def run(lab: Lab, job: Job, strategy: str, rounds: int, name: str, first: Path | None = None) -> SimulationResult:
    from octopus_desktop.simulation import layout
    from octopus_desktop.simulation.simulator import simulate

    wish: dict[str, Any] = {
        "strategy": {"name": strategy}, "run": {"rounds": rounds}, "hyperparameters": {"lr": 0.05, "steps": 2}
    }  # fmt: skip
    return simulate(job, layout.explicit(job, lab.words), wish, work=lab.root / name, first=first)


@pytest.mark.parametrize("strategy", ["fedavgm", "fedadam", "mimelite"])
def test_two_rounds_and_two_more_are_four(lab: Lab, job: Job, strategy: str) -> None:
    whole = run(lab, job, strategy, 4, "whole")
    half = run(lab, job, strategy, 2, "half")
    state = forks.save(half.model, half.slots, strategy, lab.root / "half.safetensors")
    assert state == lab.root / "half.safetensors.state"
    rest = run(lab, job, strategy, 2, "rest", lab.root / "half.safetensors")
    assert rest.anew == ""
    assert weight(rest) == pytest.approx(weight(whole), rel=1e-5)
    (lab.root / "half.safetensors.state" / "state.json").unlink()
    without = run(lab, job, strategy, 2, "without", lab.root / "half.safetensors")
    assert without.anew == f"What {strategy} gathers begins anew: there is no half.safetensors.state beside the model."
    assert abs(weight(without) - weight(whole)) > 1e-3, "the state is what makes the difference"


def test_what_cannot_be_carried_on_is_said(lab: Lab, job: Job) -> None:
    half = run(lab, job, "fedavgm", 2, "half")
    model = lab.root / "half.safetensors"
    forks.save(half.model, half.slots, "fedavgm", model)
    assert "the state of fedavgm" in run(lab, job, "fedadam", 1, "adam", model).anew
    assert run(lab, job, "fedavg", 1, "plain", model).anew == ""
    assert "the silos' memories" in run(lab, job, "scaffold", 1, "scaffold", model).anew
    other = run(lab, job, "fedavgm", 1, "other")
    model.write_bytes(other.model.read_bytes())
    assert "belongs to another one" in run(lab, job, "fedavgm", 1, "changed", model).anew
    state = forks.folder_of(model)
    (state / "state.json").write_text("[]")
    assert "cannot be read" in run(lab, job, "fedavgm", 1, "unread", model).anew
    forks.save(half.model, half.slots, "fedavgm", model)
    (state / "momentum.safetensors").write_bytes(b"x")
    with pytest.raises(UserError) as refused:
        run(lab, job, "fedavgm", 1, "damaged", model)
    assert refused.value.code == "OCT-MODEL-SHAPE"
    (state / "momentum.safetensors").unlink()
    with pytest.raises(UserError, match="is not beside the model"):
        run(lab, job, "fedavgm", 1, "missing", model)
    forks.save(half.model, {}, "fedavg", model)
    assert not state.exists(), "the state of what lay there before goes with it"


def test_a_name_that_is_no_files_is_not_written(tmp_path: Path) -> None:
    """Slots of a job's own strategy are named by its code."""
    (tmp_path / "slot").write_bytes(b"")
    for name in ("../above", "", ".hidden", "a/b"):
        with pytest.raises(UserError) as refused:
            forks.save(tmp_path / "slot", {name: tmp_path / "slot"}, "own:Strategy", tmp_path / "out")
        assert refused.value.code == "OCT-JOB-STRATEGY"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "slot"]


def test_on_the_command_line_the_state_goes_along(lab: Lab) -> None:
    silos = [word for line in lab.words for word in ("--silo", line)]
    base = [str(lab.root / "job"), *silos, "--strategy", "fedavgm", "--set", "hyperparameters.lr=0.05"]
    base += ["--set", "hyperparameters.steps=2", "--json"]
    out = lab.root / "model.safetensors"

    def told(*words: str) -> dict[str, Any]:
        done = CliRunner().invoke(cli, [*base, *words])
        assert done.exit_code == 0, done.output
        return dict(json.loads(done.stdout))

    told("--rounds", "2", "--out", str(out))
    assert (forks.folder_of(out) / "momentum.safetensors").exists()
    assert "anew" not in told("--rounds", "1", "--from", str(out))
    assert "begins anew" in told("--rounds", "1", "--from", str(out), "--set", "strategy.name=fedyogi")["anew"]
    refused = CliRunner().invoke(cli, [*base, "--rounds", "1", "--personal", str(lab.root / "own")])
    assert "No silo has a model of its own" in str(refused.exception)
