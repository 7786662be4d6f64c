"""By real processes: a run that ends early and keeps its best model, a fork of it, layers that stay at the silos; and
each is to the bit the simulation of it. Then the runs side by side, at both ends' command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from octopus_desktop.cli.local_federation import LocalFederation, octopus
from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import ById
from tests.e2e.house import below, finish, heart_job, make_federation, running, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
EARLY = {
    "run": {"rounds": 40, "best": "max eval/accuracy", "patience": 3},
    "strategy": {"name": "fedavgm"},
}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("evaluation"))) as house:
        yield house


@pytest.fixture(scope="module")
def job(federation: LocalFederation) -> str:
    return federation.submit(heart_job())


@pytest.fixture(scope="module")
def early(federation: LocalFederation, job: str) -> Any:
    return finish(federation, federation.start_run(job, EARLY))


def simulated(federation: LocalFederation, *words: str) -> Any:
    data = [("--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}") for silo in federation.silos]
    flat = [word for pair in data for word in pair]
    return json.loads(octopus("simulate", str(federation.root / "heart.octojob"), *flat, *words).stdout)


def at_server(federation: LocalFederation, *words: str) -> Any:
    done = octopus("server", "runs", *words, "--home", str(federation.home.root), "--json")
    return json.loads(done.stdout)


def settings(wishes: dict[str, Any]) -> list[str]:
    return [w for t, keys in wishes.items() for k, v in keys.items() for w in ("--set", f"{t}.{k}={json.dumps(v)}")]


def test_a_run_that_gets_no_better_ends_early_with_its_best_model(
    federation: LocalFederation, early: Any, tmp_path: Path
) -> None:
    assert early.state == "completed", f"{early.code} {early.reason}"
    assert early.reason.startswith("Ended early: 3 rounds brought no better eval/accuracy")
    assert early.round < 40
    accuracy = {row.round: row.metrics["eval/accuracy"] for row in early.history}
    assert early.best_value == max(accuracy.values()) == accuracy[early.best_round]
    told = simulated(federation, *settings(EARLY), "--out", str(tmp_path / "best"), "--best")
    assert told["model"]["digest"] == early.model.digest
    assert told["best"] == {"round": early.best_round, "value": early.best_value, "digest": early.best.digest}
    assert told["reason"] == early.reason
    here = tmp_path / "exported"
    told = at_server(federation, "export", early.id, str(here), "--best")
    assert told["digest"] == early.best.digest
    assert here.read_bytes() == (tmp_path / "best").read_bytes()
    silo = federation.silos[0]
    shown = json.loads(silo.command("runs", "show", early.id, "--json").stdout)
    assert (shown["run"]["reason"], shown["run"]["best_round"]) == (early.reason, early.best_round)
    silo.command("runs", "export", early.id, str(tmp_path / "at-silo"), "--best")
    assert (tmp_path / "at-silo").read_bytes() == here.read_bytes()


def test_a_fork_goes_on_from_a_round_of_another_run(
    federation: LocalFederation, job: str, early: Any, tmp_path: Path
) -> None:
    model = tmp_path / "second"
    at_server(federation, "export", early.id, str(model), "--round", "2")
    started = at_server(
        federation,
        "start",
        job,
        "--from",
        f"{early.id}:2",
        "--set",
        "run.rounds=3",
        "--set",
        "communication.carrier=grpc",
    )
    fork = finish(federation, started["id"])
    assert fork.state == "completed", f"{fork.code} {fork.reason}"
    assert json.loads(fork.config_json)["forked_from"] == f"{early.id}:2"
    assert fork.model.digest == simulated(federation, "--rounds", "3", "--from", str(model))["model"]["digest"]


def test_what_the_strategy_had_gathered_goes_along_into_a_fork_and_into_its_simulation(
    federation: LocalFederation, job: str, tmp_path: Path
) -> None:
    wish = {"run": {"rounds": 2}, "strategy": {"name": "fedadam"}}
    old = finish(federation, federation.start_run(job, wish))
    model = tmp_path / "model"
    told = at_server(federation, "export", old.id, str(model))
    state = Path(told["state"])
    assert {path.name for path in state.iterdir()} == {"m.safetensors", "v.safetensors", "state.json"}
    words = ["--set", "communication.carrier=grpc", *settings(wish)]
    fork = finish(federation, at_server(federation, "start", job, "--from", old.id, *words)["id"])
    assert len(json.loads(fork.config_json)["first_slots"]) == 2
    carried = simulated(federation, *settings(wish), "--from", str(model))
    assert carried["model"]["digest"] == fork.model.digest and "anew" not in carried
    assert "state" not in at_server(federation, "export", old.id, str(model), "--round", "1")
    assert not state.exists(), "a state that is not this model's does not stay beside it"
    assert "begins anew" in simulated(federation, *settings(wish), "--from", str(model))["anew"]


def test_layers_that_stay_are_nobody_elses_and_the_simulation_has_the_same_bits(
    federation: LocalFederation, job: str, tmp_path: Path
) -> None:
    wish = {"run": {"rounds": 3}, "personal": {"layers": ["bias"], "finetune_epochs": 2, "keep": True}}
    run = finish(federation, federation.start_run(job, wish))
    assert run.state == "completed", f"{run.code} {run.reason}"
    told = simulated(federation, *settings(wish), "--out", str(tmp_path / "last"), "--personal", str(tmp_path / "own"))
    assert told["model"]["digest"] == run.model.digest
    assert {row["round"]: row["metrics"] for row in told["rounds"]} == {h.round: dict(h.metrics) for h in run.history}
    assert run.history[-1].metrics["eval_personal/accuracy"] > 0.5
    for silo in federation.silos:
        mine = tmp_path / f"own-{silo.plan.name}"
        silo.command("runs", "export", run.id, str(mine), "--personal")
        assert mine.read_bytes() == (tmp_path / "own" / f"{silo.plan.name}.safetensors").read_bytes()
        rows = silo.api().call("Runs.Detail", ById(id=run.id)).rounds
        assert [row.round for row in rows] == [1, 2, 3]
        for row, theirs in zip(rows, run.history, strict=True):
            assert "eval_personal/accuracy" in row.local
            assert dict(theirs.silos[silo.plan.name].metrics).items() <= dict(row.local).items()
    personal = {name: values["eval_personal/accuracy"] for name, values in told["silo_metrics"].items()}
    assert personal == {name: one.metrics["eval_personal/accuracy"] for name, one in run.history[-1].silos.items()}
    at_server(federation, "export", run.id, str(tmp_path / "first"), "--round", "1")
    for number in (2, 3):
        federation.silos[0].command("runs", "export", run.id, str(tmp_path / f"{number}"), "--round", f"{number}")
        assert file_digest(tmp_path / f"{number}") == run.history[number - 1].model.digest
    last, first = load_file(tmp_path / "last"), load_file(tmp_path / "first")
    assert last["bias"].tobytes() == first["bias"].tobytes(), "no silo's own layer ever left"
    assert last["weight"].tobytes() != first["weight"].tobytes()


def test_the_server_evaluates_each_rounds_model_on_its_own_data(
    federation: LocalFederation, job: str, tmp_path: Path
) -> None:
    data = federation.silos[1].plan.data["patients"]
    wish = {"run": {"rounds": 3, "best": "min central/loss"}, "evaluation": {"central": True}}
    with pytest.raises(UserError) as refused:
        at_server(federation, "start", job, *settings(wish))
    assert refused.value.code == "OCT-DATA-ALIAS", "nobody is asked before the server has its data"
    words = ["--central-data", f"patients={data}"]
    started = at_server(federation, "start", job, "--set", "communication.carrier=grpc", *settings(wish), *words)
    run = finish(federation, started["id"])
    assert run.state == "completed", f"{run.code} {run.reason}"
    assert all({"central/accuracy", "central/examples"} <= row.metrics.keys() for row in run.history)
    told = simulated(federation, *settings(wish), *words)
    assert {row["round"]: row["metrics"] for row in told["rounds"]} == {h.round: dict(h.metrics) for h in run.history}
    assert told["best"]["digest"] == run.best.digest
    coordinators = below(server_process(federation), "server.coordinator")
    assert coordinators == [], "and nothing of the evaluation outlives the run"


def test_runs_stand_side_by_side_at_both_ends(federation: LocalFederation, job: str, early: Any) -> None:
    other = finish(federation, federation.start_run(job, {"run": {"rounds": 2}, "evaluation": {"share": False}}))
    told = at_server(federation, "compare", early.id, other.id)
    assert told["settings"]["strategy"] == ["fedavgm", "fedavg"]
    assert told["settings"]["patience"] == [3, 0], "what a run leaves out stands at its default"
    assert told["metrics"]["eval/accuracy"]["2"] == [run.history[1].metrics["eval/accuracy"] for run in (early, other)]
    assert told["metrics"]["eval/accuracy"]["4"][1] is None
    here = json.loads(federation.silos[0].command("runs", "compare", early.id, other.id, "--json").stdout)
    assert here["settings"] == told["settings"]
    assert here["metrics"]["eval/accuracy"] == told["metrics"]["eval/accuracy"]
    assert told["settings"]["share_metrics"] == [True, False]
    silo = federation.silos[0]
    rounds = json.loads(silo.command("runs", "show", early.id, "--json").stdout)["rounds"]
    for kept, row in zip(rounds, early.history, strict=True):
        numbers = {name: told["values"] for name, told in kept["silos"].items()}
        assert numbers == {name: dict(told.metrics) for name, told in row.silos.items()}, "as the server has them"
        assert sorted(kept["answered"]) == sorted(row.answered) == sorted(numbers)
    unshared = json.loads(silo.command("runs", "show", other.id, "--json").stdout)["rounds"]
    assert unshared[0]["answered"] and not unshared[0]["silos"], "where it does not share, a silo's numbers are its own"
    shown = printed(federation, "show", early.id)
    assert "Each silo in round" in shown and "best model" in shown
    table = printed(federation, "compare", early.id, other.id)
    assert "Settings that differ" in table and "eval/accuracy" in table


def printed(federation: LocalFederation, *words: str) -> str:
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "server", "runs", *words]
    home = ["--home", str(federation.home.root)]
    return subprocess.run([*command, *home], capture_output=True, text=True, check=True, timeout=60).stdout
