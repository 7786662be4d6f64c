"""``octopus federation carrier …``: this silo's side of the carriers that its federations offer."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import (
    daemon_api,
    emit,
    find,
    json_option,
    request_id,
    say,
    sealing,
    size,
    snapshot,
    table,
    to_dict,
    when,
)
from octopus_desktop.cli.secret_input import at_terminal, secret_options


@click.group("carrier")
def carrier() -> None:
    """How mail travels: what each federation offers, this silo's side of it, and the links."""


@carrier.command("list")
@click.argument("federation", required=False)
@json_option
def carrier_list(federation: str | None) -> None:
    """The carriers of all federations, or of one."""
    federations = snapshot(daemon_api()).federations
    _show([find(federations, federation, "federation", "name")] if federation else federations)


@carrier.command("set")
@click.argument("federation")
@click.argument("name", metavar="CARRIER")
@click.option("--user", help="At the broker; for grpc: at the proxy.")
@click.option("--proxy", help="An HTTP CONNECT proxy, http://host:port; '' for none.")
@click.option("--ca-file", help="A CA of this site's own (PEM), beside the offered one; '' for none.")
@click.option("--interface", help="The network interface for torch_rpc.")
@click.option("--own-store-key", metavar="KEY-ID", help="S3 credentials of this silo's own; '': the server signs URLs.")
@click.option(
    "--accept-unsealed/--sealed-only",
    default=None,
    help="Whether blob bytes (models, updates) may pass in the clear where the federation offers that.",
)
@click.option("--control", is_flag=True, help="Control (offers, decisions) goes by this carrier from now on.")
@secret_options
@json_option
def carrier_set(
    federation: str,
    name: str,
    user: str | None,
    proxy: str | None,
    ca_file: str | None,
    interface: str | None,
    own_store_key: str | None,
    accept_unsealed: bool | None,
    control: bool,
    secrets: Callable[..., tuple[bytes, bytes]],
) -> None:
    """Set this silo's side of a carrier; what is not named stays as it is. Secrets go into the silo's store.

    \b
    octopus federation carrier set heart mqtt --user st-marys --password --control
    octopus federation carrier set heart grpc --proxy http://proxy.st-marys.org:3128
    """
    from octopus_desktop.communication.settings import OwnSide
    from octopus_desktop.wire.pb.local_pb2 import ConfigureCarrierRequest

    api = daemon_api()
    one = find(snapshot(api).federations, federation, "federation", "name")
    view = next((c for c in one.carriers if c.name == name), None)
    before = json.loads(view.own_json or "{}") if view else {}
    changes = {
        "username": user,
        "proxy": proxy,
        "ca_file": str(Path(ca_file).absolute()) if ca_file else ca_file,
        "interface": interface,
        "store_key_id": own_store_key,
        "accept_unsealed": accept_unsealed,
    }
    own = OwnSide.from_dict(before | {key: value for key, value in changes.items() if value is not None})
    new_user, new_key = bool(user) and user != before.get("username"), bool(own_store_key)
    password, store_secret = secrets(ask=new_user and at_terminal(), ask_store=new_key and at_terminal())
    request = ConfigureCarrierRequest(
        id=one.id,
        name=name,
        own_json=own.to_json(),
        secret=password,
        store_secret=store_secret,
        control=control,
        request_id=request_id(),
    )
    after = api.call("Federations.ConfigureCarrier", request)

    def show() -> None:
        say(f"{name} of {after.name} is set" + (", and carries control." if after.carrier == name else "."))
        if own.accept_unsealed:
            click.secho("Blob bytes may travel unsealed: whoever owns that network can read models.", fg="yellow")

    emit(after, show)


def _show(federations: Sequence[Any]) -> None:
    def show() -> None:
        table(
            "",
            ["federation", "carrier", "", "link", "since", "ms", "in", "out", "resumed", "secret", "sealing", "own"],
            [
                (f.name, c.name, _mark(c), c.link, when(c.link_since),
                 f"{c.latency_ms:.1f}" if c.link == "up" and c.latency_ms else "", size(c.bytes_in), size(c.bytes_out),
                 size(c.bytes_resumed), "kept" if c.secret_kept else "",
                 sealing(c.name, c.settings_json, c.own_json), _own(c))
                for f in federations
                for c in f.carriers
            ],
            right=["ms", "in", "out", "resumed"],
        )  # fmt: skip
        for f in federations:
            for c in f.carriers:
                if c.error_code:
                    click.secho(f"{f.name}, {c.name}: {c.error} [{c.error_code}]", fg="yellow", err=True)

    rows: list[Any] = [
        {"federation": f.name, "id": f.id, "control": f.carrier, "carriers": [_plain(c) for c in f.carriers]}
        for f in federations
    ]
    emit(rows, show)


def _plain(view: Any) -> dict[str, Any]:
    fields = to_dict(view)
    fields["settings"], fields["own"] = json.loads(view.settings_json or "{}"), json.loads(view.own_json or "{}")
    del fields["settings_json"], fields["own_json"]
    return fields


def _mark(view: Any) -> str:
    return " ".join(word for word, holds in (("control", view.control), ("in use", view.in_use)) if holds)


def _own(view: Any) -> str:
    own = json.loads(view.own_json or "{}")
    names = {"username": "user", "store_key_id": "own store key", "ca_file": "CA"}
    said = [f"{names.get(key, key)} {value}" for key, value in own.items() if value and key != "accept_unsealed"]
    return ", ".join(said + (["accepts unsealed"] if own.get("accept_unsealed") else []))
