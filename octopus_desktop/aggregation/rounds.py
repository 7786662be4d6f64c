"""The round loop: one reducer that the coordinator and the simulator both drive. No I/O, no clock, no tensors.

Sync mode, for each round: every silo gets the global model and trains it; the round closes when all silos that still
take part have answered, or at its deadline with a quorum; the answers are folded in the silos' order. With
``per_round`` each round asks that many silos, drawn by the run's seed. After the last round every silo evaluates the
final model, so that its metrics exist; nothing fails by that.

Late answers are dropped, or with ``late`` = "next" kept for the next fold, in place of the silo's own answer to that
round should none come: a slow silo's work counts once. They are differences, which add to whatever the model is then.

With ``best`` the model of the best round is remembered (``best``), and with ``patience`` the run ends when it gets no
better. What a round's model is worth is known only at the end of the round after it, so that one is made in any case.

    waiting ─Started→ training ─(closed)→ aggregating ─Aggregated→ training … evaluating ─→ completed
                          └──────────── quorum impossible, stopped ───────────→ failed

An instruction is a lease: without progress until its end it is handed out again under the next epoch, and only the
newest epoch's answer counts. An answer counts once by (round, silo, task). Time stands still for leases and deadlines
while the driver is away (``Resumed``). A silo whose link is down keeps its task; the lease is looked at on its return.

The state is a value (``to_dict``, ``from_dict``): whoever drives writes it in the transaction that posts what the
instructions lead to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from octopus_desktop.aggregation import best
from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.answers import TRAIN, brief, fault_of
from octopus_desktop.aggregation.facts import (
    OF_MODEL,
    AnswerFacts,
    Bar,
    Blob,
    average_metrics,
    below,
    finite,
    in_order,
    merge,
    silos_bars,
)
from octopus_desktop.aggregation.state import Lease, Row, State
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import IllegalMove, UserError

EVALUATE = "evaluate"
TASK_OF = {"training": TRAIN, "evaluating": EVALUATE}
ENDED = frozenset({"completed", "failed"})
FINAL_ERRORS = frozenset({"OCT-RUN-STOPPED", "OCT-APPROVAL-MISSING"})  # the silo's administrator said no
STORY_LINES = 50


class RoundLoop:
    """One run's rounds.

    Attributes:
        silos: the cohort, in the order of sums.
        needed: how many answers a round needs: the quorum, or all silos when it is 0.
        state: the whole state, JSON-able by ``to_dict``.

    Raises:
        UserError: OCT-RUN-QUORUM, when there are fewer silos than the quorum asks for.
    """

    def __init__(self, config: RunConfig, silos: Sequence[str], state: State | None = None) -> None:
        self.config, self.silos = config, tuple(silos)
        asked = min(config.per_round, len(self.silos)) if config.per_round else len(self.silos)
        self.needed = config.quorum or asked
        if not self.silos or self.needed > asked:
            raise UserError(
                "OCT-RUN-QUORUM",
                "The run has too few silos.",
                f"{asked} are asked in each round; {max(self.needed, 1)} must answer.",
                "Invite more silos to approve, or lower the quorum.",
            )
        self.state = state or State()

    def to_dict(self) -> dict[str, Any]:
        return self.state.to_dict()

    @classmethod
    def from_dict(cls, config: RunConfig, silos: Sequence[str], value: dict[str, Any]) -> RoundLoop:
        return cls(config, silos, State.from_dict(value))

    @property
    def ended(self) -> bool:
        return self.state.phase in ENDED

    def apply(self, event: ev.Event) -> list[ev.Instruction]:
        """Take one event; returns what is to be done now, in order.

        Raises:
            IllegalMove: the event does not fit the state: a bug of the driver. What silos send never raises.
        """
        if isinstance(event, ev.Resumed):
            self._shift(max(0.0, event.now - self.state.at))
        self.state.at = max(self.state.at, event.now)
        instructions = self._take(event)
        if not isinstance(event, ev.Live):
            names = " ".join(type(i).__name__ for i in instructions) or "nothing"
            self._tell(f"{brief(event)} -> {self.state.phase} {self.state.round}: {names}")
        return instructions

    def next_timer(self) -> tuple[float, ev.Event] | None:
        """The next moment at which time alone is an event, and that event (with ``now`` set to that moment)."""
        state = self.state
        task = TASK_OF.get(state.phase)
        if task is None:
            return None
        timers: list[tuple[float, ev.Event]] = [
            (
                lease.until,
                ev.LeaseExpired(silo=silo, round=self._round_of(lease), task=task, epoch=lease.epoch, now=lease.until),
            )
            for silo, lease in state.leases.items()
            if lease.state == "out" and silo not in state.away
        ]
        timers.append((state.deadline, ev.DeadlinePassed(round=state.round, task=task, now=state.deadline)))
        return min(timers, key=lambda timer: timer[0])

    # events

    def _take(self, event: ev.Event) -> list[ev.Instruction]:
        state = self.state
        match event:
            case ev.Started():
                return self._started(event)
            case ev.Resumed():
                state.away = []
                return self._resumed()
            case ev.Answered():
                return self._answered(event)
            case ev.Live(silo=silo, round=round):
                lease = state.leases.get(silo)
                if lease and lease.state == "out" and round == self._round_of(lease) and not self.ended:
                    lease.until = max(lease.until, event.now + self.config.lease_s)
                return []
            case ev.LeaseExpired(silo=silo):
                lease = state.leases.get(silo)
                if lease is None or silo in state.away:
                    return []
                if (event.round, event.task) != (self._round_of(lease), TASK_OF.get(state.phase)):
                    return []
                if lease.state != "out" or lease.epoch != event.epoch or event.now < lease.until:
                    return []
                return [self._dispatch(silo, event.now)]
            case ev.DeadlinePassed():
                if (event.round, event.task) != (state.round, TASK_OF.get(state.phase)) or event.now < state.deadline:
                    return []
                return self._close(event.now, overdue=True)
            case ev.SiloWent(silo=silo):
                if silo in self.silos and silo not in state.away:
                    state.away.append(silo)
                return []
            case ev.SiloCame(silo=silo):
                return self._came(silo, event.now)
            case ev.Withdrew(silo=silo):
                return self._withdrew(silo, event.reason, event.now)
            case ev.Rejected():
                return self._rejected(event)
            case ev.Aggregated():
                return self._aggregated(event)
            case ev.Stopped():
                return [] if self.ended else self._fail("OCT-RUN-STOPPED", event.reason or "The run was stopped.")
            case ev.Broken():
                return [] if self.ended else self._fail(event.code, event.reason)

    def _started(self, event: ev.Started) -> list[ev.Instruction]:
        if self.state.phase != "waiting":
            raise self._illegal(event)
        self._set_model(event.model)
        self.state.slots = dict(event.slots)
        return self._open(1, "training", event.now)

    def _came(self, silo: str, now: float) -> list[ev.Instruction]:
        state = self.state
        if silo in state.away:
            state.away.remove(silo)
        lease = state.leases.get(silo)
        if lease and lease.state == "out" and lease.until <= now and state.phase in TASK_OF:
            return [self._dispatch(silo, now)]
        return []

    def _answered(self, event: ev.Answered) -> list[ev.Instruction]:
        """Count the answer, or say why not. Whatever a silo sends, this never raises."""
        state, silo = self.state, event.silo
        task = TASK_OF.get(state.phase)
        lease = state.leases.get(silo)
        if silo not in self.silos:
            return self._ignore(event, "the silo does not take part in this run")
        if silo in state.withdrawn:
            return self._ignore(event, "the silo withdrew from this run")
        if state.overdue.get(silo) == [event.round, event.epoch] and event.task == TRAIN and self._has_next_fold():
            return self._answered_late(event)
        if lease is None or (event.round, event.task) != (self._round_of(lease), task):
            where = f"{task} of round {state.round}" if task else state.phase
            return self._ignore(event, f"it answers {event.task} of round {event.round}, the run is at: {where}")
        if lease.state != "out":
            return self._ignore(event, f"the silo's answer is {lease.state} already")
        if event.epoch != lease.epoch:
            why = f"it answers epoch {event.epoch}, the newest is {lease.epoch}"
            return self._ignore(event, why, reusable=True)
        if event.error:
            if event.error_code in FINAL_ERRORS:
                return self._withdrew(silo, event.error, event.now)
            lease.state, lease.why = "failed", f"{event.error} [{event.error_code or 'no code'}]"
            self._note(f"round {state.round}: {silo} could not {task}: {lease.why}", silo)
            return self._close(event.now)
        fault = fault_of(event, self.config)
        if fault:
            lease.state, lease.why = "refused", f"{fault[1]} [{fault[0]}]"
            self._note(f"round {event.round}: the answer of {silo} is refused: {lease.why}", silo)
            return [*self._ignore(event, fault[1]), *self._close(event.now)]
        lease.state = "answered"
        facts = replace(event.facts, silo=silo, metrics=finite(event.facts.metrics), staleness=0, base="")
        return self._count(facts, event.now)

    def _has_next_fold(self) -> bool:
        state = self.state
        return state.phase == "training" or (state.phase == "aggregating" and state.round < self.config.rounds)

    def _answered_late(self, event: ev.Answered) -> list[ev.Instruction]:
        """An answer to a round that has closed: it waits for the next fold."""
        state, silo = self.state, event.silo
        del state.overdue[silo]
        fault = (event.error_code, event.error) if event.error else fault_of(event, self.config)
        if fault:
            return self._ignore(event, f"{fault[1]} [{fault[0]}]")
        if state.phase == "training" and silo in state.answers:
            return self._ignore(event, f"its answer to round {state.round} is here already")
        fold = state.round + (state.phase == "aggregating")
        state.late[silo] = replace(
            event.facts, silo=silo, metrics=finite(event.facts.metrics), staleness=fold - event.round, base=""
        )
        self._note(f"round {event.round}: the late answer of {silo} is kept for round {fold}")
        return []

    def _count(self, facts: AnswerFacts, now: float) -> list[ev.Instruction]:
        """A sound answer to the newest lease."""
        self.state.answers[facts.silo] = facts
        if any(lease.state == "out" for lease in reversed(self.state.leases.values())):
            return []  # mostly the first look suffices, where answers come in the silos' order
        return self._close(now)

    def _withdrew(self, silo: str, reason: str, now: float) -> list[ev.Instruction]:
        state = self.state
        if self.ended or silo not in self.silos or silo in state.withdrawn:
            return []
        state.withdrawn.append(silo)
        self._note(f"round {state.round}: {silo} withdrew: {reason}")
        lease = state.leases.get(silo)
        if lease and lease.state == "out":
            lease.state, lease.why = "withdrawn", reason
        if state.phase == "waiting":
            left = len(self.silos) - len(state.withdrawn)
            return self._no_quorum(left) if left < self.needed else []
        return self._close(now) if state.phase in TASK_OF else []

    def _rejected(self, event: ev.Rejected) -> list[ev.Instruction]:
        state = self.state
        if state.phase != "aggregating" or event.round != state.round or not event.faults.keys() & state.answers.keys():
            raise self._illegal(event)
        gone = []
        for silo, (code, why) in event.faults.items():
            facts = state.answers.pop(silo, None)
            if facts is None:
                continue
            if lease := state.leases.get(silo):
                lease.state, lease.why = "refused", f"{why} [{code}]"
            self._note(f"round {state.round}: the update of {silo} is refused: {why} [{code}]", silo)
            gone.append(facts)
        rest = self._aggregate_or_fail()
        return [*self._discard(gone, []), *rest]

    def _aggregated(self, event: ev.Aggregated) -> list[ev.Instruction]:
        state = self.state
        if state.phase != "aggregating" or event.round != state.round or state.model is None:
            raise self._illegal(event)
        answers = self._answers()
        fresh = [a for a in answers if not a.staleness]  # late ones evaluated an earlier model
        out = self._evaluated(fresh)
        state.row = Row(
            round=state.round,
            metrics=merge(average_metrics(answers, "train/"), finite(event.metrics)),
            answered=[a.silo for a in fresh],
            missing=[s for s in self.silos if s in state.leases and s not in {a.silo for a in fresh}],
            seconds=max(0.0, event.now - state.opened),
            model=event.model,
            late=[a.silo for a in answers if a.staleness],
            silos={a.silo: below(a.metrics, "train/") for a in answers},
        )
        out.append(self._report(state.row, silos_bars(answers) + event.bars))
        old_slots = list(state.slots.values())
        self._set_model(event.model)
        state.slots = dict(event.slots)
        state.answers = {}
        if state.round < self.config.rounds and not state.early:
            out += self._discard(answers, old_slots)
            return out + self._open(state.round + 1, "training", event.now)
        left, state.late, state.overdue = list(state.late.values()), {}, {}
        out += self._discard([*answers, *left], old_slots)
        return out + self._open(state.round, "evaluating", event.now)

    # steps

    def _round_of(self, lease: Lease) -> int:
        """The round that a lease's task belongs to."""
        return self.state.round

    def _resumed(self) -> list[ev.Instruction]:
        return [self._aggregate()] if self.state.phase == "aggregating" else []

    def _shift(self, seconds: float) -> None:
        state = self.state
        state.deadline += seconds
        state.opened += seconds
        for lease in state.leases.values():
            lease.until += seconds

    def _set_model(self, model: Blob) -> None:
        self.state.model = model
        self.state.models = sorted({*self.state.models, model.digest})

    def _open(self, round: int, phase: str, now: float) -> list[ev.Instruction]:
        """Hand a new task to everybody who still takes part."""
        state = self.state
        state.phase, state.round, state.opened = phase, round, now
        state.deadline = now + self.config.round_deadline_s
        state.answers = {}
        state.leases = {silo: Lease() for silo in self._asked(phase)}
        if phase == "training" and len(state.leases) < self.needed:
            return self._no_quorum(len(state.leases))
        if not state.leases:
            return self._close(now)
        return [self._dispatch(silo, now) for silo in state.leases]

    def _asked(self, phase: str) -> list[str]:
        """Who gets this round's task: all who still take part, or the round's draw of them."""
        state = self.state
        there = [silo for silo in self.silos if silo not in state.withdrawn]
        if phase != "training" or not 0 < self.config.per_round < len(there):
            return there
        ranks = {silo: derive_seed(self.config.seed, "sample", state.round, silo) for silo in there}
        return in_order(sorted(there, key=lambda silo: (ranks[silo], silo))[: self.config.per_round], self.silos)

    def _dispatch(self, silo: str, now: float) -> ev.Dispatch:
        state = self.state
        assert state.model is not None
        lease = state.leases[silo]
        if lease.epoch:
            self._note(f"round {state.round}: lease {lease.epoch} of {silo} ran out; handed out again", silo)
        lease.epoch, lease.until, lease.state = lease.epoch + 1, now + self.config.lease_s, "out"
        return ev.Dispatch(
            silo=silo,
            round=state.round,
            task=TASK_OF[state.phase],
            epoch=lease.epoch,
            until=lease.until,
            model=state.model,
        )

    def _close(self, now: float, *, overdue: bool = False) -> list[ev.Instruction]:
        """Go on, when nothing more is to be waited for."""
        state = self.state
        out = [silo for silo, lease in state.leases.items() if lease.state == "out"]
        if state.phase == "training":
            possible = len({*state.answers, *state.late, *out})
            if not overdue and (out or possible < self.needed):
                return [] if possible >= self.needed else self._no_quorum(possible)
            for silo in out:
                self._mark_late(silo)
                if self.config.late == "next":
                    state.overdue[silo] = [state.round, state.leases[silo].epoch]
            return [*self._take_late(), *self._aggregate_or_fail()]
        if out and not overdue:
            return []
        for silo in out:
            self._mark_late(silo)
        assert state.model is not None
        reports = self._evaluated(self._answers())
        metrics = dict(state.row.metrics) if state.row else {}
        state.phase, state.answers = "completed", {}
        done = ev.Complete(
            model=state.model,
            rounds=state.round,
            metrics=metrics,
            best=state.best,
            reason=best.told(self.config, state),
        )
        return [*reports, done]

    def _mark_late(self, silo: str) -> None:
        lease, why = self.state.leases[silo], "no answer by the deadline"
        lease.state, lease.why = "late", f"{why}: it is not connected" if silo in self.state.away else why
        self._note(f"round {self.state.round}: {silo}: {lease.why}", silo)

    def _take_late(self) -> list[ev.Instruction]:
        """Late answers of silos that did not answer this round join it; the others' are superseded."""
        state = self.state
        own = [facts for silo, facts in state.late.items() if silo in state.answers]
        state.answers = {**state.late, **state.answers}
        state.late = {}
        for facts in own:
            self._note(f"round {state.round}: the late answer of {facts.silo} gives way to its answer to this round")
        return self._discard(own, [])

    def _aggregate_or_fail(self) -> list[ev.Instruction]:
        state = self.state
        if len(state.answers) < self.needed:
            return self._no_quorum(len(state.answers))
        state.phase = "aggregating"
        return [self._aggregate()]

    def _aggregate(self) -> ev.Aggregate:
        state = self.state
        assert state.model is not None
        return ev.Aggregate(
            round=state.round, model=state.model, slots=dict(state.slots), answers=tuple(self._answers())
        )

    def _evaluated(self, answers: list[AnswerFacts]) -> list[ev.Instruction]:
        """The answers' ``eval/…`` speak of the model that came in: they complete the row of the round before."""
        row, metrics = self.state.row, merge(*(average_metrics(answers, prefix) for prefix in OF_MODEL))
        if row is None:
            self.state.first = metrics or self.state.first
            return []
        row.metrics = merge(row.metrics, metrics)
        for a in answers:
            row.silos[a.silo] = merge(row.silos.get(a.silo, {}), below(a.metrics, *OF_MODEL))
        if note := best.judge(self.config, self.state, row):
            self._note(note)
        return [self._report(row, ())] if metrics else []

    def _report(self, row: Row, bars: tuple[Bar, ...]) -> ev.Report:
        return ev.Report(
            round=row.round,
            rounds=self.config.rounds,
            metrics=dict(row.metrics),
            answered=tuple(row.answered),
            missing=tuple(row.missing),
            seconds=row.seconds,
            model=row.model,
            bars=bars,
            late=tuple(row.late),
            silos={silo: dict(metrics) for silo, metrics in row.silos.items()},
            best=self.state.best,
        )

    def _no_quorum(self, possible: int) -> list[ev.Instruction]:
        state = self.state
        reasons = "; ".join(
            f"{silo}: {lease.why or lease.state}"
            for silo, lease in state.leases.items()
            if lease.state not in ("answered", "out")
        )
        where = f"Round {state.round}" if state.round else "The first round"
        why = f"{where} needs {self.needed} answers and can have {possible} of {len(state.leases) or len(self.silos)}."
        return self._fail("OCT-RUN-QUORUM", f"{why} {reasons}".rstrip())

    def _fail(self, code: str, reason: str) -> list[ev.Instruction]:
        state = self.state
        answers = [*self._answers(), *state.late.values()]
        state.phase, state.code, state.reason, state.answers, state.late = "failed", code, reason, {}, {}
        return [*self._discard(answers, []), ev.Fail(code=code, reason=reason)]

    def _ignore(self, event: ev.Answered, why: str, *, reusable: bool = False) -> list[ev.Instruction]:
        self._note(f"round {event.round}: an answer of {event.silo} to {event.task} is not counted: {why}")
        out: list[ev.Instruction] = [ev.Ignore(silo=event.silo, why=why, reusable=reusable)]
        return out if reusable else out + self._discard([event.facts], [])

    def _discard(self, answers: Sequence[AnswerFacts], slots: Sequence[Blob]) -> list[ev.Instruction]:
        """Blobs of these that the state no longer refers to (two silos may have sent the same bytes)."""
        state = self.state
        open_ = (*state.answers.values(), *state.folding.values(), *state.late.values())
        kept = {blob.digest for a in open_ for blob in a.blobs}
        kept |= {blob.digest for blob in state.slots.values()}
        kept |= set(self.config.first_slots.values())  # another run's
        kept |= set(state.models)
        gone = {b.digest: b for b in [*(b for a in answers for b in a.blobs), *slots] if b.digest not in kept}
        return [ev.Discard(blobs=tuple(gone.values()))] if gone else []

    def _answers(self) -> list[AnswerFacts]:
        return [self.state.answers[silo] for silo in in_order(self.state.answers, self.silos)]

    # story

    def _note(self, text: str, silo: str = "") -> None:
        self.state.notes = [*self.state.notes, text][-STORY_LINES:]
        self.state.troubles |= {silo: text} if silo else {}

    def _tell(self, text: str) -> None:
        self.state.story = [*self.state.story, text][-STORY_LINES:]

    def _illegal(self, event: ev.Event) -> IllegalMove:
        return IllegalMove("The round loop", f"{self.state.phase}, round {self.state.round}", event, self.state.story)
