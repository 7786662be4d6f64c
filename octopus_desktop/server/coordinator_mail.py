"""Between the round loop's values and a run's envelopes. No I/O, no clock; decides nothing.

Envelopes are unsigned here: the server signs when it sends.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.message import DecodeError

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Bar, Blob
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.pb.envelope_pb2 import (
    ANSWER,
    DECISION,
    FINISHED,
    ROUND,
    STOP,
    TASK,
    Answer,
    BlobRef,
    Decision,
    Envelope,
    Finished,
    RoundResult,
    SiloNumbers,
    Span,
    Stop,
    Task,
)

REASON_CHARACTERS = 2000


def ref(blob: Blob) -> BlobRef:
    return BlobRef(digest=blob.digest, size=blob.size, encoding=blob.encoding)


def task_envelope(
    run_id: str, order: ev.Dispatch, config: Mapping[str, Any], shared: Mapping[str, Blob] | None = None
) -> Envelope:
    """The lease, with its model. ``config`` is ``aggregation.facts.task_config``, ``shared`` what of the strategy's
    state silos need."""
    body = Task(
        task=order.task,
        epoch=order.epoch,
        until=order.until,
        model=ref(order.model),
        config_json=canonical_json(config).decode(),
        shared={slot: ref(blob) for slot, blob in (shared or {}).items()},
    )
    name = f"task-{order.round}-{order.task}-{order.epoch}"
    blobs = {blob.digest: blob for blob in (body.model, *body.shared.values())}  # two may be the same bytes
    return _envelope(run_id, TASK, order.silo, name, order.round, body, blobs.values())


def round_envelopes(
    run_id: str, report: ev.Report, turn: str, silos: Iterable[str], *, share: bool = False
) -> list[Envelope]:
    """What the federation made of the round, for every silo. ``turn`` tells first and later reports apart. Other silos'
    bars of the timeline stay at the server; so do their metrics, unless ``share``."""
    body = RoundResult(
        rounds=report.rounds,
        metrics=report.metrics,
        answered=report.answered,
        missing=report.missing,
        seconds=report.seconds,
        model=ref(report.model),
        spans=[Span(lane=b.lane, step=b.step, start=b.start, end=b.end) for b in report.bars if b.lane == SERVER],
        late=report.late,
        silos={silo: SiloNumbers(values=metrics) for silo, metrics in report.silos.items()} if share else {},
    )
    return [_envelope(run_id, ROUND, silo, f"round-{report.round}-{turn}", report.round, body) for silo in silos]


def finished_envelopes(run_id: str, done: ev.Complete, silos: Iterable[str]) -> list[Envelope]:
    body = Finished(model=ref(done.model), metrics=done.metrics, rounds=done.rounds, reason=done.reason)
    blobs = [body.model]
    if done.best:
        body.best.CopyFrom(ref(done.best.model))
        body.best_round, body.best_value = done.best.round, done.best.value
        blobs += [body.best] if done.best.model.digest != done.model.digest else []
    return [_envelope(run_id, FINISHED, silo, "finished", done.rounds, body, blobs) for silo in silos]


def stop_envelopes(run_id: str, fail: ev.Fail, silos: Iterable[str]) -> list[Envelope]:
    body = Stop(reason=fail.reason[:REASON_CHARACTERS], code=fail.code)
    return [_envelope(run_id, STOP, silo, "stop", 0, body) for silo in silos]


def event_of(envelope: Envelope, now: float) -> ev.Event | None:
    """What an envelope of the inbox means to the round loop; None for what it need not know.

    Raises:
        ValueError: the body is not what the kind promises.
    """
    try:
        if envelope.kind == ANSWER:
            return _answered(envelope, Answer.FromString(envelope.body), now)
        if envelope.kind == DECISION:
            decision = Decision.FromString(envelope.body)
            if decision.verdict == Decision.REVOKED:
                return ev.Withdrew(silo=envelope.sender, reason=decision.reason or "approval revoked", now=now)
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return None


def _answered(envelope: Envelope, body: Answer, now: float) -> ev.Answered:
    update = body.update if body.HasField("update") and body.update.digest else None
    returned = {name: _blob(ref) for name, ref in body.returned.items() if ref.digest}
    facts = AnswerFacts(
        silo=envelope.sender,
        examples=body.examples,
        steps=body.steps,
        metrics=dict(body.metrics),
        update=_blob(update) if update else None,
        train_seconds=body.train_seconds,
        bars=tuple(Bar(lane=s.lane, step=s.step, start=s.start, end=s.end) for s in body.spans),
        returned=returned,
    )
    return ev.Answered(
        silo=envelope.sender,
        round=envelope.round,
        task=body.task,
        epoch=body.epoch,
        facts=facts,
        now=now,
        error=body.error[:REASON_CHARACTERS] or ("the silo gave no reason" if body.error_code else ""),
        error_code=body.error_code,
    )


def _blob(ref: BlobRef) -> Blob:
    return Blob(digest=ref.digest, size=ref.size, encoding=ref.encoding or "none")


def _envelope(
    run_id: str, kind: Any, silo: str, name: str, round: int, body: Any, blobs: Iterable[BlobRef] = ()
) -> Envelope:
    return Envelope(
        id=f"{run_id}.{silo}.{name}",  # the same step of a run always makes the same id
        run_id=run_id,
        round=round,
        kind=kind,
        sender=SERVER,
        recipient=silo,
        body=body.SerializeToString(deterministic=True),
        blobs=blobs,
        nonce=secrets.token_bytes(16),
    )
