"""Runs in the site's Slurm, from the profile over the approval to the cancelled allocation, with a real daemon."""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_process import fails
from tests.daemon.test_daemon_runs import write_model
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


async def gone(cluster: Cluster, seconds: float = 20.0) -> None:
    """Wait until nothing of ours is in the queue."""
    async with asyncio.timeout(seconds):
        while await asyncio.to_thread(queued, cluster):  # noqa: ASYNC110  (a queue tells nothing by itself)
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
        await gone(cluster)
        await silo.call("Slurm.Remove", pb.ById(id=made.id, request_id=new_id()))
        assert not (await silo.snapshot()).slurm_profiles


def octopus_in(silo: SiloProcess, *words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "octopus_desktop.cli.main", *words]
    environment = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return found.returncode, found.stdout + found.stderr
