"""The round loop that a run's mode asks for. The coordinator and the simulator both get theirs here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from octopus_desktop.aggregation.async_rounds import AsyncLoop
from octopus_desktop.aggregation.rounds import RoundLoop
from octopus_desktop.aggregation.state import State
from octopus_desktop.aggregation.strategies import Strategy
from octopus_desktop.jobs.manifest import RunConfig


def make_loop(
    config: RunConfig, silos: Sequence[str], strategy: Strategy, value: Mapping[str, Any] | None = None
) -> RoundLoop:
    """A new run's loop, or with ``value`` (``to_dict``) one that goes on. Raises OCT-RUN-QUORUM."""
    state = State.from_dict(dict(value)) if value is not None else None
    if config.mode == "async":
        buffer, most = strategy.asynchronous
        return AsyncLoop(config, silos, state, buffer=buffer, max_staleness=most)
    return RoundLoop(config, silos, state)
