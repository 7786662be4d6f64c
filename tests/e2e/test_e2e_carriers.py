"""The promise: the same job, seeds and silos give the bit-identical model over every carrier, and in simulation.

Real processes throughout: server, daemons, mosquitto with TLS, users and ACL, SeaweedFS, PyTorch RPC's endpoints in
their sandbox, an MPI world.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from octopus_desktop.cli.common import snapshot
from octopus_desktop.cli.local_federation import NOWHERE, LocalFederation, octopus
from octopus_desktop.wire.pb.local_pb2 import AuditPageRequest, ById, Empty
from octopus_desktop.wire.pb.operator_pb2 import CarriersRequest
from tests.e2e.house import daemon_process, finish, heart_job, kill, make_federation, running, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROUNDS = 4
SETTINGS = {"run": {"rounds": ROUNDS}}
SILOS = ("cleveland", "hungary", "va-long-beach", "switzerland")[: 4 if os.environ.get("OCTOPUS_BIG_TESTS") else 2]
CARRIERS = ("grpc", "mqtt", "mqtt_s3", "torch_rpc", "mpi")


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The final model's digest in simulation."""
    from octopus_desktop.cli.demo import prepare_data

    root = tmp_path_factory.mktemp("simulated")
    prepare_data(root)
    words = ["simulate", str(heart_job()), "--rounds", str(ROUNDS)]
    for name in SILOS:
        words += ["--silo", f"{name}:patients={root / 'data' / f'{name}.csv'}"]
    return str(json.loads(octopus(*words).stdout)["model"]["digest"])


@pytest.mark.parametrize("carrier", CARRIERS)
def test_every_carrier_gives_the_model_of_the_simulation(tmp_path: Path, simulated: str, carrier: str) -> None:
    with running(make_federation(tmp_path, SILOS, carrier=carrier)) as house:
        run = finish(house, house.start_run(house.submit(heart_job()), SETTINGS))
        assert run.state == "completed", f"{run.code} {run.reason}"
        assert run.model.digest == simulated
        assert (run.carrier, {silo.carrier for silo in run.silos}) == (carrier, {carrier})
        _shows_its_carrier(house, run.id, carrier)
        _answers_are_recorded_with_their_carrier(house, run.id, carrier)


def _shows_its_carrier(house: LocalFederation, run_id: str, carrier: str) -> None:
    """What window and command line show of it, at the silo and at the server."""
    snap = snapshot(house.silos[0].api())
    mine = next(run for run in snap.runs if run.id == run_id)
    assert mine.carrier == carrier
    view = next(c for c in snap.federations[0].carriers if c.name == carrier)
    assert view.bytes_in > 0 and view.bytes_out > 0
    assert view.control == (snap.federations[0].carrier == carrier)
    offered = {c.name: c for c in house.server().call("Operator.Carriers", CarriersRequest()).carriers}
    assert carrier in offered
    if view.control:
        assert {link.silo for link in offered[carrier].links if link.phase == "up"} == set(SILOS)


def _answers_are_recorded_with_their_carrier(house: LocalFederation, run_id: str, carrier: str) -> None:
    api = house.silos[0].api()
    left = [m for m in api.call("Runs.Detail", ById(id=run_id)).left if m.kind == "ANSWER" and m.digest]
    assert {m.carrier for m in left} == {carrier}
    page = api.call("Audit.Page", AuditPageRequest(limit=500, action="message.left", run_id=run_id))
    entries = [json.loads(entry.detail_json) for entry in page.entries]
    recorded = {entry["digest"]: entry["carrier"] for entry in entries if entry["kind"] == "ANSWER"}
    assert all(recorded[m.digest] == carrier for m in left)
    control = snapshot(api).federations[0].carrier
    assert {entry["carrier"] for entry in entries if entry["kind"] == "DECISION"} == {control}
    assert api.call("Audit.Verify", Empty()).whole


# disturbances over a broker


@pytest.fixture(scope="module")
def by_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("broker"), SILOS, carrier="mqtt")) as house:
        yield house


def _kill_server(house: LocalFederation) -> None:
    kill(server_process(house))
    house.start_server()


def _kill_daemon(house: LocalFederation) -> None:
    kill(daemon_process(house))
    house.silos[0].start()


def _kill_broker(house: LocalFederation) -> None:
    broker = psutil.Process(house.parts.broker_pid())
    broker.kill()
    psutil.wait_procs([broker], 10)
    house.parts.start(lambda: 0)


@pytest.mark.parametrize("disturb", [_kill_server, _kill_daemon, _kill_broker])
def test_a_kill_in_the_middle_of_a_run_by_broker_changes_no_bit(
    by_broker: LocalFederation, simulated: str, disturb: Callable[[LocalFederation], None]
) -> None:
    run_id = by_broker.start_run(by_broker.submit(heart_job()), SETTINGS)
    for run in by_broker.watch(run_id):
        if run.history:
            break
    disturb(by_broker)
    after = finish(by_broker, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == simulated
    assert [row.round for row in after.history] == list(range(1, ROUNDS + 1))


# a site without a route to the server


def test_a_silo_that_reaches_only_the_broker_enrols_by_file_and_trains(tmp_path: Path, simulated: str) -> None:
    with running(make_federation(tmp_path, SILOS, carrier="mqtt", route=False)) as house:
        run = finish(house, house.start_run(house.submit(heart_job()), SETTINGS))
        assert run.state == "completed", f"{run.code} {run.reason}"
        assert run.model.digest == simulated
        federation = snapshot(house.silos[0].api()).federations[0]
        assert federation.server.startswith(f"{NOWHERE}:") and federation.link == "up" and federation.carrier == "mqtt"
        grpc = next(c for c in federation.carriers if c.name == "grpc")
        assert grpc.link == "idle" and not grpc.in_use and not grpc.bytes_out
        assert _no_connection_of(daemon_process(house), int(federation.server.rpartition(":")[2]))


def _no_connection_of(process: psutil.Process, port: int) -> bool:
    return all(not c.raddr or c.raddr.port != port for c in process.net_connections("tcp"))


def test_secrets_are_in_no_argument_list_and_in_no_log(by_broker: LocalFederation) -> None:
    passwords = json.loads((by_broker.parts.root / "parts.json").read_text())["passwords"].values()
    lines = [" ".join(_command(process)) for process in psutil.process_iter()]
    logs = [path.read_text(errors="replace") for path in by_broker.root.rglob("*.log")]
    toml = by_broker.home.config.read_text()
    assert logs and toml
    for password in passwords:
        assert not any(password in text for text in (*lines, *logs, toml))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
