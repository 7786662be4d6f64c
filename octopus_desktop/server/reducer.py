"""A run's life at the server, without I/O: events in, instructions out.

offered → running → completed | stopped | failed. A run begins when every invited silo has decided, or at the offer's
deadline; its cohort is the silos that approved, in sorted order. It needs ``max(1, quorum)`` of them: a silo that
declines merely leaves the cohort, and the run fails with OCT-RUN-QUORUM once too few can be left. Knows no envelope, no
process and no clock; ``server.runs`` does what the instructions say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from octopus_desktop.wire.errors import IllegalMove

OFFERED, RUNNING, COMPLETED, STOPPED, FAILED = "offered", "running", "completed", "stopped", "failed"
ENDED = frozenset({COMPLETED, STOPPED, FAILED})

WAITING, APPROVED = "offered", "approved"
DECLINED = frozenset({"rejected", "changes_requested", "revoked", "expired"})
VERDICTS = frozenset({APPROVED, "rejected", "changes_requested", "revoked"})


# events


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """The server started, or wants to be sure: what should be so?"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Greeted:
    """A silo's link came up; ``holds``: it says that it has this run as not ended."""

    silo: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A silo's verdict arrived, verified: approved | rejected | changes_requested | revoked."""

    silo: str
    verdict: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloRemoved:
    """The silo is no member any longer."""

    silo: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferExpired:
    """The offer's deadline has passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopAsked:
    """The coordinator's person wants the run to end."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorEnded:
    """The coordinator process has done its work: ``state`` is completed, stopped or failed."""

    state: str
    reason: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorLost:
    """The coordinator process died too often without getting on."""

    reason: str


Event = Recovered | Greeted | Decided | SiloRemoved | OfferExpired | StopAsked | CoordinatorEnded | CoordinatorLost


# instructions


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDecision:
    """Write what a silo decided; ``in_cohort`` afterwards."""

    silo: str
    decision: str
    in_cohort: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetState:
    """Write the run's state; ``cohort`` when it begins to run."""

    state: str
    reason: str = ""
    code: str = ""
    cohort: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOffer:
    silo: str
    again: bool = False  # the silo lacks it although it was delivered once


@dataclass(frozen=True, slots=True, kw_only=True)
class SendStop:
    silo: str
    reason: str
    code: str
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SendFinished:
    silo: str
    again: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StartCoordinator:
    cohort: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StopCoordinator:
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TellSiloLeft:
    """Tell the coordinator that this silo is gone for good."""

    silo: str


Instruction = (
    SetDecision | SetState | SendOffer | SendStop | SendFinished | StartCoordinator | StopCoordinator | TellSiloLeft
)


