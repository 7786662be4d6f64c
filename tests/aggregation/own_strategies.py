"""Strategies as a researcher writes them into a package, and the package around them. None is a copy of ours."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from octopus_desktop.aggregation.own.host import Limits, Say
from octopus_desktop.aggregation.own.strategy import OwnStrategy
from octopus_desktop.jobs.manifest import RunConfig

NESTEROV = """
import numpy as np
from octopus_desktop.aggregation.sdk import Range, Synchronous, pseudo_gradient

class Nesterov(Synchronous):
    "v <- b v + d;  x <- x + rate (b v + d)"
    known = {"momentum": Range(0.9, 0.0, 1.0, open_most=True), "server_rate": Range(1.0, 0.0, open_least=True)}

    def slots(self):
        return {"velocity": 0.0}

    def combine(self, tile):
        beta = self.values["momentum"]
        delta, velocity = pseudo_gradient(tile, self.update), tile.slots["velocity"]
        np.multiply(velocity, beta, out=velocity)
        np.add(velocity, delta, out=velocity)
        np.add(delta, velocity * np.float32(beta), out=delta)
        np.multiply(delta, self.values["server_rate"], out=delta)
        return np.add(tile.current, delta, out=delta)
"""
CLIPPED = """
import numpy as np
from octopus_desktop.aggregation.sdk import Pairwise, Range, by_examples

class Clipped(Pairwise):
    "The mean of the differences, each cut to the length `norm`."
    known = {**Pairwise.known, "norm": Range(1.0, 0.0, open_least=True)}

    def weigh(self, answers, products):
        lengths = np.sqrt(np.diagonal(products))
        return by_examples(answers) * np.minimum(1.0, self.values["norm"] / np.maximum(lengths, 1e-12))
"""
LAGGING = """
import numpy as np
from octopus_desktop.aggregation.sdk import Asynchronous, weighted_sum

class Lagging(Asynchronous):
    "Each answer counts by 2^-staleness."

    def weights(self, answers):
        return [2.0 ** -answer.staleness / len(answers) for answer in answers]

    def combine(self, tile):
        return tile.current + weighted_sum(tile)
"""


def make_package(root: Path, source: str) -> Path:
    """A package's folder with nothing but ``code/strategy.py``."""
    (root / "code").mkdir(parents=True, exist_ok=True)
    (root / "code" / "strategy.py").write_text(textwrap.dedent(source))
    return root


def own(root: Path, source: str, cls: str, *, silos: int = 3, say: Say = lambda *_: None, **more: Any) -> OwnStrategy:
    """The strategy in its process. ``more``: ``update``, ``mode``, ``rounds``, ``limits``, ``window``; parameters."""
    limits, window = more.pop("limits", Limits(answer_s=20.0)), more.pop("window", 16)
    run = {name: more.pop(name) for name in ("update", "mode", "rounds") if name in more}
    config = RunConfig(strategy=f"strategy:{cls}", strategy_parameters=more, **run)
    return OwnStrategy(config, make_package(root, source), silos, say, limits=limits, window=window)


def combining(body: str, before: str = "") -> str:
    """A strategy ``Mine`` whose ``combine`` is these lines, from line 6 on; ``before`` is line 3."""
    lines = textwrap.indent(textwrap.dedent(body).strip(), " " * 8)
    head = ["import numpy as np", "from octopus_desktop.aggregation.sdk import *", before, "class Mine(Synchronous):"]
    return "\n".join([*head, "    def combine(self, tile):", lines, ""])
