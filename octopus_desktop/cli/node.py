"""``octopus node …``: the machines that train."""

from __future__ import annotations

import click

from octopus_desktop.cli.common import (
    daemon_api,
    emit,
    find,
    json_option,
    request_id,
    say,
    short,
    size,
    snapshot,
    table,
)


@click.group("node")
def cli() -> None:
    """The machines that train: register, list, drain."""


@cli.command("list")
@json_option
def list_() -> None:
    """The silo's nodes with their processors, memory and GPUs."""
    snap = snapshot(daemon_api())
    emit(
        list(snap.nodes),
        lambda: table(
            "",
            ["name", "state", "CPUs", "load", "RAM", "GPUs", "torch", "id"],
            [
                (n.name, n.state, n.cpu_count, f"{n.cpu_load:.0%}", f"{size(n.ram_used)} / {size(n.ram_total)}",
                 ", ".join(g.name for g in n.gpus) or "none", n.torch, short(n.id))
                for n in snap.nodes
            ],
            right=["CPUs", "load", "RAM"],
        ),
    )  # fmt: skip


@cli.command("register")
@click.option("--name", default="", help="A name for this machine; its host name unless told.")
@json_option
def register(name: str) -> None:
    """Register this machine as a node."""
    from octopus_desktop.wire.pb.local_pb2 import RegisterNodeRequest

    node = daemon_api().call("Nodes.Register", RegisterNodeRequest(name=name, request_id=request_id()))
    emit(node, lambda: say(f"{node.name}: {node.cpu_count} CPUs, {size(node.ram_total)} RAM, {len(node.gpus)} GPUs."))


@cli.command("drain")
@click.argument("node")
@click.option("--undo", is_flag=True, help="Take the node into use again.")
@json_option
def drain(node: str, undo: bool) -> None:
    """Start nothing new on a node."""
    from octopus_desktop.wire.pb.local_pb2 import DrainRequest

    api = daemon_api()
    one = find(snapshot(api).nodes, node, "node", "name")
    changed = api.call("Nodes.Drain", DrainRequest(id=one.id, drain=not undo, request_id=request_id()))
    emit(changed, lambda: say(f"{changed.name} is {changed.state}."))
