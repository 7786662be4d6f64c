"""The envelopes that the server itself writes for a run. Ids say what they are, so that the same step posted twice, by
the server or by the run's coordinator, is one envelope; what must be said again gets an id of its own. No I/O."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

from google.protobuf.message import Message

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.storage.federation_db import JobRow, RunRow
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb.envelope_pb2 import (
    DECISION,
    FINISHED,
    OFFER,
    STOP,
    BlobRef,
    Decision,
    Envelope,
    Finished,
    Kind,
    Offer,
    Stop,
)


def offer_envelope(
    run: RunRow, job: JobRow, silo: str, silos: Sequence[str], federation: str, *, again: bool
) -> Envelope:
    package = BlobRef(digest=job.digest, size=job.size)
    offer = Offer(
        job_name=job.name,
        job_version=job.version,
        package=package,
        config_json=run.config_json,
        config_digest=run.config_digest,
        author=job.author,
        author_fingerprint=job.author_fingerprint,
        purpose=job.purpose,
        expires_at=run.offer_expires_at,
        silos=silos,
        federation=federation,
        offered_at=run.created_at,
        author_key=job.author_key,
    )
    return _envelope(run.id, OFFER, silo, "offer", offer, [package], again=again)


def stop_envelope(run_id: str, silo: str, reason: str, code: str, *, again: bool) -> Envelope:
    return _envelope(run_id, STOP, silo, "stop", Stop(reason=reason, code=code), again=again)


def finished_envelope(run: RunRow, silo: str, *, again: bool) -> Envelope:
    model = BlobRef(digest=run.model_digest, size=run.model_size)
    body = Finished(model=model, metrics=json.loads(run.metrics_json), rounds=run.round, reason=run.reason)
    blobs = [model]
    if run.best_round:
        body.best.CopyFrom(BlobRef(digest=run.best_digest, size=run.best_size))
        body.best_round, body.best_value = run.best_round, run.best_value
        blobs += [body.best] if run.best_digest != run.model_digest else []
    return _envelope(run.id, FINISHED, silo, "finished", body, blobs, run.round, again=again)


def removed_envelope(run_id: str, silo: str, reason: str) -> Envelope:
    """What the coordinator reads in its inbox when a silo is gone for good: the silo's withdrawal."""
    body = Decision(verdict=Decision.REVOKED, reason=reason, decided_at=time.time())
    envelope = _envelope(run_id, DECISION, SERVER, "removed", body, again=False)
    envelope.id, envelope.sender = f"{run_id}.{silo}.removed", silo
    return envelope


def _envelope(
    run_id: str,
    kind: Kind,
    silo: str,
    name: str,
    body: Message,
    blobs: Sequence[BlobRef] = (),
    round_: int = 0,
    *,
    again: bool,
) -> Envelope:
    return Envelope(
        id=f"{run_id}.{silo}.{name}" + (new_id(".") if again else ""),
        run_id=run_id,
        round=round_,
        kind=kind,
        sender=SERVER,
        recipient=silo,
        body=body.SerializeToString(deterministic=True),
        blobs=blobs,
    )
