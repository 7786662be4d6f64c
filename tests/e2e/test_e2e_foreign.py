"""A Flower app and a FedML trainer, as their authors wrote them, through a real federation in registered runtimes: made
into a job, reviewed, refused without the runtime, approved with it; to the bit what the simulation gives.

fedml is a stand-in unless OCTOPUS_FEDML_RUNTIME names an environment that has it; flwr is needed as such, see
tests/training/test_training_flower.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.wire.errors import UserError
from tests.e2e import foreign
from tests.e2e.house import finish, running
from tests.training import environments

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
SILOS = ("north", "south")
RATE = {"lr": 0.1, "learning_rate": 0.1}  # as Flower's app and FedML's trainer call it


@pytest.mark.parametrize(
    ("environment", "source", "names", "framework", "rounds", "metric", "examples"),
    [
        (environments.fedml_environment, foreign.fedml_source, ("x", "y"), "fedml", 4, "eval/accuracy", 1797),
        (environments.flower_environment, foreign.flower_source, ("images", "labels"), "flwr", 4, "eval/eval_acc", 360),
    ],
    ids=["fedml", "flower"],
)
def test_an_application_of_another_framework_trains_in_a_federation_as_in_simulation(
    tmp_path: Path,
    environment: Callable[[Path], Path],
    source: Callable[[Path], Path],
    names: tuple[str, str],
    framework: str,
    rounds: int,
    metric: str,
    examples: int,
) -> None:
    runtime, theirs = environment(tmp_path / "venv"), source(tmp_path / "theirs")
    job, data = tmp_path / "reader", foreign.digits(tmp_path / "data", SILOS, *names)
    made = json.loads(octopus("jobs", "new", str(job), "--from", str(theirs)).stdout)
    assert "job.toml" in made["files"] and json.loads(octopus("jobs", "check", str(job)).stdout)["ok"]
    for path in (job / "code").rglob("*.py"):
        home = theirs if theirs.is_dir() else theirs.parent
        assert path.read_bytes() == (home / path.relative_to(job / "code")).read_bytes(), "as its author wrote it"

    with running(foreign.make_federation(tmp_path / "fed", data)) as federation:
        federation.submit(job)
        run_id = federation.start_run("reader", {"run": {"rounds": rounds}, "hyperparameters": RATE})
        for silo in federation.silos:
            federation.wait_offer(silo, run_id)
            assert _hardware(silo)["verdict"] == "cannot"
            silo.command("runtime", "add", "their-own", str(runtime))
            line = _hardware(silo)
            assert framework in line["text"] and "It can train in the runtime their-own." in line["text"]
            with pytest.raises(UserError) as caught:
                silo.command("approvals", "approve", "reader", "--data", "training=digits")
            assert caught.value.code == "OCT-PACKAGE-MISSING" and "--runtime their-own" in caught.value.next_step
            silo.command("approvals", "approve", "reader", "--data", "training=digits", "--runtime", "their-own")
        last = finish(federation, run_id)
        assert last.state == "completed", f"{last.code} {last.reason}"
        metrics = last.history[-1].metrics
        assert len(last.history) == rounds
        assert metrics[metric] > 0.9 and metrics["eval/examples"] == examples
        shown = json.loads(federation.silos[0].command("runs", "show", run_id).stdout)
        assert shown["run"]["state"] == "completed" and shown["left"]

        package = federation.root / "reader.octojob"
        silos = [f"--silo={name}:training={path}" for name, path in data.items()]
        wishes = [word for key, value in RATE.items() for word in ("--set", f"hyperparameters.{key}={value}")]
        words = ("simulate", str(package), "--runtime", str(runtime), "--rounds", str(rounds), *wishes, *silos)
        told = json.loads(octopus(*words).stdout)
        assert told["model"]["digest"] == last.model.digest, "to the bit"
        assert told["rounds"][-1]["metrics"][metric] == metrics[metric]


def _hardware(silo: Any) -> dict[str, str]:
    review = json.loads(silo.command("approvals", "show", "reader").stdout)
    return next(line for line in review["summary"] if line["topic"] == "hardware")
