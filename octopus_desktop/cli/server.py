"""``octopus server …``: the coordinator's side. Speaks to the server through its private operator socket; ``init`` and
``start`` work on the home, each in a process of the server's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import emit, facts, say, seconds_of, size, table, when
from octopus_desktop.cli.server_carrier import carrier, enrol_file
from octopus_desktop.cli.server_common import home_of_server, operator, server_options
from octopus_desktop.cli.server_runs import runs

MODULE = "octopus_desktop.server.main"
STOP_WAIT_S = 20.0


@click.group("server")
@click.option("--home", metavar="DIR", help="The federation's directory (default: OCTOPUS_SERVER_HOME).")
@click.pass_context
def cli(ctx: click.Context, home: str | None) -> None:
    """Run a federation: its server, invitations, silos, jobs and runs."""
    if home:
        ctx.ensure_object(dict)["server_home"] = home


@cli.command("init")
@click.option("--name", required=True, help="The federation's name, as silos will see it.")
@click.option("--host", required=True, help="The name or address by which silos reach this machine.")
@click.option("--port", type=click.IntRange(1, 65535), default=7450, show_default=True)
@click.option("--bind", default="", help="The interface to listen on (default: all; loopback for a local host).")
@server_options
def init(name: str, host: str, port: int, bind: str) -> None:
    """Make a federation: its authority, its keys, its configuration."""
    from octopus_desktop.wire.errors import UserError

    home = home_of_server()
    words = ["--home", str(home.root), "--init", "--name", name, "--host", host, "--port", str(port), "--bind", bind]
    done = subprocess.run([sys.executable, "-m", MODULE, *words], stdout=subprocess.PIPE, text=True)
    made = json.loads(done.stdout) if done.stdout.strip() else {}
    if "error" in made:
        raise UserError(*made["error"])
    if done.returncode:
        raise RuntimeError(f"the server's process ended with {done.returncode}")

    def show() -> None:
        facts(
            f"The federation {made['name']} is made.",
            [
                ("home", home.root),
                ("address", made["address"]),
                ("CA fingerprint", made["ca_fingerprint"]),
            ],
        )
        say("Next: 'octopus server start', then 'octopus server invite --name SILO'.")

    emit({**made, "home": str(home.root)}, show)


@cli.command("start")
@click.option("--foreground", is_flag=True, help="Stay in this process, for service managers.")
@server_options
def start(foreground: bool) -> None:
    """Start the server; returns when it answers."""
    from octopus_desktop.system.service import start_detached
    from octopus_desktop.wire.errors import UserError

    home = home_of_server()
    if not home.config.exists():
        raise UserError(
            "OCT-STATE-MISSING",
            f"There is no federation in {home.root}.",
            f"{home.config.name} is not there.",
            "Make one with 'octopus server init', or give its --home.",
        )
    if foreground:
        os.execv(sys.executable, [sys.executable, "-m", MODULE, "--home", str(home.root)])
    pid = start_detached(MODULE, ["--home", str(home.root)], home.logs / "server.log", what="federation server")
    emit({"pid": pid, "home": str(home.root)}, lambda: say(f"The server is at work (process {pid}, {home.root})."))


@cli.command("stop")
@server_options
def stop() -> None:
    """Stop the server; its runs go on when it is started again."""
    import contextlib
    import signal
    import time

    from octopus_desktop.cli.common import server_away
    from octopus_desktop.system.lock import lock_holder

    home = home_of_server()
    pid = lock_holder(home.lock)
    if not pid:
        raise server_away(home)
    for how, wait_s in ((signal.SIGTERM, STOP_WAIT_S), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        end = time.monotonic() + wait_s
        while lock_holder(home.lock) == pid and time.monotonic() < end:
            time.sleep(0.02)
    emit({"stopped": pid}, lambda: say("The server has stopped."))


@cli.command("status")
@server_options
def status() -> None:
    """What the server is, and how many are connected."""
    from octopus_desktop.wire.pb.operator_pb2 import StatusRequest

    now = operator().call("Operator.Status", StatusRequest())
    pairs = [
        ("address", now.address),
        ("CA fingerprint", now.ca_fingerprint),
        ("silos", f"{now.silos} ({now.silos_connected} connected)"),
        ("active runs", now.runs_active),
        ("version", f"{now.version} (process {now.pid})"),
    ]
    emit(now, lambda: facts(now.federation, pairs))


@cli.command("invite")
@click.option("--role", type=click.Choice(["silo", "author"]), default="silo", show_default=True)
@click.option("--name", default="", help="Only for a member of this name (default: the invited chooses).")
@click.option("--valid", default="7d", show_default=True, help="How long it may be used: 30m, 12h, 7d.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the text to a file (0600).")
@server_options
def invite(role: str, name: str, valid: str, out: Path | None) -> None:
    """Make a one-time invitation. Its text is secret: hand it over on a channel that you trust."""
    from octopus_desktop.wire.pb.operator_pb2 import InviteRequest

    reply = operator().call("Operator.Invite", InviteRequest(role=role, name=name, valid_s=seconds_of(valid)))
    if out:
        with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(reply.text + "\n")
        reply.text = ""

    def show() -> None:
        where = f"written to {out}" if out else "below"
        click.echo(f"Invitation {reply.id} for one {role}, valid until {when(reply.expires_at)}, {where}.", err=True)
        if not out:
            click.echo(reply.text)

    emit(reply, show)


@cli.command("invitations")
@server_options
def invitations() -> None:
    """Invitations that were made, and who used them."""
    import time

    from octopus_desktop.wire.pb.operator_pb2 import InvitationsRequest

    rows = list(operator().call("Operator.Invitations", InvitationsRequest()).invitations)

    def state(row: Any) -> str:
        if row.used_at:
            return f"used by {row.used_by} at {when(row.used_at)}"
        return "open" if row.expires_at > time.time() else "expired"

    columns = ["id", "role", "for", "made", "valid until", "state"]
    emit(
        rows,
        lambda: table(
            "",
            columns,
            [(r.id, r.role, r.name or "anyone", when(r.created_at), when(r.expires_at), state(r)) for r in rows],
        ),
    )


@cli.command("silos")
@server_options
def silos() -> None:
    """The federation's silos and their links."""
    from octopus_desktop.wire.pb.operator_pb2 import SilosRequest

    rows = list(operator().call("Operator.Silos", SilosRequest()).silos)

    def link(row: Any) -> str:
        return row.state if row.state != "active" else "up" if row.connected else "down"

    emit(
        rows,
        lambda: table(
            "",
            ["name", "organisation", "carrier", "link", "last seen", "certificate until", "in", "out"],
            [
                (r.name, r.organisation, r.carrier, link(r), when(r.last_seen), when(r.certificate_expires),
                 size(r.bytes_in), size(r.bytes_out))
                for r in rows
            ],
            right=["in", "out"],
        ),
    )  # fmt: skip
    for row in rows:
        for warning in row.warnings:
            click.secho(f"Audit of {row.name}: {warning}.", fg="yellow", err=True)


