"""FedAsync: each answer is mixed into the model as it comes, the less the staler it is.

Xie, Koyejo, Gupta: Asynchronous Federated Optimization. 2019, Algorithm 1 and section 5.2::

    x_t = (1 - α_t) x_{t-1} + α_t x_new          α_t = α s(t - τ)

    constant:    s(d) = 1
    polynomial:  s(d) = (d + 1)^-a
    hinge:       s(d) = 1 if d <= b, else 1 / (a (d - b) + 1)

``d`` is the answer's staleness: versions made since the model that the silo trained from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import (
    Array,
    Common,
    Range,
    Tile,
    choice,
    parameter_error,
    parameters,
    whole,
)


class FedAsync(Common):
    """Parameters ``mixing`` α in (0, 1] (0.6), ``staleness`` constant | polynomial | hinge, ``a`` (0.5) and ``b`` (4)
    of these functions, ``max_staleness`` (-1: any). Silos send weights."""

    name = "fedasync"
    modes: Sequence[str] = ("async",)
    known = {
        "mixing": Range(0.6, 0.0, 1.0, open_least=True),
        "a": Range(0.5, 0.0, open_least=True),
        "b": Range(4.0, 0.0),
        "max_staleness": Range(-1.0, -1.0, 1e6),
    }

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        if update != "weights":
            raise parameter_error(
                "FedAsync mixes models, and the job sends differences.", 'It needs update = "weights" in [run].'
            )
        self.update = update
        self._function, rest = choice(self.name, given, "staleness", ("constant", "polynomial", "hinge"))
        values = parameters(self.name, rest, self.known)
        self._mixing, self._a, self._b = values["mixing"], values["a"], values["b"]
        self._most = whole(self.name, "max_staleness", values["max_staleness"])

    @property
    def asynchronous(self) -> tuple[int, int]:
        return 1, self._most

    def factor(self, staleness: int) -> float:
        """s(d)."""
        if self._function == "polynomial":
            return float((staleness + 1) ** -self._a)
        if self._function == "hinge" and staleness > self._b:
            return 1.0 / (self._a * (staleness - self._b) + 1.0)
        return 1.0

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        """α_t of each answer, one after the other."""
        return [self._mixing * self.factor(a.staleness) for a in answers]

    def combine(self, tile: Tile) -> Array:
        out, scratch = tile.out, tile.scratch
        np.copyto(out, tile.current)
        for i, alpha in enumerate(tile.weights):
            np.multiply(out, 1.0 - alpha, out=out)
            np.multiply(tile.read(i), alpha, out=scratch)
            np.add(out, scratch, out=out)
        return out
