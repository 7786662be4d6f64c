"""One run's federated optimisation in a process of its own: ``python -m octopus_desktop.server.coordinator RUN_DIR``.

Drives the round loop (``aggregation.loops``) over ``RUN_DIR/mailbox.sqlite``, which it shares with the server. Each
step is one transaction: the inbox rows that it consumes, the loop's new state, the envelopes that follow. A new model
is durable in the blob store before the state names it. So it may be killed at any instant and goes on from its
journal. It knows no network and no torch, and its envelopes are unsigned: the server signs when it sends.

Words (``wire.child``) from the server: ``inbox``; ``live`` {silo, round, fraction, state}: renews the silo's lease;
``silo`` {silo, up}; ``stop`` {reason}. To the server: ``ready``; ``outbox``; ``log``; ``round`` {round, rounds,
metrics, answered, missing, seconds, model {digest, size}, spans [{lane, step, start, end}], late, silos {name:
metrics}, best {round, value, digest, size}}, which replaces the round's row and comes twice, the second time with the
``eval/…`` of the model that the round made; ``ended`` {state (completed | failed | stopped), reason, code, model,
metrics, best}. After a restart all rounds are said again.

TASK bodies: ``config_json`` is ``aggregation.facts.task_config``: {"seed", "rounds", "update", "hyperparameters",
"strategy", "encoding"}. Journal keys: ``rounds`` (the loop's state), ``row/<round>``, ``discard``, ``ended``.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.aggregation import encodings
from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import Bar, Blob, task_config
from octopus_desktop.aggregation.fold import Folded, FoldStopped, RejectedUpdates, fold, sweep
from octopus_desktop.aggregation.loops import make_loop
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.aggregation.strategies import weighing
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.jobs.personal import personal
from octopus_desktop.server import coordinator_mail as mail
from octopus_desktop.server.coordinator_held import Held
from octopus_desktop.server.coordinator_words import completed_words, row_words
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training import initial
from octopus_desktop.training.spec import MAILBOX, CoordinatorSpec, DataSource
from octopus_desktop.wire.child import ParentLink, decode
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import TASK
from octopus_desktop.wire.tensors import read_layout

if TYPE_CHECKING:
    from octopus_desktop.server.central import Central

SPEC = "coordinator.json"
RETRY_S = 10.0  # after a full disk
FOLD_THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class _Heard:
    """A word from the server."""

    word: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Built:
    """The first model, or why there is none."""

    model: Blob | None
    error: UserError | None = None
    slots: dict[str, Blob] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Folded:
    """A round's new model, or why there is none."""

    order: ev.Aggregate
    result: Folded | UserError | RejectedUpdates
    metrics: dict[str, float] = field(default_factory=dict)


class _Closed(Exception):
    """The server closed stdin: this process is to end."""


