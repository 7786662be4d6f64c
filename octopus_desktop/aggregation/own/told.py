"""What a strategy's process says, believed only as far as it can be checked: names go into files and messages, words to
every silo. The process checks the same for the researcher's sake, and says it better; but it runs the package's code.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from octopus_desktop.aggregation.strategies.base import MEMORY_WORDS

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MOST_SLOTS = 16
MOST_WORDS = 64 << 10  # bytes of JSON


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a strategy is, as ``strategies.base.Strategy`` has it."""

    name: str
    update: str
    modes: tuple[str, ...]
    shared: tuple[str, ...]
    asynchronous: tuple[int, int]
    pairwise: bool
    slots: Mapping[str, float]


def facts_of(said: Mapping[str, Any]) -> Facts:
    """Raises ValueError, TypeError or KeyError for what no strategy says of itself."""
    slots = {str(name): float(start) for name, start in dict(said["slots"]).items()}
    buffer, most = said["asynchronous"]
    facts = Facts(
        name=str(said["name"]),
        update=str(said["update"]),
        modes=tuple(map(str, said["modes"])),
        shared=tuple(map(str, said["shared"])),
        asynchronous=(int(buffer), int(most)),
        pairwise=bool(said["pairwise"]),
        slots=slots,
    )
    sound = (
        all(NAME.fullmatch(name) for name in (facts.name, *slots))
        and len(slots) <= MOST_SLOTS
        and all(map(math.isfinite, slots.values()))
        and facts.update in ("weights", "difference")
        and {*facts.modes} <= {"sync", "async"}
        and {*facts.shared} <= {*slots}
        and facts.asynchronous[0] >= 1
    )
    if not sound:
        raise ValueError("facts that are none")
    return facts


def words_of(said: Any) -> dict[str, Any]:
    """Words for the silos' tasks. Raises ValueError or TypeError."""
    if not isinstance(said, dict) or MEMORY_WORDS & said.keys():
        raise ValueError("words that may not be said to silos")
    if len(json.dumps(said, allow_nan=False)) > MOST_WORDS:
        raise ValueError("more words than are allowed")
    return said


def weights_of(said: Any, count: int) -> list[float]:
    """Raises ValueError or TypeError."""
    weights = [float(weight) for weight in said]
    if len(weights) != count or not all(map(math.isfinite, weights)):
        raise ValueError(f"{len(weights)} weights for {count} answers")
    return weights