@cli.command("revoke")
@click.argument("name")
@click.option("--reason", default="", help="The silo gets it.")
@click.confirmation_option(prompt="Revoke this member's certificate for good?")
@server_options
def revoke(name: str, reason: str) -> None:
    """Take a member's certificate away; its link is cut at once."""
    from octopus_desktop.wire.pb.operator_pb2 import RevokeRequest

    row = operator().call("Operator.Revoke", RevokeRequest(name=name, reason=reason))
    emit(row, lambda: say(f"{row.name} is revoked."))


@cli.group("authors")
def authors() -> None:
    """Whose job packages the federation takes."""


@authors.command("list")
@server_options
def authors_list() -> None:
    """Known authors and their keys."""
    from octopus_desktop.wire.pb.operator_pb2 import AuthorsRequest

    rows = list(operator().call("Operator.Authors", AuthorsRequest()).authors)
    emit(
        rows,
        lambda: table(
            "",
            ["name", "key", "added", "state"],
            [(r.name, r.fingerprint, when(r.added_at), r.state) for r in rows],
        ),
    )


@authors.command("add")
@click.argument("name")
@click.argument("key")
@server_options
def authors_add(name: str, key: str) -> None:
    """Trust packages signed by KEY: 64 hexadecimal digits, as 'octopus jobs key' prints them, or a file that holds
    them."""
    from octopus_desktop.wire.errors import UserError
    from octopus_desktop.wire.pb.operator_pb2 import AddAuthorRequest

    text = key
    if len(key) < 255 and Path(key).is_file():
        text = Path(key).read_text()
    try:
        raw = bytes.fromhex("".join(text.split()))
    except ValueError:
        raise UserError(
            "OCT-CLI-USAGE",
            "This is no author's public key.",
            "64 hexadecimal digits are wanted.",
            "Give what 'octopus jobs key' prints, or the file that holds it.",
        ) from None
    row = operator().call("Operator.AddAuthor", AddAuthorRequest(name=name, key=raw))
    emit(row, lambda: say(f"{row.name} is known by the key {row.fingerprint}."))


@cli.command("jobs")
@server_options
def jobs() -> None:
    """Submitted job packages, newest first."""
    from octopus_desktop.wire.pb.federation_pb2 import JobsRequest

    rows = list(operator().call("Operator.ListJobs", JobsRequest()).jobs)
    emit(
        rows,
        lambda: table(
            "",
            ["job", "author", "submitted", "size", "digest"],
            [(f"{r.name}@{r.version}", r.author, when(r.submitted_at), size(r.size), r.digest[:12]) for r in rows],
            right=["size"],
        ),
    )


cli.add_command(runs)
cli.add_command(carrier)
cli.add_command(enrol_file)
