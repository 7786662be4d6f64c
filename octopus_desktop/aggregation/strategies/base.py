"""The contract of a strategy: how a federation's updates become its next model. Knows no file, no silo's address.

A strategy sees tiles: equal runs of elements of the current model, of each update and of its own state, as flat NumPy
arrays. So memory grows neither with the model nor, for strategies that sum, with the silos.

Arithmetic is IEEE float32 (float64 where the model is float64): each term ``weight * update`` is rounded, then added,
in the silos' order. Single element-wise operations, never fused, so the bits do not depend on tiles, threads or the
processor's vector length.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.wire.errors import UserError

Array = NDArray[Any]
MEMORY_WORDS = frozenset({"scaffold", "dynamic"})  # of ``configure``: the silos keep a memory, which ends with the run


@dataclass(kw_only=True)
class Tile:
    """The same run of elements of everything that a combination needs. All arrays: flat, equal length and dtype.

    ``current``: the global model, may be overwritten. ``read(i)``: silo i's update, valid until the next read of any.
    ``returned[name](i)``: what silo i sent beside it, likewise.
    ``slots``: the strategy's state, to be overwritten in place. ``out`` and ``scratch``: buffers to work in; the
    result may be ``out``. ``round`` is 1-based.
    """

    current: Array
    read: Callable[[int], Array]
    weights: Sequence[float]
    slots: Mapping[str, Array] = field(default_factory=dict)
    returned: Mapping[str, Callable[[int], Array]] = field(default_factory=dict)
    round: int = 1
    out: Array
    scratch: Array

    def updates(self) -> Iterator[Array]:
        """Each silo's update in the silos' order; each is valid until the next is taken."""
        return (self.read(i) for i in range(len(self.weights)))

    def stack(self) -> Array:
        """All updates at once, (silos, elements), for strategies that need order statistics."""
        return np.stack([update.copy() for update in self.updates()])

    @classmethod
    def of(cls, current: Array, updates: Sequence[Array], weights: Sequence[float], **more: Any) -> Tile:
        """A tile over arrays that are in memory."""
        return cls(
            current=current,
            read=updates.__getitem__,
            weights=weights,
            out=np.empty_like(current),
            scratch=np.empty_like(current),
            **more,
        )


class Strategy(Protocol):
    """A federated optimiser.

    Constraints (checked by tests/aggregation/strategy_contract.py for every registered one):
        - ``combine`` is element-wise: the same whatever the tile's length;
        - the order of ``weights`` is the order of the answers, and it does not depend on their time of arrival;
        - ``combine`` reads ``tile.slots`` and leaves the next round's state in them; it keeps nothing in itself.
    """

    name: str
    update: str
    """"weights" or "difference": what silos are asked to send."""
    modes: Sequence[str]
    """"sync", "async", or both."""
    shared: Sequence[str]
    """Names of slots that go to the silos with each training task."""
    returns: Sequence[str]
    """What silos send beside the update (``jobs.returned``): names of tensor files in the model's layout."""
    cohort: int
    """How many silos take part in the run; whoever drives the round loop sets it before anything is combined."""

    @property
    def asynchronous(self) -> tuple[int, int]:
        """For async mode: answers that one version is made of, and the largest staleness that counts (-1: any)."""
        ...

    def configure(self, round: int) -> dict[str, Any]:
        """JSON words for the silos' tasks of this round."""
        ...

    def slots(self) -> Mapping[str, float]:
        """Names of server-side state as large as the model, each with the value that it begins with."""
        ...

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        """One factor an answer, from counts, steps and metrics."""
        ...

    pairwise: bool
    """Whether the weights need the updates' inner products: ``weigh`` is asked in place of ``weights`` then."""

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        """One factor an answer. ``products``: ⟨Δ_i, Δ_j⟩, (answers, answers), float64."""
        ...

    def combine(self, tile: Tile) -> Array:
        """The new model's tile."""
        ...

    def close(self) -> None:
        """End what it holds outside of itself: a process, for a strategy of the job's own."""
        ...


def by_examples(answers: Sequence[AnswerFacts]) -> list[float]:
    """n_k / n, McMahan et al. 2017, eq. 1. Raises OCT-MODEL-WEIGHT when there is nothing to weigh by."""
    total = math.fsum(a.examples for a in answers)
    if not total > 0:
        raise UserError(
            "OCT-MODEL-WEIGHT",
            "The answers cannot be weighed.",
            "No silo reports any example.",
            "Check the datasets' rows and the trainer's ctx.examples.",
        )
    return [a.examples / total for a in answers]


def weighted_sum(tile: Tile) -> Array:
    """Σ_k w_k u_k in the silos' order, in ``tile.out``; each product is rounded before it is added."""
    out, scratch = tile.out, tile.scratch
    for i, weight in enumerate(tile.weights):
        if i == 0:
            np.multiply(tile.read(0), weight, out=out)
        else:
            np.multiply(tile.read(i), weight, out=scratch)
            np.add(out, scratch, out=out)
    return out


