"""The same job in sync and in async mode, against simulated time: what a researcher wants to see before anybody is
asked for approval. Needs torch, through the simulator.

Both get the same amount of local work: as many answers are folded in async mode as sync mode's rounds ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octopus_desktop.aggregation import strategies
from octopus_desktop.jobs.toml import apply_overrides
from octopus_desktop.simulation.jobs import Job
from octopus_desktop.simulation.reports import Curve, rows
from octopus_desktop.simulation.simulator import SiloData, SimulationResult, simulate
from octopus_desktop.wire.errors import UserError

MODES = ("sync", "async")
IN_PLACE = {"sync": "fedavg", "async": "fedbuff"}  # of a strategy that the mode does not have


def compare(
    job: Job, data: SiloData, overrides: Mapping[str, Any], modes: Sequence[str], *, work: Path, **options: Any
) -> dict[str, SimulationResult]:
    """Mode to its run. ``options`` go to ``simulate``; time is simulated in both.

    Raises:
        UserError: OCT-CLI-USAGE for an unknown mode, and what ``simulate`` raises.
    """
    if not modes or any(mode not in MODES for mode in modes) or len(set(modes)) < len(modes):
        raise UserError("OCT-CLI-USAGE", "These cannot be compared.", f"Modes are {', '.join(MODES)}.", "Name some.")
    config = apply_overrides(job.manifest.config, overrides, strategies=tuple(strategies.STRATEGIES))
    asked = min(config.per_round or len(data), len(data))
    done = {}
    for mode in modes:
        wish = {name: dict(table) for name, table in overrides.items()}
        run = wish.setdefault("run", {})
        run["mode"] = mode
        if mode not in strategies.STRATEGIES[config.strategy].modes:
            wish["strategy"] = {"name": IN_PLACE[mode]}
        if mode == "async":
            run["per_round"], run["update"] = 0, "difference"
            changed = apply_overrides(job.manifest.config, wish, strategies=tuple(strategies.STRATEGIES))
            chosen = strategies.make(changed.strategy, changed.strategy_parameters, changed.update)
            run["rounds"] = max(1, config.rounds * asked // min(chosen.asynchronous[0], len(data)))
        done[mode] = simulate(job, data, wish, work=work / mode, virtual=True, **options)
    return done


def against_time(results: Mapping[str, SimulationResult], metric: str) -> dict[str, Curve]:
    """Mode to (simulated seconds, value)."""
    return {
        mode: [(row["time"], row[metric]) for row in rows(result) if row.get(metric) is not None]
        for mode, result in results.items()
    }


def common_metric(results: Mapping[str, SimulationResult]) -> str:
    """Accuracy where there is one, else the first that all of them evaluate, else their training's loss."""
    there = [{name for row in result.rounds for name in row.metrics} for result in results.values()]
    common = sorted(set.intersection(*there))
    wanted = ["eval/accuracy", *(n for n in common if n.startswith("eval/") and not n.endswith("/examples"))]
    return next((name for name in [*wanted, "train/loss", *common] if name in common), "")
