"""The same job in sync and in async mode, against simulated time: what a researcher wants to see before anybody is
asked for approval. Needs torch, through the simulator.

Both get the same amount of local work: as many answers are folded in async mode as sync mode's rounds ask for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from octopus_desktop.aggregation import strategies
from octopus_desktop.aggregation.runnable import strategy_of
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.toml import apply_overrides
from octopus_desktop.simulation.baselines import evaluate
from octopus_desktop.simulation.jobs import Job
from octopus_desktop.simulation.reports import Curve, rows
from octopus_desktop.simulation.simulator import SiloData, SimulationResult, simulate
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError

MODES = ("sync", "async")
POINTS = 12  # models of each run that are judged
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
    known = _made(job, config, len(data)).modes if config.own_strategy else strategies.STRATEGIES[config.strategy].modes
    done = {}
    for mode in modes:
        wish = {name: dict(table) for name, table in overrides.items()}
        run = wish.setdefault("run", {})
        run["mode"] = mode
        if mode not in known:
            wish["strategy"] = {"name": IN_PLACE[mode]}
        if mode == "async":
            run["per_round"], run["update"] = 0, "difference"
            changed = apply_overrides(job.manifest.config, wish, strategies=tuple(strategies.STRATEGIES))
            chosen = _made(job, changed, len(data))
            run["rounds"] = max(1, config.rounds * asked // min(chosen.asynchronous[0], len(data)))
        done[mode] = simulate(job, data, wish, work=work / mode, virtual=True, **options)
    return done


def _made(job: Job, config: RunConfig, silos: int) -> strategies.Strategy:
    """The strategy, for what it says of itself."""
    strategy = strategy_of(config, job.folder, silos)
    strategy.close()
    return strategy


def judge(
    job: Job, data: SiloData, results: Mapping[str, SimulationResult], work: Path
) -> dict[str, list[dict[str, float]]]:
    """Some models of each run, in their order, judged on all silos' test rows: metrics, and ``time`` in simulated
    seconds. Afterwards, since in async mode few answers speak of the newest model."""
    judged: dict[str, list[dict[str, float]]] = {}
    for mode, result in results.items():
        table = rows(result)[1:]
        some = [table[i] for i in sorted({round(k * (len(table) - 1) / (POINTS - 1)) for k in range(POINTS)})]
        store = BlobStore(work / mode / "blobs", durable=False)
        models = {row["model"]: store.path(row["model"]) for row in some}
        metrics = evaluate(job, data, result.config, models, work)
        judged[mode] = [{**metrics[row["model"]], "time": row["time"]} for row in some]
    return judged


def against_time(judged: Mapping[str, Sequence[Mapping[str, float]]], metric: str) -> dict[str, Curve]:
    """Mode to (simulated seconds, value)."""
    return {mode: [(row["time"], row[metric]) for row in points if metric in row] for mode, points in judged.items()}


def common_metric(judged: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """Accuracy where there is one, else the first that there is in all modes.

    Raises:
        UserError: OCT-CLI-USAGE, when the trainer evaluates nothing.
    """
    there = [{name for row in points for name in row} for points in judged.values()]
    common = sorted(n for n in set.intersection(*there) if "/" in n and not n.endswith("/examples"))
    if not common:
        raise UserError(
            "OCT-CLI-USAGE",
            "There is nothing to compare by.",
            "The job's trainer evaluates nothing.",
            "Give it an evaluate that returns a metric.",
        )
    return "eval/accuracy" if "eval/accuracy" in common else common[0]
