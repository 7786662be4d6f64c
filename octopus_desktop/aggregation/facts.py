"""What is known of blobs and answers, as plain values that pass between round loop, strategies and their drivers.

Knows no file, no envelope and no process.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from octopus_desktop.jobs.manifest import RunConfig

OF_MODEL = ("eval/", "eval_personal/")  # metrics of the model that came in, as it is and fine-tuned
EXAMPLES_LIMIT = 2**53  # beyond it a count is no longer exact as a float


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """Bytes in the blob store: lower-case hex SHA-256, bytes, and the encoding of their tensors."""

    digest: str
    size: int
    encoding: str = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The best round's model, and its value of the metric that was to choose it."""

    round: int
    value: float
    model: Blob


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A bar of the timeline: Unix seconds."""

    lane: str
    step: str
    start: float
    end: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFacts:
    """What one silo answered to one task.

    ``examples`` is the weight that the silo claims, ``steps`` its local optimiser steps, ``metrics`` finite numbers
    named ``train/…`` and ``eval/…``. ``update`` is None for an evaluation. ``staleness``: how many models the
    federation made since the one that this silo trained from; in sync mode 0, except for a late answer that counts in
    a later round. ``base``: that model's digest; "" in sync mode. ``returned``: what the strategy had it send beside
    the update, by name (``jobs.returned``).
    """

    silo: str
    examples: int = 0
    steps: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    update: Blob | None = None
    train_seconds: float = 0.0
    bars: tuple[Bar, ...] = ()
    staleness: int = 0
    base: str = ""
    returned: Mapping[str, Blob] = field(default_factory=dict)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """All that it has in the store."""
        return (*((self.update,) if self.update else ()), *self.returned.values())

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "metrics": dict(self.metrics), "bars": [asdict(bar) for bar in self.bars]}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> AnswerFacts:
        update = value["update"]
        bars = tuple(Bar(**bar) for bar in value["bars"])
        returned = {name: Blob(**blob) for name, blob in value.get("returned", {}).items()}
        return cls(**{**value, "update": Blob(**update) if update else None, "bars": bars, "returned": returned})


def finite(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that are numbers; a loss that became NaN is left out."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def below(metrics: Mapping[str, float], *prefixes: str) -> dict[str, float]:
    """The metrics whose names begin with one of the prefixes."""
    return {name: value for name, value in metrics.items() if name.startswith(prefixes)}


def silos_bars(answers: Sequence[AnswerFacts]) -> tuple[Bar, ...]:
    """All answers' bars of the timeline, each in a lane of its silo."""
    return tuple(replace(bar, lane=f"{answer.silo} · {bar.lane}") for answer in answers for bar in answer.bars)


def average_metrics(answers: Sequence[AnswerFacts], prefix: str) -> dict[str, float]:
    """The federation's metrics below ``prefix`` ("train/" or "eval/").

    Each metric is the mean over the silos that report it, weighted by their ``<prefix>examples`` (for training, else by
    the answer's examples; a silo without a count weighs 1). ``<prefix>examples`` itself is the sum. Exact sums
    (``math.fsum``), so the result does not depend on the order of the silos.
    """
    count = prefix + "examples"
    names = sorted({name for a in answers for name in a.metrics if name.startswith(prefix) and name != count})
    result = {}
    for name in names:
        terms = [(_weight(a, prefix), a.metrics[name]) for a in answers if name in a.metrics]
        total = math.fsum(w for w, _ in terms)
        if total > 0:
            result[name] = math.fsum(w * value for w, value in terms) / total
    examples = math.fsum(_weight(a, prefix) for a in answers if count in a.metrics or prefix == "train/")
    if examples:
        result[count] = examples
    return result


def _weight(answer: AnswerFacts, prefix: str) -> float:
    default = float(answer.examples) if prefix == "train/" else 1.0
    return answer.metrics.get(prefix + "examples", default)


def merge(*parts: Mapping[str, float]) -> dict[str, float]:
    """Metrics of several sources in one mapping, sorted by name."""
    together: dict[str, float] = {}
    for part in parts:
        together.update(part)
    return dict(sorted(together.items()))


def task_config(config: RunConfig, update: str, strategy: Mapping[str, Any]) -> dict[str, Any]:
    """What every task tells a silo (``Task.config_json``): the same words in simulation and deployment.

    ``seed``, ``rounds``, ``hyperparameters`` and ``encoding`` come from the run's configuration, ``update`` ("weights"
    or "difference") says what to send, ``strategy`` holds the strategy's own words for this round.
    """
    return {
        "seed": config.seed,
        "rounds": config.rounds,
        "update": update,
        "hyperparameters": dict(config.hyperparameters),
        "strategy": dict(strategy),
        "encoding": config.encoding,
    }


def in_order(silos: Iterable[str], order: Sequence[str]) -> list[str]:
    """Silos in the run's order, the order of all sums."""
    wanted = set(silos)
    return [silo for silo in order if silo in wanted]
