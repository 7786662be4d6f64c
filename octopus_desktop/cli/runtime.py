"""``octopus runtime …``: the Python environments that jobs may train in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import (
    Api,
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
from octopus_desktop.cli.places import put_place, shown_places, told_places

MARKS = {"ok": "✓", "failed": "✗", "untried": "–"}


@click.group("runtime")
def cli() -> None:
    """The Python environments that jobs may train in: add, check, remove."""


@cli.command("list")
@json_option
def list_() -> None:
    """The registered environments, with what is in them. Without one, jobs train in the built-in environment."""
    snap = snapshot(daemon_api())
    emit(
        list(snap.runtimes),
        lambda: table(
            "",
            ["name", "state", "Python", "torch", "CUDA", "packages", "path", "id"],
            [
                (r.name, r.state, r.python, r.torch, r.cuda or "none", len(r.packages), r.path, short(r.id))
                for r in sorted(snap.runtimes, key=lambda r: r.name)
            ],
            right=["packages"],
        ),
    )


@cli.command("add")
@click.argument("name")
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--on", "places", multiple=True, metavar="NODE=PATH", help="The like of it on a further node; may repeat."
)
@json_option
def add(name: str, path: Path, places: tuple[str, ...]) -> None:
    """Register the environment at PATH: the folder of a virtual environment, or its interpreter.

    It is looked at first: Python and torch must be there, and the training part of Octopus Desktop must run in it.
    """
    from octopus_desktop.wire.pb.local_pb2 import AddRuntimeRequest

    request = AddRuntimeRequest(name=name, path=str(path.expanduser().absolute()), request_id=request_id())
    api = daemon_api()
    told = told_places(api, places)
    runtime = api.call("Runtimes.Add", request, timeout=None)
    for node, there in told:
        runtime = put_place(api, "Runtimes.Place", runtime.id, node, there)
    _show(runtime, api)


@cli.command("place")
@click.argument("runtime")
@click.argument("places", metavar="NODE=PATH...", nargs=-1, required=True)
@json_option
def place(runtime: str, places: tuple[str, ...]) -> None:
    """Say where the like of an environment is on further nodes; their agents look at it. NODE= forgets it.

    A run that spans nodes trains on each in the environment that is named there.
    """
    api = daemon_api()
    one = find(snapshot(api).runtimes, runtime, "runtime", "name")
    for node, there in told_places(api, places):
        one = put_place(api, "Runtimes.Place", one.id, node, there)
    _show(one, api)


@cli.command("look")
@click.argument("place")
@json_option
def look(place: str) -> None:
    """Look at an environment before it is added: PLACE is its folder, its interpreter, or a registered one's name.

    Told step by step: Python, packages, torch and CUDA, the training part, and each job that waits for a decision.
    """
    from octopus_desktop.wire.pb.local_pb2 import LookRuntimeRequest

    api = daemon_api()
    known = [r for r in snapshot(api).runtimes if place in (r.id, r.name)]
    path = "" if known or place == "built-in" else str(Path(place).expanduser().absolute())
    steps = []
    for step in api.stream("Runtimes.Look", LookRuntimeRequest(path=path, id=known[0].id if known else "")):
        steps.append(step)
        say(f"{MARKS[step.state]} {step.name}: {step.detail}" + (f"\n    {step.next_step}" if step.next_step else ""))
    emit(steps, lambda: None)


@cli.command("check")
@click.argument("runtime")
@json_option
def check(runtime: str) -> None:
    """Look at an environment again, after something was installed into it."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).runtimes, runtime, "runtime", "name")
    _show(api.call("Runtimes.Check", ById(id=one.id, request_id=request_id()), timeout=None), api)


@cli.command("remove")
@click.argument("runtime")
@json_option
def remove(runtime: str) -> None:
    """Take an environment out of the list. Nothing on disk is touched."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).runtimes, runtime, "runtime", "name")
    ack = api.call("Runtimes.Remove", ById(id=one.id, request_id=request_id()))
    emit(ack, lambda: say(f"{one.name} is no longer a runtime."))


def _show(runtime: Any, api: Api) -> None:
    emit(
        runtime,
        lambda: facts(
            f"{runtime.name}: {runtime.state}" + (f". {runtime.error}" if runtime.error else ""),
            [
                ("Python", runtime.python),
                ("torch", runtime.torch),
                ("CUDA", runtime.cuda or "none"),
                ("packages", len(runtime.packages)),
                ("path", runtime.path),
                *shown_places(runtime, api),
                ("checked", when(runtime.checked_at)),
            ],
        ),
    )
