"""FedSGD: one local step on all examples a round; with plain SGD at the silos it is SGD on everybody's data.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017, section 2: E = 1 and B = ∞. With local rate η_k and server rate η::

    Δ_k = −η_k ∇F_k(x_t)          x_{t+1} = x_t + η Σ_k (n_k / n) Δ_k

The silos' ``ctx.loader`` gives all examples as one batch, and their training ends after its first step.
"""

from __future__ import annotations

from typing import Any

from octopus_desktop.aggregation.strategies.fedavg import FedAvg


class FedSGD(FedAvg):
    """Parameter ``server_rate`` η > 0, 1 by default."""

    name = "fedsgd"

    def configure(self, round: int) -> dict[str, Any]:
        return {"name": self.name, "full_batch": True, "steps": 1}
