"""Whether all of a run's configuration can be kept. Asked before anybody is offered the run, and again at its start.

Nothing that a configuration promises is passed over: what this version cannot do is refused by name.
"""

from __future__ import annotations

from octopus_desktop.aggregation import filters, strategies
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError

MODES = ("sync", "async")
ENCODINGS = ("none",)


def require_runnable(config: RunConfig) -> strategies.Strategy:
    """The run's strategy.

    Raises:
        UserError: OCT-STRATEGY-PARAMETER, or OCT-CONFIG-INVALID for a mode, an encoding or a privacy filter that this
            version does not have.
    """
    for key, value, known in (("mode", config.mode, MODES), ("encoding", config.encoding, ENCODINGS)):
        if value not in known:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"A run with {key} = {value!r} cannot be held.",
                f"This version knows {', '.join(known)}.",
                f"Set {key} in [run] of job.toml to one of these.",
            )
    filters.make(config.privacy)
    strategy = strategies.make(config.strategy, config.strategy_parameters, config.update)
    if config.mode not in strategy.modes:
        fitting = [n for n, kind in strategies.STRATEGIES.items() if config.mode in kind.modes]
        raise UserError(
            "OCT-STRATEGY-PARAMETER",
            f"The strategy {config.strategy!r} does not work in {config.mode} mode.",
            f"In {config.mode} mode there are {', '.join(fitting)}.",
            "Set mode in [run] or name in [strategy] of job.toml to ones that fit.",
        )
    if config.mode == "async" and config.per_round:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "per_round has no meaning in async mode.",
            "There every silo trains at its own pace, and there are no rounds to be drawn for.",
            'Leave per_round out of [run] in job.toml, or set mode = "sync".',
        )
    return strategy
