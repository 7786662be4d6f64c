"""Strategies that weigh the updates by how they lie to each other: what Krum, Multi-Krum, RFA and q-FedAvg share.

Distances follow from the inner products of the differences, ‖Δ_i − Δ_j‖² = G_ii + G_jj − 2 G_ij, which the fold finds
in one more pass over the updates; so memory stays at some tiles, however many silos there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import (
    Array,
    Range,
    Synchronous,
    Tile,
    parameters,
    pseudo_gradient,
)


class Pairwise(Synchronous):
    """Parameter ``server_rate`` η > 0 (1): x + η Σ_k w_k Δ_k, with w from ``weigh``."""

    name = ""
    known: Mapping[str, Range] = {"server_rate": Range(1.0, 0.0, open_least=True)}
    pairwise = True

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self.values = parameters(self.name, given, self.known)

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        raise AssertionError("a pairwise strategy is asked to weigh")

    def combine(self, tile: Tile) -> Array:
        delta = pseudo_gradient(tile, self.update)
        np.multiply(delta, self.values["server_rate"], out=delta)
        return np.add(tile.current, delta, out=delta)


def squared_distances(products: Array) -> Array:
    """‖Δ_i − Δ_j‖², (n, n), never below 0."""
    norms = np.diagonal(products)
    distances: Array = np.maximum(norms[:, None] + norms[None, :] - 2.0 * products, 0.0)
    return distances
