"""RFA: the geometric median of the silos' models, which a minority cannot drag away.

Pillutla, Kakade, Harchaoui: Robust Aggregation for Federated Learning. IEEE Transactions on Signal Processing 70, 2022,
Algorithm 2 (smoothed Weiszfeld), with α_k = n_k / n::

    v ← Σ_k β_k Δ_k / Σ_k β_k          β_k = α_k / max(ν, ‖v − Δ_k‖)

Every v is a mean of the Δ_k with some weights λ, so ‖v − Δ_k‖² = λᵀGλ − 2 (Gλ)_k + G_kk.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range, by_examples, whole
from octopus_desktop.aggregation.strategies.pairwise import Pairwise


class RFA(Pairwise):
    """Parameters ``iterations`` (100), ``smoothing`` ν > 0 (1e-6) and ``server_rate`` η > 0 (1)."""

    name = "rfa"
    known = {
        **Pairwise.known,
        "iterations": Range(100.0, 1.0, 10_000.0),
        "smoothing": Range(1e-6, 0.0, open_least=True),
    }

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        shares = np.array(by_examples(answers))
        mean = shares.copy()
        for _ in range(whole(self.name, "iterations", self.values["iterations"])):
            along = products @ mean
            squared = np.maximum(mean @ along - 2.0 * along + np.diagonal(products), 0.0)
            pull = shares / np.maximum(self.values["smoothing"], np.sqrt(squared))
            mean = pull / pull.sum()
        return [float(weight) for weight in mean]
