"""Runs side by side: the settings in which they differ, and their metrics round by round. For both ends' commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from octopus_desktop.cli.common import emit, table
from octopus_desktop.jobs.differences import differences, value_text
from octopus_desktop.wire.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run: ``name`` as the table's head shows it, its configuration, each round's federation metrics, and what else
    is told of it."""

    name: str
    config: Mapping[str, Any]
    rounds: Mapping[int, Mapping[str, float]]
    about: Mapping[str, str] = field(default_factory=dict)


def compared(
    name: str, config_json: str, rounds: Mapping[int, Mapping[str, float]], about: Mapping[str, str] | None = None
) -> Compared:
    return Compared(name=name, config=json.loads(config_json or "{}"), rounds=rounds, about=about or {})


def require_two(runs: Sequence[str]) -> None:
    if len(set(runs)) < 2:
        raise UserError(
            "OCT-CLI-USAGE", "One run cannot be compared.", "Two or more are wanted.", "Name the other runs as well."
        )


def show(runs: Sequence[Compared], metrics: Sequence[str]) -> None:
    """Print tables, or one JSON object. ``metrics``: which ones; none: those of the model (eval/…, central/…)."""
    known = sorted({name for run in runs for row in run.rounds.values() for name in row})
    chosen = list(metrics) or [
        name for name in known if not name.startswith("train/") and not name.endswith("/examples")
    ]
    for name in metrics:
        if name not in known:
            raise UserError(
                "OCT-CLI-USAGE",
                f"None of these runs has the metric {name!r}.",
                f"They have: {', '.join(known) or 'none yet'}.",
                "Name one of these.",
            )
    heads = [run.name for run in runs]
    settings = differences([run.config for run in runs])
    numbers = sorted({number for run in runs for number in run.rounds})
    rows = {name: {n: [run.rounds.get(n, {}).get(name) for run in runs] for n in numbers} for name in chosen}

    def text() -> None:
        keys = dict.fromkeys(key for run in runs for key in run.about)
        if keys:
            table("", ["run", *heads], [(key, *(run.about.get(key, "") for run in runs)) for key in keys])
            click.echo()
        if settings:
            table("Settings that differ", ["setting", *heads], [(k, *map(value_text, v)) for k, v in settings.items()])
        else:
            click.echo("The runs have the same settings.")
        ends = [(name, *(_ended(by_round, at) for at in range(len(runs)))) for name, by_round in rows.items()]
        table("\nNewest value, and its round", ["metric", *heads], ends, right=heads)
        for name, by_round in rows.items():
            cells = [(n, *("" if v is None else f"{v:.4f}" for v in values)) for n, values in by_round.items()]
            table(f"\n{name}", ["round", *heads], cells, right=["round", *heads])

    plain = {
        "runs": heads,
        "settings": settings,
        "metrics": {name: {str(n): values for n, values in by_round.items()} for name, by_round in rows.items()},
    }
    emit(plain, text)


def _ended(by_round: Mapping[int, Sequence[float | None]], at: int) -> str:
    """The newest value of the run at place ``at``, with its round."""
    known = [(number, values[at]) for number, values in by_round.items() if values[at] is not None]
    return f"{known[-1][1]:.4f} ({known[-1][0]})" if known else "–"
