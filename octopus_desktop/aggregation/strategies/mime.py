"""Mime and Mime Lite: the silos step as the server's own optimiser would, with its state held fixed for the round.

Karimireddy, Jaggi, Kale, Mohri, Reddi, Stich, Suresh: Breaking the Centralized Barrier for Cross-Device Federated
Learning. NeurIPS 2021, Algorithm 1. The server keeps the state s of a base optimiser, which goes to the silos with
each task. Silo k computes the gradient over all of its examples, ∇f_k(x), and steps with its rate η::

    g = ∇f_k(y; ζ)                              Mime Lite
    g = ∇f_k(y; ζ) − ∇f_k(x; ζ) + c             Mime
    y ← y − η U(g, s)

The answer bears y and ∇f_k(x), and the server does, with weights w_k = n_k / n::

    G = Σ_k w_k ∇f_k(x)        s ← V(G, s)        c ← G        x ← x + η_s Σ_k w_k (y_k − x)

    momentum:  U = (1 − β₁) g + β₁ m                    V:  m ← (1 − β₁) G + β₁ m
    adam:      U = ((1 − β₁) g + β₁ m) / (√v + τ)       V:  m as above,  v ← (1 − β₂) G² + β₂ v

c is the mean gradient of the round before, so that a round is one exchange; the paper asks the silos twice. In the
first round, when there is none, Mime steps as Mime Lite does. As c is a round old, Mime wants smaller rates. m begins
with 0 and v with τ², as Reddi et al. 2021 do.

The silos' own optimiser (``training.corrections``) should be plain SGD, whose rate is η. Mime needs the loss of a batch
at x as well, so the job's trainer must declare it (``rows`` and ``losses``); Mime Lite works with any trainer that
takes its batches from ``ctx.loader``.
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
    choice,
    mean_returned,
    parameters,
    pseudo_gradient,
    weighted_sum,
)
from octopus_desktop.jobs.returned import returned

OPTIMISERS = ("momentum", "adam")


class MimeLite(Synchronous):
    """Parameters ``optimiser`` "momentum" (by default) or "adam", ``beta1`` (0.9) in [0, 1), ``server_rate`` η_s > 0
    (1); for adam also ``beta2`` (0.99) in [0, 1) and ``tau`` τ > 0 (1e-3)."""

    name = "mimelite"
    corrected = False

    def __init__(self, given: Mapping[str, Any], update: str) -> None:
        self.update = update
        self.optimiser, numbers = choice(self.name, given, "optimiser", OPTIMISERS)
        known = {"server_rate": Range(1.0, 0.0, open_least=True), "beta1": Range(0.9, 0.0, 1.0, open_most=True)}
        if self.optimiser == "adam":
            known |= {"beta2": Range(0.99, 0.0, 1.0, open_most=True), "tau": Range(1e-3, 0.0, open_least=True)}
        self.values = parameters(self.name, numbers, known)
        self.returns = returned(self.name)
        self.shared = tuple(self.slots())

    def configure(self, round: int) -> dict[str, Any]:
        base = {name: self.values[name] for name in ("beta1", "beta2", "tau") if name in self.values}
        return {"name": self.name, "mime": {**base, "corrected": self.corrected}, "returns": list(self.returns)}

    def slots(self) -> Mapping[str, float]:
        second = {"v": self.values["tau"] ** 2} if self.optimiser == "adam" else {}
        return {"m": 0.0, **second, **({"c": 0.0} if self.corrected else {})}

    def combine(self, tile: Tile) -> Array:
        gradient = mean_returned(tile, "gradient", out=tile.out)
        scratch, m = tile.scratch, tile.slots["m"]
        _blend(m, gradient, self.values["beta1"], scratch)
        if "c" in tile.slots:
            np.copyto(tile.slots["c"], gradient)
        if "v" in tile.slots:
            np.multiply(gradient, gradient, out=gradient)
            _blend(tile.slots["v"], gradient, self.values["beta2"], scratch)
        rate = self.values["server_rate"]
        if self.update == "weights" and rate == 1.0:
            return weighted_sum(tile)
        delta = pseudo_gradient(tile, self.update)
        np.multiply(delta, rate, out=delta)
        return np.add(tile.current, delta, out=delta)


class Mime(MimeLite):
    """As ``MimeLite``; the silos' steps are corrected as well."""

    name = "mime"
    corrected = True


def _blend(old: Array, new: Array, beta: float, scratch: Array) -> None:
    """old ← (1 − β) new + β old."""
    np.multiply(old, beta, out=old)
    np.multiply(new, 1.0 - beta, out=scratch)
    np.add(old, scratch, out=old)
