"""FedYogi: Yogi at the server, on the silos' mean difference as gradient.

Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar, McMahan: Adaptive Federated Optimization. ICLR 2021,
Algorithm 2 (FedYogi), without bias correction, as there::

    m_t = β1 m_{t-1} + (1 - β1) Δ_t
    v_t = v_{t-1} - (1 - β2) Δ_t² sign(v_{t-1} - Δ_t²)          v_{-1} = τ²
    x_{t+1} = x_t + η m_t / (√v_t + τ)
"""

from __future__ import annotations

import numpy as np

from octopus_desktop.aggregation.strategies.base import Array, Tile, adaptive_step, pseudo_gradient
from octopus_desktop.aggregation.strategies.fedadam import FedAdam


class FedYogi(FedAdam):
    """Parameters as FedAdam's."""

    name = "fedyogi"

    def combine(self, tile: Tile) -> Array:
        delta, scratch = pseudo_gradient(tile, self.update), tile.scratch
        m, v = tile.slots["m"], tile.slots["v"]
        np.multiply(m, self._beta1, out=m)
        np.multiply(delta, 1.0 - self._beta1, out=scratch)
        np.add(m, scratch, out=m)
        np.multiply(delta, delta, out=delta)
        np.subtract(v, delta, out=scratch)
        np.sign(scratch, out=scratch)
        np.multiply(scratch, delta, out=scratch)
        np.multiply(scratch, 1.0 - self._beta2, out=scratch)
        np.subtract(v, scratch, out=v)
        return adaptive_step(tile, delta, m, v, self._rate, self._tau)
