"""The gradient over all of a silo's training examples, of the model as it came in: had from the trainer's ``train``.

One pass over ``ctx.loader`` is collected into one step (``training.steps``: each batch by its examples, over all
workers of whatever shares), and the training ends where the optimiser would take it. So the gradient is the mean over
all examples, whatever the batches are, and memory holds one batch and one gradient. Knows no files and no strategy.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from octopus_desktop.jobs.manifest import Training
from octopus_desktop.training.steps import Enough, Steps
from octopus_desktop.wire.errors import UserError

A_WHOLE_PASS = 1 << 62  # batches


def whole_pass(training: Training, world_size: int, shares: tuple[float, ...], device: torch.device) -> Steps:
    """The pace of a pass that makes one step, in which each example counts once."""
    training = replace(training, accumulate=A_WHOLE_PASS, clip_norm=0.0, precision="float32")
    exact = shares or ((1.0,) * world_size if world_size > 1 else ())
    return Steps(training, world_size=world_size, shares=exact, device=device)


class FullGradient:
    """Use as a context manager around the trainer's ``train``, inside of its ``Steps``.

    Attributes:
        found: the parameters' gradients by name, once there are any; parameters without a part in the loss are missing.
    """

    def __init__(self, model: nn.Module, pace: Steps) -> None:
        self._names = {id(p): name for name, p in model.named_parameters()}
        self._pace = pace
        self._handle: Any = None
        self.found: dict[str, torch.Tensor] = {}

    def __enter__(self) -> FullGradient:
        self._handle = register_optimizer_step_pre_hook(self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._handle.remove()
        return kind is Enough

    def required(self) -> dict[str, torch.Tensor]:
        """Raises OCT-RUN-TRAINER, when the training ended before a pass over all examples did."""
        if not self.found:
            raise UserError(
                "OCT-RUN-TRAINER",
                "The gradient over all examples, which the strategy asks for, could not be had.",
                "The trainer's train made no whole pass over ctx.loader, or has no torch optimiser.",
                "Let train take its batches from ctx.loader, or choose another strategy in job.toml.",
            )
        return self.found

    def _before(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        if self._pace.holding:
            return
        for group in optimiser.param_groups:
            for p in group["params"]:
                if p.grad is not None and (name := self._names.get(id(p))):
                    self.found[name] = p.grad.detach().clone()
        raise Enough
