"""Which round's model is the best so far, and whether a run has stopped getting better. No I/O, no clock, no tensors.

The judge is one of the federation's metrics of the model: the mean over the silos that evaluated it, weighted by their
rows (``facts.average_metrics``). With ``per_round``, other silos evaluate each round's model, so the metric is noisier.
"""

from __future__ import annotations

from octopus_desktop.aggregation.facts import Best
from octopus_desktop.aggregation.state import Row, State
from octopus_desktop.jobs.manifest import RunConfig


def judge(config: RunConfig, state: State, row: Row) -> str:
    """Look at a row whose model's metrics have come; returns what is worth a note, or "".

    The best model is the strictly best one, of equal ones the earliest. For ``patience`` a round counts as better only
    by more than ``min_delta``; a round without the metric counts neither way. ``state.early`` says why the run is to
    end, once it is.
    """
    if not config.best:
        return ""
    way, _, metric = config.best.partition(" ")
    value = row.metrics.get(metric)
    if value is None:
        return f"round {row.round}: nobody reports {metric}, by which the best model is chosen"
    sign = 1.0 if way == "max" else -1.0
    if state.best is None or sign * value > sign * state.best.value:
        state.best = Best(round=row.round, value=value, model=row.model)
    if state.mark is None or sign * value > sign * state.mark + config.min_delta:
        state.mark, state.unbettered = value, 0
    else:
        state.unbettered += 1
    if config.patience and state.unbettered >= config.patience:
        rounds = f"{config.patience} round{'' if config.patience == 1 else 's'}"
        state.early = (
            f"Ended early: {rounds} brought no better {metric}. The best is {state.best.value:.4g}, "
            f"of round {state.best.round}."
        )
    return ""


def told(config: RunConfig, state: State) -> str:
    """What a completed run has to say of its end: that it came early, or that no best model could be chosen; or ""."""
    if config.best and state.best is None:
        return f"No best model was chosen: nobody reported {config.best.partition(' ')[2]}."
    return state.early