def mean_returned(tile: Tile, name: str, out: Array) -> Array:
    """Σ_k w_k r_k of what the silos returned by this name, in ``out``; overwrites ``tile.scratch``."""
    read = tile.returned[name]
    for i, weight in enumerate(tile.weights):
        if i == 0:
            np.multiply(read(0), weight, out=out)
        else:
            np.multiply(read(i), weight, out=tile.scratch)
            np.add(out, tile.scratch, out=out)
    return out


def pseudo_gradient(tile: Tile, update: str) -> Array:
    """Δ = Σ_k w_k (x_k − x), Reddi et al. 2021, Algorithm 1, in ``tile.out``; overwrites ``tile.scratch``."""
    delta = weighted_sum(tile)
    if update == "weights":
        np.multiply(tile.current, math.fsum(tile.weights), out=tile.scratch)
        np.subtract(delta, tile.scratch, out=delta)
    return delta


class Common:
    """What most strategies have in common: no words for the silos but the name, no state, weights by examples.

    Attributes:
        known: the parameters that [strategy] may have.
        values: those parameters, with defaults filled in.
    """

    name: str
    modes: Sequence[str] = ("sync",)
    shared: Sequence[str] = ()
    returns: Sequence[str] = ()
    cohort: int = 0
    pairwise: bool = False
    known: Mapping[str, Range] = {}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self.values = parameters(self.name, given, self.known)

    def configure(self, round: int) -> dict[str, Any]:
        return {"name": self.name}

    def slots(self) -> Mapping[str, float]:
        return {}

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        return by_examples(answers)

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        raise AssertionError("only a pairwise strategy is asked")

    def close(self) -> None:
        return


class Synchronous(Common):
    """Strategies of sync mode."""

    @property
    def asynchronous(self) -> tuple[int, int]:
        return 1, -1


def weighing(
    strategy: Strategy, answers: Sequence[AnswerFacts]
) -> Sequence[float] | Callable[[Array], Sequence[float]]:
    """The weights of a fold, or how they follow from the updates' inner products."""
    if not strategy.pairwise:
        return strategy.weights(answers)
    return lambda products: [float(f"{weight:.12g}") for weight in strategy.weigh(answers, products)]


@dataclass(frozen=True, slots=True)
class Range:
    """What a parameter may be: a number in [least, most], open ends as asked, with a default."""

    default: float
    least: float = -math.inf
    most: float = math.inf
    open_least: bool = False
    open_most: bool = False

    def fits(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        above = value > self.least if self.open_least else value >= self.least
        below = value < self.most if self.open_most else value <= self.most
        return above and below

    def __str__(self) -> str:
        left, right = "(" if self.open_least else "[", ")" if self.open_most else "]"
        return f"{left}{self.least:g}, {self.most:g}{right}"


def parameters(name: str, given: Mapping[str, Any], known: Mapping[str, Range]) -> dict[str, float]:
    """The strategy's parameters with defaults filled in. Raises OCT-STRATEGY-PARAMETER naming the first mistake."""
    for key, value in given.items():
        if key not in known:
            raise parameter_error(
                f"Strategy {name!r} has no parameter {key!r}.",
                f"It knows {', '.join(known) or 'none'}.",
            )
        if not known[key].fits(value):
            raise parameter_error(
                f"Parameter {key!r} of strategy {name!r} is out of range.",
                f"Got {value!r}; a number in {known[key]} is wanted.",
            )
    return {key: float(given.get(key, span.default)) for key, span in known.items()}


def choice(name: str, given: Mapping[str, Any], key: str, known: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """A parameter that is one of a few words, the first by default, and the parameters without it. Raises as
    ``parameters`` does."""
    value = given.get(key, known[0])
    if value not in known:
        raise parameter_error(
            f"Parameter {key!r} of strategy {name!r} is unknown.", f"Got {value!r}; it may be {', '.join(known)}."
        )
    return str(value), {k: v for k, v in given.items() if k != key}


def whole(name: str, key: str, value: float) -> int:
    """A parameter that must be a whole number. Raises as ``parameters`` does."""
    if value != int(value):
        raise parameter_error(f"Parameter {key!r} of strategy {name!r} is no whole number.", f"Got {value!r}.")
    return int(value)


def adaptive_step(tile: Tile, delta: Array, m: Array, v: Array, rate: float, tau: float) -> Array:
    """x + η m / (√v + τ), Reddi et al. 2021, Algorithm 2, last line; in ``delta``, overwrites ``tile.scratch``."""
    np.sqrt(v, out=tile.scratch)
    np.add(tile.scratch, tau, out=tile.scratch)
    np.multiply(m, rate, out=delta)
    np.divide(delta, tile.scratch, out=delta)
    return np.add(tile.current, delta, out=delta)


def parameter_error(what: str, why: str) -> UserError:
    return UserError("OCT-STRATEGY-PARAMETER", what, why, "Correct [strategy] in job.toml and build the job again.")
