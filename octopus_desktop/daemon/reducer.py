"""Decides what becomes of an offer and of the run that follows it. Pure: events in, a new row and instructions out.

No I/O and no clock: the shell (``services.lives``) stores the row and carries the instructions out, those that write
in the same transaction. What the state does not allow raises IllegalMove with the whole story; what comes late to
something that has ended is quietly nothing.

An offer: fetching → offered | invalid; offered → approved | rejected | changes_requested | expired | withdrawn.
A run, once approved: approved → preparing → training ⇄ exchanging → completed; paused and resumed from any of these;
stopped or failed with a reason.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from octopus_desktop.wire.errors import IllegalMove

OFFER_OPEN = ("fetching", "offered")
OFFER_ENDED = ("rejected", "changes_requested", "expired", "withdrawn", "invalid")
RUN_ACTIVE = ("approved", "preparing", "training", "exchanging", "paused")
RUN_ENDED = ("completed", "stopped", "failed")
RESTARTS = 5  # of a runner in a row without an answer between them
BACKOFF_S = (0.0, 1.0, 2.0, 5.0, 10.0)
STORY_LINES = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One offer and its run.

    ``offer`` and ``run`` are the states ("" for what is not yet); ``held``: why it is paused (person | hours | disk);
    ``before``: the state to which it returns; ``note``: what an active run waits for; ``restarts`` counts the runner's
    deaths since its last answer.
    """

    run_id: str
    federation_id: str = ""
    offer: str = ""
    run: str = ""
    before: str = ""
    held: tuple[str, ...] = ()
    note: str = ""
    code: str = ""
    reason: str = ""
    round: int = 0
    rounds: int = 0
    restarts: int = 0
    story: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.offer in OFFER_ENDED or self.run in RUN_ENDED

    @property
    def active(self) -> bool:
        return self.run in RUN_ACTIVE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> Life:
        return cls(**{**value, "held": tuple(value["held"]), "story": tuple(value["story"])})


# events


@dataclass(frozen=True, slots=True)
class OfferCame:
    federation_id: str
    rounds: int


@dataclass(frozen=True, slots=True)
class PackageGood:
    """The package is here and its signature holds."""


@dataclass(frozen=True, slots=True)
class PackageBad:
    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Decided:
    """``verdict``: approved | rejected | changes_requested. The shell has checked the signature."""

    verdict: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OfferExpired:
    pass


@dataclass(frozen=True, slots=True)
class StopCame:
    """The server ends the run, or takes the offer back."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class FinishedCame:
    """``reason``: why the run ended before its last round, or ""."""

    rounds: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StopAsked:
    """The administrator stops the run here, or revokes the approval."""

    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """The run may not or cannot go on here: a condition, the data, the package, the disk's content."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class Held:
    """``why``: person | hours | disk."""

    why: str
    by: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Released:
    why: str
    by: str


@dataclass(frozen=True, slots=True)
class LaunchBlocked:
    """The runner cannot begin yet; the shell tries again when that changes."""

    why: str


@dataclass(frozen=True, slots=True)
class RunnerUp:
    """The runner's process was started."""


@dataclass(frozen=True, slots=True)
class RunnerGone:
    """The runner's process ended without having said so."""

    why: str


@dataclass(frozen=True, slots=True)
class RunnerEnded:
    """The runner gave up by itself."""

    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class TaskBegun:
    round: int


@dataclass(frozen=True, slots=True)
class AnswerPut:
    """The result of a task is in the outbox."""

    round: int


@dataclass(frozen=True, slots=True)
class Restarted:
    """The daemon started and found this row."""


Event = (
    OfferCame | PackageGood | PackageBad | Decided | OfferExpired | StopCame | FinishedCame | StopAsked | Broken | Held
    | Released | LaunchBlocked | RunnerUp | RunnerGone | RunnerEnded | TaskBegun | AnswerPut | Restarted
)  # fmt: skip


# instructions


@dataclass(frozen=True, slots=True)
class Audit:
    actor: str
    action: str
    detail: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class PostDecision:
    """Tell the server. ``verdict``: approved | rejected | changes_requested | revoked."""

    verdict: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SignHead:
    """Sign the audit chain's head and send it as witness."""


@dataclass(frozen=True, slots=True)
class Notify:
    level: str
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class CheckPackage:
    pass


@dataclass(frozen=True, slots=True)
class ApplyPolicy:
    pass


@dataclass(frozen=True, slots=True)
class Launch:
    """See that a runner works, after ``delay_s``; nothing happens when one does."""

    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Tell:
    """A word for the runner: pause | resume."""

    word: str


