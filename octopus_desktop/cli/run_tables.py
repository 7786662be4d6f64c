"""One run of the silo, for a terminal: facts, silos, rounds, what left; and as lines while it goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click

from octopus_desktop.cli.common import facts, size, table, when
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.review import ways
from octopus_desktop.jobs.silos import Standing, best_round, standings
from octopus_desktop.wire.errors import UserError

MOST_METRICS = 3


def metrics_text(values: Any) -> str:
    return " ".join(f"{name}={values[name]:.4f}" for name in sorted(values) if not name.endswith("/examples"))


def about(run: Any) -> dict[str, str]:
    """What tells runs apart beside their settings."""
    took = run.ended_at - run.started_at if run.ended_at and run.started_at else 0.0
    return {
        "job": f"{run.job_name} {run.job_version}",
        "state": run.state,
        "rounds": f"{run.round} of {run.rounds}",
        "silos": str(len(run.silos)),
        "took": f"{took:.1f} s" if took else "–",
        "bytes out": size(run.bytes_out),
        "carrier": run.carrier,
    }


def standing_words(one: Standing) -> str:
    if one.state == "answered":
        return f"answered in round {one.last}"
    if one.state == "late":
        return f"late: its answer counted in round {one.last}"
    if one.state == "silent":
        since = f"since round {one.last}" if one.last else "from the first round on"
        return f"silent {since}, asked {one.missed} {'time' if one.missed == 1 else 'times'}"
    if one.state == "unasked":
        return f"not asked now; answered last in round {one.last}" if one.last else "not asked yet"
    return "no round is over yet"


def show_run(detail: Any, wanted: Sequence[str]) -> None:
    """Print a RunDetail. ``wanted``: metrics; none: those of the model first, at most MOST_METRICS."""
    one, config = detail.run, _config(detail.config_json)
    names = _chosen(detail.rounds, wanted)
    best, value = (one.best_round, one.best_value) if one.best_round else best_round(config.best, detail.rounds)
    pairs = [
        ("state", one.state + (f": {one.reason} [{one.code}]" if one.reason else "")),
        ("round", f"{one.round} of {one.rounds}"),
        ("approved", f"{when(one.approved_at)} by {one.approved_by}"),
        *([("queue", one.queue)] if one.queue else []),
        ("carrier", _carrier(one)),
        ("bytes", _bytes(one)),
        *([("best round", f"{best} ({config.best.partition(' ')[2] or 'best'} {value:.4g})")] if best else []),
    ]
    facts(f"{one.job_name} {one.job_version}", pairs)
    for text in ways(config).values():
        click.echo(f"\n  {click.wrap_text(text, 100, '', '  ')}" if len(text) > 100 else f"\n  {text}")
    _silos(detail, names)
    heads = [head for name in names for head in (f"{name} here", "federation")]
    rows = [
        (f"{r.round}{'★' if r.round == best else ''}", f"{r.seconds:.2f}",
         *(_number(values.get(name)) for name in names for values in (r.local, r.federation)),
         ", ".join(r.missing), ", ".join(r.late))
        for r in detail.rounds
    ]  # fmt: skip
    faults = any(r.missing or r.late for r in detail.rounds)
    columns = ["round", "s", *heads, *(["no answer", "late"] if faults else [])]
    table("\nRounds", columns, [row[: len(columns)] for row in rows], right=["round", "s", *heads])
    left = [(when(m.at), m.round, m.kind, m.bytes, m.encoding, m.carrier, m.digest[:12]) for m in detail.left]
    columns = ["at", "round", "kind", "bytes", "encoding", "carrier", "digest"]
    table("\nWhat left", columns, left, right=["round", "bytes"])


def show_trial(result: Any) -> None:
    """Print what a trial took, and what the job would have sent."""
    if result.error_code:
        facts("It failed.", [("why", f"{result.error} [{result.error_code}]"), ("memory", size(result.memory))])
        return
    facts(
        "It was tried out. Nothing was sent.",
        [
            ("took", f"{result.seconds:.1f} s, of which {result.train_seconds:.1f} s training"),
            ("memory", f"{size(result.memory)} at most"),
            ("examples", f"{result.examples:,} in {result.steps:,} steps"),
            ("would send", f"{size(result.bytes)}" + (f" as {result.encoding}" if result.encoding != "none" else "")),
            ("metrics", metrics_text(result.metrics) or "none"),
        ],
    )
    rows = [(layer.name, layer.shape, f"{layer.elements:,}") for layer in result.layers]
    click.secho("\nThe update that it would send", italic=True)
    table("", ["tensor", "shape", "elements"], rows, right=["elements"])


class Watched:
    """A run that goes on, as lines: a round when its numbers are known, a silo when where it stands has changed."""

    def __init__(self, run: Any) -> None:
        self._silos = list(run.silos)
        self._rounds: dict[int, Any] = {}
        self._said: dict[int, str] = {}
        self._stood: dict[str, str] = {}

    def lines(self, update: Any) -> Iterable[str]:
        if update.HasField("run"):
            self._silos = list(update.run.silos) or self._silos
        for row in update.rounds:
            self._rounds[row.round] = row
            if not row.federation:
                continue  # it is not over: only this silo's own part is known
            text = (
                f"round {row.round}: here {metrics_text(row.local) or '–'} · federation {metrics_text(row.federation)}"
            )
            if self._said.get(row.round) != text:
                self._said[row.round] = text
                yield text
        for one in standings(self._silos, self._rounds.values()):
            before, self._stood[one.silo] = self._stood.get(one.silo, ""), one.state
            if one.state in ("silent", "late") and before != one.state:
                yield f"{one.silo}: {standing_words(one)}"
            elif one.state == "answered" and before in ("silent", "late"):
                yield f"{one.silo}: answers again, in round {one.last}"


def _silos(detail: Any, names: Sequence[str]) -> None:
    shared: dict[str, dict[str, float]] = {}
    for row in detail.rounds:
        for silo, numbers in row.silos.items():
            shared.setdefault(silo, {}).update(numbers.values)
    rows = [
        (one.silo, standing_words(one), *(_number(shared.get(one.silo, {}).get(name)) for name in names))
        for one in standings(list(detail.run.silos), detail.rounds)
    ]
    columns = ["silo", "where it stands", *(names if shared else [])]
    table("\nSilos", columns, [row[: len(columns)] for row in rows], right=list(names))


def _chosen(rounds: Iterable[Any], wanted: Sequence[str]) -> list[str]:
    known = {name for row in rounds for name in (*row.local, *row.federation) if not name.endswith("/examples")}
    for name in wanted:
        if name not in known:
            raise UserError(
                "OCT-CLI-USAGE",
                f"The run has no metric {name!r}.",
                f"It has: {', '.join(sorted(known)) or 'none yet'}.",
                "Name one of these.",
            )
    order = sorted(known, key=lambda name: (not name.startswith("eval/"), name.startswith("train/"), name))
    return list(wanted) or order[:MOST_METRICS]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _config(text: str) -> RunConfig:
    return RunConfig.from_dict(json.loads(text)) if text else RunConfig()


def _carrier(run: Any) -> str:
    """By what the run's data goes, and how that link is."""
    parts = [run.carrier or "–", run.link, f"{run.latency_ms:.1f} ms round trip" if run.latency_ms else ""]
    return ", ".join(part for part in parts if part)


def _bytes(run: Any) -> str:
    resumed = f", {size(run.bytes_resumed)} not sent again" if run.bytes_resumed else ""
    encoding = f", updates as {run.encoding}" if run.encoding not in ("", "none") else ""
    return f"{size(run.bytes_in)} in, {size(run.bytes_out)} out{resumed}{encoding}"
