"""FedDyn: each silo's loss is regularised anew in every round, so that local and global optima agree in the end.

Acar, Zhao, Matas Navarro, Mattina, Whatmough, Saligrama: Federated Learning Based on Dynamic Regularization. ICLR 2021,
Algorithm 1. Silo k steps along g − h_k + α (y − x) and keeps h_k ← h_k − α (y_k − x) (``training.corrections``);
with m silos in the run, of which P answer::

    h ← h − (α/m) Σ_{k in P} Δ_k          Δ_k = y_k − x
    x ← x + (1/|P|) Σ_{k in P} Δ_k − h/α
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range, Synchronous, Tile, parameters, pseudo_gradient


class FedDyn(Synchronous):
    """Parameter ``alpha`` α > 0 (0.1)."""

    name = "feddyn"
    known = {"alpha": Range(0.1, 0.0, open_least=True)}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self._alpha = parameters(self.name, given, self.known)["alpha"]

    def configure(self, round: int) -> dict[str, Any]:
        return {"name": self.name, "dynamic": self._alpha}

    def slots(self) -> Mapping[str, float]:
        return {"h": 0.0}

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        """The paper's mean is unweighted."""
        return [1.0 / len(answers)] * len(answers)

    def combine(self, tile: Tile) -> Array:
        mean, scratch, h = pseudo_gradient(tile, self.update), tile.scratch, tile.slots["h"]
        count = len(tile.weights)
        np.multiply(mean, self._alpha * count / max(self.cohort, count), out=scratch)
        np.subtract(h, scratch, out=h)
        np.multiply(h, 1.0 / self._alpha, out=scratch)
        np.subtract(mean, scratch, out=mean)
        return np.add(tile.current, mean, out=mean)