@dataclass(slots=True)
class RunLife:
    """One run as the rows have it. ``decisions``: silo → offered | approved | rejected | changes_requested | revoked |
    expired. ``cohort``: who takes part, empty while the run is offered."""

    run_id: str
    quorum: int
    decisions: dict[str, str]
    state: str = OFFERED
    cohort: tuple[str, ...] = ()
    reason: str = ""
    code: str = ""
    story: list[str] = field(default_factory=list)

    @property
    def needed(self) -> int:
        return max(1, self.quorum)

    def apply(self, event: Event) -> list[Instruction]:
        """What is to be done now. Raises IllegalMove, with the story, for what this state does not allow."""
        self.story.append(f"{self.state} {dict(self.decisions)} cohort {list(self.cohort)} <- {event!r}")
        match event:
            case Recovered():
                return self._recovered()
            case Greeted():
                return self._greeted(event)
            case Decided():
                return self._decided(event)
            case SiloRemoved():
                return self._left(event.silo, "revoked", event.reason or "the silo is no member any longer")
            case OfferExpired():
                return self._begin_or_fail(at_deadline=True) if self.state == OFFERED else []
            case StopAsked():
                if self.state in ENDED:
                    raise self._illegal(event)
                return self._end(STOPPED, event.reason, "OCT-RUN-STOPPED")
            case CoordinatorEnded():
                return self._coordinator_ended(event)
            case CoordinatorLost():
                if self.state in ENDED:
                    return []
                if self.state != RUNNING:
                    raise self._illegal(event)
                return self._end(FAILED, event.reason, "OCT-RUN-WORKERS")

    def _recovered(self) -> list[Instruction]:
        if self.state == OFFERED:
            waiting: list[Instruction] = [SendOffer(silo=s) for s, d in self.decisions.items() if d == WAITING]
            return waiting + self._begin_or_fail(at_deadline=False)
        if self.state == RUNNING:
            gone: list[Instruction] = [TellSiloLeft(silo=s) for s, d in self.decisions.items() if d == "revoked"]
            return [*gone, StartCoordinator(cohort=self.cohort)]
        return self._farewells()

    def _greeted(self, event: Greeted) -> list[Instruction]:
        silo = event.silo
        decision = self.decisions.get(silo)
        if decision is None:
            return []
        if self.state == OFFERED:
            return [SendOffer(silo=silo, again=True)] if decision == WAITING and not event.holds else []
        if not event.holds:
            return []
        if self.state == RUNNING:
            return [] if silo in self.cohort else [self._without(silo, again=True)]
        if self.state == COMPLETED and silo in self.cohort:
            return [SendFinished(silo=silo, again=True)]
        return [SendStop(silo=silo, reason=self.reason, code=self.code or "OCT-RUN-STOPPED", again=True)]

    def _decided(self, event: Decided) -> list[Instruction]:
        silo, verdict = event.silo, event.verdict
        if silo not in self.decisions or verdict not in VERDICTS:
            raise self._illegal(event)
        if self.state in ENDED:
            # the silo learns by the same answer how the run ended
            return self._greeted(Greeted(silo=silo, holds=verdict == APPROVED))
        if verdict != APPROVED:
            return self._left(silo, verdict, event.reason)
        if self.state == RUNNING:
            return [] if silo in self.cohort else [self._without(silo, again=False)]
        self.decisions[silo] = APPROVED
        wrote = SetDecision(silo=silo, decision=APPROVED, in_cohort=False, reason=event.reason)
        return [wrote, *self._begin_or_fail(at_deadline=False)]

    def _left(self, silo: str, decision: str, reason: str) -> list[Instruction]:
        """A silo declines, or takes its approval back, or is no member any longer."""
        if silo not in self.decisions or self.state in ENDED or self.decisions[silo] == decision:
            return []
        self.decisions[silo] = decision
        out: list[Instruction] = [SetDecision(silo=silo, decision=decision, in_cohort=False, reason=reason)]
        if self.state == OFFERED:
            return out + self._begin_or_fail(at_deadline=False)
        if silo not in self.cohort:
            return out
        self.cohort = tuple(s for s in self.cohort if s != silo)
        if len(self.cohort) < self.needed:
            return out + self._end(FAILED, f"{silo} left: {reason}" if reason else f"{silo} left", "OCT-RUN-QUORUM")
        return [*out, TellSiloLeft(silo=silo)]

    def _begin_or_fail(self, *, at_deadline: bool) -> list[Instruction]:
        out: list[Instruction] = []
        if at_deadline:
            for silo, decision in self.decisions.items():
                if decision == WAITING:
                    self.decisions[silo] = "expired"
                    reason = "the offer's deadline passed"
                    out.append(SetDecision(silo=silo, decision="expired", in_cohort=False, reason=reason))
                    out.append(SendStop(silo=silo, reason=reason, code="OCT-RUN-QUORUM"))
        approved = tuple(sorted(s for s, d in self.decisions.items() if d == APPROVED))
        waiting = [s for s, d in self.decisions.items() if d == WAITING]
        if len(approved) + len(waiting) < self.needed:
            why = f"{len(approved)} of {len(self.decisions)} silos approved, {self.needed} are needed"
            return out + self._end(FAILED, why, "OCT-RUN-QUORUM")
        if waiting:
            return out
        self.state, self.cohort = RUNNING, approved
        return [*out, SetState(state=RUNNING, cohort=approved), StartCoordinator(cohort=approved)]

    def _coordinator_ended(self, event: CoordinatorEnded) -> list[Instruction]:
        if self.state in ENDED:
            return []
        if self.state != RUNNING or event.state not in ENDED:
            raise self._illegal(event)
        return self._end(event.state, event.reason, event.code)

    def _end(self, state: str, reason: str, code: str) -> list[Instruction]:
        was, self.state, self.reason, self.code = self.state, state, reason, code
        out: list[Instruction] = [SetState(state=state, reason=reason, code=code)]
        if was == RUNNING:
            out.append(StopCoordinator(reason=reason))
        return out + self._farewells()

    def _farewells(self) -> list[Instruction]:
        """What every silo that may still hold an ended run must hear."""
        out: list[Instruction] = []
        for silo, decision in self.decisions.items():
            if self.state == COMPLETED and silo in self.cohort:
                out.append(SendFinished(silo=silo))
            elif decision not in DECLINED:
                out.append(SendStop(silo=silo, reason=self.reason, code=self.code or "OCT-RUN-STOPPED"))
        return out

    def _without(self, silo: str, *, again: bool) -> SendStop:
        return SendStop(silo=silo, reason="the run began without this silo", code="OCT-APPROVAL-STATE", again=again)

    def _illegal(self, event: object) -> IllegalMove:
        return IllegalMove(f"run {self.run_id}", self.state, event, self.story)


def life_of(
    run_id: str, quorum: int, state: str, reason: str, code: str, silos: Mapping[str, tuple[str, bool]]
) -> RunLife:
    """A life from its rows; ``silos``: name → (decision, in the cohort)."""
    return RunLife(
        run_id=run_id,
        quorum=quorum,
        decisions={name: decision for name, (decision, _) in sorted(silos.items())},
        state=state,
        cohort=tuple(sorted(name for name, (_, inside) in silos.items() if inside)),
        reason=reason,
        code=code,
    )
