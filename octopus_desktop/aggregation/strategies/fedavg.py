"""FedAvg: the mean of the silos' models, weighted by their examples.

McMahan, Moore, Ramage, Hampson, Agüera y Arcas: Communication-Efficient Learning of Deep Networks from Decentralized
Data. AISTATS 2017, Algorithm 1::

    x_{t+1} = Σ_k (n_k / n) x_k,t+1          (update = "weights")
    x_{t+1} = x_t + η Σ_k (n_k / n) Δ_k      (update = "difference", or a server rate η other than 1)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from octopus_desktop.aggregation.strategies.base import (
    Array,
    Range,
    Synchronous,
    Tile,
    parameters,
    pseudo_gradient,
    weighted_sum,
)


class FedAvg(Synchronous):
    """Parameter ``server_rate`` η > 0, 1 by default."""

    name = "fedavg"
    known: Mapping[str, Range] = {"server_rate": Range(1.0, 0.0, open_least=True)}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self.values = parameters(self.name, given, self.known)
        self._rate = self.values["server_rate"]

    def combine(self, tile: Tile) -> Array:
        if self.update == "weights" and self._rate == 1.0:
            return weighted_sum(tile)
        delta = pseudo_gradient(tile, self.update)
        if self._rate != 1.0:
            np.multiply(delta, self._rate, out=delta)
        return np.add(tile.current, delta, out=delta)
