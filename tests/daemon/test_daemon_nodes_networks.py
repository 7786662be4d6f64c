"""A further machine in a network of its own, a namespace behind a virtual cable: it joins, trains, loses the cable."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import scripted_federation, write_job
from tests.daemon.test_daemon_nodes import free_port, in_state, silo_with
from tests.daemon.test_daemon_runs import write_model


def ip(*words: str) -> bool:
    return subprocess.run(["ip", *words], capture_output=True).returncode == 0


@contextmanager
def other_network() -> Iterator[tuple[str, str, str]]:
    """(namespace, our end of the cable, our address). Skips where namespaces of the network cannot be made."""
    name, place = f"octo{os.getpid()}", os.getpid() % 250
    ours, theirs = f"oa{os.getpid()}", f"ob{os.getpid()}"
    if not shutil.which("ip") or os.getuid() != 0 or not ip("netns", "add", name):
        pytest.skip("namespaces of the network need iproute2 and root")
    try:
        made = (
            ip("link", "add", ours, "type", "veth", "peer", "name", theirs)
            and ip("link", "set", theirs, "netns", name)
            and ip("addr", "add", f"10.77.{place}.1/30", "dev", ours)
            and ip("link", "set", ours, "up")
            and ip("-n", name, "addr", "add", f"10.77.{place}.2/30", "dev", theirs)
            and ip("-n", name, "link", "set", theirs, "up")
            and ip("-n", name, "link", "set", "lo", "up")
        )
        if not made:
            pytest.skip("virtual cables between namespaces cannot be made here")
        yield name, ours, f"10.77.{place}.1"
    finally:
        ip("link", "del", ours)
        ip("netns", "del", name)


async def test_a_machine_in_another_network_joins_and_trains(tmp_path: Path) -> None:
    with other_network() as (namespace, cable, address):
        async with (
            scripted_federation(tmp_path / "fed") as federation,
            silo_with(tmp_path, "further") as (silo, [further]),
        ):
            further.enter = ("ip", "netns", "exec", namespace)
            await silo.set_up(federation, data=tmp_path / "patients.csv")
            port = free_port()
            reply = await silo.call("Nodes.Invite", pb.InviteNodeRequest(name="gpu-2", listen=f"{address}:{port}"))
            joined = await further.joins(reply.code)
            assert joined["address"] == f"{address}:{port}"
            await silo.call("Nodes.Accept", pb.ById(id=joined["node_id"]))
            await further.runs()
            await in_state(silo, "gpu-2", "ready")
            local = next(n for n in (await silo.snapshot()).nodes if n.local)
            config = {"resources": {"workers": 3}}
            run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")), rounds=3, config=config)
            offer = await silo.offer(run_id, "offered")
            await silo.decide(offer, limits={"nodes": (local.id, joined["node_id"])})

            async def round_(number: int) -> Any:
                federation.task("north", run_id, number, write_model(tmp_path / f"m{number}", float(number)))
                answers = await federation.until(lambda: len(a := federation.answers(run_id)) == number and a, 60)
                assert answers[-1][1].error == ""
                return answers[-1][1]

            assert (await round_(1)).examples == 30, "three workers, in two networks"
            if not os.environ.get("OCTOPUS_BIG_TESTS"):
                return
            assert ip("link", "set", cable, "down")  # nobody closes a connection: silence is all there is
            assert (await round_(2)).examples == 20, "the round goes on without the machine that is not heard"
            assert ip("link", "set", cable, "up")
            await in_state(silo, "gpu-2", "ready")
            assert (await round_(3)).examples == 30
