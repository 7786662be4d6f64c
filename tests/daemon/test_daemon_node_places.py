"""Data and environments of their own on further machines: said by the administrator, seen by the agent, used by runs;
and the certificates of nodes, which are renewed in time."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.secrets import open_store
from octopus_desktop.nodes.agent import Agent
from octopus_desktop.nodes.join import Place, credentials, join
from octopus_desktop.nodes.looks import look
from octopus_desktop.nodes.shares import environment
from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.paths import NodeHome, SiloHome
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import node_pb2 as npb
from tests.daemon.scripted import scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess
from tests.daemon.test_daemon_nodes import Machine, _running, fails, free_port, in_state, invite, silo_with
from tests.daemon.test_daemon_runs import write_model
from tests.daemon.test_daemon_runtimes import EXTRA_TRAINER, NEEDS, make_environment


async def ready(silo: SiloProcess, machine: Machine, name: str = "gpu-2") -> str:
    joined = await machine.joins(await invite(silo, name, free_port()))
    await silo.call("Nodes.Accept", pb.ById(id=joined["node_id"]))
    await machine.runs()
    await in_state(silo, name, "ready")
    return str(joined["node_id"])


async def command(silo: SiloProcess, *words: str) -> Any:
    home = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}
    return json.loads((await asyncio.to_thread(octopus, *words, environment=home)).stdout)


async def test_a_run_spans_nodes_each_with_its_own_path_and_environment(tmp_path: Path) -> None:
    here, there = make_environment(tmp_path / "here"), make_environment(tmp_path / "there")
    data, copy = tmp_path / "patients.csv", tmp_path / "copy" / "rows.csv"
    async with scripted_federation(tmp_path / "fed") as federation, silo_with(tmp_path, "further") as (silo, [further]):
        await silo.set_up(federation, data=data)
        node = await ready(silo, further)
        local = next(n for n in (await silo.snapshot()).nodes if n.local)
        copy.parent.mkdir()
        with pytest.raises(UserError) as caught:
            await command(silo, "dataset", "place", "patients", f"gpu-2={copy}")
        assert caught.value.code == "OCT-DATA-MISSING" and str(copy) in caught.value.why
        copy.write_text("age,sick\n1,0\n")
        dataset = (await silo.snapshot()).datasets[0]
        request = pb.PlaceRequest(id=dataset.id, node=node, path=str(copy))
        assert await fails(silo, "Datasets.Place", request) == "OCT-DATA-CHANGED"
        copy.write_bytes(data.read_bytes())
        placed = await command(silo, "dataset", "place", "patients", f"gpu-2={copy}")
        assert [(p["node"], p["path"], p["state"]) for p in placed["places"]] == [(node, str(copy), "ok")]

        job = write_job(tmp_path / "job", trainer=EXTRA_TRAINER, more=NEEDS, rounds=1)
        run_id = federation.offer("north", federation.package(job), rounds=1, config={"resources": {"workers": 2}})
        offer = await silo.offer(run_id, "offered")
        runtime = await command(silo, "runtime", "add", "extras", str(here))
        limits = {"nodes": (local.id, node), "runtime": runtime["id"]}
        with pytest.raises(UserError) as caught:
            await silo.decide(offer, limits=limits)
        assert caught.value.code == "OCT-NODE-FURTHER" and "octopus runtime place extras" in caught.value.why
        runtime = await command(silo, "runtime", "add", "extras", str(here), "--on", f"gpu-2={there}")
        assert runtime["places"][0]["packages"]["silo-extras"] == "1.5"
        again = await command(silo, "runtime", "add", "extras", str(here))
        assert again["id"] == limits["runtime"] and len(again["places"]) == 1, "what is on nodes stays"

        await silo.decide(offer, limits=limits)
        federation.task("north", run_id, 1, write_model(tmp_path / "m", 1.0))
        [(_, answer)] = await federation.until(lambda: federation.answers(run_id), 90)
        assert (answer.error, answer.examples) == ("", 20), "two workers, on two machines"
        update = federation.blobs().path(answer.update.digest)
        assert struct.unpack("<f", update.read_bytes()[-4:]) == (3.5,)
        spec = json.loads((further.home.root / "runs" / run_id / "runner.json").read_text())
        assert spec["python"] == str(there / "bin" / "python") and [d["path"] for d in spec["data"]] == [str(copy)]

        copy.write_text("age,sick\n1,0\n")
        assert (await command(silo, "dataset", "check", "patients"))["places"][0]["state"] == "changed"
        (there / "bin" / "python").unlink()
        (there / "bin" / "python3").unlink()
        checked = await command(silo, "runtime", "check", "extras")
        assert checked["places"][0]["state"] == "broken" and checked["state"] == "ok"
        await silo.call("Nodes.Remove", pb.ById(id=node))
        snap = await silo.snapshot()
        assert not snap.datasets[0].places and not snap.runtimes[0].places
        audit = await silo.call("Audit.Page", pb.AuditPageRequest(limit=200))
        assert {"dataset.placed", "runtime.placed"} <= {entry.action for entry in audit.entries}


async def test_an_approval_names_what_a_node_lacks(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_with(tmp_path, "further") as (silo, [further]):
        data = tmp_path / "patients.csv"
        await silo.set_up(federation, data=data)
        node = await ready(silo, further)
        [dataset] = (await silo.snapshot()).datasets
        local = next(n for n in (await silo.snapshot()).nodes if n.local)
        place = pb.PlaceRequest(id=dataset.id, node=local.id, path=str(data))
        assert await fails(silo, "Datasets.Place", place) == "OCT-NODE-LOCAL"
        place = pb.PlaceRequest(id=dataset.id, node=node, path="relative.csv")
        assert await fails(silo, "Datasets.Place", place) == "OCT-DATA-MISSING"
        with pytest.raises(UserError) as caught:
            await command(silo, "dataset", "place", "patients", "gpu-2")
        assert caught.value.code == "OCT-CLI-USAGE"
        copy = tmp_path / "copy.csv"
        copy.write_bytes(data.read_bytes())
        more = await command(silo, "dataset", "register", "others", str(data), "--on", f"gpu-2={copy}")
        assert [p["path"] for p in more["places"]] == [str(copy)]
        await command(silo, "runtime", "add", "mine", sys.executable)
        placed = await command(silo, "runtime", "place", "mine", f"gpu-2={sys.executable}")
        assert [p["state"] for p in placed["places"]] == ["ok"]
        await silo.call("Datasets.Place", pb.PlaceRequest(id=dataset.id, node=node, path=str(copy)))
        copy.unlink()
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")), rounds=1)
        offer = await silo.offer(run_id, "offered")
        with pytest.raises(UserError) as caught:
            await silo.decide(offer, limits={"nodes": (local.id, node)})
        assert caught.value.code == "OCT-NODE-FURTHER" and str(copy) in caught.value.why

        assert not (await silo.call("Datasets.Place", pb.PlaceRequest(id=dataset.id, node=node))).places
        assert further.process
        further.process.kill()
        await in_state(silo, "gpu-2", "offline")
        place = pb.PlaceRequest(id=dataset.id, node=node, path=str(data))
        assert await fails(silo, "Datasets.Place", place) == "OCT-NODE-FURTHER"
        await silo.decide(offer, limits={"nodes": (local.id, node)})  # who is away is asked when the run begins


async def test_what_an_agent_finds_wanting_in_an_environment(tmp_path: Path) -> None:
    answer = await look(npb.NodeAsk(id="a", path=str(tmp_path)))
    assert answer.fault.code == "OCT-RUNTIME-BROKEN" and "no Python at" in answer.fault.why
    own = await look(npb.NodeAsk(id="b"))
    assert own.place.packages["numpy"] and own.place.state == "ok"
    with pytest.raises(UserError, match="OCT-PACKAGE-MISSING"):
        environment("", ("nowhere-package",))
    with pytest.raises(UserError, match="OCT-RUNTIME-BROKEN"):
        environment(str(tmp_path / "python"), ())


async def test_a_node_renews_its_certificate_in_time_and_a_removed_one_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrase = tmp_path / "passphrase"
    with os.fdopen(os.open(passphrase, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("battery staple")
    monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(passphrase))
    place = SiloHome(root=tmp_path / "silo")
    place.root.mkdir(mode=0o700)
    silo = Silo(place, SiloDb(place.database))
    agents = Agents(silo, SiloKeys(place), valid_s=9.0)
    request = pb.InviteNodeRequest(name="gpu-2", listen=f"127.0.0.1:{free_port()}")
    code = (await agents.invite(request)).code
    home = NodeHome(root=tmp_path / "node")
    home.root.mkdir(mode=0o700)
    store = open_store(home.secrets, passphrase="battery staple")
    joined = await join(home, store, code)
    agents.accept(joined.node_id)
    agent = Agent(home, joined, credentials(joined, store))
    try:
        async with _running(agent), asyncio.timeout(30):
            await _said("The certificate was renewed")
        fresh = Place.read(home)
        assert fresh.certificate_pem != joined.certificate_pem and fresh.fingerprint == joined.fingerprint
        assert fresh.renew_in_s() > joined.renew_in_s()
        old, new = _peer(joined), _peer(fresh)
        assert agents.caller(new) == agents.caller(old) == joined.node_id, "the answer may have been lost"
        other = npb.NodeRenewRequest(csr_der=certificates.make_csr(certificates.new_key(), "node"))
        with pytest.raises(UserError, match="OCT-ENROL-CA"):
            agents.renew(new, other)
        agents.remove(joined.node_id)
        for peer in (old, new):
            with pytest.raises(UserError, match="OCT-CERT-REVOKED"):
                agents.caller(peer)
    finally:
        await agents.stop()


def test_a_node_whose_certificate_has_ended_says_what_to_do() -> None:
    authority = Authority.create("North Hospital", ("node",))
    csr = certificates.make_csr(certificates.new_key(), "node")
    pem = certificates.to_pem(authority.issue(csr, "n1", "node", -5.0)).decode()
    place = Place(
        address="127.0.0.1:1", node_id="n1", name="gpu-2", silo="North", ca_pem="", certificate_pem=pem, fingerprint=""
    )
    with pytest.raises(UserError) as caught:
        place.check_current()
    assert caught.value.code == "OCT-CERT-EXPIRED" and "join anew" in caught.value.next_step


async def _said(words: str) -> None:
    """Until the agent's log has it."""
    loop, heard = asyncio.get_running_loop(), asyncio.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                loop.call_soon_threadsafe(heard.set)

    ear, log = Ear(), logging.getLogger("octopus.node")
    before = log.level
    log.addHandler(ear)
    log.setLevel(logging.INFO)
    try:
        await heard.wait()
    finally:
        log.removeHandler(ear)
        log.setLevel(before)


def _peer(place: Place) -> certificates.Peer:
    return certificates.read_peer(certificates.to_der(certificates.load(place.certificate_pem.encode())))
