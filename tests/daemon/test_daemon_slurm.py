"""Runs in the site's Slurm, from the profile over the approval to the cancelled allocation, with a real daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.system import slurm
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_process import fails
from tests.daemon.test_daemon_runs import approved, runner_of, write_model
from tests.slurm_cluster import Cluster, slurm_cluster


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as one:
        yield one


async def profile(silo: SiloProcess, name: str = "main", **fields: Any) -> pb.SlurmProfile:
    values: dict[str, Any] = {"nodes": 1, "cpus_per_task": 1, "mem": "1500M", "time": "10", "alone_s": 10, **fields}
    return await silo.call("Slurm.Put", pb.SlurmProfile(name=name, request_id=new_id(), **values))


def queued(cluster: Cluster) -> list[str]:
    """What of ours is in the queue."""
    return [job for job, (name, _) in cluster.jobs().items() if name.startswith("octopus-")]


async def until(condition: Callable[[], Any], seconds: float = 30.0) -> None:
    """Of a queue, which tells nothing by itself."""
    async with asyncio.timeout(seconds):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_an_approval_names_a_profile_and_the_run_trains_in_its_allocation(
    tmp_path: Path, cluster: Cluster
) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        made = await profile(silo, partition="main")
        assert made.state == "ok" and "It could start at" in made.said and "nodes: 2, each with 2 CPUs" in made.said
        assert "reach this machine at 127.0.0.1" in made.said
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")))
        offer = await silo.offer(run_id, "offered")
        await silo.decide(offer, limits={"slurm": made.id})
        assert await fails(silo, "Slurm.Remove", pb.ById(id=made.id)) == "OCT-RUN-STATE"
        await silo.run(run_id, "preparing")
        assert cluster.jobs() == {}, "nothing is asked for before there is a task"

        blocker = cluster.block()
        federation.task("north", run_id, 1, write_model(tmp_path / "m.safetensors", 1.0))
        waiting = await silo.until(lambda s: next((r for r in s.runs if "waits for resources" in r.queue), None))
        assert waiting.state == "preparing" and "1st in the queue" in waiting.queue
        cluster.ask("scancel", blocker)
        await silo.until(lambda s: [r for r in s.runs if " runs on n" in r.queue])
        answers = await federation.until(lambda: federation.answers(run_id), 60)
        answer = answers[0][1]
        assert (answer.error, answer.examples) == ("", 10)
        update = federation.blobs().path(answer.update.digest)
        assert struct.unpack("<f", update.read_bytes()[-4:]) == (2.0,)
        status, out = await asyncio.to_thread(octopus_in, silo, "runs", "show", "last")
        assert status == 0 and "runs on n" in out

        await silo.call("Runs.Stop", pb.StopLocalRequest(id=run_id, reason="enough", request_id=new_id()))
        stopped = await silo.run(run_id, "stopped")
        assert stopped.queue == ""
        await until(lambda: not queued(cluster))
        await silo.call("Slurm.Remove", pb.ById(id=made.id, request_id=new_id()))
        assert not (await silo.snapshot()).slurm_profiles


def octopus_in(silo: SiloProcess, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "octopus_desktop.cli.main", *words]
    environment = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return found.returncode, found.stdout + found.stderr


async def test_a_killed_runner_and_a_killed_daemon_go_on_in_the_same_allocation_and_an_ended_daemon_leaves_none(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")  # the trainer waits for a file outside of what it may see
    gate = tmp_path / "gate"
    gate.touch()
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        made = await profile(silo, alone_s=60)
        run_id = await approved(silo, federation, tmp_path, wait_for_removal=str(gate), slurm=made.id)
        federation.task("north", run_id, 1, write_model(tmp_path / "m"))
        await silo.run(run_id, "training")
        [job] = queued(cluster)

        os.kill(runner_of(silo).pid, signal.SIGKILL)
        await silo.until(lambda s: [r for r in s.runs if "signal 9" in r.reason])
        await silo.run(run_id, "training")
        assert queued(cluster) == [job]

        await silo.kill()
        assert queued(cluster) == [job], "its part waits for a while"
        mark = cluster.jobs()[job][0].removesuffix(run_id)
        words = ("--parsable", f"--job-name={mark}r-that-is-over", "--mem=100M", "--output=/dev/null")
        left = cluster.ask("sbatch", *words, "--wrap=sleep 600").strip()
        assert left in queued(cluster)
        await silo.start()
        await until(lambda: left not in queued(cluster))
        await silo.run(run_id, "training")
        gate.unlink()
        answers = await federation.until(lambda: federation.answers(run_id), 60)
        assert answers[0][1].error == "" and queued(cluster) == [job]

        os.kill(silo.pid, signal.SIGTERM)
        await until(lambda: not queued(cluster))


async def test_what_slurm_says_against_a_profile_or_an_approval_is_told(tmp_path: Path, cluster: Cluster) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        for fields, code in (
            ({"name": "a b"}, "OCT-CONFIG-INVALID"),
            ({"partition": "main; rm -rf /"}, "OCT-CONFIG-INVALID"),
            ({"mem": "much"}, "OCT-CONFIG-INVALID"),
            ({"time": "$(id)"}, "OCT-CONFIG-INVALID"),
            ({"extra": ["--wrap=id"]}, "OCT-CONFIG-INVALID"),
            ({"alone_s": 1}, "OCT-CONFIG-INVALID"),
            ({"address": "no.such.host.invalid"}, "OCT-CONFIG-INVALID"),
            ({"partition": "nowhere"}, "OCT-SLURM-PARTITION"),
            ({"partition": "physics"}, "OCT-SLURM-ACCOUNT"),
            ({"time": "2:00:00"}, "OCT-SLURM-LIMIT"),
            ({"nodes": 9}, "OCT-SLURM-LIMIT"),
            ({"gpus_per_node": 1}, "OCT-SLURM-LIMIT"),
        ):
            with pytest.raises(UserError) as caught:
                await profile(silo, **{"name": "one", **fields})  # type: ignore[arg-type]
            assert caught.value.code == code, (fields, caught.value)
        made = await profile(silo, extra=["--exclusive", "--nice=10"])
        assert (await profile(silo, time="5")).id == made.id, "the same name is the same profile"
        assert await fails(silo, "Slurm.Check", pb.ById(id="q-none")) == "OCT-SLURM-UNKNOWN"

        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")))
        offer = await silo.offer(run_id, "offered")
        local = (await silo.snapshot()).nodes[0]
        for limits, code in (
            ({"slurm": "q-none"}, "OCT-SLURM-UNKNOWN"),
            ({"slurm": made.id, "nodes": (local.id,)}, "OCT-APPROVAL-CONDITIONS"),
        ):
            with pytest.raises(UserError) as caught:
                await silo.decide(offer, limits=limits)
            assert caught.value.code == code
        cluster.stop_controller()
        try:
            checked = await silo.call("Slurm.Check", pb.ById(id=made.id, request_id=new_id()))
            assert (checked.state, checked.error_code) == ("away", "OCT-SLURM-DOWN")
            with pytest.raises(UserError) as caught:
                await silo.decide(offer, limits={"slurm": made.id})
            assert caught.value.code == "OCT-SLURM-DOWN"
        finally:
            cluster.start_controller()
        assert (await silo.call("Slurm.Check", pb.ById(id=made.id, request_id=new_id()))).state == "ok"
        actions = [e.action for e in (await silo.call("Audit.Page", pb.AuditPageRequest(limit=50))).entries]
        assert actions.count("slurm.profile-added") == 2 and actions.count("slurm.profile-checked") == 2


async def test_the_command_line_registers_checks_and_removes_profiles(tmp_path: Path, cluster: Cluster) -> None:
    async with silo_process(tmp_path / "silo") as silo:
        await silo.call("Setup.Configure", silo.configuration())

        async def octopus(*words: str) -> tuple[int, str]:
            return await asyncio.to_thread(octopus_in, silo, "node", "slurm", *words)

        options = ("--partition", "main", "--nodes", "2", "--time", "10", "--extra", "--exclusive --nice 5")
        status, out = await octopus("add", "both", *options)
        assert status == 0 and "both: ok. It could start at" in out and "--exclusive --nice=5" in out, out
        status, out = await octopus("add", "both", "--extra", "--output /etc/passwd")
        assert status == 1 and "OCT-CONFIG-INVALID" in out
        status, out = await octopus("list")
        assert status == 0 and "both" in out and "main" in out
        assert (await octopus("check", "both"))[0] == 0
        assert (await octopus("remove", "both"))[0] == 0
        assert not (await silo.snapshot()).slurm_profiles


async def test_without_slurms_commands_it_is_said_which_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for work in (slurm.try_out(slurm.Profile(name="one")), slurm.look("1"), slurm.controller()):
        with pytest.raises(UserError) as caught:
            await work
        assert caught.value.code == "OCT-SLURM-MISSING" and "sbatch" in caught.value.why
