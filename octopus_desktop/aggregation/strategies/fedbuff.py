"""FedBuff: buffered asynchronous aggregation.

Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek, Huba: Federated Learning with Buffered Asynchronous Aggregation.
AISTATS 2022, Algorithm 1, with the staleness scaling of its appendix, for Δ that points to the silos' models::

    x_{t+1} = x_t + η (1/K) Σ_{k in the buffer} s(τ_k) Δ_k          s(τ) = 1 / √(1 + τ)

Δ_k is the difference to the model that the silo trained from. When fewer than K answers can come, K is their number.
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
    parameter_error,
    parameters,
    weighted_sum,
    whole,
)


class FedBuff(Common):
    """Parameters ``buffer`` K (2), ``server_rate`` η > 0 (1), ``max_staleness`` (-1: any). Silos send differences."""

    name = "fedbuff"
    modes: Sequence[str] = ("async",)
    known = {
        "buffer": Range(2.0, 1.0, 1e6),
        "server_rate": Range(1.0, 0.0, open_least=True),
        "max_staleness": Range(-1.0, -1.0, 1e6),
    }

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        values = parameters(self.name, given, self.known)
        if update != "difference":
            raise parameter_error(
                "FedBuff sums differences, and the job sends weights.", 'It needs update = "difference" in [run].'
            )
        self.update = update
        self._rate = values["server_rate"]
        self._buffer = whole(self.name, "buffer", values["buffer"])
        self._most = whole(self.name, "max_staleness", values["max_staleness"])

    @property
    def asynchronous(self) -> tuple[int, int]:
        return self._buffer, self._most

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        return [(1.0 + a.staleness) ** -0.5 / len(answers) for a in answers]

    def combine(self, tile: Tile) -> Array:
        delta = weighted_sum(tile)
        if self._rate != 1.0:
            np.multiply(delta, self._rate, out=delta)
        return np.add(tile.current, delta, out=delta)
