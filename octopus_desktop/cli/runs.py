"""``octopus runs …``: the silo's share of federated runs."""

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


def _metrics(values: Any) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in sorted(values) if not name.endswith("/examples"))


def carrier_words(run: Any) -> str:
    """By what the run's data goes, and how that link is."""
    parts = [run.carrier or "–", run.link, f"{run.latency_ms:.1f} ms round trip" if run.latency_ms else ""]
    return ", ".join(part for part in parts if part)


def bytes_words(run: Any) -> str:
    resumed = f", {size(run.bytes_resumed)} not sent again" if run.bytes_resumed else ""
    encoding = f", updates as {run.encoding}" if run.encoding not in ("", "none") else ""
    return f"{size(run.bytes_in)} in, {size(run.bytes_out)} out{resumed}{encoding}"


@cli.command("list")
@click.option("--state", default="", help="Only runs in this state.")
@json_option
def list_(state: str) -> None:
    """Running and past runs, newest first."""
    runs = sorted(snapshot(daemon_api()).runs, key=lambda r: -r.approved_at)
    runs = [r for r in runs if not state or r.state == state]
    emit(
        runs,
        lambda: table(
            "",
            ["id", "job", "state", "round", "approved", "carrier", "in", "out", "metrics"],
            [
                (short(r.id), f"{r.job_name} {r.job_version}", r.state, f"{r.round}/{r.rounds}", when(r.approved_at),
                 r.carrier, size(r.bytes_in), size(r.bytes_out), _metrics(r.metrics))
                for r in runs
            ],
            right=["round", "in", "out"],
        ),
    )  # fmt: skip


@cli.command("show")
@click.argument("run")
@json_option
def show(run: str) -> None:
    """One run with its rounds and what left the silo. RUN: an id, its beginning, or 'last'."""
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    detail = api.call("Runs.Detail", ById(id=_run(api, run).id))

    def text() -> None:
        one = detail.run
        facts(
            f"{one.job_name} {one.job_version}",
            [
                ("state", one.state + (f": {one.reason} [{one.code}]" if one.reason else "")),
                ("round", f"{one.round} of {one.rounds}"),
                ("approved", f"{when(one.approved_at)} by {one.approved_by}"),
                *([("queue", one.queue)] if one.queue else []),
                ("carrier", carrier_words(one)),
                ("bytes", bytes_words(one)),
                *([("best round", f"{one.best_round} ({one.best_value:.4g})")] if one.best_round else []),
            ],
        )
        table(
            "\nRounds",
            ["round", "s", "this silo", "federation"],
            [(r.round, f"{r.seconds:.2f}", _metrics(r.local), _metrics(r.federation)) for r in detail.rounds],
            right=["round", "s"],
        )
        table(
            "\nWhat left",
            ["at", "round", "kind", "bytes", "encoding", "carrier", "digest"],
            [(when(m.at), m.round, m.kind, m.bytes, m.encoding, m.carrier, m.digest[:12]) for m in detail.left],
            right=["round", "bytes"],
        )

    emit(detail, text)


@cli.command("compare")
@click.argument("runs", nargs=-1, required=True)
@click.option("--metric", "metrics", multiple=True, help="Only these; for example eval/accuracy. Repeatable.")
@json_option
def compare(runs: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Runs side by side: the settings that differ, and the federation's metrics round by round."""
    from octopus_desktop.cli.compare import compared, require_two, show
    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    ids = [_run(api, run).id for run in runs]
    require_two(ids)
    details = [api.call("Runs.Detail", ById(id=run_id)) for run_id in ids]
    names = [short(d.run.id) for d in details]
    show(
        [
            compared(name, d.config_json, {row.round: dict(row.federation) for row in d.rounds})
            for name, d in zip(names, details, strict=True)
        ],
        metrics,
    )


@cli.command("watch")
@click.argument("run")
@json_option
def watch(run: str) -> None:
    """Follow a run until it ends."""
    from google.protobuf.json_format import MessageToJson

    from octopus_desktop.wire.pb.local_pb2 import ById

    api = daemon_api()
    one = _run(api, run)
    queue = ""
    for update in api.stream("Runs.Follow", ById(id=one.id)):
        if wants_json():
            click.echo(MessageToJson(update, indent=None, preserving_proto_field_name=True))
        else:
            for row in update.rounds:
                click.echo(f"round {row.round}: here {_metrics(row.local)} · federation {_metrics(row.federation)}")
        if update.HasField("run") and update.run.queue != queue:
            queue = update.run.queue
            say(f"{queue}." if queue else "The allocation is given back.")
        if update.HasField("run") and update.run.state in ENDED:
            say(f"{update.run.state} {update.run.reason}".strip())
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
@json_option
def export(run: str, path: Path, round_: int, best: bool) -> None:
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
    request = ExportRequest(
        id=one.id, round=one.best_round if best else round_, path=str(path.absolute()), request_id=request_id()
    )
    api.call("Runs.ExportModel", request)
    emit({"path": str(path.absolute())}, lambda: say(f"Written to {path}."))
