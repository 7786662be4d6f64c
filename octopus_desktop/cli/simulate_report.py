"""What ``octopus simulate`` prints of a run: for people, and as plain values for ``--json``. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import facts, size, table

if TYPE_CHECKING:
    from octopus_desktop.simulation.simulator import SimulationResult

MOST_ROWS = 40


def value_at(curve: Any, moment: float) -> float | None:
    """The newest value at this moment."""
    known = [value for time, value in curve if time <= moment]
    return known[-1] if known else None


def metric_names(result: SimulationResult) -> list[str]:
    return sorted({name for row in result.rounds for name in row.metrics if not name.endswith("/examples")})


def plain(result: SimulationResult, scores: dict[str, dict[str, float]]) -> dict[str, Any]:
    best = result.best
    return {
        "model": {"digest": result.digest, "size": result.size},
        "silos": list(result.silos),
        "rounds": [
            {
                "round": row.round,
                "metrics": dict(row.metrics),
                "answered": list(row.answered),
                "missing": list(row.missing),
                "seconds": row.seconds,
                "model": row.model.digest,
                **({"late": list(row.late)} if row.late else {}),
            }
            for row in result.rounds
        ],
        **({"best": {"round": best.round, "value": best.value, "digest": best.model.digest}} if best else {}),
        **({"reason": result.reason} if result.reason else {}),
        **({"anew": result.anew} if result.anew else {}),
        "first": dict(result.first),
        "metrics": dict(result.metrics),
        "silo_metrics": {name: dict(values) for name, values in result.answers.items()},
        "bytes": result.transferred,
        "seconds": result.seconds,
        "virtual_seconds": result.virtual_seconds,
        "dropped": result.dropped,
        "skipped": list(result.skipped),
        "config": result.config.to_dict(),
        **({"baselines": scores} if scores else {}),
    }


def show(
    result: SimulationResult, scores: dict[str, dict[str, float]], written: list[tuple[str, Path]], out: Path | None
) -> None:
    names = metric_names(result)
    most = 12
    rows = [row for row in result.rounds if len(result.rounds) <= most or row.round in some(len(result.rounds), most)]
    table(
        f"\n{len(result.rounds)} rounds over {len(result.silos)} silos",
        ["round", *names, "answered", "seconds"],
        [
            (row.round, *(cell(row.metrics.get(name)) for name in names), len(row.answered), f"{row.seconds:.2f}")
            for row in rows
        ],
        right=["round", *names, "answered", "seconds"],
    )
    measured = sorted({name for values in result.answers.values() for name in values})
    if measured and len(result.answers) > MOST_ROWS:
        spread = {name: sorted(v[name] for v in result.answers.values() if name in v) for name in measured}
        table(
            f"\nThe final model in {len(result.answers)} silos (--json has each)",
            ["", *measured],
            [
                (word, *(cell(spread[name][int(part * (len(spread[name]) - 1))]) for name in measured))
                for word, part in (("lowest", 0), ("a tenth below", 0.1), ("median", 0.5), ("highest", 1))
            ],
            right=measured,
        )
    elif measured:
        table(
            "\nThe final model in each silo",
            ["silo", *measured],
            [(silo, *(cell(values.get(name)) for name in measured)) for silo, values in result.answers.items()],
            right=measured,
        )
    if scores:
        judged = sorted({name for values in scores.values() for name in values if name != "eval/examples"})
        table(
            "\nOn the test rows of all silos",
            ["model", *judged],
            [(name, *(cell(values.get(metric)) for metric in judged)) for name, values in scores.items()],
            right=judged,
        )
    if result.anew:
        click.secho(result.anew, fg="yellow")
    for line in result.skipped:
        click.secho(f"left out: {line}", fg="yellow")
    click.echo()
    pairs: list[tuple[str, Any]] = [
        ("model", result.digest),
        ("size", size(result.size)),
        ("bytes exchanged", size(result.transferred)),
        ("seconds", f"{result.seconds:.1f}"),
    ]
    if best := result.best:
        told = f"round {best.round}, {result.config.best.partition(' ')[2]} {best.value:.4g}: {best.model.digest}"
        pairs.insert(1, ("best model", told))
    if result.reason:
        click.echo(result.reason)
    pairs += [("simulated seconds", f"{result.virtual_seconds:.1f}")] if result.virtual_seconds else []
    pairs += [("dropped out", f"{result.dropped} tasks")] if result.dropped else []
    pairs += written
    pairs += [("written to", out)] if out else []
    facts("", pairs)


def some(count: int, most: int) -> set[int]:
    """Evenly spread round numbers, the first and the last among them."""
    return {1 + round(i * (count - 1) / (most - 1)) for i in range(most)}


def cell(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value == int(value) and abs(value) >= 2 else f"{value:.4f}"
