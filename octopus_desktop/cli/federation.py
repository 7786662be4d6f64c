"""``octopus federation …``: enrolment and links, from the silo's side."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from octopus_desktop.cli.common import (
    daemon_api,
    emit,
    facts,
    find,
    json_option,
    read_file,
    request_id,
    say,
    short,
    size,
    snapshot,
    table,
    when,
    write_file,
)
from octopus_desktop.cli.federation_carrier import carrier
from octopus_desktop.cli.federation_run import run
from octopus_desktop.cli.secret_input import at_terminal, read_secret

if TYPE_CHECKING:
    from octopus_desktop.wire.pb.local_pb2 import CheckStep, Federation


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
            ["name", "as", "server", "carrier", "link", "ms", "in", "out", "resumed", "certificate until", "id"],
            [
                (f.name, f.silo_name, f.server, f.carrier, f.link, f"{f.latency_ms:.1f}", size(f.bytes_in),
                 size(f.bytes_out), size(f.bytes_resumed), when(f.certificate_expires), short(f.id))
                for f in snap.federations
            ],
            right=["ms", "in", "out", "resumed"],
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
@click.option("--proxy", default="", help="An HTTP CONNECT proxy on the way out, http://host:port; it is kept.")
@click.option("--user", default="", help="At the proxy, where it wants a login.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="A CA of this site's own (PEM); it is kept.")
@click.option("--password", is_flag=True, help="Ask for the proxy's password at a prompt.")
@click.option("--password-stdin", is_flag=True, help="Read the proxy's password from standard input.")
@json_option
def enrol(
    invitation: str,
    name: str,
    contact: str,
    proxy: str,
    user: str,
    ca_file: Path | None,
    password: bool,
    password_stdin: bool,
) -> None:
    """Enrol with an invitation (text, file, or - for standard input, which keeps it out of the process list).

    A proxy is the one that is named here: https_proxy of the environment is ignored.
    """
    from octopus_desktop.communication.settings import OwnSide
    from octopus_desktop.wire.pb.local_pb2 import EnrolLocalRequest

    own = OwnSide(proxy=proxy, username=user, ca_file=str(ca_file.absolute()) if ca_file else "")
    own.check()
    text = invitation_text(invitation)
    secret = read_secret("Password", password or bool(user and not password_stdin and at_terminal()), password_stdin)
    request = EnrolLocalRequest(
        text=text, name=name, contact=contact, own_json=own.to_json(), secret=secret, request_id=request_id()
    )
    _enrolled(daemon_api().call("Federations.Enrol", request))


def _enrolled(federation: Federation) -> None:
    emit(
        federation,
        lambda: facts(
            f"Enrolled in {federation.name} as {federation.silo_name}.",
            [
                ("CA fingerprint", federation.ca_fingerprint),
                ("certificate until", when(federation.certificate_expires)),
                ("carrier", federation.carrier),
            ],
        ),
    )


@cli.command("request")
@click.argument("invitation")
@click.option("--name", required=True, help="This silo's name in the federation: lower-case letters, digits, '-'.")
@click.option("--contact", default="", help="Whom the coordinator may call.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="Where the request goes.")
@json_option
def request(invitation: str, name: str, contact: str, out: Path) -> None:
    """For a site without a route to the server: write the request for enrolment to a file. Send it to the coordinator
    in any way; it holds no secret. Their answer goes into 'octopus federation accept'."""
    from octopus_desktop.wire.pb.local_pb2 import EnrolLocalRequest

    wanted = EnrolLocalRequest(text=invitation_text(invitation), name=name, contact=contact, request_id=request_id())
    reply = daemon_api().call("Federations.EnrolRequestFile", wanted)
    write_file(out, reply.file)
    emit(
        {"out": str(out.absolute()), "name": name},
        lambda: say(f"{out} is written. The coordinator answers it with 'octopus server enrol-file'."),
    )


@cli.command("accept")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def accept(file: Path) -> None:
    """Take the coordinator's answer FILE to a request: this silo is enrolled then."""
    from octopus_desktop.wire.pb.local_pb2 import EnrolFileLocalRequest

    answer = EnrolFileLocalRequest(file=read_file(file), request_id=request_id())
    _enrolled(daemon_api().call("Federations.EnrolFile", answer))


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
        last = ""
        for step in reply.steps:
            if step.carrier != last:
                click.secho(f"{step.carrier}:" if step.carrier else "in general:", bold=True)
                last = step.carrier
            _show_step(step)

    emit(reply, show)
    if any(step_state(step) == "failed" for step in reply.steps):
        sys.exit(1)


def step_state(step: CheckStep) -> str:
    return step.state or ("ok" if step.ok else "failed")


def _show_step(step: CheckStep) -> None:
    text, colour = {"ok": ("ok  ", "green"), "failed": ("FAIL", "red")}.get(step_state(step), ("  - ", "yellow"))
    took = f"{step.ms:7.1f} ms" if step_state(step) != "untried" else " " * 10
    click.echo(f"  {click.style(text, fg=colour)} {step.name:<24} {took}  {step.detail}")
    if step.next_step and step_state(step) != "ok":
        click.echo(f"       Next: {step.next_step}")


cli.add_command(carrier)
cli.add_command(run)
