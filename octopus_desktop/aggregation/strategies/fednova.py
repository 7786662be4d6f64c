"""FedNova: silos that take unequal numbers of local steps pull equally.

Wang, Liu, Liang, Joshi, Poor: Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization.
NeurIPS 2020, equations 6 and 7, for local SGD without momentum, where ‖a_k‖₁ = τ_k, the number of local steps::

    x_{t+1} = x_t + η τ_eff Σ_k p_k Δ_k / τ_k          p_k = n_k / n,  τ_eff = Σ_k p_k τ_k

With equal τ_k it is FedAvg. For other local optimisers τ_k is an approximation of ‖a_k‖₁.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import (
    Array,
    Range,
    Synchronous,
    Tile,
    by_examples,
    parameters,
    pseudo_gradient,
)
from octopus_desktop.wire.errors import UserError


class FedNova(Synchronous):
    """Parameter ``server_rate`` η > 0, 1 by default."""

    name = "fednova"
    known = {"server_rate": Range(1.0, 0.0, open_least=True)}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self._rate = parameters(self.name, given, self.known)["server_rate"]

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        idle = [a.silo for a in answers if a.steps < 1]
        if idle:
            raise UserError(
                "OCT-MODEL-WEIGHT",
                "FedNova cannot weigh the answers.",
                f"{', '.join(idle)} report no local optimiser step.",
                "Train with a torch optimiser, whose steps the runtime counts, or choose another strategy.",
            )
        shares = by_examples(answers)
        effective = math.fsum(p * a.steps for p, a in zip(shares, answers, strict=True))
        return [effective * p / a.steps for p, a in zip(shares, answers, strict=True)]

    def combine(self, tile: Tile) -> Array:
        delta = pseudo_gradient(tile, self.update)
        if self._rate != 1.0:
            np.multiply(delta, self._rate, out=delta)
        return np.add(tile.current, delta, out=delta)
