"""Layers that stay at the silo: they are trained and used there, written so that a crash changes nothing, and never
leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import leaving
from octopus_desktop.training.engine import TaskInput, TaskResult
from octopus_desktop.wire.errors import UserError
from tests.training.test_training_engine import engine, home

NORM = ("1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
OWN = RunConfig(seed=3, rounds=3, personal_layers=("1.*",))


__all__ = ["home"]  # the fixture


def task(home: Path, round_: int, kind: str = "train", keep: str = "keep", **config: object) -> TaskInput:
    return TaskInput(
        task=kind, round=round_, rounds=3, model=home / "first", keep=home / keep, config={"name": "fedavg", **config}
    )


def do(home: Path, config: RunConfig, what: TaskInput, out: str = "out") -> TaskResult:
    return engine(home, config=config).run(what, home / out)


@pytest.mark.parametrize("update", ["weights", "difference"])
def test_own_layers_leave_as_they_came_and_stay_here_as_they_were_trained(home: Path, update: str) -> None:
    config = RunConfig(seed=3, rounds=3, personal_layers=("1.*",), update=update)
    do(home, config, task(home, 1))
    given, left = load_file(home / "first"), load_file(home / "out")
    own = load_file(home / "keep" / "layers" / "1.safetensors")
    assert set(own) == set(NORM)
    for name in NORM:
        expected = given[name] if update == "weights" else np.zeros_like(given[name])
        assert left[name].tobytes() == expected.tobytes(), name
        assert not np.array_equal(own[name], given[name]), name
    shared = left["0.weight"] - (given["0.weight"] if update == "weights" else 0)
    assert np.abs(shared).max() > 0


def test_the_next_round_and_the_last_evaluation_begin_with_the_silos_own_values(home: Path) -> None:
    fresh = do(home, OWN, task(home, 2, keep="other"))
    do(home, OWN, task(home, 1))
    second = do(home, OWN, task(home, 2), "second")
    assert second.metrics != fresh.metrics, "the same model that comes in is another one here"
    final = do(home, OWN, task(home, 2, "evaluate"))
    third = do(home, OWN, task(home, 3))
    name = "eval/accuracy"
    assert final.metrics[name] == third.metrics[name], "what the last round left is what is evaluated"


def test_a_round_that_is_trained_again_writes_the_same_bytes_again(home: Path) -> None:
    do(home, OWN, task(home, 1))
    do(home, OWN, task(home, 2))
    once = [(home / "out").read_bytes(), (home / "keep" / "layers" / "2.safetensors").read_bytes()]
    do(home, OWN, task(home, 2))  # killed after the file was written and before the answer was posted
    assert [(home / "out").read_bytes(), (home / "keep" / "layers" / "2.safetensors").read_bytes()] == once
    do(home, OWN, task(home, 3))
    assert sorted(path.name for path in (home / "keep" / "layers").iterdir()) == ["2.safetensors", "3.safetensors"]


def test_a_strategys_memory_holds_nothing_of_the_silos_own_layers(home: Path) -> None:
    do(home, OWN, task(home, 1, scaffold=True))
    assert not set(NORM) & set(load_file(home / "keep" / "1.safetensors"))


def test_a_model_is_tried_out_after_some_own_steps_and_trained_as_if_it_had_not_been(home: Path) -> None:
    plain = do(home, RunConfig(seed=3), task(home, 1))
    before = (home / "out").read_bytes()
    tried = do(home, RunConfig(seed=3, personal_steps=2), task(home, 1))
    assert (home / "out").read_bytes() == before
    more = {name: value for name, value in tried.metrics.items() if name.startswith("eval_personal/")}
    assert set(more) == {f"eval_personal/{name}" for name in ("accuracy", "seen", "examples")}
    assert {**plain.metrics, **more} == tried.metrics
    assert "fine-tune" in {step for _, step, _, _ in tried.spans}


@pytest.mark.parametrize("patterns", [("2.nothing",), ("*",)])
def test_patterns_that_fit_nothing_or_everything_are_refused(home: Path, patterns: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        do(home, RunConfig(seed=3, personal_layers=patterns), task(home, 1))
    assert caught.value.code == "OCT-CONFIG-INVALID"


def test_without_a_place_for_them_nothing_is_trained(home: Path) -> None:
    with pytest.raises(UserError) as caught:
        do(home, OWN, TaskInput(task="train", round=1, rounds=3, model=home / "first"))
    assert caught.value.code == "OCT-CONFIG-INVALID"


@pytest.mark.parametrize("update", ["weights", "difference"])
def test_whatever_the_jobs_code_writes_into_them_does_not_leave(tmp_path: Path, update: str) -> None:
    model = {"head.w": np.ones(5000, np.float32), "head.n": np.array([7]), "w": np.zeros(3, np.float32)}
    save_file(model, tmp_path / "model")
    save_file({name: value + 41 for name, value in model.items()}, tmp_path / "written")
    config = RunConfig(personal_layers=("head.*",), update=update)
    done = leaving.prepare(tmp_path / "written", tmp_path / "model", config, private=tmp_path / "private")
    left = load_file(done.path)
    for name in ("head.w", "head.n"):
        assert np.array_equal(left[name], model[name] if update == "weights" else 0 * model[name])
    assert np.array_equal(left["w"], model["w"] + 41)
