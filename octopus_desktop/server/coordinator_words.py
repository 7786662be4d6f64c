"""What a coordinator tells its server of rounds and of the run's end, as words of JSON. No I/O."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import Best


def row_words(report: ev.Report) -> dict[str, Any]:
    return {
        "round": report.round,
        "rounds": report.rounds,
        "metrics": dict(report.metrics),
        "answered": list(report.answered),
        "missing": list(report.missing),
        "seconds": report.seconds,
        "model": {"digest": report.model.digest, "size": report.model.size},
        "spans": [asdict(bar) for bar in report.bars],
        "late": list(report.late),
        "silos": {silo: dict(metrics) for silo, metrics in report.silos.items()},
        "best": _best(report.best),
    }


def _best(best: Best | None) -> dict[str, Any]:
    if best is None:
        return {}
    return {"round": best.round, "value": best.value, "digest": best.model.digest, "size": best.model.size}


def completed_words(done: ev.Complete) -> dict[str, Any]:
    return {
        "state": "completed",
        "reason": done.reason,
        "code": "",
        "model": {"digest": done.model.digest, "size": done.model.size},
        "metrics": dict(done.metrics),
        "best": _best(done.best),
    }
