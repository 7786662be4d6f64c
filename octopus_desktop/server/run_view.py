"""A run as the operator sees it, from its rows and the silos' latest progress. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from octopus_desktop.storage.federation_db import ENDED, RoundRow, RunRow, RunSiloRow
from octopus_desktop.wire.pb import operator_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A silo's newest progress. ``fraction`` of the round's local work, 0..1; lost at a restart, and told again."""

    state: str
    round: int
    fraction: float
    metrics: dict[str, float] = field(default_factory=dict)
    at: float = 0.0


def run_info(
    run: RunRow,
    silos: Sequence[RunSiloRow],
    rounds: Sequence[RoundRow],
    live: Mapping[str, Live],
    carriers: Mapping[str, str],
    carrier: str,
) -> pb.RunInfo:
    """``carriers``: by which each silo's data goes now; ``carrier``: what the run asks for."""
    return pb.RunInfo(
        id=run.id,
        job_name=run.job_name,
        job_version=run.job_version,
        job_digest=run.job_digest,
        state=run.state,
        reason=run.reason,
        code=run.code,
        round=run.round,
        rounds=run.rounds,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        silos=[_silo(run, row, live.get(row.silo), carriers.get(row.silo, "")) for row in silos],
        history=[
            pb.RoundRow(
                round=row.round,
                metrics=row.metrics,
                answered=row.answered,
                missing=row.missing,
                seconds=row.seconds,
                model=BlobRef(digest=row.model_digest, size=row.model_size),
                late=row.late,
                silos={silo: pb.SiloMetrics(metrics=metrics) for silo, metrics in row.silos.items()},
            )
            for row in rounds
        ],
        model=BlobRef(digest=run.model_digest, size=run.model_size) if run.model_digest else None,
        bytes_in=run.bytes_in,
        bytes_out=run.bytes_out,
        config_json=run.config_json,
        carrier=carrier,
        best=BlobRef(digest=run.best_digest, size=run.best_size) if run.best_round else None,
        best_round=run.best_round,
        best_value=run.best_value,
    )


def _silo(run: RunRow, row: RunSiloRow, live: Live | None, carrier: str) -> pb.RunSiloInfo:
    state = row.decision
    if live and row.in_cohort and run.state not in ENDED:
        state = live.state
    elif row.in_cohort and run.state in ENDED:
        state = run.state
    return pb.RunSiloInfo(
        silo=row.silo,
        state=state,
        round=live.round if live else row.round,
        fraction=live.fraction if live else row.fraction,
        reason=row.reason,
        metrics=live.metrics if live else json.loads(row.metrics_json),
        at=live.at if live else row.at,
        carrier=carrier,
    )
