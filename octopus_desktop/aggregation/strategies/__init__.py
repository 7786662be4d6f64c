"""The strategies by name. A new one is one file, one line here, and one test class."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from octopus_desktop.aggregation.strategies.base import Strategy, Tile, parameter_error
from octopus_desktop.aggregation.strategies.fedadam import FedAdam
from octopus_desktop.aggregation.strategies.fedavg import FedAvg
from octopus_desktop.aggregation.strategies.fedavgm import FedAvgM

STRATEGIES: dict[str, Callable[[Mapping[str, Any], str], Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadam": FedAdam,
}


def make(name: str, parameters: Mapping[str, Any], update: str = "weights") -> Strategy:
    """The strategy of this name. ``update``: what the job wishes silos to send, "weights" or "difference".

    Raises:
        UserError: OCT-STRATEGY-PARAMETER, for an unknown name, an unknown parameter or one out of range.
    """
    if name not in STRATEGIES:
        raise parameter_error(f"There is no strategy {name!r}.", f"Known are {', '.join(sorted(STRATEGIES))}.")
    if update not in ("weights", "difference"):
        raise parameter_error(f"Updates cannot be {update!r}.", 'A silo sends its "weights" or the "difference".')
    return STRATEGIES[name](parameters, update)


__all__ = ["STRATEGIES", "Strategy", "Tile", "make"]
