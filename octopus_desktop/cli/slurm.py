"""``octopus node slurm …``: parts of the site's cluster, asked for through its Slurm."""

from __future__ import annotations

from typing import Any

import click

from octopus_desktop.cli.common import (
    daemon_api,
    emit,
    facts,
    find,
    json_option,
    request_id,
    say,
    short,
    snapshot,
    table,
    when,
)


@click.group("slurm")
def cli() -> None:
    """The site's Slurm as a place for runs: profiles of what is asked of it. An approval names one.

    One allocation serves a whole run, and waits in the queue once. The home of Octopus Desktop, its Python environments
    and the data must lie on a file system that the compute nodes share, and the nodes must reach this machine.
    """


@cli.command("list")
@json_option
def list_() -> None:
    """The registered profiles, and what Slurm said of each last."""
    profiles = sorted(snapshot(daemon_api()).slurm_profiles, key=lambda p: p.name)

    def show() -> None:
        table(
            "",
            ["name", "state", "partition", "account", "nodes", "GPUs", "time", "checked", "id"],
            [
                (p.name, p.state, p.partition or "default", p.account or "default", p.nodes, p.gpus_per_node,
                 p.time or "the site's", when(p.checked_at), short(p.id))
                for p in profiles
            ],
            right=["nodes", "GPUs"],
        )  # fmt: skip
        for profile in profiles:
            if profile.error:
                say(f"{profile.name}: {profile.error} [{profile.error_code}]")

    emit(profiles, show)


@cli.command("add")
@click.argument("name")
@click.option("--partition", default="", help="Of the cluster; the site's default unless told.")
@click.option("--account", default="", help="On which the time is booked.")
@click.option("--qos", default="", help="Quality of service, where the site has such.")
@click.option("--nodes", type=click.IntRange(1), default=1, show_default=True)
@click.option("--gpus-per-node", type=click.IntRange(0), default=0, show_default=True, help="One worker for each.")
@click.option("--cpus-per-task", type=click.IntRange(0), default=0, help="Cores of each node; 0: a worker's threads.")
@click.option("--mem", default="", metavar="SIZE", help="Memory of each node: 64G.")
@click.option("--time", "time_", default="", metavar="LIMIT", help="The allocation's longest life: 90, 12:00:00, 2-0.")
@click.option("--extra", default="", metavar="OPTIONS", help="Further options of sbatch: '--gres=gpu:a100:2'.")
@click.option("--address", default="", metavar="HOST", help="How compute nodes reach this machine, where needed.")
@click.option("--alone", type=click.IntRange(10, 3600), default=300, show_default=True, metavar="SECONDS",
              help="An allocation that has not reached this machine for so long ends itself.")  # fmt: skip
@json_option
def add(
    name: str, partition: str, account: str, qos: str, nodes: int, gpus_per_node: int, cpus_per_task: int, mem: str,
    time_: str, extra: str, address: str, alone: int,
) -> None:  # fmt: skip
    """Register a profile, or another one under the same NAME. It is tried out first; nothing is run."""
    from octopus_desktop.system.slurm import split_extra
    from octopus_desktop.wire.pb.local_pb2 import SlurmProfile

    profile = SlurmProfile(
        name=name, partition=partition, account=account, qos=qos, nodes=nodes, gpus_per_node=gpus_per_node,
        cpus_per_task=cpus_per_task, mem=mem, time=time_, extra=split_extra(extra), address=address, alone_s=alone,
        request_id=request_id(),
    )  # fmt: skip
    _show(daemon_api().call("Slurm.Put", profile))


@cli.command("check")
@click.argument("profile")
@json_option
def check(profile: str) -> None:
    """Ask Slurm whether it would take such an allocation, and when. Nothing is run."""
    _show(_call("Slurm.Check", profile))


@cli.command("remove")
@click.argument("profile")
@json_option
def remove(profile: str) -> None:
    """Take a profile out of the list."""
    ack = _call("Slurm.Remove", profile)
    emit(ack, lambda: say(f"{profile} is removed."))


def _call(method: str, wanted: str) -> Any:
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).slurm_profiles, wanted, "Slurm profile", "name")
    return api.call(method, ById(id=one.id, request_id=request_id()))


def _show(profile: Any) -> None:
    said = f" {profile.error} [{profile.error_code}]" if profile.error else f" {profile.said}"
    asked = {
        "partition": profile.partition, "account": profile.account, "QOS": profile.qos, "nodes": profile.nodes,
        "GPUs a node": profile.gpus_per_node, "CPUs a node": profile.cpus_per_task, "memory a node": profile.mem,
        "time limit": profile.time, "further": " ".join(profile.extra), "address": profile.address,
        "ends itself": f"after {profile.alone_s} s alone", "checked": when(profile.checked_at),
    }  # fmt: skip
    emit(profile, lambda: facts(f"{profile.name}: {profile.state}.{said}", [(n, v) for n, v in asked.items() if v]))
