"""Workers change no bit; batched training equals one by one within its tolerance; what cannot be batched is refused."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from octopus_desktop.simulation import batched, cohort, layout, memory
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult, Step, simulate
from octopus_desktop.wire.errors import UserError

DIGITS = Path(__file__).parents[2] / "resources" / "examples" / "digits"
SILOS = 12


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Job, Any]]:
    """The example with unequal silos: the smallest has a few rows, the largest hundreds."""
    root = tmp_path_factory.mktemp("digits")
    with open_job(DIGITS, root) as job:
        yield job, layout.choose(job, str(SILOS), [], "dirichlet:0.5", root)


def run(digits: tuple[Job, Any], work: Path, wish: dict[str, Any] | None = None, **more: Any) -> SimulationResult:
    job, data = digits
    return simulate(job, data, wish or {"run": {"rounds": 2, "per_round": 7}}, work=work, **more)


def furthest(one: SimulationResult, other: SimulationResult) -> float:
    a, b = load_file(one.model), load_file(other.model)
    return max(float(np.abs(a[name] - b[name]).max()) for name in a)


@pytest.fixture
def waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes get their share, however short the run is."""
    monkeypatch.setattr(cohort, "WORTH_STARTING_S", 0.0)


def test_a_short_run_starts_no_other_process(
    digits: tuple[Job, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr(cohort, "WORTH_STARTING_S", 1000.0)
    monkeypatch.setattr(cohort, "Helper", lambda *parts: started.append(parts))
    result = run(digits, tmp_path / "2", workers=2)
    assert not started
    assert result.digest == run(digits, tmp_path / "1").digest


@pytest.mark.usefixtures("waited_for")
@pytest.mark.parametrize("update", ["weights", "difference"])
def test_the_number_of_workers_changes_no_bit(digits: tuple[Job, Any], tmp_path: Path, update: str) -> None:
    wish = {"run": {"rounds": 2, "per_round": 7, "update": update}}
    steps: list[Step] = []
    alone = run(digits, tmp_path / "1", wish)
    three = run(digits, tmp_path / "3", wish, workers=3, progress=steps.append)
    assert three.digest == alone.digest
    assert [dict(row.metrics) for row in three.rounds] == [dict(row.metrics) for row in alone.rounds]
    assert three.answers == alone.answers
    assert three.transferred == alone.transferred
    assert max(step.done for step in steps) == 2 * 7 + SILOS


@pytest.mark.usefixtures("waited_for")
def test_updates_in_memory_and_in_files_fold_to_the_same_bits(
    digits: tuple[Job, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = run(digits, tmp_path / "held")
    monkeypatch.setattr(memory, "MOST_BYTES", 0)
    files = run(digits, tmp_path / "files", workers=2)
    assert files.digest == held.digest
    left = {path.name for path in (tmp_path / "files" / "blobs").glob("??/*")}
    assert left == {path.name for path in (tmp_path / "held" / "blobs").glob("??/*")}


@pytest.mark.usefixtures("waited_for")
def test_nothing_stays_in_the_memory_file_system(digits: tuple[Job, Any], tmp_path: Path) -> None:
    def there() -> set[str]:
        return {p.name for p in Path("/dev/shm").glob("octopus-updates-*")}

    before = there() if Path("/dev/shm").is_dir() else set()
    seen: list[set[str]] = []
    run(digits, tmp_path, workers=2, progress=lambda step: seen.append(there() - before))
    assert not any(seen), "its name is gone as soon as all processes have it open"


@pytest.mark.usefixtures("waited_for")
def test_silos_share_no_module_globals(tmp_path: Path) -> None:
    from tests.simulation.test_simulation_run import TRAINER, Lab

    counting = TRAINER.replace("class Line", "import counter\n\nclass Line", 1).replace(
        'return {"loss": loss.item()}', 'counter.N += 1\n        return {"calls": float(counter.N)}'
    )
    lab = Lab(tmp_path, counting)
    (lab.folder / "code" / "counter.py").write_text("N = 0\n")
    with open_job(lab.folder, tmp_path / "opened") as job:
        for workers in (1, 2):
            result = lab.run(f"run-{workers}", job, {"run": {"rounds": 2}}, workers=workers)
            assert [row.metrics["train/calls"] for row in result.rounds] == [1.0, 2.0]


@pytest.mark.usefixtures("waited_for")
def test_a_worker_process_that_is_killed_ends_the_run_with_its_reason(
    digits: tuple[Job, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helpers: list[cohort.Helper] = []
    begin = cohort.Helper.begin

    def kill_it(self: cohort.Helper, tasks: cohort.Tasks) -> None:
        helpers.append(self)
        os.kill(self._process.pid, signal.SIGKILL)
        begin(self, tasks)

    monkeypatch.setattr(cohort.Helper, "begin", kill_it)
    with pytest.raises(UserError) as error:
        run(digits, tmp_path, workers=2)
    assert error.value.code == "OCT-RUN-WORKERS"
    assert helpers[0]._process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("waited_for")
def test_an_error_in_another_process_is_told_as_here(digits: tuple[Job, Any], tmp_path: Path) -> None:
    job, data = digits
    lost = {
        name: {"digits": dataclasses.replace(source["digits"], path="/nowhere.npz")} if name == "silo-2" else source
        for name, source in data.items()
    }
    result = simulate(job, lost, {"run": {"rounds": 1, "quorum": 5}}, work=tmp_path, workers=2)
    assert result.rounds[0].missing == ("silo-2",)
    assert any("OCT-DATA-MISSING" in line for line in result.skipped)


# batched


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"run": {"update": "difference"}},
        {"hyperparameters": {"epochs": 3, "batch_size": 7, "momentum": 0.5, "weight_decay": 0.01}},
        {"strategy": {"name": "fedprox", "mu": 0.1}},
        {"strategy": {"name": "fedsgd"}},
    ],
    ids=["plain", "difference", "momentum", "fedprox", "fedsgd"],
)
def test_a_round_in_batches_equals_one_by_one_within_the_tolerance(
    digits: tuple[Job, Any], tmp_path: Path, wish: dict[str, Any]
) -> None:
    wish = {**wish, "run": {"rounds": 1, **wish.get("run", {})}}
    single = run(digits, tmp_path / "single", wish)
    together = run(digits, tmp_path / "together", wish, batched=True)
    assert 0 < furthest(single, together) <= batched.TOLERANCE
    for name, value in single.rounds[0].metrics.items():
        assert together.rounds[0].metrics[name] == pytest.approx(value, abs=1e-4), name
    assert together.transferred == single.transferred


def test_ten_rounds_in_batches_learn_as_one_by_one_and_are_repeatable(digits: tuple[Job, Any], tmp_path: Path) -> None:
    wish = {"run": {"rounds": 10}, "hyperparameters": {"epochs": 3}}
    single, together = run(digits, tmp_path / "1", wish), run(digits, tmp_path / "2", wish, batched=True)
    assert single.metrics["eval/accuracy"] > 0.8
    assert together.metrics["eval/accuracy"] == pytest.approx(single.metrics["eval/accuracy"], abs=0.01)
    assert run(digits, tmp_path / "3", wish, batched=True).digest == together.digest


def changed(tmp_path: Path, old: str, new: str) -> Path:
    folder = tmp_path / "job"
    (folder / "code").mkdir(parents=True)
    (folder / "job.toml").write_text((DIGITS / "job.toml").read_text())
    text = (DIGITS / "code" / "trainer.py").read_text()
    assert old in text
    (folder / "code" / "trainer.py").write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "code", "word"),
    [
        ("nn.ReLU()", "nn.BatchNorm1d(128)", "OCT-CONFIG-INVALID", "BatchNorm1d"),
        ("def losses", "def other", "OCT-CONFIG-INVALID", "losses"),
        (
            "    def losses",
            "    def train(self, ctx, model): pass\n\n    def losses",
            "OCT-CONFIG-INVALID",
            "of its own",
        ),
        (', reduction="none")\n\n', ").sum()\n\n", "OCT-CONFIG-INVALID", "shape"),
        (
            "images, labels = batch\n",
            "images, labels = batch\n        images.sum().item()\n",
            "OCT-RUN-TRAINER",
            "item",
        ),
    ],
    ids=["batchnorm", "no losses", "own train", "one loss", "item"],
)
def test_a_trainer_that_cannot_be_batched_is_refused_by_what_is_missing(
    digits: tuple[Job, Any], tmp_path: Path, old: str, new: str, code: str, word: str
) -> None:
    with open_job(changed(tmp_path, old, new), tmp_path) as job, pytest.raises(UserError) as error:
        run((job, digits[1]), tmp_path / "run", batched=True)
    assert error.value.code == code
    assert word in str(error.value)


@pytest.mark.parametrize(
    "wish",
    [
        {"strategy": {"name": "scaffold"}, "run": {"update": "difference"}},
        {"run": {"encoding": "int8"}},
        {"privacy": {"clip_norm": 1.0}},
        {"training": {"accumulate": 2}},
        {"resources": {"workers": 2}},
    ],
    ids=lambda wish: next(iter(wish)),
)
def test_a_run_that_cannot_be_batched_is_refused(digits: tuple[Job, Any], tmp_path: Path, wish: dict[str, Any]) -> None:
    with pytest.raises(UserError) as error:
        run(digits, tmp_path, wish, batched=True)
    assert error.value.code == "OCT-CONFIG-INVALID"
    assert "batches" in error.value.what


def test_dropout_is_allowed_in_batches(digits: tuple[Job, Any], tmp_path: Path) -> None:
    with open_job(changed(tmp_path, "nn.ReLU()", "nn.ReLU(), nn.Dropout(0.2)"), tmp_path) as job:
        one = run((job, digits[1]), tmp_path / "one", batched=True)
        again = run((job, digits[1]), tmp_path / "again", batched=True)
    assert one.digest == again.digest
    assert np.isfinite(one.metrics["eval/loss"])


def test_a_silo_that_diverges_or_has_no_rows_is_told_alone(digits: tuple[Job, Any], tmp_path: Path) -> None:
    job, data = digits
    bad = tmp_path / "bad.npz"
    np.savez(bad, images=np.full((9, 64), np.nan, np.float32), labels=np.zeros(9, np.int64))
    empty = tmp_path / "empty.npz"
    np.savez(empty, images=np.zeros((1, 64), np.float32), labels=np.zeros(1, np.int64))
    at = {"silo-3": bad, "silo-4": empty}
    poisoned = {
        name: {"digits": dataclasses.replace(s["digits"], path=str(at[name]))} if name in at else s
        for name, s in data.items()
    }
    for way in (True, False):
        result = simulate(job, poisoned, {"run": {"rounds": 1, "quorum": 5}}, work=tmp_path / f"run{way}", batched=way)
        assert result.rounds[0].missing == ("silo-3", "silo-4")
        assert any("silo-3" in line and "OCT-MODEL-NAN" in line for line in result.skipped)
        assert any("silo-4" in line and "OCT-MODEL-WEIGHT" in line for line in result.skipped)
