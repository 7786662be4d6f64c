"""``octopus server …``: the coordinator's side. Speaks to the server through its private operator socket; ``init`` and
``start`` work on the home, each in a process of the server's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import (
    Api,
    emit,
    facts,
    json_option,
    request_id,
    say,
    seconds_of,
    server_api,
    size,
    table,
    wants_json,
    when,
)
from octopus_desktop.system.paths import FederationHome, federation_home

if TYPE_CHECKING:
    from octopus_desktop.wire.pb.operator_pb2 import RunInfo

MODULE = "octopus_desktop.server.main"
ENDED = ("completed", "stopped", "failed")
STOP_WAIT_S = 20.0


def server_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--home`` and ``--json`` at the end of every command, as well as before."""

    def remember(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
        if value:
            ctx.ensure_object(dict)["server_home"] = value

    home = click.option("--home", metavar="DIR", expose_value=False, callback=remember, help="The federation's home.")
    return home(json_option(command))


def _home() -> FederationHome:
    ctx = click.get_current_context()
    given = ctx.ensure_object(dict).get("server_home")
    if not given and ctx.find_root().get_parameter_source("home") is click.core.ParameterSource.COMMANDLINE:
        given = ctx.find_root().params["home"]
    return federation_home(given)


def _api() -> Api:
    return server_api(_home())


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

    home = _home()
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

    home = _home()
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

    home = _home()
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

    now = _api().call("Operator.Status", StatusRequest())
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

    reply = _api().call("Operator.Invite", InviteRequest(role=role, name=name, valid_s=seconds_of(valid)))
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

    rows = list(_api().call("Operator.Invitations", InvitationsRequest()).invitations)

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

    rows = list(_api().call("Operator.Silos", SilosRequest()).silos)

    def link(row: Any) -> str:
        return row.state if row.state != "active" else "up" if row.connected else "down"

    emit(
        rows,
        lambda: table(
            "",
            ["name", "organisation", "link", "last seen", "certificate until", "in", "out"],
            [
                (r.name, r.organisation, link(r), when(r.last_seen), when(r.certificate_expires), size(r.bytes_in),
                 size(r.bytes_out))
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

    row = _api().call("Operator.Revoke", RevokeRequest(name=name, reason=reason))
    emit(row, lambda: say(f"{row.name} is revoked."))


@cli.group("authors")
def authors() -> None:
    """Whose job packages the federation takes."""


@authors.command("list")
@server_options
def authors_list() -> None:
    """Known authors and their keys."""
    from octopus_desktop.wire.pb.operator_pb2 import AuthorsRequest

    rows = list(_api().call("Operator.Authors", AuthorsRequest()).authors)
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
    row = _api().call("Operator.AddAuthor", AddAuthorRequest(name=name, key=raw))
    emit(row, lambda: say(f"{row.name} is known by the key {row.fingerprint}."))


@cli.command("jobs")
@server_options
def jobs() -> None:
    """Submitted job packages, newest first."""
    from octopus_desktop.wire.pb.federation_pb2 import JobsRequest

    rows = list(_api().call("Operator.ListJobs", JobsRequest()).jobs)
    emit(
        rows,
        lambda: table(
            "",
            ["job", "author", "submitted", "size", "digest"],
            [(f"{r.name}@{r.version}", r.author, when(r.submitted_at), size(r.size), r.digest[:12]) for r in rows],
            right=["size"],
        ),
    )


@cli.group("runs")
def runs() -> None:
    """Offer jobs to silos as runs; watch, stop and export them."""


def _metrics(values: Any) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in sorted(values) if not name.endswith("/examples"))


@runs.command("start")
@click.argument("job")
@click.option("--silos", "names", default="", help="Names with commas between (default: all).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="For example run.rounds=5; repeatable.")
@click.option("--offer-valid", default="7d", show_default=True, help="How long silos may decide.")
@server_options
def runs_start(job: str, names: str, settings: tuple[str, ...], offer_valid: str) -> None:
    """Offer a run of JOB: a name, name@version, or the beginning of a digest."""
    from octopus_desktop.wire.pb.operator_pb2 import StartRunRequest

    request = StartRunRequest(
        job=job,
        silos=[name.strip() for name in names.split(",") if name.strip()],
        overrides_json=json.dumps(_overrides(settings)),
        offer_valid_s=seconds_of(offer_valid),
        request_id=request_id(),
    )
    run = _api().call("Operator.StartRun", request)
    emit(
        run,
        lambda: say(f"Run {run.id} of {run.job_name}@{run.job_version} is offered to "
                    f"{', '.join(s.silo for s in run.silos)}."),
    )  # fmt: skip


def _overrides(settings: tuple[str, ...]) -> dict[str, Any]:
    """``("run.rounds=5",)`` as ``{"run": {"rounds": 5}}``; values are read as JSON, else as text."""
    from octopus_desktop.wire.errors import UserError

    out: dict[str, Any] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        parts = key.split(".")
        if not sign or not all(parts):
            raise UserError(
                "OCT-CLI-USAGE", f"{setting!r} sets nothing.", "KEY=VALUE is wanted.", "Write --set run.rounds=5."
            )
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        place = out
        for part in parts[:-1]:
            place = place.setdefault(part, {})
        place[parts[-1]] = value
    return out


@runs.command("list")
@click.option("--state", default="", help="offered, running, completed, stopped or failed.")
@server_options
def runs_list(state: str) -> None:
    """All runs, newest first."""
    from octopus_desktop.wire.pb.operator_pb2 import ListRunsRequest

    rows = list(_api().call("Operator.ListRuns", ListRunsRequest(state=state)).runs)

    def latest(run: RunInfo) -> str:
        return _metrics(run.history[-1].metrics) if run.history else ""

    emit(
        rows,
        lambda: table(
            "",
            ["id", "job", "state", "round", "made", "silos", "metrics"],
            [
                (r.id, f"{r.job_name}@{r.job_version}", r.state, f"{r.round}/{r.rounds}", when(r.created_at),
                 len(r.silos), latest(r))
                for r in rows
            ],
            right=["round", "silos"],
        ),
    )  # fmt: skip


@runs.command("show")
@click.argument("run")
@server_options
def runs_show(run: str) -> None:
    """One run with its silos and rounds. RUN: an id, its beginning, or 'last'."""
    from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

    one = _api().call("Operator.GetRun", GetRunRequest(id=run))

    def show() -> None:
        facts(
            f"{one.job_name}@{one.job_version}",
            [
                ("id", one.id),
                ("state", one.state + (f": {one.reason} [{one.code}]" if one.reason else "")),
                ("round", f"{one.round} of {one.rounds}"),
                ("made", when(one.created_at)),
                ("bytes", f"{size(one.bytes_in)} in, {size(one.bytes_out)} out"),
                ("model", one.model.digest[:16] or "–"),
            ],
        )
        table(
            "\nSilos",
            ["silo", "state", "round", "reason"],
            [(s.silo, s.state, s.round or "", s.reason) for s in one.silos],
            right=["round"],
        )
        table(
            "\nRounds",
            ["round", "s", "answered", "missing", "metrics"],
            [
                (h.round, f"{h.seconds:.2f}", len(h.answered), ", ".join(h.missing), _metrics(h.metrics))
                for h in one.history
            ],
            right=["round", "s", "answered"],
        )

    emit(one, show)


@runs.command("watch")
@click.argument("run")
@server_options
def runs_watch(run: str) -> None:
    """Follow a run until it ends. Exits with 1 when it does not complete."""
    from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

    last = None
    shown: dict[int, str] = {}
    states: dict[str, str] = {}
    for last in _api().stream("Operator.WatchRun", GetRunRequest(id=run)):
        if wants_json():
            from google.protobuf.json_format import MessageToJson

            click.echo(MessageToJson(last, indent=None, preserving_proto_field_name=True))
            continue
        for silo in last.silos:
            if states.get(silo.silo) != silo.state:
                states[silo.silo] = silo.state
                click.echo(f"{silo.silo}: {silo.state} {silo.reason}".rstrip())
        for row in last.history:
            text = f"round {row.round} of {last.rounds}: {_metrics(row.metrics)} ({row.seconds:.2f} s)"
            if shown.get(row.round) != text:
                shown[row.round] = text
                click.echo(text)
    if last is not None and not wants_json():
        click.echo(f"{last.state} {last.reason}".strip() + (f" [{last.code}]" if last.code else ""))
    if last is not None and last.state != "completed":
        sys.exit(1)


@runs.command("stop")
@click.argument("run")
@click.option("--reason", default="", help="The silos get it.")
@click.confirmation_option(prompt="Stop this run for all silos?")
@server_options
def runs_stop(run: str, reason: str) -> None:
    """End a run for all silos."""
    from octopus_desktop.wire.pb.operator_pb2 import StopRunRequest

    one = _api().call("Operator.StopRun", StopRunRequest(id=run, reason=reason))
    emit(one, lambda: say(f"{one.job_name} is {one.state}."))


@runs.command("export")
@click.argument("run")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--round", "round_", type=click.IntRange(0), default=0, help="0: the newest.")
@server_options
def runs_export(run: str, path: Path, round_: int) -> None:
    """Write a round's global model as a safetensors file."""
    from octopus_desktop.wire.pb.operator_pb2 import ExportModelRequest

    chunks = _api().stream("Operator.ExportModel", ExportModelRequest(run_id=run, round=round_))
    digest, count = _write(path, iter(chunks))
    emit(
        {"path": str(path.absolute()), "digest": digest, "size": count},
        lambda: say(f"{size(count)} written to {path}."),
    )


def _write(path: Path, chunks: Iterator[Any]) -> tuple[str, int]:
    """The whole file or none, its digest checked."""
    import hashlib

    from octopus_desktop.wire.errors import UserError

    first = next(chunks)  # the server's refusal comes before a file is made
    sha, count = hashlib.sha256(), 0
    half = path.with_name(path.name + ".part")
    try:
        with open(half, "wb") as file:
            chunk: Any = first
            while chunk is not None:
                file.write(chunk.data)
                sha.update(chunk.data)
                count += len(chunk.data)
                chunk = next(chunks, None)
        if sha.hexdigest() != first.blob.digest:
            raise UserError(
                "OCT-BLOB-CORRUPT", "The model arrived damaged.", "Its SHA-256 is another one.", "Export it again."
            )
        os.replace(half, path)
    except OSError as error:
        raise UserError("OCT-CONFIG-INVALID", f"{path} cannot be written.", str(error), "Give another path.") from error
    finally:
        half.unlink(missing_ok=True)
    return first.blob.digest, count
