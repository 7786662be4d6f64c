"""The round loop's state as a value, and its JSON form. Decides nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from octopus_desktop.aggregation.facts import AnswerFacts, Best, Blob

VERSION = 1
_LISTS = ("answers", "folding", "late")


@dataclass(slots=True, kw_only=True)
class Lease:
    """One silo's task. ``state``: out | answered | failed | refused | late | withdrawn. ``round``: of the task, where
    silos are not all in the same round (async mode); 0 in sync mode. ``model``: digest of the task's, likewise."""

    epoch: int = 0
    until: float = 0.0
    state: str = "out"
    why: str = ""
    round: int = 0
    model: str = ""


@dataclass(slots=True, kw_only=True)
class Row:
    """What is known of the last closed round. ``late``: silos whose answer to an earlier round counted in this one.
    ``silos``: each silo's own metrics."""

    round: int
    metrics: dict[str, float]
    answered: list[str]
    missing: list[str]
    seconds: float
    model: Blob
    late: list[str] = field(default_factory=list)
    silos: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class State:
    """Everything that must survive the driver's death.

    Attributes:
        phase: waiting | training | aggregating | evaluating | completed | failed.
        at: Unix seconds of the last event; ``opened`` and ``deadline`` of the open task.
        models: digests of the run's models so far, which are never discarded.
        first: metrics of the model that the run began with.
        answers: what the open round has, or in async mode the buffer, in the order of arrival.
        folding: async mode: the answers that are being folded while others arrive.
        late: answers to rounds that had closed, which wait for the next fold (``late`` = "next").
        overdue: silos that may still answer a closed round, each with that round and the newest epoch.
        best: the best model so far; ``mark``: the value that ``patience`` measures by; ``unbettered``: rounds since.
        early: why the run ends before its last round; "" while it does not.
        away: silos whose link is down. withdrawn: silos that take no further part.
        troubles: why a silo's answer was last missing, by silo, in words.
    """

    phase: str = "waiting"
    round: int = 0
    at: float = 0.0
    opened: float = 0.0
    deadline: float = 0.0
    model: Blob | None = None
    models: list[str] = field(default_factory=list)
    slots: dict[str, Blob] = field(default_factory=dict)
    leases: dict[str, Lease] = field(default_factory=dict)
    answers: dict[str, AnswerFacts] = field(default_factory=dict)
    folding: dict[str, AnswerFacts] = field(default_factory=dict)
    late: dict[str, AnswerFacts] = field(default_factory=dict)
    overdue: dict[str, list[int]] = field(default_factory=dict)
    best: Best | None = None
    mark: float | None = None
    unbettered: int = 0
    early: str = ""
    row: Row | None = None
    first: dict[str, float] = field(default_factory=dict)
    away: list[str] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    code: str = ""
    reason: str = ""
    notes: list[str] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)
    story: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        value = asdict(self)
        for name in _LISTS:  # as lists, for the order of arrival counts and JSON objects have none
            value[name] = [facts.to_dict() for facts in getattr(self, name).values()]
        return {"version": VERSION, **value}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> State:
        fields = {key: item for key, item in value.items() if key != "version"}
        model, row = fields["model"], fields["row"]
        fields["model"] = Blob(**model) if model else None
        fields["row"] = Row(**{**row, "model": Blob(**row["model"])}) if row else None
        fields["slots"] = {name: Blob(**blob) for name, blob in fields["slots"].items()}
        fields["leases"] = {silo: Lease(**lease) for silo, lease in fields["leases"].items()}
        if best := fields.get("best"):
            fields["best"] = Best(**{**best, "model": Blob(**best["model"])})
        for name in _LISTS:
            raw = fields.get(name, [])
            listed = [AnswerFacts.from_dict(facts) for facts in (raw.values() if isinstance(raw, dict) else raw)]
            fields[name] = {facts.silo: facts for facts in listed}
        return cls(**fields)