@dataclass(frozen=True, slots=True)
class End:
    """End the runner's process group and keep what the run left: its last model, its record."""

    reason: str


Instruction = Audit | PostDecision | SignHead | Notify | CheckPackage | ApplyPolicy | Launch | Tell | End
Outcome = tuple[Life, list[Instruction]]


def reduce(life: Life, event: Event) -> Outcome:
    """The next row and what is to be done, in this order. Raises IllegalMove."""
    handler = _HANDLERS[type(event)]
    told = replace(life, story=(*life.story, f"{life.offer or 'new'}/{life.run or '-'}: {event}")[-STORY_LINES:])
    return handler(told, event)


def _illegal(life: Life, event: Event) -> IllegalMove:
    return IllegalMove(f"run {life.run_id}", f"{life.offer}/{life.run or '-'}", event, list(life.story))


def _offer_came(life: Life, event: OfferCame) -> Outcome:
    if life.offer:
        return life, []
    life = replace(life, federation_id=event.federation_id, offer="fetching", rounds=event.rounds)
    return life, [Audit("server", "offer.received"), CheckPackage()]


def _package_good(life: Life, event: PackageGood) -> Outcome:
    if life.ended:
        return life, []
    if life.offer != "fetching":
        raise _illegal(life, event)
    return replace(life, offer="offered"), [
        Audit("daemon", "offer.verified"),
        Notify("info", "", "A job asks for your decision"),
        ApplyPolicy(),
    ]


def _package_bad(life: Life, event: PackageBad) -> Outcome:
    if life.ended:
        return life, []
    if life.offer != "fetching":
        raise _illegal(life, event)
    life = replace(life, offer="invalid", code=event.code, reason=event.why)
    return life, [
        Audit("daemon", "offer.invalid", (("code", event.code), ("why", event.why))),
        PostDecision("rejected", f"The package was refused unread: {event.why} [{event.code}]"),
        Notify("warning", event.code, f"An offered package is not valid: {event.why}"),
    ]


def _decided(life: Life, event: Decided) -> Outcome:
    if life.offer != "offered" or event.verdict not in ("approved", "rejected", "changes_requested"):
        raise _illegal(life, event)
    done: list[Instruction] = [
        Audit(event.by, f"offer.{event.verdict}", (("reason", event.reason),)),
        PostDecision(event.verdict, event.reason),
        SignHead(),
    ]
    if event.verdict == "approved":
        return replace(life, offer="approved", run="approved"), [*done, Launch()]
    return replace(life, offer=event.verdict, reason=event.reason), done


def _expired(life: Life, event: OfferExpired) -> Outcome:
    if life.offer not in OFFER_OPEN:
        return life, []
    return replace(life, offer="expired", reason="Nobody decided in time."), [Audit("daemon", "offer.expired")]


def _stop_came(life: Life, event: StopCame) -> Outcome:
    detail = (("code", event.code), ("reason", event.reason))
    if life.offer in OFFER_OPEN:
        life = replace(life, offer="withdrawn", code=event.code, reason=event.reason)
        return life, [Audit("server", "offer.withdrawn", detail)]
    if not life.active:
        return life, []
    state = "stopped" if event.code in ("", "OCT-RUN-STOPPED") else "failed"
    return _end(life, state, event.code, event.reason), [
        Audit("server", f"run.{state}", detail),
        End(event.reason),
        SignHead(),
        Notify("warning", event.code, f"The federation ended the run: {event.reason}"),
    ]


def _finished(life: Life, event: FinishedCame) -> Outcome:
    if not life.active:
        return life, []
    life = replace(_end(life, "completed", "", event.reason), round=event.rounds or life.round)
    return life, [
        Audit("server", "run.completed", (("rounds", life.round),)),
        End("completed"),
        SignHead(),
        Notify("info", "", f"The run is complete after {life.round} rounds"),
    ]


def _stop_asked(life: Life, event: StopAsked) -> Outcome:
    if not life.active:
        raise _illegal(life, event)
    return _end(life, "stopped", "OCT-RUN-STOPPED", event.reason), [
        Audit(event.by, "run.stopped", (("reason", event.reason),)),
        PostDecision("revoked", event.reason),
        End(event.reason),
        SignHead(),
    ]


def _broken(life: Life, event: Broken) -> Outcome:
    if not life.active:
        return life, []
    return _fail(life, event.code, event.reason)


