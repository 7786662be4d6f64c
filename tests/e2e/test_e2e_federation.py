"""The main path by real processes on loopback: enrol, offer, approve, train, exchange; and its disturbances."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.cli.local_federation import LocalFederation
from octopus_desktop.wire.pb.local_pb2 import AuditPageRequest, ById, Empty
from tests.e2e.house import (
    below,
    daemon_process,
    finish,
    heart_job,
    kill,
    make_federation,
    running,
    server_process,
)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROUNDS = {"run": {"rounds": 12}}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("federation"))) as house:
        yield house


@pytest.fixture(scope="module")
def job(federation: LocalFederation) -> str:
    return federation.submit(heart_job())


@pytest.fixture(scope="module")
def undisturbed(federation: LocalFederation, job: str) -> Any:
    return finish(federation, federation.start_run(job, ROUNDS))


def test_a_run_completes_and_its_metrics_come_from_every_silo(undisturbed: Any) -> None:
    assert undisturbed.state == "completed", f"{undisturbed.code} {undisturbed.reason}"
    assert [row.round for row in undisturbed.history][:12] == list(range(1, 13))
    assert all(set(row.answered) == {"cleveland", "hungary"} for row in undisturbed.history)
    assert undisturbed.history[-1].metrics["eval/accuracy"] > 0.7


def test_simulation_gives_the_bit_identical_model(federation: LocalFederation, undisturbed: Any) -> None:
    from octopus_desktop.cli.local_federation import octopus

    words = ["simulate", str(federation.root / "heart.octojob"), "--rounds", "12"]
    for silo in federation.silos:
        words += ["--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}"]
    simulated = json.loads(octopus(*words).stdout)
    assert simulated["model"]["digest"] == undisturbed.model.digest


@pytest.mark.parametrize(
    ("encoding", "settings"),
    [
        ("int8", ["run.encoding=int8"]),
        ("topk", ["run.encoding=topk", "encoding.fraction=0.1", "run.update=difference"]),
    ],
)
def test_encoded_updates_leave_and_the_model_is_still_that_of_the_simulation(
    federation: LocalFederation, job: str, encoding: str, settings: list[str]
) -> None:
    from octopus_desktop.cli.local_federation import octopus

    wish: dict[str, dict[str, Any]] = {"run": {"rounds": 4}}
    for table, key, value in (line.replace("=", ".", 1).split(".", 2) for line in settings):
        wish.setdefault(table, {})[key] = float(value) if value[0].isdigit() else value
    run = finish(federation, federation.start_run(job, wish))
    assert run.state == "completed", f"{run.code} {run.reason}"
    words = ["simulate", str(federation.root / "heart.octojob"), "--rounds", "4"]
    words += [word for line in settings for word in ("--set", line)]
    for silo in federation.silos:
        words += ["--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}"]
    assert json.loads(octopus(*words).stdout)["model"]["digest"] == run.model.digest
    detail = federation.silos[0].api().call("Runs.Detail", ById(id=run.id))
    left = [message for message in detail.left if message.encoding]
    assert len(left) == 4 and all(message.encoding == encoding for message in left)
    assert [(layer.name, layer.elements) for layer in left[0].layers] == [("weight", 34), ("bias", 1)]
    kept = [silo.home.run(run.id) / "leaving" for silo in federation.silos]
    deadline = time.monotonic() + 30
    while any(path.exists() for path in kept):
        assert time.monotonic() < deadline, "what the encoding left out outlives the run"


def _server(federation: LocalFederation) -> psutil.Process:
    return server_process(federation)


def _coordinator(federation: LocalFederation) -> psutil.Process:
    return below(server_process(federation), "server.coordinator")[0]


def _daemon(federation: LocalFederation) -> psutil.Process:
    return daemon_process(federation)


def _runner(federation: LocalFederation) -> psutil.Process:
    return below(daemon_process(federation), "training.runner")[0]


def _worker(federation: LocalFederation) -> psutil.Process:
    return below(daemon_process(federation), "training.worker")[-1]


VICTIMS: dict[str, Callable[[LocalFederation], psutil.Process]] = {
    "server": _server,
    "coordinator": _coordinator,
    "daemon": _daemon,
    "runner": _runner,
    "worker": _worker,
}


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("after_round", [1, 6])
def test_a_kill_changes_no_bit_of_the_model(
    federation: LocalFederation, job: str, undisturbed: Any, victim: str, after_round: int
) -> None:
    run_id = federation.start_run(job, ROUNDS)
    for run in federation.watch(run_id):
        if len(run.history) >= after_round:
            break
    kill(VICTIMS[victim](federation))
    if victim == "server":
        federation.start_server()
    elif victim == "daemon":
        federation.silos[0].start()
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == undisturbed.model.digest
    assert [row.round for row in after.history] == [row.round for row in undisturbed.history]
    assert [dict(row.metrics) for row in after.history] == [dict(row.metrics) for row in undisturbed.history]


def test_nothing_left_that_the_audit_does_not_hold(federation: LocalFederation, undisturbed: Any) -> None:
    api = federation.silos[0].api()
    detail = api.call("Runs.Detail", ById(id=undisturbed.id))
    page = api.call("Audit.Page", AuditPageRequest(limit=500, run_id=undisturbed.id))
    recorded = " ".join(entry.detail_json for entry in page.entries)
    answers = [message for message in detail.left if message.kind.upper() == "ANSWER" and message.digest]
    assert len({message.round for message in answers}) >= 12
    assert all(message.digest in recorded for message in answers)
    assert api.call("Audit.Verify", Empty()).whole


def test_without_a_decision_nothing_runs(tmp_path: Path) -> None:
    house = make_federation(tmp_path, asks=("cleveland",))
    with running(house):
        run_id = house.start_run(house.submit(heart_job()), {"run": {"rounds": 2}})
        first, second = house.silos
        house.wait_offer(first, run_id)
        house.wait_offer(second, run_id, ("approved",))
        assert house.run(run_id).state == "offered"
        assert below(daemon_process(house, 0), "training.runner") == []
        refused = first.command("approvals", "reject", run_id, "--reason", "The ethics vote is missing.")
        assert json.loads(refused.stdout)["state"] == "rejected"
        deadline = time.monotonic() + 60
        states: dict[str, str] = {}
        while time.monotonic() < deadline and states.get("cleveland") != "rejected":
            states = {silo.silo: silo.state for silo in house.run(run_id).silos}
        assert states["cleveland"] == "rejected"
        assert below(daemon_process(house, 0), "training.runner") == []