class Coordinator:
    """The shell around the round loop. One thread decides; others only read stdin, build the first model, or fold."""

    def __init__(self, run_dir: Path, link: ParentLink) -> None:
        self.spec = CoordinatorSpec.read(run_dir / SPEC)
        self.run_dir, self.link = run_dir, link
        self.config = self.spec.run_config
        self.mailbox = Mailbox(run_dir / MAILBOX)
        self.store = BlobStore(Path(self.spec.blobs))
        self.held = Held(run_dir / "held", self.store)
        package, silos = Path(self.spec.package), len(self.spec.silos)
        self.strategy = require_runnable(self.config, package, silos, link.log)
        self.encoding = encodings.make(self.config.encoding, self.config.encoding_parameters)
        self.strategy.cohort = silos
        self.heard: queue.SimpleQueue[_Heard | _Built | _Folded | None] = queue.SimpleQueue()
        self.stopping = threading.Event()
        self.retry: tuple[float, ev.Aggregate] | None = None
        self.told: dict[str, str] = {}  # of the loop's troubles, what the server knows
        self.builder: subprocess.Popen[bytes] | None = None
        self.central = self._central() if self.config.central else None
        raw = self.mailbox.read("rounds")
        self.loop = make_loop(self.config, self.spec.silos, self.strategy, json.loads(raw) if raw else None)

    def run(self) -> None:
        """Until the run has ended and the server was told, or until the server closes stdin."""
        threading.Thread(target=self._listen, name="words", daemon=True).start()
        self._repair()
        self.link.say("ready")
        self._take([ev.Resumed(now=time.time())])
        if self.loop.state.phase == "waiting":
            self._in_thread(self._build, "initial")
        self._read_inbox()
        while not self.loop.ended:
            self._next()
        self._say_ended()
        if self.central:
            self.central.close()

    def _central(self) -> Central:
        from octopus_desktop.server.central import Central  # asyncio, which most coordinators do not need

        spec, sources = self.spec, [DataSource(**source) for source in self.spec.central_data]
        place = self.run_dir / "central"
        return Central(place, spec.run_id, Path(spec.package), spec.trainer, self.config, sources)

    # the steps of the loop

    def _next(self) -> None:
        """Wait for a word, a result or the time of the next timer; deal with it."""
        timer = self.loop.next_timer()
        wake = min([at for at in (timer and timer[0], self.retry and self.retry[0]) if at], default=None)
        try:
            item = self.heard.get(timeout=None if wake is None else min(max(0.0, wake - time.time()), 3600.0))
        except queue.Empty:
            now = time.time()
            if self.retry and self.retry[0] <= now:
                order, self.retry = self.retry[1], None
                self._in_thread(lambda: self._fold(order), "aggregate")
            elif timer and timer[0] <= now:
                self._take([replace(timer[1], now=now)])
            return
        match item:
            case None:
                raise _Closed
            case _Heard(word=word):
                self._hear(word)
            case _Built(model=model, error=error, slots=slots):
                now = time.time()
                if model:
                    self._take([ev.Started(model=model, slots=slots, now=now)])
                elif error and not self.loop.ended:
                    reason = f"{error.what} {error.why}".strip()
                    self._take([ev.Broken(code=error.code, reason=reason, now=now)])
            case _Folded(order=order, result=result, metrics=metrics):
                self._folded(order, result, metrics)

    def _hear(self, word: dict[str, Any]) -> None:
        now, silo = time.time(), str(word.get("silo", ""))
        match word["word"]:
            case "inbox":
                self._read_inbox()
            case "live":
                self.loop.apply(ev.Live(silo=silo, round=int(word.get("round", 0)), now=now))
            case "silo" if word.get("up"):
                self._take([ev.SiloCame(silo=silo, now=now)])
            case "silo":
                self._take([ev.SiloWent(silo=silo, now=now)])
            case "stop":
                self._take([ev.Stopped(reason=str(word.get("reason", "")), now=now)])

    def _read_inbox(self) -> None:
        """All rows that are not done, in one transaction."""
        rows = self.mailbox.inbox()
        if not rows or self.loop.ended:
            return
        events: list[ev.Event] = []
        seqs: list[int] = []
        for seq, envelope in rows:
            try:
                event = mail.event_of(envelope, time.time())
            except ValueError as error:
                event = None
                self.link.log("warning", "coordinator", f"An envelope of {envelope.sender} cannot be read: {error}.")
            if event is None:
                self.mailbox.done(seq)
            else:
                events.append(event)
                seqs.append(seq)
        if events:
            self._take(events, seqs)

    def _take(self, events: Sequence[ev.Event], seqs: Sequence[int] = ()) -> None:
        """Events into the loop; its state, its envelopes and the consumed rows onto the disk; then the rest."""
        outcomes = [self.loop.apply(event) for event in events]
        todo = [order for instructions in outcomes for order in instructions]
        # An answer of which nothing follows but sums is in the inbox still, should the machine lose power before the
        # next commit: its turn comes again.
        summed = bool(seqs) and all(isinstance(order, ev.Aggregate | ev.Ignore) for order in todo)
        with self.mailbox.transaction(durable=not summed):
            for seq, instructions in zip(seqs, outcomes, strict=False):
                again = any(isinstance(x, ev.Ignore) and x.reusable for x in instructions)
                self.mailbox.forget(seq) if again else self.mailbox.done(seq)
            self._journal(todo)
        self._after(todo)

    def _journal(self, todo: Sequence[ev.Instruction]) -> None:
        box, run, silos = self.mailbox, self.spec.run_id, self.spec.silos
        gone: list[Blob] = []
        for order in sorted(
            todo, key=lambda order: not isinstance(order, ev.Dispatch)
        ):  # what a round waits for, first
            match order:
                case ev.Dispatch():
                    for _, old in box.pending(order.silo):
                        if old.kind == TASK:
                            box.withdraw(old.id)
                    box.post(mail.task_envelope(run, order, self._task_config(order.round), self._shared(order)))
                case ev.Report():
                    key = f"row/{order.round:06d}"
                    turn = "again" if box.read(key) else "first"
                    words = row_words(order)
                    box.write(key, _json({**words, "spans": words["spans"] or self._old_spans(key)}))
                    for envelope in mail.round_envelopes(run, order, turn, silos, share=self.config.share_metrics):
                        box.post(envelope)
                case ev.Discard(blobs=blobs):
                    gone += blobs
                case ev.Complete():
                    for envelope in mail.finished_envelopes(run, order, silos):
                        box.post(envelope)
                    box.write("ended", _json(completed_words(order)))
                case ev.Fail(code=code, reason=reason):
                    for envelope in mail.stop_envelopes(run, order, silos):
                        box.post(envelope)
                    state = "stopped" if code == "OCT-RUN-STOPPED" else "failed"
                    box.write("ended", _json({"state": state, "reason": reason, "code": code}))
        if gone:
            box.write("discard", _json([blob.digest for blob in gone]))
        box.write("rounds", _json(self.loop.to_dict()))

    def _after(self, todo: Sequence[ev.Instruction]) -> None:
        """What follows a committed step and is repeated after a crash."""
        self._hold()
        if any(isinstance(x, ev.Dispatch | ev.Report | ev.Complete | ev.Fail) for x in todo):
            self.link.say("outbox")
        for order in todo:
            match order:
                case ev.Aggregate():
                    self._in_thread(lambda order=order: self._fold(order), "aggregate")  # type: ignore[misc]
                case ev.Report(round=round):
                    raw = self.mailbox.read(f"row/{round:06d}")
                    self.link.say("round", **json.loads(raw or b"{}"))
                case ev.Dispatch(silo=silo, round=round, task=task, epoch=epoch) if epoch > 1:
                    text = f"Round {round}: {silo} made no progress; its {task} is handed out again (lease {epoch})."
                    self.link.log("warning", "coordinator", text)
                case ev.Ignore(silo=silo, why=why):
                    self.link.log("info", "coordinator", f"An answer of {silo} is not counted: {why}.")
                case ev.Discard(blobs=blobs):
                    self._remove([blob.digest for blob in blobs])
                case ev.Fail(code=code, reason=reason):
                    self.link.log("error", "coordinator", f"{reason} [{code}]")
        for silo, text in self.loop.state.troubles.items():
            if self.told.get(silo) != text:
                self.link.say("trouble", silo=silo, text=text)
        self.told = dict(self.loop.state.troubles)
        if self.loop.ended:
            self.stopping.set()
            if self.builder:
                self.builder.kill()

    # aggregation and the first model, each in a thread

    def _fold(self, order: ev.Aggregate) -> None:
        result: Folded | UserError | RejectedUpdates
        try:
            result = fold(
                self.strategy,
                model=self.store.path(order.model.digest),
                updates=[(a.silo, self.held.path(a.update.digest) if a.update else None) for a in order.answers],
                returned=self.held.returned(self.strategy.returns, order.answers),
                weights=weighing(self.strategy, order.answers),
                slots=self._slots(order),
                encoding=self.encoding,
                bases=[self.store.path(a.base) if a.staleness and a.base else None for a in order.answers],
                most_norm=self.config.most_norm,
                round=order.round,
                store=self.store,
                label=self.spec.run_id,
                threads=FOLD_THREADS,
                stop=self.stopping.is_set,
            )
        except (UserError, RejectedUpdates) as error:
            result = error
        except FoldStopped:
            return
        metrics = self._evaluate(result, order.round) if isinstance(result, Folded) and self.central else {}
        self.heard.put(_Folded(order, result, metrics))

    def _evaluate(self, folded: Folded, round_: int) -> dict[str, float]:
        """The server's own metrics of a model. When they cannot be had, the run goes on without them."""
        assert self.central
        try:
            return self.central.evaluate(self.store.path(folded.model.digest), round_)
        except UserError as error:
            self.link.log("error", "coordinator", f"Round {round_} could not be evaluated at the server: {error}")
            return {}

    def _slots(self, order: ev.Aggregate) -> dict[str, Path]:
        found = {name: self.held.path(blob.digest) for name, blob in order.slots.items()}
        return {name: path or self.store.path(order.slots[name].digest) for name, path in found.items()}

    def _folded(
        self, order: ev.Aggregate, result: Folded | UserError | RejectedUpdates, metrics: dict[str, float]
    ) -> None:
        now = time.time()
        if self.loop.ended:
            return
        if isinstance(result, Folded):
            opened = self.loop.state.opened
            bars = (
                Bar(lane=SERVER, step="wait", start=opened, end=result.start),
                Bar(lane=SERVER, step="aggregate", start=result.start, end=result.end),
            )
            self._take(
                [
                    ev.Aggregated(
                        round=order.round,
                        model=Blob(digest=result.model.digest, size=result.model.size),
                        slots={name: Blob(digest=w.digest, size=w.size) for name, w in result.slots.items()},
                        now=now,
                        bars=bars,
                        metrics=metrics,
                    )
                ]
            )
        elif isinstance(result, RejectedUpdates):
            faults = {silo: (error.code, f"{error.what} {error.why}") for silo, error in result.faults.items()}
            for code, why in faults.values():
                self.link.log("error", "coordinator", f"{why} [{code}]")
            self._take([ev.Rejected(round=order.round, faults=faults, now=now)])
        elif result.code == "OCT-DISK-FULL":
            self.link.log("error", "coordinator", f"{result} Tried again in {RETRY_S:.0f} s.")
            self.retry = (now + RETRY_S, order)
        else:
            self._take([ev.Broken(code=result.code, reason=f"{result.what} {result.why}", now=now)])

    def _build(self) -> None:
        """The package's own code builds the first model, in a process that is neither this one nor trusted; a fork has
        its model in the store."""
        if given := self.config.first_model:
            try:
                self._say_built(given, self.store.size(given))
            except UserError as error:
                self.heard.put(_Built(None, error))
            return
        out = self.run_dir / f"initial-{os.getpid()}.safetensors"
        try:
            self.builder = subprocess.Popen(
                initial.command(self.run_dir / SPEC, out),
                env=initial.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            try:
                told, complaints = self.builder.communicate(timeout=initial.TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.builder.kill()
                told, complaints = self.builder.communicate()
            digest, size = initial.outcome(self.builder.returncode, told, complaints)
            self.store.adopt_hashed(out, digest)
            self._say_built(digest, size)
        except UserError as error:
            self.heard.put(_Built(None, error))

    def _say_built(self, digest: str, size: int) -> None:
        """Raises OCT-CONFIG-INVALID, when the personal layers do not fit the model, or OCT-BLOB-MISSING."""
        personal(self.config.personal_layers, (spec.name for spec in read_layout(self.store.path(digest))))
        slots = {name: Blob(digest=d, size=self.store.size(d)) for name, d in self.config.first_slots.items()}
        self.heard.put(_Built(Blob(digest=digest, size=size), slots=slots))

    # repair and housekeeping

    def _repair(self) -> None:
        """What a killed predecessor had committed and not yet done."""
        sweep(self.store, self.spec.run_id)
        self._hold()
        for leftover in self.run_dir.glob("initial-*"):
            leftover.unlink(missing_ok=True)
        self._remove(json.loads(self.mailbox.read("discard") or b"[]"))
        for key in self.mailbox.keys("row/"):
            self.link.say("round", **json.loads(self.mailbox.read(key) or b"{}"))
        if self.loop.state.phase != "waiting":
            self.link.say("outbox")

    def _needed(self) -> set[str]:
        """What is still to be folded."""
        state = self.loop.state
        answers = (*state.answers.values(), *state.folding.values(), *state.late.values())
        return {b.digest for facts in answers for b in facts.blobs} | {b.digest for b in state.slots.values()}

    def _hold(self) -> None:
        self.held.keep_only(self._needed())

    def _remove(self, digests: Sequence[str]) -> None:
        """Remove blobs, except those that the run's state, or mail that waits, refers to by the same bytes."""
        kept = self._needed() | set(self.loop.state.models)
        kept |= {blob.digest for _, envelope in self.mailbox.inbox() for blob in envelope.blobs}
        for digest in digests:
            if digest not in kept:
                self.store.remove(digest)

    def _task_config(self, round: int) -> dict[str, Any]:
        return task_config(self.config, self.strategy.update, self.strategy.configure(round))

    def _shared(self, order: ev.Dispatch) -> dict[str, Blob]:
        slots = self.loop.state.slots
        return {name: slots[name] for name in self.strategy.shared if name in slots and order.task == "train"}

    def _old_spans(self, key: str) -> list[Any]:
        spans: list[Any] = json.loads(self.mailbox.read(key) or b"{}").get("spans", [])
        return spans

    def _say_ended(self) -> None:
        self.link.say("ended", **json.loads(self.mailbox.read("ended") or b"{}"))

    def _listen(self) -> None:
        for line in sys.stdin.buffer:
            word = decode(line)
            if word:
                self.heard.put(_Heard(word))
        self.heard.put(None)

    def _in_thread(self, work: Any, name: str) -> None:
        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                # A bug in a helper thread must not leave a coordinator that waits for ever: die, be started again.
                sys.excepthook(type(error), error, error.__traceback__)
                os._exit(70)

        threading.Thread(target=guarded, name=name, daemon=True).start()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def main(arguments: Sequence[str]) -> int:
    link = ParentLink()
    try:
        Coordinator(Path(arguments[0]), link).run()
    except _Closed:
        return 0
    except UserError as error:
        if error.code == "OCT-DISK-FULL":
            link.log("error", "coordinator", str(error))
            return 75  # what was not committed is done again when the server starts this process again
        link.say("ended", state="failed", reason=f"{error.what} {error.why}".strip(), code=error.code)
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # threads that still fold have nothing to finish: the journal holds what counts
