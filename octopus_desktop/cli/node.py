"""``octopus node …``: the machines that train."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli import slurm
from octopus_desktop.cli.common import (
    ask_passphrase,
    daemon_api,
    emit,
    facts,
    find,
    json_option,
    request_id,
    say,
    seconds_of,
    short,
    size,
    snapshot,
    table,
    when,
)

if TYPE_CHECKING:
    from octopus_desktop.identity.secrets import SecretStore
    from octopus_desktop.system.paths import NodeHome


@click.group("node")
def cli() -> None:
    """The silo's machines: register this one, add further ones, list, drain, remove.

    A further machine: 'octopus node invite NAME' here gives a line to run there; then 'octopus node accept NAME' here,
    and 'octopus node run' there.
    """


cli.add_command(slurm.cli)


@cli.command("list")
@json_option
def list_() -> None:
    """The silo's nodes with their processors, memory and GPUs."""
    snap = snapshot(daemon_api())

    def show() -> None:
        table(
            "",
            ["name", "state", "CPUs", "load", "RAM", "GPUs", "torch", "id"],
            [
                (n.name, n.state, n.cpu_count, f"{n.cpu_load:.0%}", f"{size(n.ram_used)} / {size(n.ram_total)}",
                 ", ".join(g.name for g in n.gpus) or "none", n.torch, short(n.id))
                for n in snap.nodes
            ],
            right=["CPUs", "load", "RAM"],
        )  # fmt: skip
        for node in snap.nodes:
            if node.state == "asking":
                say(f"{node.name} asks to be a node; its key is {node.fingerprint}. 'octopus node accept {node.name}'")
            if node.fault:
                say(f"{node.name}: {node.fault}")

    emit(list(snap.nodes), show)


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


@cli.command("invite")
@click.argument("name")
@click.option("--listen", default="", metavar="HOST:PORT",
              help="Where this silo listens for its nodes (first 127.0.0.1:7470, then as before).")  # fmt: skip
@click.option("--address", default="", metavar="HOST:PORT", help="How the machine reaches it, where that differs.")
@click.option("--valid", default="24h", show_default=True, help="How long the code may be used: 30m, 12h, 7d.")
@json_option
def invite(name: str, listen: str, address: str, valid: str) -> None:
    """Give a line that a further machine joins with, once. It is secret: hand it over on a way that you trust."""
    from octopus_desktop.wire.pb.local_pb2 import InviteNodeRequest

    request = InviteNodeRequest(name=name, listen=listen, address=address, valid_s=seconds_of(valid))
    reply = daemon_api().call("Nodes.Invite", request)

    def show() -> None:
        said = f"For {name}, once, until {when(reply.expires_at)}; it dials {reply.address}. Run on that machine:"
        click.echo(said, err=True)
        click.echo(f"octopus node join {reply.code}")

    emit(reply, show)


@cli.command("codes")
@json_option
def codes() -> None:
    """The codes of 'node invite' with which a machine may still join. What they say is never shown again."""
    from octopus_desktop.wire.pb.local_pb2 import Empty

    reply = daemon_api().call("Nodes.Codes", Empty())

    def show() -> None:
        if not reply.codes:
            say("No code is open. 'octopus node invite NAME' gives one.")
            return
        rows = [(c.name, when(c.made_at), when(c.expires_at), short(c.id)) for c in reply.codes]
        table("", ["for", "given", "until", "id"], rows)

    emit(reply, show)


@cli.command("withdraw")
@click.argument("code")
@json_option
def withdraw(code: str) -> None:
    """Let nobody join with a code any more. CODE: the name that it is for, or the id of 'node codes'."""
    from octopus_desktop.wire.pb.local_pb2 import ById, Empty

    api = daemon_api()
    one = find(api.call("Nodes.Codes", Empty()).codes, code, "code", "name")
    ack = api.call("Nodes.Withdraw", ById(id=one.id, request_id=request_id()))
    emit(ack, lambda: say(f"The code for {one.name} opens nothing any more."))


@cli.command("accept")
@click.argument("node")
@json_option
def accept(node: str) -> None:
    """Take a machine that joined into use. Compare its key's fingerprint with what 'node join' showed there."""
    changed = _call("Nodes.Accept", node)
    emit(changed, lambda: say(f"{changed.name} ({changed.fingerprint}) is accepted; it is {changed.state}."))


@cli.command("remove")
@click.argument("node")
@json_option
def remove(node: str) -> None:
    """Take a further machine out of the silo: its key opens nothing any more, and it is cut off at once."""
    _call("Nodes.Remove", node)
    emit({"removed": node}, lambda: say(f"{node} is removed."))


def _call(method: str, node: str) -> Any:
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).nodes, node, "node", "name")
    return api.call(method, ById(id=one.id, request_id=request_id()))


# on the further machine


def node_home_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--home", "place", envvar="OCTOPUS_NODE_HOME", type=click.Path(path_type=Path), help="This node's directory."
    )(command)


@cli.command("join")
@click.argument("code")
@node_home_option
@json_option
def join(code: str, place: Path | None) -> None:
    """On a further machine: join a silo with the code that 'node invite' gave there. '-' reads it from standard
    input, where the list of processes does not show it."""
    import asyncio

    from octopus_desktop.nodes.join import join as join_silo
    from octopus_desktop.system.paths import node_home

    home = node_home(place)
    if code == "-":
        code = sys.stdin.readline()
    joined = asyncio.run(join_silo(home, _store(home), code))

    def show() -> None:
        facts(
            f"This machine asks to be {joined.name} of {joined.silo}.",
            [("its key", joined.fingerprint), ("dials", joined.address), ("home", str(home.root))],
        )
        say(f"Next: 'octopus node accept {joined.name}' on the silo's first machine, and 'octopus node run' here.")

    shown = {"node_id": joined.node_id, "name": joined.name, "silo": joined.silo, "fingerprint": joined.fingerprint}
    emit({**shown, "address": joined.address, "home": str(home.root)}, show)


@cli.command("run")
@node_home_option
def run(place: Path | None) -> None:
    """On a further machine: be a node of the silo, until stopped. For service managers too."""
    from octopus_desktop.system.paths import node_home
    from octopus_desktop.system.service import AGENT_MODULE

    os.execv(sys.executable, [sys.executable, "-m", AGENT_MODULE, "--home", str(node_home(place).root)])


@cli.command("install")
@node_home_option
@json_option
def install(place: Path | None) -> None:
    """On a further machine: be its node from each login on, as a systemd user unit."""
    from octopus_desktop.nodes.join import Place
    from octopus_desktop.system.paths import node_home
    from octopus_desktop.system.service import install_agent_unit

    home = node_home(place)
    Place.read(home)
    text = install_agent_unit(home)
    emit({"done": text}, lambda: say(text))


def _store(home: NodeHome) -> SecretStore:
    """The node's store of secrets; asks for a passphrase on the terminal where one seals it."""
    from octopus_desktop.identity.secrets import open_store
    from octopus_desktop.system.paths import private_dir

    private_dir(home.root)
    return open_store(home.secrets, passphrase=lambda: ask_passphrase(home.secrets))
