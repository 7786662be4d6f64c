"""The strategies by name. A new one is one file, one line here, and one test class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from octopus_desktop.aggregation.strategies.base import Strategy, Tile, parameter_error, weighing
from octopus_desktop.aggregation.strategies.fedadagrad import FedAdagrad
from octopus_desktop.aggregation.strategies.fedadam import FedAdam
from octopus_desktop.aggregation.strategies.fedasync import FedAsync
from octopus_desktop.aggregation.strategies.fedavg import FedAvg
from octopus_desktop.aggregation.strategies.fedavgm import FedAvgM
from octopus_desktop.aggregation.strategies.fedbuff import FedBuff
from octopus_desktop.aggregation.strategies.feddyn import FedDyn
from octopus_desktop.aggregation.strategies.fednova import FedNova
from octopus_desktop.aggregation.strategies.fedprox import FedProx
from octopus_desktop.aggregation.strategies.fedsgd import FedSGD
from octopus_desktop.aggregation.strategies.fedyogi import FedYogi
from octopus_desktop.aggregation.strategies.krum import Krum, MultiKrum
from octopus_desktop.aggregation.strategies.mime import Mime, MimeLite
from octopus_desktop.aggregation.strategies.order_statistics import Median, TrimmedMean
from octopus_desktop.aggregation.strategies.qfedavg import QFedAvg
from octopus_desktop.aggregation.strategies.rfa import RFA
from octopus_desktop.aggregation.strategies.scaffold import Scaffold

STRATEGIES: dict[str, Any] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedadagrad": FedAdagrad,
    "fedadam": FedAdam,
    "fedyogi": FedYogi,
    "fednova": FedNova,
    "fedsgd": FedSGD,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "mime": Mime,
    "mimelite": MimeLite,
    "qfedavg": QFedAvg,
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "multi_krum": MultiKrum,
    "rfa": RFA,
    "fedasync": FedAsync,
    "fedbuff": FedBuff,
}


def make(name: str, parameters: Mapping[str, Any], update: str = "weights") -> Strategy:
    """The strategy of this name. ``update``: what the job wishes silos to send, "weights" or "difference".

    Raises:
        UserError: OCT-STRATEGY-PARAMETER, for an unknown name, an unknown parameter or one out of range.
    """
    if ":" in name:
        raise parameter_error(f"The strategy {name!r} is a package's own.", "It can only be had with its package.")
    if name not in STRATEGIES:
        raise parameter_error(f"There is no strategy {name!r}.", f"Known are {', '.join(sorted(STRATEGIES))}.")
    if update not in ("weights", "difference"):
        raise parameter_error(f"Updates cannot be {update!r}.", 'A silo sends its "weights" or the "difference".')
    strategy: Strategy = STRATEGIES[name](parameters, update)
    return strategy


__all__ = ["STRATEGIES", "Strategy", "Tile", "make", "weighing"]
