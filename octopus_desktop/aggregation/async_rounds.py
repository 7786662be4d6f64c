"""Asynchronous federated optimisation: the round loop without the wait for everybody. No I/O, no clock, no tensors.

What is a round in sync mode is a *version* of the global model here. Every silo trains from the newest model that
there was when its task went out, and answers when it is done. Answers are buffered; as soon as ``buffer`` of them are
there they are folded into the next version, each with its staleness τ (versions made since its model), while other
silos go on training. Then every silo that waits gets the new version. A silo contributes at most once to each version.

    Xie, Koyejo, Gupta: Asynchronous Federated Optimization. 2019 (FedAsync: buffer of one).
    Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous Aggregation.
    AISTATS 2022, Algorithm 1 (FedBuff).

An answer whose staleness is above ``max_staleness`` is dropped, and its silo is asked again from the newest model. When
nobody trains any more, the buffer is folded as it is: a dead silo never holds a run. At the deadline of a version it is
folded with a quorum of answers (one, unless the run asks for more); with fewer the run ends and names the silos.
The order of arrival matters, so two runs of the same job differ; within one fold sums are in the silos' order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, average_metrics, below, finite, in_order, merge, silos_bars
from octopus_desktop.aggregation.rounds import RoundLoop
from octopus_desktop.aggregation.state import Lease, Row, State
from octopus_desktop.jobs.manifest import RunConfig


class AsyncLoop(RoundLoop):
    """One run's versions. ``buffer``: answers a version is made of; ``max_staleness``: see above, -1 for any."""

    def __init__(
        self,
        config: RunConfig,
        silos: Sequence[str],
        state: State | None = None,
        *,
        buffer: int = 1,
        max_staleness: int = -1,
    ) -> None:
        super().__init__(config, silos, state)
        self.buffer, self.max_staleness = buffer, max_staleness
        self.needed = config.quorum or 1

    @classmethod
    def from_dict(
        cls, config: RunConfig, silos: Sequence[str], value: dict[str, Any], *, buffer: int = 1, max_staleness: int = -1
    ) -> AsyncLoop:
        return cls(config, silos, State.from_dict(value), buffer=buffer, max_staleness=max_staleness)

    # what differs from sync mode

    def _round_of(self, lease: Lease) -> int:
        return lease.round or self.state.round

    def _resumed(self) -> list[ev.Instruction]:
        return [self._aggregate()] if self.state.folding else []

    def _count(self, facts: AnswerFacts, now: float) -> list[ev.Instruction]:
        state = self.state
        if state.phase != "training":
            return super()._count(facts, now)
        staleness = state.round - self._round_of(state.leases[facts.silo])
        if 0 <= self.max_staleness < staleness:
            old = f"the answer of {facts.silo} is {staleness} versions old and was dropped"
            self._note(f"version {state.round}: {old}", facts.silo)
            why = f"it is {staleness} versions old, at most {self.max_staleness} are allowed"
            out: list[ev.Instruction] = [ev.Ignore(silo=facts.silo, why=why), *self._discard([facts], [])]
            return [*out, self._dispatch(facts.silo, now)]
        state.answers[facts.silo] = replace(facts, staleness=staleness, base=state.leases[facts.silo].model)
        return self._close(now)

    def _dispatch(self, silo: str, now: float) -> ev.Dispatch:
        """The newest model, whatever the silo had before; the lease's epochs begin anew with each version."""
        state = self.state
        lease = state.leases[silo]
        if self._round_of(lease) != state.round:
            lease.epoch = 0
        lease.round, lease.why = state.round, ""
        lease.model = state.model.digest if state.model else ""
        return super()._dispatch(silo, now)

    def _close(self, now: float, *, overdue: bool = False) -> list[ev.Instruction]:
        state = self.state
        if state.phase != "training":
            return super()._close(now, overdue=overdue)
        if state.folding:
            return []  # looked at again when the fold is done
        busy = [silo for silo, lease in state.leases.items() if lease.state == "out"]
        if len(state.answers) >= self.buffer or (state.answers and not busy):
            return [self._fold()]
        if not overdue:
            return [] if busy else self._no_quorum(0)
        if len(state.answers) >= self.needed:
            self._note(
                f"version {state.round}: made at the deadline from {len(state.answers)} of {self.buffer} answers"
            )
            return [self._fold()]
        for silo in busy:
            self._mark_late(silo)
        return self._no_quorum(len(state.answers))

    def _fold(self) -> ev.Aggregate:
        """The first ``buffer`` answers in their order of arrival, to be summed in the silos' order."""
        state = self.state
        first = list(state.answers)[: self.buffer]
        state.folding = {silo: state.answers.pop(silo) for silo in in_order(first, self.silos)}
        return self._aggregate()

    def _aggregate(self) -> ev.Aggregate:
        state = self.state
        assert state.model is not None
        answers = tuple(state.folding.values())
        return ev.Aggregate(round=state.round, model=state.model, slots=dict(state.slots), answers=answers)

    def _rejected(self, event: ev.Rejected) -> list[ev.Instruction]:
        state = self.state
        if event.round != state.round or not event.faults.keys() & state.folding.keys():
            raise self._illegal(event)
        gone = []
        for silo, (code, why) in event.faults.items():
            if facts := state.folding.pop(silo, None):
                lease = state.leases.get(silo)
                if lease and lease.state == "answered":
                    lease.state, lease.why = "refused", f"{why} [{code}]"
                self._note(f"version {state.round}: the update of {silo} is refused: {why} [{code}]", silo)
                gone.append(facts)
        state.answers = {**state.folding, **state.answers}  # what is sound waits for others in the refused ones' place
        state.folding = {}
        return [*self._discard(gone, []), *self._close(event.now)]

    def _aggregated(self, event: ev.Aggregated) -> list[ev.Instruction]:
        state = self.state
        if not state.folding or event.round != state.round or state.model is None:
            raise self._illegal(event)
        answers = list(state.folding.values())
        fresh = [a for a in answers if a.staleness == 0]
        out = self._evaluated(fresh) if fresh else []
        staleness = [float(a.staleness) for a in answers]
        state.row = Row(
            round=state.round,
            metrics=merge(
                average_metrics(answers, "train/"),
                {"train/staleness": sum(staleness) / len(staleness)},
                finite(event.metrics),
            ),
            answered=[a.silo for a in answers],
            missing=[],
            seconds=max(0.0, event.now - state.opened),
            model=event.model,
            silos={a.silo: below(a.metrics, "train/") for a in answers},
        )
        out.append(self._report(state.row, silos_bars(answers) + event.bars))
        old_slots = list(state.slots.values())
        self._set_model(event.model)
        state.slots, state.folding = dict(event.slots), {}
        if state.round >= self.config.rounds or state.early:
            left = list(state.answers.values())
            return [*out, *self._discard([*answers, *left], old_slots), *self._finish(event.now)]
        out += self._discard(answers, old_slots)
        state.round += 1
        state.answers = {s: replace(a, staleness=a.staleness + 1) for s, a in state.answers.items()}
        state.opened, state.deadline = event.now, event.now + self.config.round_deadline_s
        waiting = [s for s, lease in state.leases.items() if lease.state != "out" and s not in state.answers]
        for silo in in_order(waiting, self.silos):
            if silo not in state.withdrawn:
                out.append(self._dispatch(silo, event.now))
        return out + self._close(event.now)

    def _finish(self, now: float) -> list[ev.Instruction]:
        """All versions are made: every silo evaluates the last one; what still trains is not waited for."""
        self.state.answers = {}
        return self._open(self.state.round, "evaluating", now)

    def _open(self, round: int, phase: str, now: float) -> list[ev.Instruction]:
        state = self.state
        state.phase, state.round, state.opened = phase, round, now
        state.deadline = now + self.config.round_deadline_s
        state.answers = {}
        state.leases = {silo: Lease(round=round) for silo in self.silos if silo not in state.withdrawn}
        if phase == "training" and len(state.leases) < self.needed:
            return self._no_quorum(len(state.leases))
        if not state.leases:
            return self._close(now)
        return [self._dispatch(silo, now) for silo in state.leases]

    def _withdrew(self, silo: str, reason: str, now: float) -> list[ev.Instruction]:
        out = super()._withdrew(silo, reason, now)
        if not self.ended and self.state.phase == "training" and not self.state.folding:
            left = len(self.silos) - len(self.state.withdrawn)
            if left < self.needed and not out:
                return self._no_quorum(left)
        return out
