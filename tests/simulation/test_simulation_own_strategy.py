"""A job's own strategy in a simulation: the process that a deployment has, and nothing left of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from octopus_desktop.simulation import layout, modes
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.wire.errors import UserError
from tests.aggregation.own_strategies import LAGGING, NESTEROV, combining
from tests.simulation.test_simulation_run import Lab


def lab_with(root: Path, source: str) -> Lab:
    lab = Lab(root)
    (lab.folder / "code" / "strategy.py").write_text(source)
    return lab


def below() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


@pytest.fixture
def there() -> set[psutil.Process]:
    """What runs below these tests already, as from other files' tests."""
    return below()


def test_the_same_bits_whoever_trains_and_however_often(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], there: set[psutil.Process]
) -> None:
    lab = lab_with(tmp_path, NESTEROV.replace("beta = self", "print('in round', tile.round); beta = self"))
    wish = {"strategy": {"name": "strategy:Nesterov", "momentum": 0.5}, "run": {"update": "difference"}}
    with open_job(lab.folder, tmp_path / "opened") as job:
        one = lab.run("one", job, wish)
        two = lab.run("two", job, wish, workers=2)
        plain = lab.run("plain", job, {"run": {"update": "difference"}})
    assert one.digest == two.digest != plain.digest
    assert below() <= there
    assert "strategy: in round 3" in capfd.readouterr().err


def test_a_failure_is_the_researchers_to_read_and_leaves_nothing(tmp_path: Path, there: set[psutil.Process]) -> None:
    lab = lab_with(tmp_path, combining("return tile.nothing"))
    with open_job(lab.folder, tmp_path / "opened") as job, pytest.raises(UserError) as error:
        lab.run("one", job, {"strategy": {"name": "strategy:Mine"}})
    assert error.value.code == "OCT-RUN-STRATEGY" and "line 6, in combine: AttributeError" in error.value.why
    assert below() <= there


def test_modes_are_compared_by_what_it_says_it_can(tmp_path: Path, there: set[psutil.Process]) -> None:
    lab = lab_with(tmp_path, LAGGING)
    with open_job(lab.folder, tmp_path / "opened") as job:
        data = layout.explicit(job, lab.words())
        wish = {"strategy": {"name": "strategy:Lagging"}, "run": {"update": "difference"}}
        done = modes.compare(job, data, wish, ("sync", "async"), work=tmp_path / "compared")
    assert {mode: result.config.strategy for mode, result in done.items()} == {
        "sync": "fedavg",
        "async": "strategy:Lagging",
    }
    assert done["async"].config.rounds == 9, "three rounds of three silos, one answer a model"
    assert below() <= there
