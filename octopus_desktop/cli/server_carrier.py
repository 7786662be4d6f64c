"""``octopus server carrier …``: the carriers that a federation offers; and enrolment by files, for sites without a
route. Settings are checked by ``communication.settings``, here as at the server."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import emit, read_file, say, sealing, size, table, when, write_file
from octopus_desktop.cli.secret_input import at_terminal, secret_options
from octopus_desktop.cli.server_common import operator, server_options
from octopus_desktop.wire.errors import UserError

BESIDE = ("username", "store_key_id")  # in a settings file, but no settings: they name whose secrets these are


@click.group("carrier")
def carrier() -> None:
    """The carriers that the federation offers to its silos: grpc, mqtt, mqtt_s3, torch_rpc, mpi."""


@carrier.command("list")
@server_options
def carrier_list() -> None:
    """What is offered, in which state, and each silo's link."""
    from octopus_desktop.wire.pb.operator_pb2 import CarriersRequest

    _show(operator().call("Operator.Carriers", CarriersRequest()).carriers)


@carrier.command("put")
@click.argument("name")
@click.option("--file", "file", type=click.Path(path_type=Path, dir_okay=False), help="All settings, as a TOML file.")
@click.option("--host", help="Of the broker (mqtt, mqtt_s3), or of this server's endpoint (torch_rpc).")
@click.option("--port", type=int)
@click.option("--tls/--no-tls", default=None, help="To the broker.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="The broker's CA (PEM), where the system lacks it.")
@click.option("--topics", help="The first level of all topics.")
@click.option("--packet-bytes", type=int, help="Largest packet, below the broker's limit.")
@click.option("--endpoint", help="The S3 store's URL, as silos reach it.")
@click.option("--bucket")
@click.option("--region")
@click.option("--prefix", help="Of the objects' names.")
@click.option("--store-ca-file", type=click.Path(path_type=Path), help="The store's CA (PEM).")
@click.option("--part-bytes", type=int, help="Of a multipart upload.")
@click.option("--url-s", type=int, help="Seconds for which a signed URL is good.")
@click.option("--network", "networks", multiple=True, help="A trusted network such as 10.20.0.0/16; repeatable.")
@click.option(
    "--sealed/--unsealed", default=None, help="Unsealed: blob bytes pass in the clear, where a silo consents."
)
@click.option("--chunk-bytes", type=int, help="Of a blob over gRPC.")
@click.option("--username", help="The server's own at the broker.")
@click.option("--store-key-id", help="The server's own at the store.")
@secret_options
@server_options
def carrier_put(
    name: str,
    file: Path | None,
    username: str | None,
    store_key_id: str | None,
    secrets: Callable[..., tuple[bytes, bytes]],
    **given: Any,
) -> None:
    """Offer a carrier, or change its settings; what is not named stays as it is. Takes effect at once.

    \b
    octopus server carrier put mqtt --host broker.example.org --username federation --password
    octopus server carrier put mqtt_s3 --file mqtt_s3.toml --password --store-secret
    octopus server carrier put torch_rpc --host 10.20.0.5 --port 29500 --network 10.20.0.0/16
    """
    from octopus_desktop.communication.settings import offer
    from octopus_desktop.wire.pb.operator_pb2 import CarriersRequest, PutCarrierRequest

    api = operator()
    now = {c.name: c for c in api.call("Operator.Carriers", CarriersRequest()).carriers}.get(name)
    settings = _from_file(file) if file else json.loads(now.settings_json or "{}") if now else {}
    beside = {key: settings.pop(key) for key in BESIDE if key in settings}
    for key, place in (("ca_pem", given.pop("ca_file")), ("store_ca_pem", given.pop("store_ca_file"))):
        if place:
            settings[key] = _pem(place)
    given["networks"] = list(given["networks"]) or None
    settings |= {key: value for key, value in given.items() if value is not None}
    checked = offer(name, settings)
    username = username if username is not None else beside.get("username", now.username if now else "")
    store_key_id = store_key_id if store_key_id is not None else beside.get("store_key_id", "")
    kept = now is not None and now.secret_kept
    password, store_secret = secrets(
        ask=bool(username) and not kept and at_terminal(), ask_store=bool(store_key_id) and not kept and at_terminal()
    )
    request = PutCarrierRequest(
        name=name,
        settings_json=checked.to_json(),
        username=username,
        secret=password,
        store_key_id=store_key_id,
        store_secret=store_secret,
    )
    after = api.call("Operator.PutCarrier", request)

    def show() -> None:
        say(f"{name} is offered; it is {after.state or 'set up'}.")
        if after.error:
            click.secho(f"  {after.error} [{after.error_code}]", fg="yellow")

    emit(after, show)


@carrier.command("remove")
@click.argument("name")
@click.confirmation_option(prompt="Take this carrier out of the offer? Links over it end; runs that need it wait.")
@server_options
def carrier_remove(name: str) -> None:
    """Offer a carrier no longer; its secrets are deleted."""
    from octopus_desktop.wire.pb.operator_pb2 import RemoveCarrierRequest

    _show(operator().call("Operator.RemoveCarrier", RemoveCarrierRequest(name=name)).carriers)


@click.command("enrol-file")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Where the answer goes.")
@server_options
def enrol_file(file: Path, out: Path) -> None:
    """Enrol a silo from its request FILE ('octopus federation request'), and write the answer that it takes with
    'octopus federation accept'."""
    from octopus_desktop.wire.pb.operator_pb2 import EnrolFileRequest

    reply = operator().call("Operator.EnrolFile", EnrolFileRequest(file=read_file(file)))
    write_file(out, reply.file)
    emit(
        {"name": reply.name, "out": str(out.absolute())},
        lambda: say(f"{reply.name} is enrolled. Bring {out} back to it: it holds no secret."),
    )


def _show(carriers: Any) -> None:
    def show() -> None:
        table(
            "",
            ["carrier", "state", "where", "as", "secret", "sealing", "links up"],
            [
                (c.name, c.state, _where(c), c.username, "kept" if c.secret_kept else "",
                 sealing(c.name, c.settings_json), f"{sum(link.phase == 'up' for link in c.links)} of {len(c.links)}")
                for c in carriers
            ],
            right=["links up"],
        )  # fmt: skip
        links = [(c.name, link) for c in carriers for link in c.links]
        if links:
            table(
                "\nLinks",
                ["carrier", "silo", "link", "since", "ms", "in", "out", "resumed", "problem"],
                [
                    (name, link.silo, link.phase, when(link.since), f"{link.latency_ms:.1f}" if link.latency_ms else "",
                     size(link.bytes_in), size(link.bytes_out), size(link.bytes_resumed),
                     f"{link.error} [{link.error_code}]" if link.error_code else "")
                    for name, link in links
                ],
                right=["ms", "in", "out", "resumed"],
            )  # fmt: skip
        for c in carriers:
            if c.error_code:
                click.secho(f"{c.name}: {c.error} [{c.error_code}]", fg="yellow", err=True)

    emit(list(carriers), show)


def _where(one: Any) -> str:
    settings = json.loads(one.settings_json or "{}")
    parts = []
    if settings.get("host"):
        parts.append(f"{settings['host']}:{settings.get('port', '')}")
    if settings.get("bucket"):
        parts.append(f"{settings.get('endpoint', '')}/{settings['bucket']}")
    if settings.get("networks"):
        parts.append("in " + ", ".join(settings["networks"]))
    return ", ".join(parts)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(read_file(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError("OCT-CONFIG-INVALID", f"{path} is no TOML.", str(error), "Correct the file.") from error
    for key in ("password", "secret", "store_secret"):
        if key in found:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"{path} holds a secret.",
                f"{key}: secrets have no place in a file of settings.",
                "Take it out, and give --password or --store-secret, or their -stdin forms.",
            )
    return found


def _pem(path: Path) -> str:
    text = read_file(path).decode(errors="replace")
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise UserError(
            "OCT-CONFIG-INVALID", f"{path} is no certificate.", "It holds no PEM.", "Give the CA's certificate in PEM."
        )
    return text
