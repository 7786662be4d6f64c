"""Whether all of a run's configuration can be kept. Asked before anybody is offered the run, and again at its start.

Nothing that a configuration promises is passed over: what this version cannot do is refused by name.
"""

from __future__ import annotations

from octopus_desktop.aggregation import encodings, filters, strategies
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError

MODES = ("sync",)


def require_runnable(config: RunConfig) -> strategies.Strategy:
    """The run's strategy.

    Raises:
        UserError: OCT-STRATEGY-PARAMETER, or OCT-CONFIG-INVALID for a mode, an encoding (with its parameters) or a
            privacy filter that this version does not have.
    """
    if config.mode not in MODES:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"A run with mode = {config.mode!r} cannot be held.",
            f"This version knows {', '.join(MODES)}.",
            "Set mode in [run] of job.toml to one of these.",
        )
    encodings.make(config.encoding, config.encoding_parameters)
    filters.make(config.privacy)
    return strategies.make(config.strategy, config.strategy_parameters, config.update)
