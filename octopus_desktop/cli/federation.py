"""``octopus federation …``: enrolment and links, from the silo's side."""

from __future__ import annotations

import sys
from pathlib import Path

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
    size,
    snapshot,
    table,
    when,
)


@click.group("federation")
def cli() -> None:
    """Enrol in federations, check links, renew, leave."""


def invitation_text(source: str) -> str:
    """The invitation itself, the content of the file it names, or standard input for ``-``."""
    if source == "-":
        return sys.stdin.read()
    path = Path(source)
    if len(source) < 200 and path.is_file():
        return path.read_text()
    return source


@cli.command("list")
@json_option
def list_() -> None:
    """The federations this silo belongs to."""
    snap = snapshot(daemon_api())
    emit(
        list(snap.federations),
        lambda: table(
            "",
            ["name", "as", "server", "carrier", "link", "ms", "in", "out", "certificate until", "id"],
            [
                (f.name, f.silo_name, f.server, f.carrier, f.link, f"{f.latency_ms:.1f}", size(f.bytes_in),
                 size(f.bytes_out), when(f.certificate_expires), short(f.id))
                for f in snap.federations
            ],
            right=["ms", "in", "out"],
        ),
    )  # fmt: skip


@cli.command("inspect")
@click.argument("invitation")
@json_option
def inspect(invitation: str) -> None:
    """What an invitation (text, file, or - for standard input) says, without using it."""
    from octopus_desktop.wire.pb.local_pb2 import InspectRequest

    view = daemon_api().call("Federations.Inspect", InspectRequest(text=invitation_text(invitation)))
    emit(
        view,
        lambda: facts(
            view.federation,
            [
                ("server", view.server),
                ("CA fingerprint", view.ca_fingerprint),
                ("for a", view.role),
                ("valid until", when(view.expires_at)),
            ],
        ),
    )


@cli.command("enrol")
@click.argument("invitation")
@click.option("--name", required=True, help="This silo's name in the federation: lower-case letters, digits, '-'.")
@click.option("--contact", default="", help="Whom the coordinator may call.")
@json_option
def enrol(invitation: str, name: str, contact: str) -> None:
    """Enrol with an invitation (text, file, or - for standard input, which keeps it out of the process list)."""
    from octopus_desktop.wire.pb.local_pb2 import EnrolLocalRequest

    request = EnrolLocalRequest(text=invitation_text(invitation), name=name, contact=contact, request_id=request_id())
    federation = daemon_api().call("Federations.Enrol", request)
    emit(
        federation,
        lambda: facts(
            f"Enrolled in {federation.name} as {federation.silo_name}.",
            [
                ("CA fingerprint", federation.ca_fingerprint),
                ("certificate until", when(federation.certificate_expires)),
            ],
        ),
    )


def _one(name: str):  # type: ignore[no-untyped-def]
    api = daemon_api()
    return api, find(snapshot(api).federations, name, "federation", "name")


@cli.command("renew")
@click.argument("federation")
@json_option
def renew(federation: str) -> None:
    """Get a new certificate for a new key."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api, one = _one(federation)
    new = api.call("Federations.Renew", ById(id=one.id, request_id=request_id()))
    emit(new, lambda: say(f"The certificate is valid until {when(new.certificate_expires)}."))


@cli.command("leave")
@click.argument("federation")
@click.confirmation_option(prompt="Leave the federation? Its runs here stop, and a new invitation is needed to return.")
@json_option
def leave(federation: str) -> None:
    """Leave a federation."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api, one = _one(federation)
    api.call("Federations.Leave", ById(id=one.id, request_id=request_id()))
    emit({"left": one.name}, lambda: say(f"This silo has left {one.name}."))


@cli.command("check")
@click.argument("federation")
@json_option
def check(federation: str) -> None:
    """Test the link step by step and say what is wrong."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api, one = _one(federation)
    reply = api.call("Federations.Check", ById(id=one.id))

    def show() -> None:
        for step in reply.steps:
            mark = click.style("ok  ", fg="green") if step.ok else click.style("FAIL", fg="red")
            click.echo(f"  {mark} {step.name:<14} {step.ms:7.1f} ms  {step.detail}")
            if not step.ok and step.next_step:
                click.echo(f"       Next: {step.next_step}")

    emit(reply, show)
    if any(not step.ok for step in reply.steps):
        sys.exit(1)
