"""Tries a job's own strategy out on small arrays, in its process as it will run: what ``octopus jobs check`` does.

Finds what would otherwise show late or never: numbers that depend on how long a tile is, on what the instance remembers
of an earlier round, on chance, or on an update after the next one was read. Knows no file but the package.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.aggregation.own.host import Say
from octopus_desktop.aggregation.own.strategy import OwnStrategy
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.aggregation.strategies import Tile, weighing
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError

SILOS, LENGTH, ROUNDS = 7, 1000, 3
CUTS = (1, 18, 500, 997)


def try_out(config: RunConfig, package: Path, say: Say = lambda *_: None) -> None:
    """Raises UserError: what ``require_runnable`` raises, what the strategy raises, or OCT-JOB-STRATEGY when it does
    not keep the contract."""
    strategy = require_runnable(config, package, SILOS, say)
    try:
        for kind in ("float32", "float64"):
            whole = _rounds(strategy, kind, ())
            if _rounds(strategy, kind, ()) != whole:
                raise _broken(
                    config,
                    "It gives other numbers for the same updates.",
                    "Draw nothing by chance, or from a generator seeded by tile.round.",
                )
            if _rounds(strategy, kind, CUTS) != whole:
                raise _broken(
                    config,
                    "Its numbers depend on how the model is cut into tiles.",
                    "Let combine be element-wise; what needs whole updates belongs into weigh (Pairwise).",
                )
        if _rounds(strategy, "float32", (), forget=True) != _rounds(strategy, "float32", ()):
            raise _broken(
                config,
                "It remembers something of an earlier round elsewhere than in its slots.",
                "Keep state in tile.slots: it is what survives a restart of the server.",
            )
    finally:
        strategy.close()
    narrow = OwnStrategy(config, package, SILOS, say, window=1)
    try:
        if _rounds(narrow, "float32", ()) != _rounds(strategy, "float32", ()):
            raise _broken(
                config,
                "It uses an update after the next one was read.",
                "Finish with each update before the next, copy it, or take tile.stack().",
            )
    finally:
        narrow.close()
        strategy.close()


def _rounds(strategy: object, kind: str, cuts: Sequence[int], *, forget: bool = False) -> bytes:
    """Model and slots after a few rounds, as bytes. ``forget``: each round in a process of its own."""
    assert isinstance(strategy, OwnStrategy)
    random = np.random.default_rng(5)
    model: Array = random.normal(size=LENGTH).astype(kind)
    slots = {name: np.full(LENGTH, start, kind) for name, start in strategy.slots().items()}
    for number in range(1, ROUNDS + 1):
        deltas = [random.normal(scale=0.1, size=LENGTH).astype(kind) for _ in range(SILOS)]
        updates = deltas if strategy.update == "difference" else [model + delta for delta in deltas]
        given = weighing(strategy, _answers(number))
        flat = np.stack(deltas).astype(np.float64)
        weights = list(given(flat @ flat.T) if callable(given) else given)
        new = np.empty_like(model)
        for a, b in zip((0, *cuts), (*cuts, LENGTH), strict=True):
            tile = Tile.of(
                model[a:b].copy(),
                [update[a:b] for update in updates],
                weights,
                slots={name: values[a:b] for name, values in slots.items()},
                round=number,
            )
            new[a:b] = strategy.combine(tile)
        if not np.isfinite(new).all() or not all(np.isfinite(values).all() for values in slots.values()):
            raise UserError(
                "OCT-JOB-STRATEGY",
                f"The job's own strategy {strategy.name} gives NaN or infinity.",
                f"So it does in round {number} of a trial with small, finite updates.",
                "Look for a division by zero, or for state that grows without bound.",
            )
        model = new
        if forget:
            strategy.close()
    return b"".join(values.tobytes() for values in (model, *slots.values()))


def _answers(round_: int) -> list[AnswerFacts]:
    return [
        AnswerFacts(
            silo=f"silo-{i}",
            examples=100 + 10 * i,
            steps=5 + i,
            metrics={"train/loss": 1.0 / round_, "train/rate_sum": 0.1 * (5 + i), "eval/loss": 0.5 + i / 10},
            staleness=0,
        )
        for i in range(SILOS)
    ]


def _broken(config: RunConfig, why: str, advice: str) -> UserError:
    what = f"The job's own strategy {config.strategy} does not keep the contract of a strategy."
    return UserError("OCT-JOB-STRATEGY", what, why, advice)
