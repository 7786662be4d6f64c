"""What a job's own strategy is written with: NumPy, and the names below. They stay where they are.

In ``job.toml``, written as the trainer is, with the class's parameters beside it::

    [strategy]
    name = "strategy:Nesterov"           # class Nesterov in code/strategy.py
    momentum = 0.9

In ``code/strategy.py``::

    class Nesterov(Synchronous):
        known = {"momentum": Range(0.9, 0.0, 1.0, open_most=True)}      # default, least, most; a number each

        def slots(self):
            return {"velocity": 0.0}                                    # state as large as the model, and its start

        def combine(self, tile):
            delta = pseudo_gradient(tile, self.update)
            ...
            return np.add(tile.current, delta, out=delta)

``combine`` gets one *tile* after the other: the same run of elements of the global model (``tile.current``), of each
silo's update (``tile.read(i)``, or ``tile.updates()`` for all in order; read-only, valid until the next is read), and
of its slots, which it overwrites in place. It returns the new model's elements: as many, of the same type. It must be
element-wise, for nobody promises how long a tile is; what it keeps in itself is gone with the round.

``weights(answers)``, asked before, gives a factor for each silo (``tile.weights``; by examples if it is not written);
a ``Pairwise`` strategy has ``weigh(answers, products)`` in its place, which sees how the updates lie to each other.
``configure(round)`` are words for the silos' own steps, ``shared`` names slots that travel with them.

It runs on the federation's server and in a simulation in the same way: in a process of its own without network, files
or other processes. ``octopus jobs check`` tries it out.
"""

from __future__ import annotations

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies.base import (
    Array,
    Common,
    Range,
    Synchronous,
    Tile,
    adaptive_step,
    by_examples,
    choice,
    parameter_error,
    parameters,
    pseudo_gradient,
    weighted_sum,
    whole,
)
from octopus_desktop.aggregation.strategies.pairwise import Pairwise, squared_distances


class Asynchronous(Common):
    """Strategies of async mode. Parameters ``buffer`` (1): answers that a new model is made of, and ``max_staleness``
    (-1: any). A strategy with parameters of its own names these two as well: ``known = {**Asynchronous.known, …}``."""

    modes = ("async",)
    known = {"buffer": Range(1.0, 1.0, 1e6), "max_staleness": Range(-1.0, -1.0, 1e6)}

    @property
    def asynchronous(self) -> tuple[int, int]:
        least, most = self.values.get("buffer", 1.0), self.values.get("max_staleness", -1.0)
        return whole(self.name, "buffer", least), whole(self.name, "max_staleness", most)


__all__ = [
    "AnswerFacts", "Array", "Asynchronous", "Common", "Pairwise", "Range", "Synchronous", "Tile", "adaptive_step",
    "by_examples", "choice", "parameter_error", "parameters", "pseudo_gradient", "squared_distances", "weighted_sum",
    "whole",
]  # fmt: skip
