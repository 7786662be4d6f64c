"""FedAvgM: FedAvg with momentum at the server.

Hsu, Qi, Brown: Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification. 2019,
section 4.3, written for Δ that points to the silos' models::

    v_{t+1} = β v_t + Δ_t          x_{t+1} = x_t + η v_{t+1}
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
)


class FedAvgM(Synchronous):
    """Parameters ``server_rate`` η > 0 (1 by default) and ``momentum`` β in [0, 1) (0.9 by default)."""

    name = "fedavgm"
    known = {"server_rate": Range(1.0, 0.0, open_least=True), "momentum": Range(0.9, 0.0, 1.0, open_most=True)}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        values = parameters(self.name, given, self.known)
        self._rate, self._beta = values["server_rate"], values["momentum"]

    def slots(self) -> Mapping[str, float]:
        return {"momentum": 0.0}

    def combine(self, tile: Tile) -> Array:
        delta = pseudo_gradient(tile, self.update)
        velocity = tile.slots["momentum"]
        np.multiply(velocity, self._beta, out=velocity)
        np.add(velocity, delta, out=velocity)
        np.multiply(velocity, self._rate, out=delta)
        return np.add(tile.current, delta, out=delta)
