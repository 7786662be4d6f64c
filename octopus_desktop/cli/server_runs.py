"""``octopus server runs …``: jobs as runs, from the coordinator's side."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import emit, facts, request_id, say, seconds_of, size, table, wants_json, when
from octopus_desktop.cli.server_common import operator, server_options

if TYPE_CHECKING:
    from octopus_desktop.wire.pb.operator_pb2 import RunInfo


@click.group("runs")
def runs() -> None:
    """Offer jobs to silos as runs; watch, stop and export them."""


def _metrics(values: Any) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in sorted(values) if not name.endswith("/examples"))


@runs.command("start")
@click.argument("job")
@click.option("--silos", "names", default="", help="Names with commas between (default: all).")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="For example run.rounds=5; repeatable.")
@click.option("--offer-valid", default="7d", show_default=True, help="How long silos may decide.")
@click.option(
    "--from", "origin", default="", metavar="RUN[:ROUND]", help="Begin with that round's model of an earlier run."
)
@click.option(
    "--central-data",
    "central",
    multiple=True,
    metavar="ALIAS=FILE",
    help="Data on the server's machine, where the job evaluates there as well ([evaluation] central).",
)
@click.option("--allow-own-strategy", "own", is_flag=True, help="Let the package's own strategy run on the server.")
@server_options
def runs_start(
    job: str, names: str, settings: tuple[str, ...], offer_valid: str, origin: str, central: tuple[str, ...], own: bool
) -> None:
    """Offer a run of JOB: a name, name@version, or the beginning of a digest.

    A job may bring a strategy of its own ([strategy] name = "module:Class"). Its code then runs on this server, in a
    sandbox, and makes the federation's model; that is refused unless it is allowed here, for this run.

    With --from the run begins with an earlier run's model. When that is the model it ended with and the strategy is the
    same, the strategy's own state (momentum and the like) is carried on, unless silos keep a part of it.
    """
    from octopus_desktop.wire.pb.operator_pb2 import StartRunRequest

    request = StartRunRequest(
        job=job,
        silos=[name.strip() for name in names.split(",") if name.strip()],
        overrides_json=json.dumps(_overrides(settings)),
        offer_valid_s=seconds_of(offer_valid),
        request_id=request_id(),
        central_data_json=json.dumps(_files(central)) if central else "",
        allow_own_strategy=own,
        **_origin(origin),
    )
    run = operator().call("Operator.StartRun", request)
    name = json.loads(run.config_json).get("strategy", "")
    own_words = f" Its own strategy {name} makes the model, on this server." if ":" in name else ""
    emit(
        run,
        lambda: say(f"Run {run.id} of {run.job_name}@{run.job_version} is offered to "
                    f"{', '.join(s.silo for s in run.silos)}.{own_words}"),
    )  # fmt: skip


def _files(words: tuple[str, ...]) -> dict[str, str]:
    from octopus_desktop.wire.errors import UserError

    found = {alias: str(Path(path).absolute()) for alias, sign, path in (w.partition("=") for w in words) if sign}
    if len(found) != len(words):
        raise UserError(
            "OCT-CLI-USAGE", "--central-data names no file.", "ALIAS=FILE is wanted, each alias once.",
            "Write --central-data patients=held-out.csv.",
        )  # fmt: skip
    return found


def _origin(text: str) -> dict[str, Any]:
    from octopus_desktop.wire.errors import UserError

    run, colon, number = text.partition(":")
    if (colon and not number.isdecimal()) or (text and not run):
        raise UserError(
            "OCT-CLI-USAGE", f"--from {text} names no model.", "It is RUN or RUN:ROUND.", "Write --from last:3."
        )
    return {"from_run": run, "from_round": int(number or 0)}


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

    rows = list(operator().call("Operator.ListRuns", ListRunsRequest(state=state)).runs)

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


def link_cells(link: Any) -> tuple[str, str, str, str, str]:
    """Phase, round trip, bytes in, out and resumed of a silo's link, which other runs may share."""
    if link is None:
        return "", "", "", "", ""
    ms = f"{link.latency_ms:.1f}" if link.latency_ms else ""
    return link.phase, ms, size(link.bytes_in), size(link.bytes_out), size(link.bytes_resumed)


