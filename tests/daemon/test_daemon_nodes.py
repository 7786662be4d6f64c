"""Further machines of a silo, as real processes: a daemon, agents that join, are accepted, drained, killed, removed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest

from octopus_desktop import __version__
from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.communication.grpc_wire import client_channel, to_user_error
from octopus_desktop.daemon.services.spread import split
from octopus_desktop.identity import invitations
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.secrets import open_store
from octopus_desktop.nodes import PROTOCOL, SERVICE
from octopus_desktop.nodes.agent import Agent
from octopus_desktop.nodes.join import Place, credentials, join
from octopus_desktop.nodes.shares import check_data
from octopus_desktop.storage.content import content_digest
from octopus_desktop.system.paths import NodeHome
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
from octopus_desktop.wire.pb.federation_pb2 import GetRequest
from tests.daemon.scripted import scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_runs import write_model


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Machine:
    """A further machine: its home, and the agent that runs there."""

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.home = NodeHome(root=root / "node")
        self.passphrase = root / "passphrase"
        with os.fdopen(os.open(self.passphrase, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
            file.write("battery staple")
        self.environment = {
            **os.environ, "OCTOPUS_PASSPHRASE_FILE": str(self.passphrase), "OCTOPUS_NODE_HOME": str(self.home.root)
        }  # fmt: skip
        self.log = root / "agent.log"
        self.enter: tuple[str, ...] = ()  # words before each command: into another network
        self.process: asyncio.subprocess.Process | None = None

    async def octopus(self, *words: str, stdin: str = "") -> tuple[int, str]:
        process = await asyncio.create_subprocess_exec(
            *self.enter, sys.executable, "-m", "octopus_desktop.cli.main", "--json", "node", *words,
            env=self.environment, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode()

    async def joins(self, code: str) -> dict[str, Any]:
        status, out = await self.octopus("join", "-", stdin=code + "\n")
        assert status == 0, out
        return json.loads(out)

    async def refused(self, code: str) -> str:
        status, out = await self.octopus("join", code)
        assert status == 1
        return str(json.loads(out)["error"]["code"])

    async def runs(self) -> asyncio.subprocess.Process:
        with open(self.log, "ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.enter, sys.executable, "-m", "octopus_desktop.nodes.agent", "--home", str(self.home.root),
                env=self.environment, stdout=log, stderr=log,
            )  # fmt: skip
        return self.process

    @property
    def store(self) -> Any:
        return open_store(self.home.secrets, passphrase="battery staple")


@asynccontextmanager
async def silo_with(root: Path, *names: str) -> AsyncIterator[tuple[SiloProcess, list[Machine]]]:
    """A silo with a local node, and machines that have not joined yet; their agents are gone at the end."""
    machines = [Machine(root / name) for name in names]
    async with silo_process(root / "silo") as silo:
        await silo.set_up()
        try:
            yield silo, machines
        finally:
            for machine in machines:
                if machine.process and machine.process.returncode is None:
                    machine.process.kill()
                    await machine.process.wait()


async def invite(silo: SiloProcess, name: str, port: int = 0, **fields: Any) -> str:
    listen = f"127.0.0.1:{port}" if port else ""
    reply = await silo.call("Nodes.Invite", pb.InviteNodeRequest(name=name, listen=listen, **fields))
    return str(reply.code)


async def in_state(silo: SiloProcess, name: str, *states: str) -> pb.Node:
    return await silo.until(lambda s: next((n for n in s.nodes if n.name == name and n.state in states), None))


async def actions(silo: SiloProcess) -> list[str]:
    page = await silo.call("Audit.Page", pb.AuditPageRequest(limit=50, action="node."))
    return [entry.action for entry in reversed(page.entries)]


async def fails(silo: SiloProcess, method: str, request: Any) -> str:
    with pytest.raises(UserError) as error:
        await silo.call(method, request)
    assert error.value.what and error.value.next_step
    return error.value.code


async def test_a_machine_joins_is_accepted_drained_killed_and_removed(tmp_path: Path) -> None:
    port = free_port()
    async with silo_with(tmp_path, "further") as (silo, [further]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0, "nothing listens before the first node is invited"
        code = await invite(silo, "gpu-2", port)
        joined = await further.joins(code)
        asking = await in_state(silo, "gpu-2", "asking")
        assert asking.fingerprint == joined["fingerprint"] and asking.cpu_count == os.cpu_count()
        assert not asking.local and asking.version == __version__ and not asking.fault
        assert code not in further.home.place.read_text()

        await further.runs()
        await silo.call("Nodes.Accept", pb.ById(id=asking.id, request_id=new_id()))
        ready = await in_state(silo, "gpu-2", "ready")
        seen = ready.seen_at
        told = await silo.until(lambda s: next((n for n in s.nodes if n.id == ready.id and n.seen_at > seen), None))
        assert told.ram_total and told.disk_free and told.python and told.torch

        assert (await silo.call("Nodes.Drain", pb.DrainRequest(id=ready.id, drain=True))).state == "drained"
        assert (await silo.call("Nodes.Drain", pb.DrainRequest(id=ready.id, drain=False))).state == "ready"
        assert further.process
        further.process.kill()
        await in_state(silo, "gpu-2", "offline")

        agent = await further.runs()
        await in_state(silo, "gpu-2", "ready")
        await silo.call("Nodes.Remove", pb.ById(id=ready.id, request_id=new_id()))
        async with asyncio.timeout(10):
            assert await agent.wait() == 1, "a removed node's agent ends"
        assert "OCT-CERT-REVOKED" in further.log.read_text()
        assert [n.local for n in (await silo.snapshot()).nodes] == [True]
        agent = await further.runs()  # the key it still has opens nothing
        async with asyncio.timeout(20):
            assert await agent.wait() == 1
        assert await actions(silo) == [
            "node.registered", "node.invited", "node.joined", "node.accepted", "node.drained", "node.undrained",
            "node.removed",
        ]  # fmt: skip
        assert (await silo.call("Audit.Verify")).whole


async def test_codes_that_are_wrong_used_expired_or_for_something_else(tmp_path: Path) -> None:
    async with silo_with(tmp_path, "one", "two") as (silo, [one, two]):
        port = free_port()
        code = await invite(silo, "one", port)
        assert await two.refused("") == "OCT-ENROL-INVALID"
        assert await two.refused(code[:-9]) == "OCT-ENROL-INVALID"
        assert await two.refused(code[:99] + ("A" if code[99] != "A" else "B") + code[100:]) == "OCT-ENROL-INVALID"
        silo_code = invitations.encode(Authority.create("elsewhere").invite(f"127.0.0.1:{port}"))
        assert await two.refused(silo_code) == "OCT-ENROL-INVALID"
        foreign = invitations.encode(Authority.create("elsewhere", ("node",)).invite(f"127.0.0.1:{port}", "node"))
        assert await two.refused(foreign) in ("OCT-LINK-TLS", "OCT-LINK-DOWN")
        assert await fails(silo, "Federations.Inspect", pb.InspectRequest(text=code)) == "OCT-ENROL-INVALID"

        joined = await one.joins(code)
        assert await two.refused(code) == "OCT-ENROL-USED"
        assert await one.refused(code) == "OCT-STATE-EXISTS"
        one.home.place.unlink()  # its answer was lost: the same key may ask again
        assert (await one.joins(code))["node_id"] == joined["node_id"]

        short = await invite(silo, "two", valid_s=0.001)
        assert await two.refused(short) == "OCT-ENROL-EXPIRED"
        assert [a for a in await actions(silo) if a == "node.refused"] == ["node.refused"] * 2

        for request, expected in (
            (pb.InviteNodeRequest(name="one"), "OCT-ENROL-NAME"),
            (pb.InviteNodeRequest(name="  "), "OCT-ENROL-NAME"),
            (pb.InviteNodeRequest(name="x", listen="nowhere"), "OCT-CONFIG-INVALID"),
            (pb.InviteNodeRequest(name="x", listen=f"0.0.0.0:{port}"), "OCT-CONFIG-INVALID"),
            (pb.InviteNodeRequest(name="x", listen=f"192.0.2.1:{port}"), "OCT-CONFIG-INVALID"),
        ):
            assert await fails(silo, "Nodes.Invite", request) == expected
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            request = pb.InviteNodeRequest(name="x", listen=f"127.0.0.1:{taken.getsockname()[1]}")
            assert await fails(silo, "Nodes.Invite", request) == "OCT-PORT-USED"
        await one.runs()  # the port that was there is there again
        await silo.call("Nodes.Accept", pb.ById(id=joined["node_id"]))
        await in_state(silo, "one", "ready")

        local = next(n for n in (await silo.snapshot()).nodes if n.local)
        assert await fails(silo, "Nodes.Remove", pb.ById(id=local.id)) == "OCT-NODE-LOCAL"
        assert await fails(silo, "Nodes.Accept", pb.ById(id="nobody")) == "OCT-NODE-UNKNOWN"


async def test_open_codes_are_listed_and_withdrawn(tmp_path: Path) -> None:
    async with silo_with(tmp_path, "one", "two") as (silo, [one, two]):
        kept, lost = await invite(silo, "one", free_port()), await invite(silo, "two")
        await invite(silo, "three", valid_s=0.001)
        codes = (await silo.call("Nodes.Codes", pb.Empty())).codes
        assert [c.name for c in codes] == ["one", "two"], "neither those that have expired"
        assert all(c.made_at < c.expires_at for c in codes)
        await silo.call("Nodes.Withdraw", pb.ById(id=codes[1].id, request_id=new_id()))
        assert await two.refused(lost) == "OCT-ENROL-UNKNOWN"
        await invite(silo, "two")  # the name is free again
        await one.joins(kept)
        assert [c.name for c in (await silo.call("Nodes.Codes", pb.Empty())).codes] == ["two"], "nor those in use"
        assert await fails(silo, "Nodes.Withdraw", pb.ById(id=codes[0].id)) == "OCT-ENROL-USED"
        assert await fails(silo, "Nodes.Withdraw", pb.ById(id=codes[1].id)) == "OCT-ENROL-UNKNOWN"
        assert "node.code_withdrawn" in await actions(silo)
        home = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}
        listed = await asyncio.to_thread(octopus, "node", "codes", environment=home)
        assert [c["name"] for c in json.loads(listed.stdout)["codes"]] == ["two"]
        await asyncio.to_thread(octopus, "node", "withdraw", "two", environment=home)
        assert not (await silo.call("Nodes.Codes", pb.Empty())).codes


async def test_a_node_comes_back_by_itself_after_the_daemon_was_killed(tmp_path: Path) -> None:
    async with silo_with(tmp_path, "further") as (silo, [further]):
        joined = await further.joins(await invite(silo, "gpu-2", free_port()))
        await silo.call("Nodes.Accept", pb.ById(id=joined["node_id"]))
        await silo.call("Nodes.Drain", pb.DrainRequest(id=joined["node_id"], drain=True))
        await further.runs()
        await in_state(silo, "gpu-2", "drained")
        await silo.kill()
        await silo.start()
        assert (await in_state(silo, "gpu-2", "drained")).id == joined["node_id"]
        await silo.call("Nodes.Drain", pb.DrainRequest(id=joined["node_id"], drain=False))
        await in_state(silo, "gpu-2", "ready")


async def test_agents_of_another_version(tmp_path: Path) -> None:
    async with silo_with(tmp_path, "further") as (silo, [further]):
        store = further.store
        place = await join(further.home, store, await invite(silo, "gpu-2", free_port()))
        await silo.call("Nodes.Accept", pb.ById(id=place.node_id))
        assert Place.read(further.home) == place
        shown = credentials(place, store)
        async with _running(Agent(further.home, place, shown, version="0.0.1")):
            other = await in_state(silo, "gpu-2", "ready")
            assert "0.0.1" in other.fault and __version__ in other.fault
        await in_state(silo, "gpu-2", "offline")
        async with _running(Agent(further.home, place, shown, protocol=PROTOCOL + 1)):
            newer = await silo.until(lambda s: next((n for n in s.nodes if "protocol" in n.fault), None))
            assert newer.state == "offline"
        async with _running(Agent(further.home, place, shown)):
            assert not (await in_state(silo, "gpu-2", "ready")).fault


async def test_an_agent_without_a_place_and_a_second_one_say_so(tmp_path: Path) -> None:
    async with silo_with(tmp_path, "further") as (silo, [further]):
        further.environment["XDG_CONFIG_HOME"] = str(tmp_path / "config")
        status, out = await further.octopus("install")
        assert status == 1 and "OCT-STATE-MISSING" in out
        agent = await further.runs()
        assert await agent.wait() == 1 and "OCT-STATE-MISSING" in further.log.read_text()
        await further.joins(await invite(silo, "gpu-2", free_port()))
        first = await further.runs()
        joined = await in_state(silo, "gpu-2", "asking")
        await silo.until(lambda s: [n for n in s.nodes if n.state == "asking" and n.seen_at > joined.seen_at])
        second = await further.runs()
        assert await second.wait() == 1 and "OCT-STATE-LOCKED" in further.log.read_text()
        first.terminate()
        assert await first.wait() == 0
        status, out = await further.octopus("install")
        [unit] = (tmp_path / "config").rglob("octopus-node.service")
        assert status == 0 and f'-m octopus_desktop.nodes.agent --home "{further.home.root}"' in unit.read_text()


async def test_a_run_spans_the_nodes_that_its_approval_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")  # the trainer waits for a file outside of what it may see
    gate = tmp_path / "gate"
    async with scripted_federation(tmp_path / "fed") as federation, silo_with(tmp_path, "further") as (silo, [further]):
        silo_data = tmp_path / "patients.csv"
        await silo.set_up(federation, data=silo_data)
        joined = await further.joins(await invite(silo, "gpu-2", free_port()))
        await silo.call("Nodes.Accept", pb.ById(id=joined["node_id"]))
        agent = await further.runs()
        await in_state(silo, "gpu-2", "ready")
        local = next(n for n in (await silo.snapshot()).nodes if n.local)
        config = {"hyperparameters": {"wait_for_removal": str(gate)}, "resources": {"workers": 3}}
        job = federation.package(write_job(tmp_path / "job"))
        run_id = federation.offer("north", job, rounds=3, config=config)
        offer = await silo.offer(run_id, "offered")
        with pytest.raises(UserError) as error:
            await silo.decide(offer, limits={"nodes": (joined["node_id"],)})
        assert error.value.code == "OCT-NODE-FURTHER"
        await silo.decide(offer, limits={"nodes": (local.id, joined["node_id"])})
        federation.task("north", run_id, 1, write_model(tmp_path / "m1", 1.0))

        async def answered(round_: int) -> Any:
            answers = await federation.until(lambda: len(a := federation.answers(run_id)) == round_ and a, 60)
            assert answers[-1][1].error == ""
            return answers[-1][1]

        assert (await answered(1)).examples == 30, "three workers, on two machines"
        assert [r.workers for r in (await silo.snapshot()).runs] == [3]
        workers = _workers_of(agent.pid)
        assert workers

        gate.touch()  # the agent is killed in the middle of the second round, with what it started
        federation.task("north", run_id, 2, write_model(tmp_path / "m2", 2.0))
        await silo.run(run_id, "training")
        agent.kill()
        assert not psutil.wait_procs(workers, 10)[1], "no worker outlives its agent"
        await silo.until(lambda s: [n for n in s.nodes if n.name == "gpu-2" and n.state == "offline"])
        gate.unlink()
        assert (await answered(2)).examples == 20, "the round was begun again by the workers that are left"

        agent = await further.runs()
        await in_state(silo, "gpu-2", "ready")
        federation.task("north", run_id, 3, write_model(tmp_path / "m3", 3.0))
        assert (await answered(3)).examples == 30, "a machine that is back takes part again"
        shown, place = credentials(Place.read(further.home), further.store), Place.read(further.home)
        assert await _asks_for(place, shown, run_id, "0" * 64) == "OCT-BLOB-FORBIDDEN"
        foreign = await federation.until(lambda: federation.answers(run_id)[-1][1].update.digest)
        assert await _asks_for(place, shown, run_id, foreign) == "OCT-BLOB-FORBIDDEN", (
            "updates are none of its business"
        )
        assert await _asks_for(place, shown, "another", federation.blobs().adopt(write_model(tmp_path / "m4"))) == (
            "OCT-BLOB-FORBIDDEN"
        )
        workers = _workers_of(agent.pid)
        await silo.call("Nodes.Remove", pb.ById(id=joined["node_id"]))
        assert not psutil.wait_procs(workers, 10)[1], "a removed node's workers end"


def test_data_that_is_not_on_the_node_or_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "patients.csv"
    path.write_text("age,sick\n1,0\n")
    digest, size = content_digest(path, "csv")
    assert size == 13
    source = DataSource(alias="patients", path=str(path), kind="csv", digest=digest)
    check_data(source)
    path.write_text("age,sick\n2,0\n")
    with pytest.raises(UserError, match="OCT-DATA-CHANGED"):
        check_data(source)
    path.unlink()
    with pytest.raises(UserError, match="OCT-DATA-MISSING"):
        check_data(source)


def test_workers_are_split_by_cores_and_gpus() -> None:
    def node(name: str, cpus: int, gpus: int = 0) -> pb.Node:
        return pb.Node(id=name, name=name, cpu_count=cpus, gpus=[pb.Gpu(index=i) for i in range(gpus)])

    def parts(workers: int, devices: tuple[str, ...], wanted: int, *nodes: pb.Node) -> list[int]:
        own, further = split(workers, devices, wanted, nodes[0], nodes[1:])
        return [own, *(f.workers for f in further)]

    assert parts(1, (), 0, node("a", 2), node("b", 64)) == [1, 1], "one each where the job asks for nothing"
    assert parts(3, (), 3, node("a", 2), node("b", 2)) == [2, 1]
    assert parts(9, (), 9, node("a", 4), node("b", 32)) == [1, 8]
    assert parts(1, (), 1, node("a", 2), node("b", 2)) == [1], "no worker is left for the second"
    devices = ("cuda:0", "cuda:1")
    assert parts(2, devices, 2, node("a", 8, 2), node("b", 8, 1), node("c", 8)) == [2, 1]


async def _asks_for(place: Place, shown: Any, run_id: str, digest: str) -> str:
    """What the port answers to a node that asks for a blob; "" when it gives it."""
    channel = client_channel(place.address, shown)
    get = channel.unary_stream(f"/{SERVICE}/Get", request_serializer=GetRequest.SerializeToString)
    try:
        async for _ in get(GetRequest(blob=BlobRef(digest=digest, size=1), run_id=run_id)):
            pass
    except grpc.RpcError as error:
        return to_user_error(error, place.address).code
    finally:
        await channel.close(None)
    return ""


def _workers_of(pid: int) -> list[psutil.Process]:
    found = psutil.Process(pid).children(recursive=True)
    return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "training.worker" in " ".join(p.cmdline())]


@asynccontextmanager
async def _running(agent: Agent) -> AsyncIterator[None]:
    work = asyncio.create_task(agent.run())
    try:
        yield
    finally:
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work