def _held(life: Life, event: Held) -> Outcome:
    if not life.active:
        raise _illegal(life, event)
    if event.why in life.held:
        return life, []
    if life.run != "paused":
        life = replace(life, before=life.run, run="paused")
    life = replace(life, held=(*life.held, event.why), note=event.reason)
    return life, [Audit(event.by, "run.paused", (("why", event.why), ("reason", event.reason))), Tell("pause")]


def _released(life: Life, event: Released) -> Outcome:
    if life.run in RUN_ENDED:
        return life, []
    if life.run != "paused" or event.why not in life.held:
        raise _illegal(life, event)
    left = tuple(why for why in life.held if why != event.why)
    if left:
        return replace(life, held=left), [Audit(event.by, "run.hold-released", (("why", event.why),))]
    life = replace(life, run=life.before or "approved", before="", held=(), note="")
    return life, [Audit(event.by, "run.resumed", (("why", event.why),)), Launch(), Tell("resume")]


def _blocked(life: Life, event: LaunchBlocked) -> Outcome:
    return (replace(life, note=event.why), []) if life.active else (life, [])


def _runner_up(life: Life, event: RunnerUp) -> Outcome:
    if not life.active:
        raise _illegal(life, event)
    life = replace(life, note="")
    return _move(life, "preparing"), [Audit("daemon", "run.runner-started", (("restarts", life.restarts),))]


def _runner_gone(life: Life, event: RunnerGone) -> Outcome:
    if not life.active:
        return life, []
    if life.restarts >= RESTARTS:
        return _fail(life, "OCT-RUN-WORKERS", f"The runner died {life.restarts + 1} times in a row: {event.why}")
    delay = BACKOFF_S[min(life.restarts, len(BACKOFF_S) - 1)]
    life = replace(life, restarts=life.restarts + 1, note=f"The runner died ({event.why}); it is started again.")
    done: list[Instruction] = [Audit("daemon", "run.runner-died", (("why", event.why),))]
    return _move(life, "approved"), done if life.run == "paused" else [*done, Launch(delay)]


def _runner_ended(life: Life, event: RunnerEnded) -> Outcome:
    return _fail(life, event.code, event.reason) if life.active else (life, [])


def _task_begun(life: Life, event: TaskBegun) -> Outcome:
    if not life.active:
        return life, []
    first = (life.before or life.run, life.round) != ("training", event.round)
    life = replace(_move(life, "training"), round=max(event.round, life.round), note="" if not life.held else life.note)
    return life, [Audit("daemon", "run.training", (("round", event.round),))] if first else []


def _answer_put(life: Life, event: AnswerPut) -> Outcome:
    if not life.active:
        return life, []
    first = (life.before or life.run) != "exchanging"
    life = replace(_move(life, "exchanging"), restarts=0, round=max(event.round, life.round))
    return life, [Audit("daemon", "run.exchanging", (("round", event.round),))] if first else []


def _restarted(life: Life, event: Restarted) -> Outcome:
    if life.offer == "fetching":
        return life, [CheckPackage()]
    if life.offer == "offered":
        return life, [ApplyPolicy()]
    if life.active and life.run != "paused":
        found = Audit("daemon", "run.found-after-restart", (("state", life.run),))
        return replace(life, run="approved"), [found, Launch()]  # nothing runs until its runner is up again
    return life, []


def _move(life: Life, state: str) -> Life:
    """To another active state; a paused run only remembers it."""
    return replace(life, before=state) if life.run == "paused" else replace(life, run=state)


def _end(life: Life, state: str, code: str, reason: str) -> Life:
    return replace(life, run=state, before="", held=(), note="", code=code, reason=reason)


def _fail(life: Life, code: str, reason: str) -> Outcome:
    return _end(life, "failed", code, reason), [
        Audit("daemon", "run.failed", (("code", code), ("reason", reason))),
        PostDecision("revoked", f"{reason} [{code}]"),
        End(reason),
        SignHead(),
        Notify("error", code, f"The run failed: {reason}"),
    ]


_HANDLERS: dict[type, Any] = {
    OfferCame: _offer_came,
    PackageGood: _package_good,
    PackageBad: _package_bad,
    Decided: _decided,
    OfferExpired: _expired,
    StopCame: _stop_came,
    FinishedCame: _finished,
    StopAsked: _stop_asked,
    Broken: _broken,
    Held: _held,
    Released: _released,
    LaunchBlocked: _blocked,
    RunnerUp: _runner_up,
    RunnerGone: _runner_gone,
    RunnerEnded: _runner_ended,
    TaskBegun: _task_begun,
    AnswerPut: _answer_put,
    Restarted: _restarted,
}
