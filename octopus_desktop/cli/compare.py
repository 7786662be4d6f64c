"""Runs side by side: the settings in which they differ, and their metrics round by round. For both ends' commands."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from octopus_desktop.cli.common import emit, table
from octopus_desktop.wire.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One run: ``name`` as the table's head shows it, its configuration, and each round's federation metrics."""

    name: str
    config: Mapping[str, Any]
    rounds: Mapping[int, Mapping[str, float]]


def compared(name: str, config_json: str, rounds: Mapping[int, Mapping[str, float]]) -> Compared:
    return Compared(name=name, config=json.loads(config_json or "{}"), rounds=rounds)


def require_two(runs: Sequence[str]) -> None:
    if len(set(runs)) < 2:
        raise UserError(
            "OCT-CLI-USAGE", "One run cannot be compared.", "Two or more are wanted.", "Name the other runs as well."
        )


def differences(runs: Sequence[Compared]) -> dict[str, list[Any]]:
    """Dotted setting to its value in each run (None where a run has it not), for those that are not all the same."""
    flat = [_flat(run.config) for run in runs]
    found = {key: [one.get(key) for one in flat] for key in sorted({key for one in flat for key in one})}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


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
    settings = differences(runs)
    numbers = sorted({number for run in runs for number in run.rounds})
    rows = {name: {n: [run.rounds.get(n, {}).get(name) for run in runs] for n in numbers} for name in chosen}

    def text() -> None:
        if settings:
            table("Settings that differ", ["setting", *heads], [(k, *map(_word, v)) for k, v in settings.items()])
        else:
            click.echo("The runs have the same settings.")
        for name, by_round in rows.items():
            cells = [(n, *("" if v is None else f"{v:.4f}" for v in values)) for n, values in by_round.items()]
            table(f"\n{name}", ["round", *heads], cells, right=["round", *heads])

    plain = {
        "runs": heads,
        "settings": settings,
        "metrics": {name: {str(n): values for n, values in by_round.items()} for name, by_round in rows.items()},
    }
    emit(plain, text)


def _flat(value: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            flat.update(_flat(item, f"{before}{key}."))
        else:
            flat[before + key] = item
    return flat


def _word(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value[:12] + "…" if isinstance(value, str) and len(value) == 64 else str(value)
