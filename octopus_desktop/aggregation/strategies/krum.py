"""Krum and Multi-Krum: the updates that lie nearest to their neighbours, so that up to f wrong silos are outvoted.

Blanchard, El Mhamdi, Guerraoui, Stainer: Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent.
NeurIPS 2017, section 4 and, for Multi-Krum, section 6: with n answers,

    score(i) = Σ of ‖Δ_i − Δ_j‖² over the n − f − 2 others that are nearest to i

Krum takes the update of the lowest score, Multi-Krum the mean of the m lowest. It needs n >= 2 f + 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range, whole
from octopus_desktop.aggregation.strategies.pairwise import Pairwise, squared_distances
from octopus_desktop.wire.errors import UserError


class Krum(Pairwise):
    """Parameters ``byzantine`` f (1) and ``server_rate`` η > 0 (1)."""

    name = "krum"
    known = {**Pairwise.known, "byzantine": Range(1.0, 0.0, 1e6)}

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        count, wrong = len(answers), whole(self.name, "byzantine", self.values["byzantine"])
        if count < 2 * wrong + 3:
            raise UserError(
                "OCT-RUN-QUORUM",
                f"{self.name} cannot tell {wrong} wrong silos from {count}.",
                f"It needs {2 * wrong + 3} answers for byzantine = {wrong}.",
                "Raise quorum in [run], lower byzantine in [strategy], or use median.",
            )
        distances = np.sort(squared_distances(products), axis=1)  # the first of each row is its own, 0
        scores = distances[:, 1 : count - wrong - 1].sum(axis=1)
        best = np.argsort(scores, kind="stable")[: self.kept(count, wrong)]
        return [1.0 / len(best) if i in best else 0.0 for i in range(count)]

    def kept(self, count: int, wrong: int) -> int:
        return 1


class MultiKrum(Krum):
    """Parameters as Krum's, and ``keep`` m (0: n − f)."""

    name = "multi_krum"
    known = {**Krum.known, "keep": Range(0.0, 0.0, 1e6)}

    def kept(self, count: int, wrong: int) -> int:
        wish = whole(self.name, "keep", self.values["keep"])
        return min(wish or count - wrong, count)
