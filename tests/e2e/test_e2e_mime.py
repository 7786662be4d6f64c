"""A strategy that has the silos send a second file beside the update: recorded, and the simulation's bits whatever is
killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import psutil
import pytest

from octopus_desktop.cli.local_federation import LocalFederation
from octopus_desktop.wire.pb.local_pb2 import AuditPageRequest, ById
from tests.e2e.house import below, daemon_process, finish, kill, make_federation, running, server_process
from tests.e2e.test_e2e_strategies import ROUNDS, simulated, start

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("mime"))) as house:
        yield house


def test_the_gradient_leaves_recorded_and_nothing_of_it_stays(federation: LocalFederation) -> None:
    after = finish(federation, start(federation, "mimelite", 0))
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == simulated(federation, "mimelite", 0)
    silo = federation.silos[0].api()
    left = [m for m in silo.call("Runs.Detail", ById(id=after.id)).left if m.kind == "ANSWER" and m.digest]
    trained = [m for m in left if m.encoding]
    assert len(trained) == ROUNDS and all(m.bytes > 2 * after.model.size for m in trained)
    names = [layer.name for layer in trained[0].layers]
    assert [f"gradient: {name}" for name in names[: len(names) // 2]] == names[len(names) // 2 :]
    page = silo.call("Audit.Page", AuditPageRequest(limit=500, action="message.left", run_id=after.id))
    told = [json.loads(entry.detail_json) for entry in page.entries]
    gradients = [one["returned"]["gradient"] for one in told if "returned" in one]
    assert len(gradients) == ROUNDS
    store = federation.root.rglob("blobs/*/*")
    assert not {path.name for path in store} & set(gradients), "what was folded is gone, at the server and at the silo"


def _coordinator(federation: LocalFederation) -> psutil.Process:
    return below(server_process(federation), "server.coordinator")[0]


def _runner(federation: LocalFederation) -> psutil.Process:
    return below(daemon_process(federation), "training.runner")[-1]


@pytest.mark.parametrize("victim", [_coordinator, _runner], ids=["coordinator", "runner"])
def test_a_kill_changes_no_bit(
    federation: LocalFederation, victim: Callable[[LocalFederation], psutil.Process]
) -> None:
    run_id = start(federation, "mimelite", 0)
    for run in federation.watch(run_id):
        if len(run.history) >= 2:
            break
    kill(victim(federation))
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == simulated(federation, "mimelite", 0)
