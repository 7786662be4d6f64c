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
from octopus_desktop.training.spec import KEPT_MODEL
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


def tried(result: TaskResult) -> dict[str, float]:
    return {name: value for name, value in result.metrics.items() if name.startswith("eval_personal/")}


def test_epochs_are_passes_over_the_silos_data_however_many_the_trainer_makes(home: Path) -> None:
    """The trainer makes two passes of six steps."""
    before = do(home, RunConfig(seed=3), task(home, 1))
    update = (home / "out").read_bytes()
    by_steps = [tried(do(home, RunConfig(seed=3, personal_steps=steps), task(home, 1))) for steps in (6, 12)]
    by_epochs = [tried(do(home, RunConfig(seed=3, personal_epochs=n), task(home, 1))) for n in (1, 2, 3, 3)]
    assert by_epochs[:2] == by_steps and by_steps[0] != by_steps[1]
    assert by_epochs[2] == by_epochs[3] != by_epochs[1], "for a third pass it is asked to train again"
    assert (home / "out").read_bytes() == update and before.metrics.keys().isdisjoint(by_steps[0])


@pytest.mark.parametrize("more", [{"personal_epochs": 1}, {"personal_layers": ("1.*",)}, {}])
def test_the_final_model_with_what_is_the_silos_own_stays_here_and_is_what_was_judged(
    home: Path, more: dict[str, object]
) -> None:
    config = RunConfig(seed=3, rounds=3, personal_keep=True, **more)  # type: ignore[arg-type]
    do(home, config, task(home, 3))
    assert not (home / "keep" / KEPT_MODEL).exists(), "of a round in between nothing is kept"
    final = do(home, config, task(home, 3, "evaluate"))
    kept = home / "keep" / KEPT_MODEL
    again = TaskInput(task="evaluate", round=3, rounds=3, model=kept, keep=home / "other", config={"name": "fedavg"})
    judged = do(home, RunConfig(seed=3, rounds=3), again).metrics
    found = tried(final) or {f"eval_personal/{name[5:]}": value for name, value in final.metrics.items()}
    assert {f"eval_personal/{name[5:]}": value for name, value in judged.items()} == found
    assert (kept.read_bytes() == (home / "first").read_bytes()) == (not more)


def test_the_runner_takes_the_silos_own_model_only_as_a_file_of_the_models_form(tmp_path: Path) -> None:
    save_file({"w": np.ones(3, np.float32)}, tmp_path / "model")
    for place, (written, good) in enumerate({"same": (3, True), "other": (4, False)}.values()):
        out = tmp_path / f"kept-{place}"
        save_file({"w": np.zeros(written, np.float32)}, tmp_path / "written")
        if good:
            leaving.keep_here(tmp_path / "written", tmp_path / "model", out)
            assert load_file(out)["w"].tolist() == [0, 0, 0]
            continue
        with pytest.raises(UserError) as caught:
            leaving.keep_here(tmp_path / "written", tmp_path / "model", out)
        assert caught.value.code == "OCT-MODEL-SHAPE" and not out.exists()
    (tmp_path / "written").symlink_to(tmp_path / "model")
    with pytest.raises(UserError):
        leaving.keep_here(tmp_path / "written", tmp_path / "model", tmp_path / "kept")
    assert not (tmp_path / "kept").exists() and (tmp_path / "model").exists()


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
