"""``octopus dataset …``: what jobs may ask for."""

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
    size,
    snapshot,
    table,
    when,
)
from octopus_desktop.cli.places import put_place, shown_places, told_places

KIND = click.Choice(["auto", "csv", "parquet", "npz", "folder"])


@click.group("dataset")
def cli() -> None:
    """The data that jobs may ask for: register, check, relocate, remove."""


@cli.command("list")
@json_option
def list_() -> None:
    """The registered datasets."""
    snap = snapshot(daemon_api())
    emit(
        list(snap.datasets),
        lambda: table(
            "",
            ["alias", "kind", "state", "rows", "columns", "size", "checked", "path", "id"],
            [
                (
                    d.alias,
                    d.kind,
                    d.state,
                    d.rows,
                    len(d.columns),
                    size(d.bytes),
                    when(d.checked_at),
                    d.path,
                    short(d.id),
                )
                for d in snap.datasets
            ],
            right=["rows", "columns", "size"],
        ),
    )


def _show(dataset: Any, api: Api | None = None) -> None:
    places = shown_places(dataset, api) if api else []
    facts(
        dataset.alias or Path(dataset.path).name,
        [
            ("path", dataset.path),
            ("kind", dataset.kind),
            ("rows", dataset.rows),
            ("size", size(dataset.bytes)),
            ("digest", dataset.digest),
            ("state", dataset.state + (f": {dataset.error} [{dataset.error_code}]" if dataset.error else "")),
            *places,
            *((f"  {c.name}", c.type + (f", {c.missing} missing" if c.missing else "")) for c in dataset.columns),
        ],
    )


@cli.command("probe")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kind", type=KIND, default="auto")
@json_option
def probe(path: Path, kind: str) -> None:
    """Read a file's schema and digest without registering it."""
    from octopus_desktop.wire.pb.local_pb2 import ProbeRequest

    request = ProbeRequest(path=str(path.absolute()), kind="" if kind == "auto" else kind)
    dataset = daemon_api().call("Datasets.Probe", request, timeout=None)
    emit(dataset, lambda: _show(dataset))


@cli.command("register")
@click.argument("alias")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kind", type=KIND, default="auto")
@click.option("--description", default="")
@click.option("--on", "places", multiple=True, metavar="NODE=PATH", help="Where it lies on a further node; repeatable.")
@json_option
def register(alias: str, path: Path, kind: str, description: str, places: tuple[str, ...]) -> None:
    """Register a dataset under an alias. Its content stays where it is.

    Further nodes read their own copy, or a shared folder: at the same path, unless --on or 'octopus dataset place' say
    otherwise. It must be the same content there.
    """
    from octopus_desktop.wire.pb.local_pb2 import RegisterDatasetRequest

    request = RegisterDatasetRequest(
        alias=alias,
        path=str(path.absolute()),
        kind="" if kind == "auto" else kind,
        description=description,
        request_id=request_id(),
    )
    api = daemon_api()
    told = told_places(api, places)
    dataset = api.call("Datasets.Register", request, timeout=None)
    for node, there in told:
        dataset = put_place(api, "Datasets.Place", dataset.id, node, there)
    emit(dataset, lambda: _show(dataset, api))


@cli.command("place")
@click.argument("dataset")
@click.argument("places", metavar="NODE=PATH...", nargs=-1, required=True)
@json_option
def place(dataset: str, places: tuple[str, ...]) -> None:
    """Say where a dataset lies on further nodes; their agents look whether it is the same there. NODE= forgets it."""
    api = daemon_api()
    one = find(snapshot(api).datasets, dataset, "dataset", "alias")
    for node, there in told_places(api, places):
        one = put_place(api, "Datasets.Place", one.id, node, there)
    emit(one, lambda: _show(one, api))


@cli.command("check")
@click.argument("dataset")
@json_option
def check(dataset: str) -> None:
    """Read a dataset again and compare it with what was registered."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).datasets, dataset, "dataset", "alias")
    checked = api.call("Datasets.Check", ById(id=one.id), timeout=None)
    emit(checked, lambda: _show(checked, api))


@cli.command("relocate")
@click.argument("dataset")
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def relocate(dataset: str, path: Path) -> None:
    """Say where a dataset lies now."""
    from octopus_desktop.wire.pb.local_pb2 import RelocateRequest

    api = daemon_api()
    one = find(snapshot(api).datasets, dataset, "dataset", "alias")
    request = RelocateRequest(id=one.id, path=str(path.absolute()), request_id=request_id())
    moved = api.call("Datasets.Relocate", request, timeout=None)
    emit(moved, lambda: _show(moved, api))


@cli.command("remove")
@click.argument("dataset")
@click.confirmation_option(prompt="Remove the dataset from the list? Its file stays; runs that need it stop.")
@json_option
def remove(dataset: str) -> None:
    """Take a dataset off the list. The file itself stays."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = find(snapshot(api).datasets, dataset, "dataset", "alias")
    api.call("Datasets.Remove", ById(id=one.id, request_id=request_id()))
    emit({"removed": one.alias}, lambda: say(f"{one.alias} is off the list; the file is untouched."))
