"""Whether all of a run's configuration can be kept. Asked before anybody is offered the run, and again at its start.

Nothing that a configuration promises is passed over: what this version cannot do is refused by name.
"""

from __future__ import annotations

from pathlib import Path

from octopus_desktop.aggregation import encodings, filters, strategies
from octopus_desktop.aggregation.own.host import Say
from octopus_desktop.aggregation.own.strategy import OwnStrategy
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError

MODES = ("sync", "async")
ORDER_STATISTICS = ("median", "trimmed_mean")


def require_runnable(
    config: RunConfig, package: Path | None = None, silos: int = 1, say: Say = lambda *_: None
) -> strategies.Strategy:
    """The run's strategy; whoever gets it closes it.

    Args:
        package: the job's unpacked package, whose own code the strategy may be (``aggregation.own``); without it such
            a job is refused. silos: how many take part. say: told of (level, source, text) of such a strategy.

    Raises:
        UserError: OCT-STRATEGY-PARAMETER, or OCT-CONFIG-INVALID for a mode, an encoding (with its parameters) or a
            privacy filter that this version does not have; OCT-JOB-STRATEGY and OCT-RUN-STRATEGY for the package's own.
    """
    require_settings(config)
    strategy = strategy_of(config, package, silos, say)
    try:
        _require_fit(config, strategy)
    except UserError:
        strategy.close()
        raise
    return strategy


def strategy_of(config: RunConfig, package: Path | None, silos: int, say: Say = lambda *_: None) -> strategies.Strategy:
    """The strategy, whether or not it fits the rest of the configuration; whoever gets it closes it."""
    if config.own_strategy and package:
        return OwnStrategy(config, package, silos, say)
    return strategies.make(config.strategy, config.strategy_parameters, config.update)


def _require_fit(config: RunConfig, strategy: strategies.Strategy) -> None:
    if config.mode not in strategy.modes:
        fitting = [n for n, kind in strategies.STRATEGIES.items() if config.mode in kind.modes]
        raise UserError(
            "OCT-STRATEGY-PARAMETER",
            f"The strategy {config.strategy!r} does not work in {config.mode} mode.",
            f"In {config.mode} mode there are {', '.join(fitting)}.",
            "Set mode in [run] or name in [strategy] of job.toml to ones that fit.",
        )
    if config.encoding == "topk" and strategy.returns:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The strategy {config.strategy!r} cannot be used with the encoding 'topk'.",
            f"Silos also send their {' and '.join(strategy.returns)}, whose smaller elements would never arrive.",
            "Set encoding in [run] to int8 or int4, or choose another strategy in [strategy] of job.toml.",
        )


def require_settings(config: RunConfig) -> None:
    """All that can be said of a configuration without its strategy, which may be the package's own. Raises UserError
    as ``require_runnable`` does."""
    if config.mode not in MODES:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"A run with mode = {config.mode!r} cannot be held.",
            f"This version knows {', '.join(MODES)}.",
            "Set mode in [run] of job.toml to one of these.",
        )
    encodings.make(config.encoding, config.encoding_parameters)
    filters.make(config.privacy)
    if config.encoding == "topk" and config.strategy in ORDER_STATISTICS:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The strategy {config.strategy!r} cannot be used with the encoding 'topk'.",
            "Each silo sends other elements; where most send none, the result would be that nothing changes.",
            "Set encoding in [run] to int8 or int4, or choose another strategy in [strategy] of job.toml.",
        )
    if config.late == "next":
        _require_lateness(config)
    if config.mode == "async" and config.keep_models:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "keep_models cannot be used in async mode.",
            "There a slow silo may still train from any earlier model.",
            "Leave keep_models out of [run] in job.toml: all models are kept then.",
        )
    if config.mode == "async" and config.per_round:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "per_round has no meaning in async mode.",
            "There every silo trains at its own pace, and there are no rounds to be drawn for.",
            'Leave per_round out of [run] in job.toml, or set mode = "sync".',
        )


def _require_lateness(config: RunConfig) -> None:
    if config.mode == "async":
        raise UserError(
            "OCT-CONFIG-INVALID",
            'late = "next" has no meaning in async mode.',
            "There no answer is late: max_staleness of the strategy says how old one may be.",
            "Leave late out of [run] in job.toml.",
        )
    if config.update == "weights" and config.encoding == "none":
        raise UserError(
            "OCT-CONFIG-INVALID",
            'late = "next" cannot be used with whole weights.',
            "Late weights would pull the model back to where it was a round before; a late difference only adds to it.",
            'Set update = "difference" in [run] of job.toml.',
        )
