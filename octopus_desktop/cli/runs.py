"""``octopus runs …``: the silo's share of federated runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from octopus_desktop.cli.common import (
    Api,
    daemon_api,
    emit,
    find,
    json_option,
    request_id,
    say,
    short,
    size,
    snapshot,
    table,
    wants_json,
    when,
)

ENDED = ("completed", "stopped", "failed")


@click.group("runs")
def cli() -> None:
    """Watch, pause, resume, stop runs; export their models."""


def _run(api: Api, wanted: str) -> Any:
    runs = snapshot(api).runs
    if wanted == "last" and runs:
        return max(runs, key=lambda r: r.approved_at)
    return find(runs, wanted, "run")


@cli.command("list")
@click.option("--state", default="", help="Only runs in this state.")
@json_option
def list_(state: str) -> None:
    """Running and past runs, newest first."""
    from octopus_desktop.cli.run_tables import metrics_text

    runs = sorted(snapshot(daemon_api()).runs, key=lambda r: -r.approved_at)
    runs = [r for r in runs if not state or r.state == state]
    emit(
        runs,
        lambda: table(
            "",
            ["id", "job", "state", "round", "approved", "carrier", "in", "out", "metrics"],
            [
                (short(r.id), f"{r.job_name} {r.job_version}", r.state, f"{r.round}/{r.rounds}", when(r.approved_at),
                 r.carrier, size(r.bytes_in), size(r.bytes_out), metrics_text(r.metrics))
                for r in runs
            ],
            right=["round", "in", "out"],
        ),
    )  # fmt: skip


@cli.command("show")
@click.argument("run")
@click.option("--metric", "metrics", multiple=True, help="Only these; for example eval/accuracy. Repeatable.")
@json_option
def show(run: str, metrics: tuple[str, ...]) -> None:
    """One run with its rounds, its silos and what left. RUN: an id, its beginning, or 'last'."""
    from octopus_desktop.cli.run_tables import show_run
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    detail = api.call("Runs.Detail", ById(id=_run(api, run).id))
    emit(detail, lambda: show_run(detail, metrics))


@cli.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--metric", "metrics", multiple=True, help="Only these; for example eval/accuracy. Repeatable.")
@json_option
def compare(runs: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Runs side by side: the settings that differ, and the federation's metrics round by round."""
    from octopus_desktop.cli.compare import compared, require_two, show
    from octopus_desktop.cli.run_tables import about
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    ids = [_run(api, run).id for run in runs]
    require_two(ids)
    details = [api.call("Runs.Detail", ById(id=run_id)) for run_id in ids]
    names = [short(d.run.id) for d in details]
    show(
        [
            compared(name, d.config_json, {row.round: dict(row.federation) for row in d.rounds}, about(d.run))
            for name, d in zip(names, details, strict=True)
        ],
        metrics,
    )


@cli.command("watch")
@click.argument("run")
@json_option
def watch(run: str) -> None:
    """Follow a run until it ends: rounds, and silos that gave no answer. Exits with 1 when it does not complete."""
    from google.protobuf.json_format import MessageToJson

    from octopus_desktop.cli.run_tables import Watched
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = _run(api, run)
    watched = Watched(one)
    queue = ""
    for update in api.stream("Runs.Follow", ById(id=one.id)):
        if wants_json():
            click.echo(MessageToJson(update, indent=None, preserving_proto_field_name=True))
        else:
            for line in watched.lines(update):
                click.echo(line)
        if update.HasField("run") and update.run.queue != queue:
            queue = update.run.queue
            say(f"{queue}." if queue else "The allocation is given back.")
        if update.HasField("run") and update.run.state in ENDED:
            say(f"{update.run.state} {update.run.reason}".strip())
            if update.run.state != "completed":
                raise SystemExit(1)
            return


def _command(name: str, method: str, text: str) -> None:
    @cli.command(name, help=text)
    @click.argument("run")
    @json_option
    def command(run: str) -> None:
        from octopus_desktop.wire.pb.local_pb2 import ById

        api = daemon_api()
        after = api.call(method, ById(id=_run(api, run).id, request_id=request_id()))
        emit(after, lambda: say(f"{after.job_name} is {after.state}."))


_command("pause", "Runs.Pause", "Take on nothing new in this run until it is resumed.")
_command("resume", "Runs.Resume", "Go on with a paused run.")


@cli.command("stop")
@click.argument("run")
@click.option("--reason", required=True, help="The coordinator gets it.")
@click.confirmation_option(prompt="Stop this silo's share of the run for good?")
@json_option
def stop(run: str, reason: str) -> None:
    """Stop this silo's share of a run for good."""
    from octopus_desktop.wire.pb.local_pb2 import StopLocalRequest

    api = daemon_api()
    after = api.call("Runs.Stop", StopLocalRequest(id=_run(api, run).id, reason=reason, request_id=request_id()))
    emit(after, lambda: say(f"{after.job_name} is {after.state}."))


@cli.command("export")
@click.argument("run")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--round", "round_", type=click.IntRange(0), default=0, help="0: the newest.")
@click.option("--best", is_flag=True, help="The best round's model, of a run that was to choose one.")
@click.option("--personal", is_flag=True, help="This silo's own model, of a job that keeps one; it never leaves.")
@json_option
def export(run: str, path: Path, round_: int, best: bool, personal: bool) -> None:
    """Write a round's global model as a safetensors file."""
    from octopus_desktop.wire.errors import UserError
    from octopus_desktop.wire.pb.local_pb2 import ExportRequest

    api = daemon_api()
    one = _run(api, run)
    if best and not one.best_round:
        raise UserError(
            "OCT-BLOB-MISSING",
            "This run has no best model.",
            "It has not completed, or its job names no metric by which to choose.",
            "Export a round's model by its number.",
        )
    if personal and (best or round_):
        raise UserError(
            "OCT-CLI-USAGE",
            "--personal goes with neither --best nor --round.",
            "A silo's own model is made of the final one.",
            "Leave one out.",
        )
    request = ExportRequest(
        id=one.id,
        round=one.best_round if best else round_,
        path=str(path.absolute()),
        request_id=request_id(),
        personal=personal,
    )
    api.call("Runs.ExportModel", request)
    emit({"path": str(path.absolute())}, lambda: say(f"Written to {path}."))
