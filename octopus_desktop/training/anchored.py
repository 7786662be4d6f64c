"""The loss of a batch at the model that came in, beside the loss at the local model: ∇f(y; ζ) − ∇f(x; ζ), which Mime
steps by, is the gradient of their difference. For trainers that declare their loss (``training.local``).

The parameters at x are written as x + (y − y′), y′ being y without its gradient: the value is x's, and the gradient
comes to the model's own parameters. So one backward pass gives the difference, and data-parallel averaging,
accumulation and clipping see one gradient. Both losses draw the same random numbers (dropout); the model's buffers are
left as they were. Knows no files and no strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

Loss = Callable[[nn.Module, Sequence[torch.Tensor]], torch.Tensor]


class Anchor:
    """Arguments:
    start: name to value of the model's parameters as they came in.
    fixed: names of those that are the silo's own, and get no correction.
    """

    def __init__(self, start: Mapping[str, torch.Tensor], fixed: frozenset[str]) -> None:
        self._start, self._fixed = start, fixed

    def loss(self, model: nn.Module, batch: Sequence[torch.Tensor], loss: Loss) -> torch.Tensor:
        """The loss at x, with a gradient for the parameters of ``model``. Call before the loss at y."""
        plain = _inner(model)
        values: dict[str, torch.Tensor] = {f"model.{n}": b.detach().clone() for n, b in plain.named_buffers()}
        for name, p in plain.named_parameters():
            start = self._start[name]
            values[f"model.{name}"] = start if name in self._fixed else start + (p - p.detach())
        device = next(plain.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            found: torch.Tensor = functional_call(_Loss(plain, loss), values, (batch,))
        return found


class _Loss(nn.Module):
    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self._loss = model, loss

    def forward(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._loss(self.model, batch)


def _inner(model: Any) -> nn.Module:
    """The job's own module below what it is wrapped in."""
    while inner := getattr(model, "_orig_mod", None) or (
        model.module if isinstance(model, nn.parallel.DistributedDataParallel) else None
    ):
        model = inner
    return model  # type: ignore[no-any-return]
