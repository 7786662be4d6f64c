"""Local training for trainers that only declare it: their rows, their loss for each example, SGD by hyperparameters.

Hyperparameters: ``learning_rate`` (must be there), ``batch_size`` 32, ``epochs`` 1, ``momentum`` 0, ``weight_decay`` 0.
What is declared can also be computed for many silos at once (``simulation.batched``). Knows no files and no processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from octopus_desktop.training.sdk import ClientTrainer, Context


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """A silo's examples: tensors of equal length, one example a row. ``test``: the same for what is only judged."""

    train: tuple[torch.Tensor, ...]
    test: tuple[torch.Tensor, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    learning_rate: float
    batch_size: int = 32
    epochs: int = 1
    momentum: float = 0.0
    weight_decay: float = 0.0


def recipe(hyperparameters: Mapping[str, Any]) -> Recipe:
    """Raises OCT-CONFIG-INVALID naming the hyperparameter that is missing or out of range."""
    if "learning_rate" not in hyperparameters:
        raise _invalid("learning_rate is missing")
    values = {n: hyperparameters[n] for n in Recipe.__dataclass_fields__ if n in hyperparameters}
    for name, value in values.items():
        count = name in ("batch_size", "epochs")
        if (
            isinstance(value, bool)
            or not isinstance(value, int if count else int | float)
            or value < (1 if count else 0)
        ):
            raise _invalid(f"{name} = {value!r} cannot be used")
    return Recipe(**values)


def declared(trainer: type[ClientTrainer]) -> bool:
    """Whether it says what it trains on and by which loss."""
    from octopus_desktop.training.sdk import ClientTrainer

    return trainer.rows is not ClientTrainer.rows and trainer.losses is not ClientTrainer.losses


def require_declared(trainer: ClientTrainer) -> None:
    """Raises OCT-STRATEGY-PARAMETER for a trainer whose loss a strategy cannot ask for."""
    from octopus_desktop.training.sdk import ClientTrainer

    kind = type(trainer)
    if not declared(kind) or kind.train is not ClientTrainer.train:
        raise UserError(
            "OCT-STRATEGY-PARAMETER",
            "The strategy needs the loss of each batch at the model that came in as well.",
            f"{kind.__name__} does not declare its training by rows(ctx) and losses(ctx, model, batch) alone.",
            'Declare it so, or set name = "mimelite" in [strategy] of job.toml.',
        )


def train(trainer: ClientTrainer, ctx: Context, model: nn.Module) -> dict[str, float]:
    chosen, rows = recipe(ctx.hyperparameters), trainer.rows(ctx)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=chosen.learning_rate, momentum=chosen.momentum, weight_decay=chosen.weight_decay
    )
    loader = ctx.loader(rows.train, batch_size=chosen.batch_size)

    def loss_of(model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return trainer.losses(ctx, model, batch).mean()

    step, total, seen = 0, 0.0, 0
    for _ in ctx.epochs(chosen.epochs):
        for batch in loader:
            at_x = ctx.anchor.loss(model, batch, loss_of) if ctx.anchor else None
            loss = loss_of(model, batch)
            optimiser.zero_grad()
            ctx.backward(loss if at_x is None else loss - at_x)
            optimiser.step()
            value = loss.item()
            step, total, seen = step + 1, total + value * len(batch[0]), seen + len(batch[0])
            ctx.report(step, loss=value)
    return {"loss": total / seen} if seen else {}


def evaluate(trainer: ClientTrainer, ctx: Context, model: nn.Module) -> dict[str, float]:
    rows = trainer.rows(ctx).test
    if not rows or not len(rows[0]):
        return {}
    ctx.examples = len(rows[0])
    return {name: values.double().mean().item() for name, values in trainer.scores(ctx, model, rows).items()}


def _invalid(why: str) -> UserError:
    return UserError(
        "OCT-CONFIG-INVALID",
        "The job's local training cannot be set up.",
        f"Of its hyperparameters, {why}.",
        "Correct [hyperparameters] in job.toml.",
    )
