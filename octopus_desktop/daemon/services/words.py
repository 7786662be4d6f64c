"""What a runner says, and the mail of its run, turned into record, events and PROGRESS for the server.

Knows the words of ``wire.child``; starts and ends nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from octopus_desktop.aggregation.facts import OF_MODEL
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.daemon import reducer
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.mail import Mailboxes
from octopus_desktop.daemon.services.blob_uses import BlobUses
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.logs import Logs
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.wire.blobs import answer_blobs
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, PROGRESS, Answer, Envelope, Progress, Span, Task

PROGRESS_S = 1.0
QUEUE_LIMIT = 500
STATES = ("preparing", "training", "exchanging", "waiting", "paused")


class Words:
    """
    Attributes:
        sign: signs an envelope in place; set by ``app``.
        outbox_changed: told of the federation whose link has new rows.
        send_live: (federation id, envelope) for PROGRESS.
    """

    def __init__(
        self, silo: Silo, lives: Lives, record: Record, logs: Logs, mailboxes: Mailboxes, uses: BlobUses
    ) -> None:
        self._silo, self._lives, self._record, self._logs = silo, lives, record, logs
        self._mailboxes, self._uses = mailboxes, uses
        self.sign: Callable[[Envelope], None]
        self.outbox_changed: Callable[[str], None] = lambda federation_id: None
        self.send_live: Callable[[str, Envelope], None] = lambda federation_id, envelope: None
        self._last: dict[str, float] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._newest: dict[str, Progress] = {}
        self._waits: dict[str, float] = {}
        self._uploads: dict[str, float] = {}
        self._queues: dict[str, str] = {}

    def heard(self, run_id: str, word: dict[str, Any]) -> None:
        """One word of a runner. Raises KeyError, TypeError or ValueError when it is malformed."""
        match word["word"]:
            case "outbox":
                self.look_again(run_id)
            case "progress":
                self._progress(run_id, word)
            case "metrics":
                self._record.points(run_id, word["points"])
            case "span":
                span = Span(
                    lane=str(word["lane"]), step=str(word["step"]), start=float(word["start"]), end=float(word["end"])
                )
                self._record.span(run_id, int(word["round"]), span)
            case "log":
                self._logs.add(
                    str(word["level"]), str(word["source"]), str(word["text"]), run_id, float(word.get("at", 0.0))
                )
            case "queue":
                self._queue(run_id, str(word["state"]), str(word["words"])[:QUEUE_LIMIT])
            case "ready":
                self._logs.add("info", "daemon", "The runner is ready.", run_id)

    def look_again(self, run_id: str) -> None:
        """There may be answers in the outbox: note them, and let the carrier look."""
        life = self._lives.get(run_id)
        if not life.active:
            return
        rounds = [0]
        with self._silo.change(durable=False):  # it is on the disk with the note of what leaves, before that leaves
            for _, envelope in self._mailboxes.get(run_id).pending(SERVER):
                if envelope.kind == ANSWER:
                    rounds.append(envelope.round)
                    for blob in answer_blobs(Answer.FromString(envelope.body)):
                        self._uses.add(run_id, "update", envelope.round, blob.digest)
            if max(rounds):
                self._lives.apply(run_id, reducer.AnswerPut(max(rounds)))
        self.outbox_changed(life.federation_id)

    def task_arrived(self, envelope: Envelope, task: Task, at: float) -> None:
        """A task is in the inbox: what lies between the last answer and it was waiting."""
        waited = self._waits.pop(envelope.run_id, None)
        if waited:
            self._record.bar(envelope.run_id, envelope.round, "silo", "wait", waited, at)

    def answer_leaves(self, envelope: Envelope, answer: Answer) -> None:
        """An answer is handed to the carrier; once for each envelope."""
        if envelope.id in self._uploads:
            return
        self._uploads[envelope.id] = time.time()
        if self._record.has_left(envelope.id):
            return  # before a restart of the daemon
        row = self._record.round(envelope.run_id, envelope.round)
        before = envelope.round - 1 if answer.task == "train" else envelope.round
        for name, value in answer.metrics.items():
            # A training answer's "eval/…" speak of the model that came in, which the round before made.
            place = before if name.startswith(OF_MODEL) else envelope.round
            if place:
                self._record.round(envelope.run_id, place).local[name] = value
        if 0 < before < envelope.round:
            self._record.touch(envelope.run_id, before)
        row.bytes_out += sum(blob.size for blob in answer_blobs(answer)) + len(envelope.body)
        self._record.touch(envelope.run_id, envelope.round)
        at = time.time()
        points = [[name, "silo", envelope.round, 0, value, at] for name, value in answer.metrics.items()]
        self._record.points(envelope.run_id, points)

    def answer_delivered(self, envelope: Envelope) -> None:
        now = time.time()
        began = self._uploads.pop(envelope.id, None)
        if began:
            self._record.bar(envelope.run_id, envelope.round, "silo", "upload", began, now)
        self._waits[envelope.run_id] = now

    def held(self, run_id: str) -> None:
        """Paused or resumed: tell the server so."""
        life = self._lives.get(run_id)
        if life.active:
            state = "paused" if life.run == "paused" else "waiting"
            self._send(run_id, Progress(state=state, at=time.time()))

    def _progress(self, run_id: str, word: dict[str, Any]) -> None:
        state, round_ = str(word["state"]), int(word.get("round", 0))
        fraction = min(1.0, max(0.0, float(word.get("fraction", 0.0))))
        life = self._lives.get(run_id)
        if state == "training" and ((life.before or life.run) != "training" or round_ > life.round):
            self._lives.apply(run_id, reducer.TaskBegun(round_))
        run = self._silo.get("run", run_id)
        if run is not None and run.state in reducer.RUN_ACTIVE:
            run.fraction = fraction
            self._silo.hub.soon("run", run)
            self._record.run_changed(run)
        if state in STATES:
            progress = Progress(
                state=state, fraction=fraction, at=time.time(), task=str(word.get("task", "")),
                epoch=int(word.get("epoch", 0)),
            )  # fmt: skip
            self._soon(run_id, round_, progress)

    def _queue(self, run_id: str, state: str, words: str) -> None:
        """How its allocation stands: shown as it is; what is new beyond an estimate is also logged."""
        run = self._silo.get("run", run_id)
        if run is None or run.state not in reducer.RUN_ACTIVE or run.queue == words:
            return
        run.queue = words
        self._silo.hub.soon("run", run)
        self._record.run_changed(run)
        if words and state != self._queues.get(run_id):
            self._logs.add("info", "slurm", f"{words[0].upper()}{words[1:]}.", run_id)
        self._queues[run_id] = state

    def _soon(self, run_id: str, round_: int, progress: Progress) -> None:
        """At most one PROGRESS a second; the newest goes. It bears no metrics: those leave with answers only."""
        self._newest[run_id] = progress
        if run_id in self._timers:
            return
        wait = self._last.get(run_id, 0.0) + PROGRESS_S - time.monotonic()
        loop = asyncio.get_running_loop()
        self._timers[run_id] = loop.call_later(max(0.0, wait), self._send_newest, run_id, round_)

    def _send_newest(self, run_id: str, round_: int) -> None:
        self._timers.pop(run_id, None)
        self._last[run_id] = time.monotonic()
        self._send(run_id, self._newest.pop(run_id), round_)

    def _send(self, run_id: str, progress: Progress, round_: int = 0) -> None:
        life = self._lives.get(run_id)
        federation = self._silo.get("federation", life.federation_id)
        if not life.active or federation is None or federation.link != "up":
            return
        envelope = Envelope(
            id=new_id("e"),
            run_id=run_id,
            round=round_ or life.round,
            kind=PROGRESS,
            sender=federation.silo_name,
            recipient=SERVER,
            body=progress.SerializeToString(),
        )
        self.sign(envelope)
        self.send_live(life.federation_id, envelope)
