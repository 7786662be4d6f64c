"""FedProx: FedAvg whose silos are pulled back to the global model while they train.

Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith: Federated Optimization in Heterogeneous Networks. MLSys 2020, equation 2
and Algorithm 2: silo k minimises h_k(y; x) = F_k(y) + (μ/2) ‖y − x‖², so each local gradient gets μ (y − x) added
(``training.corrections``). The silos' models are averaged as in FedAvg.
"""

from __future__ import annotations

from typing import Any

from octopus_desktop.aggregation.strategies.base import Range
from octopus_desktop.aggregation.strategies.fedavg import FedAvg


class FedProx(FedAvg):
    """Parameters ``mu`` μ >= 0 (0.01) and ``server_rate`` η > 0 (1)."""

    name = "fedprox"
    known = {**FedAvg.known, "mu": Range(0.01, 0.0)}

    def configure(self, round: int) -> dict[str, Any]:
        return {"name": self.name, "proximal": self.values["mu"]}
