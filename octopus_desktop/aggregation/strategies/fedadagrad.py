"""FedAdagrad: Adagrad at the server, on the silos' mean difference as gradient.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021,
Algorithm 2 (FedAdagrad)::

    m_t = β1 m_{t-1} + (1 - β1) Δ_t
    v_t = v_{t-1} + Δ_t²          v_{-1} = τ²
    x_{t+1} = x_t + η m_t / (√v_t + τ)
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
    adaptive_step,
    parameters,
    pseudo_gradient,
)


class FedAdagrad(Synchronous):
    """Parameters ``server_rate`` η > 0 (0.01), ``beta1`` in [0, 1) (0, as in the paper), ``tau`` τ > 0 (1e-3)."""

    name = "fedadagrad"
    known = {
        "server_rate": Range(0.01, 0.0, open_least=True),
        "beta1": Range(0.0, 0.0, 1.0, open_most=True),
        "tau": Range(1e-3, 0.0, open_least=True),
    }

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        values = parameters(self.name, given, self.known)
        self._rate, self._beta1, self._tau = values["server_rate"], values["beta1"], values["tau"]

    def slots(self) -> Mapping[str, float]:
        return {"m": 0.0, "v": self._tau**2}

    def combine(self, tile: Tile) -> Array:
        delta, scratch = pseudo_gradient(tile, self.update), tile.scratch
        m, v = tile.slots["m"], tile.slots["v"]
        np.multiply(m, self._beta1, out=m)
        np.multiply(delta, 1.0 - self._beta1, out=scratch)
        np.add(m, scratch, out=m)
        np.multiply(delta, delta, out=delta)
        np.add(v, delta, out=v)
        return adaptive_step(tile, delta, m, v, self._rate, self._tau)
