"""q-FedAvg: silos that the model serves badly count more, so that accuracy is spread more evenly.

Li, Sanjabi, Beirami, Smith: Fair Resource Allocation in Federated Learning. ICLR 2020, Algorithm 2, with L the inverse
of the local learning rate and F_k the loss of the incoming model at silo k::

    Δw_k = L (x − y_k) = −L Δ_k        h_k = q F_k^(q−1) ‖Δw_k‖² + L F_k^q
    x ← x − Σ_k F_k^q Δw_k / Σ_k h_k

With q = 0 it is the unweighted FedAvg.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range
from octopus_desktop.aggregation.strategies.pairwise import Pairwise
from octopus_desktop.wire.errors import UserError


class QFedAvg(Pairwise):
    """Parameters ``q`` >= 0 (1), ``local_rate``, the silos' learning rate > 0 (0.1), and ``server_rate`` η > 0 (1).

    F_k is the metric "loss" of the trainer's ``evaluate``, else that of its training.
    """

    name = "qfedavg"
    known = {**Pairwise.known, "q": Range(1.0, 0.0), "local_rate": Range(0.1, 0.0, open_least=True)}

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        found = [a.metrics.get("eval/loss", a.metrics.get("train/loss", -1.0)) for a in answers]
        silent = [a.silo for a, loss in zip(answers, found, strict=True) if not loss > 0]
        if silent:
            raise UserError(
                "OCT-MODEL-WEIGHT",
                "q-FedAvg cannot weigh the answers.",
                f"{', '.join(silent)} report no loss above 0.",
                "Let the trainer's evaluate return {'loss': ...}, or choose another strategy.",
            )
        losses, q, inverse = np.array(found), self.values["q"], 1.0 / self.values["local_rate"]
        pulls = losses**q
        steps = q * losses ** (q - 1.0) * inverse**2 * np.diagonal(products) + inverse * pulls
        return [float(weight) for weight in pulls * inverse / steps.sum()]