@runs.command("show")
@click.argument("run")
@server_options
def runs_show(run: str) -> None:
    """One run with its silos and rounds. RUN: an id, its beginning, or 'last'."""
    from octopus_desktop.wire.pb.operator_pb2 import CarriersRequest, GetRunRequest

    api = operator()
    one = api.call("Operator.GetRun", GetRunRequest(id=run))
    links = {
        (c.name, link.silo): link for c in api.call("Operator.Carriers", CarriersRequest()).carriers for link in c.links
    }

    def show() -> None:
        facts(
            f"{one.job_name}@{one.job_version}",
            [
                ("id", one.id),
                ("state", one.state + (f": {one.reason} [{one.code}]" if one.reason else "")),
                ("round", f"{one.round} of {one.rounds}"),
                ("made", when(one.created_at)),
                ("carrier", one.carrier or "–"),
                ("bytes", f"{size(one.bytes_in)} in, {size(one.bytes_out)} out"),
                ("model", one.model.digest[:16] or "–"),
                *(
                    [("best model", f"{one.best.digest[:16]}, of round {one.best_round} ({one.best_value:.4g})")]
                    if one.best_round
                    else []
                ),
            ],
        )
        table(
            "\nSilos",
            ["silo", "state", "round", "carrier", "link", "ms", "in", "out", "resumed", "reason"],
            [
                (s.silo, s.state, s.round or "", s.carrier, *link_cells(links.get((s.carrier, s.silo))), s.reason)
                for s in one.silos
            ],
            right=["round", "ms", "in", "out", "resumed"],
        )
        table(
            "\nRounds",
            ["round", "s", "answered", "missing", "late", "metrics"],
            [
                (h.round, f"{h.seconds:.2f}", len(h.answered), ", ".join(h.missing), ", ".join(h.late),
                 _metrics(h.metrics))
                for h in one.history
            ],
            right=["round", "s", "answered"],
        )  # fmt: skip
        _show_silos(one)

    emit(one, show)


def _show_silos(run: RunInfo) -> None:
    """The newest round whose model was evaluated: the federation's metrics, and each silo's beside them."""
    rows = [h for h in run.history if any(name.startswith("eval/") for name in h.metrics)] or list(run.history)
    if not rows or not rows[-1].silos:
        return
    row = rows[-1]
    names = sorted({n for n in row.metrics} | {n for one in row.silos.values() for n in one.metrics})

    def cells(metrics: Any) -> list[str]:
        return [f"{metrics[name]:.4g}" if name in metrics else "" for name in names]

    table(
        f"\nEach silo in round {row.round}",
        ["silo", *names],
        [("(all)", *cells(row.metrics)), *((silo, *cells(row.silos[silo].metrics)) for silo in sorted(row.silos))],
        right=names,
    )


@runs.command("compare")
@click.argument("names", metavar="RUNS...", nargs=-1, required=True)
@click.option("--metric", "metrics", multiple=True, help="Only these; for example eval/accuracy. Repeatable.")
@server_options
def runs_compare(names: tuple[str, ...], metrics: tuple[str, ...]) -> None:
    """Runs side by side: the settings that differ, and their metrics round by round."""
    from octopus_desktop.cli.compare import compared, require_two, show
    from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

    api = operator()
    found = [api.call("Operator.GetRun", GetRunRequest(id=name)) for name in names]
    require_two([run.id for run in found])
    show([compared(run.id, run.config_json, {h.round: dict(h.metrics) for h in run.history}) for run in found], metrics)


@runs.command("watch")
@click.argument("run")
@server_options
def runs_watch(run: str) -> None:
    """Follow a run until it ends. Exits with 1 when it does not complete."""
    from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

    last = None
    shown: dict[int, str] = {}
    states: dict[str, str] = {}
    for last in operator().stream("Operator.WatchRun", GetRunRequest(id=run)):
        if wants_json():
            from google.protobuf.json_format import MessageToJson

            click.echo(MessageToJson(last, indent=None, preserving_proto_field_name=True))
            continue
        for silo in last.silos:
            if states.get(silo.silo) != f"{silo.state} {silo.reason}":
                states[silo.silo] = f"{silo.state} {silo.reason}"
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

    one = operator().call("Operator.StopRun", StopRunRequest(id=run, reason=reason))
    emit(one, lambda: say(f"{one.job_name} is {one.state}."))


@runs.command("export")
@click.argument("run")
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--round", "round_", type=click.IntRange(0), default=0, help="0: the newest.")
@click.option("--best", is_flag=True, help="The best round's model ([run] best).")
@server_options
def runs_export(run: str, path: Path, round_: int, best: bool) -> None:
    """Write a round's global model as a safetensors file.

    Where the strategy's state belongs to that model (the last one, of a run that has ended), it is written to the
    folder PATH.state: 'octopus simulate --from PATH' carries on with both.
    """
    from octopus_desktop.simulation.forks import describing, folder_of
    from octopus_desktop.wire.pb.operator_pb2 import ExportModelRequest

    request = ExportModelRequest(run_id=run, round=round_, best=best)
    digest, count = _write(path, iter(operator().stream("Operator.ExportModel", request)))
    parts = iter(operator().stream("Operator.ExportState", request))
    first, slots = next(parts, None), []
    with describing(path, first.strategy if first else "") as fresh:
        while first is not None:
            rest = _Slot(first, parts)
            _write(fresh(first.slot), rest)
            slots.append(first.slot)
            first = rest.following
    also = {"state": str(folder_of(path).absolute())} if slots else {}
    told = ", and the strategy's state beside it" if slots else ""
    emit(
        {"path": str(path.absolute()), "digest": digest, "size": count, **also},
        lambda: say(f"{size(count)} written to {path}{told}."),
    )


class _Slot:
    """The chunks of one slot; ``following``: the first of the next one, or None."""

    def __init__(self, first: Any, parts: Iterator[Any]) -> None:
        self._next, self._parts, self.following = first, parts, None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        part = self._next
        if part is None:
            raise StopIteration
        self._next = next(self._parts, None)
        if self._next is not None and self._next.slot:
            self.following, self._next = self._next, None
        return part.chunk


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
