"""``octopus daemon …``: the silo's background process."""

from __future__ import annotations

import os
import sys

import click

from octopus_desktop.cli.common import (
    ask_passphrase,
    daemon_api,
    emit,
    facts,
    home_of_silo,
    json_option,
    request_id,
    say,
    size,
    snapshot,
    when,
)


@click.group("daemon")
def cli() -> None:
    """Start, stop and inspect the silo's background process."""


@cli.command("start")
@click.option("--foreground", is_flag=True, help="Stay in this process, for service managers.")
@json_option
def start(foreground: bool) -> None:
    """Start the daemon; returns when it answers."""
    home = home_of_silo()
    if foreground:
        os.execv(sys.executable, [sys.executable, "-m", "octopus_desktop.daemon.main", "--home", str(home.root)])
    from octopus_desktop.system.service import start_daemon

    pid = start_daemon(home)
    emit({"pid": pid, "home": str(home.root)}, lambda: say(f"The daemon is at work (process {pid}, {home.root})."))


@cli.command("unlock")
@json_option
def unlock() -> None:
    """Give the daemon the passphrase of its keys; it is started again with it.

    The passphrase comes from a prompt, or from the file that OCTOPUS_PASSPHRASE_FILE names.
    """
    from octopus_desktop.identity.secrets import open_store
    from octopus_desktop.system.service import start_daemon, start_unlocked, stop_daemon

    home = home_of_silo()
    typed: list[str] = []

    def ask() -> str:
        typed.append(ask_passphrase(home.secrets))
        return typed[0]

    kind = open_store(home.secrets, passphrase=ask).kind  # a wrong passphrase stops nothing
    stop_daemon(home)
    pid = start_unlocked(home, typed[0]) if typed else start_daemon(home)
    emit({"pid": pid, "secrets": kind}, lambda: say(f"The daemon is at work with its keys (process {pid}, {kind})."))


@cli.command("stop")
@json_option
def stop(wait_s: float = 20.0) -> None:
    """Stop the daemon; running training stops with it and goes on when it is started again."""
    from octopus_desktop.system.service import wait_stopped
    from octopus_desktop.wire.pb.local_pb2 import ShutdownRequest

    home = home_of_silo()
    daemon_api(home).call("Daemon.Shutdown", ShutdownRequest(request_id=request_id()))
    wait_stopped(home, wait_s)
    emit({"stopped": True}, lambda: say("The daemon has stopped."))


@cli.command("status")
@json_option
def status() -> None:
    """What the daemon is, and what it is doing."""
    from octopus_desktop.wire.pb.local_pb2 import LocalHelloRequest

    api = daemon_api()
    hello = api.call("Daemon.Hello", LocalHelloRequest(protocol_min=1, protocol_max=1, client="octopus"))
    snap = snapshot(api)

    def show() -> None:
        waiting = sum(1 for offer in snap.offers if offer.state == "offered")
        active = [r for r in snap.runs if r.state in ("preparing", "training", "exchanging", "paused")]
        facts(
            snap.daemon.organisation or "A silo that is not set up yet (octopus setup)",
            [
                ("version", f"{hello.version} (process {hello.pid}, since {when(snap.daemon.started_at)})"),
                ("home", hello.home),
                ("secrets", snap.daemon.secrets),
                ("federations", ", ".join(f"{f.name} {f.link}" for f in snap.federations) or "none"),
                ("waiting for you", f"{waiting} job(s)"),
                ("running", ", ".join(f"{r.job_name} {r.round}/{r.rounds} {r.state}" for r in active) or "nothing"),
                ("bytes out today", size(snap.daemon.bytes_out_today)),
            ],
        )

    emit(snap, show)


@cli.command("install")
@json_option
def install() -> None:
    """Start the daemon at login, as a systemd user unit."""
    from octopus_desktop.system.service import install_unit

    text = install_unit(home_of_silo())
    emit({"done": text}, lambda: say(text))


@cli.command("uninstall")
@json_option
def uninstall() -> None:
    """Take the systemd user unit away again."""
    from octopus_desktop.system.service import uninstall_unit

    text = uninstall_unit(home_of_silo())
    emit({"done": text}, lambda: say(text))
