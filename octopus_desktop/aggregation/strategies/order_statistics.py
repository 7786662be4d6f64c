"""Coordinate median and trimmed mean: a minority of silos, however wrong, moves no element far.

Yin, Chen, Kannan, Bartlett: Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates. ICML 2018,
definitions 1 and 2. For each element by itself, unweighted, on the differences Δ_k = x_k − x_t::

    median:        x_{t+1} = x_t + η med_k Δ_k                     (mean of the middle two for an even number)
    trimmed mean:  x_{t+1} = x_t + η mean of Δ_k without the ⌊βm⌋ smallest and the ⌊βm⌋ largest of m

Memory grows with the silos by the tile alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import Array, Range, Synchronous, Tile, parameters


class _Order(Synchronous):
    name = ""
    known = {"server_rate": Range(1.0, 0.0, open_least=True)}

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self._values = parameters(self.name, given, self.known)

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        """All silos alike: what a silo claims of itself must not give it power."""
        return [1.0 / len(answers)] * len(answers)

    def combine(self, tile: Tile) -> Array:
        stack = tile.stack()
        stack.sort(axis=0)
        low, high = self.kept(len(stack))
        out = tile.out
        np.copyto(out, stack[low])
        for row in stack[low + 1 : high]:
            np.add(out, row, out=out)
        np.divide(out, high - low, out=out)
        if self.update == "weights":
            if self._values["server_rate"] == 1.0:
                return out
            np.subtract(out, tile.current, out=out)
        np.multiply(out, self._values["server_rate"], out=out)
        return np.add(tile.current, out, out=out)

    def kept(self, silos: int) -> tuple[int, int]:
        """First and last (exclusive) of the sorted values that are averaged."""
        raise AssertionError("each order statistic says it")


class Median(_Order):
    """Parameter ``server_rate`` η > 0, 1 by default."""

    name = "median"

    def kept(self, silos: int) -> tuple[int, int]:
        return (silos - 1) // 2, silos // 2 + 1


class TrimmedMean(_Order):
    """Parameters ``server_rate`` η > 0 (1) and ``trim`` β in [0, 0.5) (0.2)."""

    name = "trimmed_mean"
    known = {"server_rate": Range(1.0, 0.0, open_least=True), "trim": Range(0.2, 0.0, 0.5, open_most=True)}

    def kept(self, silos: int) -> tuple[int, int]:
        cut = int(self._values["trim"] * silos)
        return cut, silos - cut
