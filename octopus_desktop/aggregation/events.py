"""What goes into the round loop and what comes out of it: plain values. ``now`` is Unix seconds from whoever drives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from octopus_desktop.aggregation.facts import AnswerFacts, Bar, Best, Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """The first global model lies in the store, and with ``slots`` the state that the strategy begins with."""

    model: Blob
    now: float
    slots: Mapping[str, Blob] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """The driver is back with this state. The time it was away counts against no lease and no deadline."""

    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A silo's answer, or with ``error`` its reason for having none."""

    silo: str
    round: int
    task: str
    epoch: int
    facts: AnswerFacts
    now: float
    error: str = ""
    error_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """A silo made progress on its task: the lease is renewed."""

    silo: str
    round: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseExpired:
    """No progress and no answer until the lease's end."""

    silo: str
    round: int
    task: str
    epoch: int
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    round: int
    task: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloWent:
    """The silo's link is down."""

    silo: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloCame:
    """The silo's link is up."""

    silo: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdrew:
    """The silo's administrator revoked or stopped: it takes no further part in the run."""

    silo: str
    reason: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Aggregation found updates that cannot be used: silo to (code, why)."""

    round: int
    faults: Mapping[str, tuple[str, str]]
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregated:
    """The round's new model, and the strategy's new state, lie in the store. ``metrics``: ``central/…`` of the model,
    where the server evaluates it itself."""

    round: int
    model: Blob
    slots: Mapping[str, Blob]
    now: float
    bars: tuple[Bar, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A person stopped the run."""

    reason: str
    now: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken:
    """The driver cannot go on, for a reason that a person can mend (say, the job's code builds no model)."""

    code: str
    reason: str
    now: float


Event = (
    Started
    | Resumed
    | Answered
    | Live
    | LeaseExpired
    | DeadlinePassed
    | SiloWent
    | SiloCame
    | Withdrew
    | Rejected
    | Aggregated
    | Stopped
    | Broken
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Dispatch:
    """Hand the task to the silo. ``epoch`` above 1: again, and what was handed out before counts no more."""

    silo: str
    round: int
    task: str
    epoch: int
    until: float
    model: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """Fold the answers, which stand in the silos' order, into the next model; then Aggregated or Rejected."""

    round: int
    model: Blob
    slots: Mapping[str, Blob]
    answers: tuple[AnswerFacts, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A round's row is new or has changed: the whole row.

    ``metrics`` holds ``train/…`` of the round, and ``eval/…`` of the model that the round made. Silos evaluate a model
    when it comes to them, so a round's ``eval/…`` comes with a second report, at the next round's end. ``silos`` holds
    the same for each silo by itself; ``late``: silos whose answer to an earlier round counted in this one. ``best`` is
    the best model so far, where the run chooses one.
    """

    round: int
    rounds: int
    metrics: Mapping[str, float]
    answered: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: float
    model: Blob
    bars: tuple[Bar, ...] = ()
    late: tuple[str, ...] = ()
    silos: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    best: Best | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ignore:
    """The answer of this event does not count; why. ``reusable``: the silo may answer the same task again."""

    silo: str
    why: str
    reusable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Discard:
    """Blobs that nothing in this run refers to any more; remove them once the state is written."""

    blobs: tuple[Blob, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """``rounds`` that were held. ``best``: the best of their models, where the run was to choose one. ``reason``: why
    the run ended before its last round, or why there is no best model; "" when all is as it was wished."""

    model: Blob
    rounds: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Best | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail:
    """The run ends here. ``code`` OCT-RUN-STOPPED: by a person."""

    code: str
    reason: str


Instruction = Dispatch | Aggregate | Report | Ignore | Discard | Complete | Fail
