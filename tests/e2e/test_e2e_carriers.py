"""The promise: the same job, seeds and silos give the bit-identical model over every carrier, and in simulation.

Real processes throughout: server, daemons, mosquitto with TLS, users and ACL, SeaweedFS, PyTorch RPC's endpoints in
their sandbox, an MPI world.
"""

from __future__ import annotations

import json
import os
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
KILLED = ("mqtt", "mqtt_s3", "torch_rpc", "mpi") if os.environ.get("OCTOPUS_BIG_TESTS") else ("mqtt",)
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
        if house.parts.has_broker:
            _secrets_are_in_no_argument_list_and_in_no_log(house)


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


def _secrets_are_in_no_argument_list_and_in_no_log(house: LocalFederation) -> None:
    passwords = json.loads((house.parts.root / "parts.json").read_text())["passwords"].values()
    lines = [" ".join(_command(process)) for process in psutil.process_iter()]
    logs = [path.read_text(errors="replace") for path in house.root.rglob("*.log")]
    toml = house.home.config.read_text()
    assert logs and toml
    for password in passwords:
        assert not any(password in text for text in (*lines, *logs, toml))


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# disturbances


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


@pytest.mark.parametrize("carrier", KILLED)
def test_kills_in_the_middle_of_a_run_change_no_bit(tmp_path: Path, simulated: str, carrier: str) -> None:
    disturbances = [_kill_server, _kill_daemon]
    with running(make_federation(tmp_path, SILOS, carrier=carrier)) as house:
        disturbances += [_kill_broker] if house.parts.has_broker else []
        run_id = house.start_run(house.submit(heart_job()), SETTINGS)
        for round_, disturb in enumerate(disturbances, 1):
            for run in house.watch(run_id):
                if len(run.history) >= round_:
                    break
            disturb(house)
        after = finish(house, run_id)
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
