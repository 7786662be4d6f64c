"""SCAFFOLD: control variates take the silos' drift out of their local steps.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh: SCAFFOLD: Stochastic Controlled Averaging for Federated Learning. ICML
2020, Algorithm 1 with option II. Silo k steps along g − c_k + c, and keeps c_k (``training.corrections``)::

    c_k⁺ = c_k − c + (x − y_k) / (K_k η_k)
    x ← x + η (1/|S|) Σ_k Δ_k          Δ_k = y_k − x
    c ← c + (1/N) Σ_k (c_k⁺ − c_k) = (1 − |S|/N) c − (1/N) Σ_k Δ_k / (K_k η_k)

The right-hand form of the last line needs nothing from a silo but Δ_k and the sum of its steps' learning rates, which
the answer's metrics bear as ``train/rate_sum``. So an update is no larger than with FedAvg; c travels with each task.
The local optimiser should be plain SGD, for which the paper is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range, Synchronous, Tile, parameters
from octopus_desktop.wire.errors import UserError


class Scaffold(Synchronous):
    """Parameter ``server_rate`` η > 0, 1 by default."""

    name = "scaffold"
    known = {"server_rate": Range(1.0, 0.0, open_least=True)}
    shared = ("c",)

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self._rate = parameters(self.name, given, self.known)["server_rate"]

    def configure(self, round: int) -> dict[str, Any]:
        return {"name": self.name, "scaffold": True}

    def slots(self) -> Mapping[str, float]:
        return {"c": 0.0}

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        """Σ η over the steps of each silo: what its difference is divided by for c. The mean itself is unweighted."""
        sums = [a.metrics.get("train/rate_sum", 0.0) for a in answers]
        idle = [a.silo for a, total in zip(answers, sums, strict=True) if not total > 0]
        if idle:
            raise UserError(
                "OCT-MODEL-WEIGHT",
                "SCAFFOLD cannot use the answers.",
                f"{', '.join(idle)} report no learning rate of local steps.",
                "Train with a torch optimiser with a rate above 0, such as torch.optim.SGD.",
            )
        return sums

    def combine(self, tile: Tile) -> Array:
        out, scratch, c = tile.out, tile.scratch, tile.slots["c"]
        count = len(tile.weights)
        total = max(self.cohort, count)
        np.multiply(c, 1.0 - count / total, out=c)
        out.fill(0)
        for i, rate_sum in enumerate(tile.weights):
            update = tile.read(i)
            if self.update == "weights":
                np.subtract(update, tile.current, out=scratch)
            else:
                np.copyto(scratch, update)
            np.add(out, scratch, out=out)
            np.multiply(scratch, 1.0 / (total * rate_sum), out=scratch)
            np.subtract(c, scratch, out=c)
        np.multiply(out, self._rate / count, out=out)
        return np.add(tile.current, out, out=out)
