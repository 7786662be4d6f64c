"""How batches become optimiser steps: unequal shares, accumulation, loss scaling, clipping. No change in the trainer.

A step's batch is N examples over all workers and over ``accumulate`` batches; worker i saw n_ij of them in its batch j,
with the mean gradient g_ij. The step's gradient is

    g = Σ_ij n_ij g_ij / N

which is the gradient of one batch of N examples, whatever the shares are and however ragged the last batch is. (Layers
that look at a batch as a whole, such as BatchNorm, see a worker's own examples.) How it is had:

- each worker's loader tells n_ij, Σ_i n_ij, and whether the pass ends here (``batch``): the last step of a pass takes
  what is left. Batches that come from elsewhere count one each, and the last ones that make no whole step are dropped;
- between the steps, gradients are kept aside on each worker, and the optimiser finds none: all optimisers of torch pass
  over parameters without a gradient. Nothing travels then;
- at the step, a communication hook of DistributedDataParallel adds what was kept, divides by N, and sums over the ranks
  with one all-reduce a bucket, whose order of sums depends on the number of ranks alone;
- then, in front of the optimiser: unscale (float16), clip. What a strategy adds to the gradients
  (``training.corrections``) comes after that, so it is not clipped.

With equal shares, no accumulation and float32 nothing of this is in the way. Knows no files, no processes, no strategy.
"""

from __future__ import annotations

import math
import time
from typing import Any

import torch
import torch.distributed as dist
from torch.optim.optimizer import register_optimizer_step_pre_hook

from octopus_desktop.jobs.manifest import Training
from octopus_desktop.wire.errors import UserError

FIRST_SCALE = 2.0**16
GOOD_STEPS_TO_DOUBLE = 2000


class Enough(BaseException):
    """The number of local steps or passes is reached. No Exception, so that no trainer's code holds it back."""


class Steps:
    """The steps of one training task on one worker. Use as a context manager around the trainer's ``train``, outside
    of ``Corrections``.

    Attributes:
        shares: of each step's examples, by rank; () when all are equal.
        holding: the optimiser's current call only collected gradients, and is no step.
        listening: wants to be told of each batch.
        scale: what a float16 loss is multiplied by (``scaled``).
    """

    def __init__(
        self,
        training: Training,
        *,
        world_size: int = 1,
        shares: tuple[float, ...] = (),
        device: torch.device | None = None,
        measure: bool = False,
    ) -> None:
        self.shares, self.holding, self._averaged = shares, False, False
        self.scale = FIRST_SCALE
        self._measure = measure
        self.listening = bool(shares) or measure or training.accumulate > 1
        self._accumulate, self._clip = training.accumulate, training.clip_norm
        self._device = device or torch.device("cpu")
        self.scaling = training.precision == "fp16" and self._device.type == "cuda"
        self._world = world_size
        self._hooked = False
        self._own, self._all = 1, world_size
        self._told = False  # a loader of ours tells the batches
        self._final = training.accumulate == 1
        self._in_step = 0  # batches of the current step, when nobody tells
        self._first: int | None = None  # the optimiser whose calls are counted then
        self._kept: dict[torch.Tensor, tuple[torch.Tensor, float]] = {}
        self._scaled, self._good = False, 0
        self._handle: Any = None
        self._began, self._busy, self._seen = 0.0, 0.0, 0

    # what loaders and trainers say

    def batch(self, own: int, everyone: int, number: int, last: bool) -> None:
        """A batch is about to be used: ``own`` examples here, ``everyone`` over all workers; the ``number``-th of its
        pass, from 1."""
        self._told, self._own, self._all = True, everyone if self._averaged else own, everyone
        self._final = last or number % self._accumulate == 0
        if self._measure:
            self._began = self._now()

    def scaled(self, loss: torch.Tensor) -> torch.Tensor:
        """The loss to go backward from."""
        if not self.scaling:
            return loss
        self._scaled = True
        return loss * self.scale

    def speed(self) -> float:
        """Examples a second of this worker's own computing; nought when nothing was measured."""
        return self._seen / self._busy if self._busy > 0 else 0.0

    # the gradient's way

    def take_as_averaged(self) -> None:
        """The gradients that the optimiser finds are means over all ranks already."""
        self._averaged, self._own = True, self._all

    def attach(self, wrapped: torch.nn.parallel.DistributedDataParallel) -> None:
        """Take over the averaging of gradients, where they are not averaged plainly."""
        if self.listening:
            self._hooked = True
            # a function without annotations: DDP wants them as objects, and in this file they are texts
            wrapped.register_comm_hook(None, lambda _, bucket: self._reduce(bucket))

    def _reduce(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if self._measure and self._told and bucket.is_last():
            self._busy += self._now() - self._began
            self._seen += self._own
        if not self._final:
            local: torch.futures.Future[torch.Tensor] = torch.futures.Future()
            local.set_result(bucket.buffer())
            return local
        for parameter, gradient in zip(bucket.parameters(), bucket.gradients(), strict=True):
            self._weigh(parameter, gradient)
        work = dist.all_reduce(bucket.buffer(), async_op=True)
        assert work is not None
        return work.get_future().then(lambda done: done.value()[0])

    def _weigh(self, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        """``gradient`` becomes this worker's part of the step's: (kept + n g) / N."""
        kept, count = self._kept.pop(parameter, (None, 0.0))
        if self._own:
            gradient.mul_(self._own)
        else:
            gradient.zero_()  # not times nought: what a stand-in example gave may be infinite
        if kept is not None:
            gradient.add_(kept)
        gradient.div_(count + self._all)

    def _keep(self, parameter: torch.Tensor, gradient: torch.Tensor) -> None:
        kept, count = self._kept.get(parameter, (None, 0.0))
        weighted = gradient.mul(self._own) if self._own else torch.zeros_like(gradient)
        self._kept[parameter] = (weighted if kept is None else kept.add_(weighted), count + self._all)

    # around the training

    def __enter__(self) -> Steps:
        if self._accumulate > 1 or self._clip or self.scaling:
            self._handle = register_optimizer_step_pre_hook(self._before)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._handle:
            self._handle.remove()
        self._kept.clear()

    @torch.no_grad()
    def _before(self, optimiser: torch.optim.Optimizer, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        parameters = [p for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
        self.holding = False
        if self._accumulate > 1:
            _refuse_closure(arguments, named)
            self._gather(optimiser, parameters)
            if self.holding:
                return
        if self.scaling and self._scaled and not self._unscale(parameters):
            self._drop(parameters)
            return
        if self._clip and parameters:
            torch.nn.utils.clip_grad_norm_(parameters, self._clip, error_if_nonfinite=False)

    def _gather(self, optimiser: torch.optim.Optimizer, parameters: list[torch.Tensor]) -> None:
        final = self._final
        if not final:
            for parameter in parameters:
                assert parameter.grad is not None
                self._keep(parameter, parameter.grad)
            self._drop(parameters)
        elif not self._hooked:
            for parameter in parameters:
                assert parameter.grad is not None
                self._weigh(parameter, parameter.grad)
            for parameter in (p for group in optimiser.param_groups for p in group["params"]):
                if parameter.grad is None and parameter in self._kept:  # had no part in the last batch
                    parameter.grad = torch.zeros_like(parameter)
                    self._weigh(parameter, parameter.grad)
                    parameters.append(parameter)
        if not self._told:
            self._count(optimiser)

    def _count(self, optimiser: torch.optim.Optimizer) -> None:
        """Nobody tells the batches: the first optimiser's calls are counted."""
        self._first = self._first or id(optimiser)
        if id(optimiser) == self._first:
            self._in_step = (self._in_step + 1) % self._accumulate
            self._final = self._in_step == self._accumulate - 1

    def _drop(self, parameters: list[torch.Tensor]) -> None:
        for parameter in parameters:
            parameter.grad = None
        self.holding = True

    def _unscale(self, parameters: list[torch.Tensor]) -> bool:
        """Gradients of the loss itself; False, and a smaller scale from now on, when float16 overflowed. The rule is
        that of Micikevicius et al. 2018, Mixed Precision Training, section 3.2."""
        largest = 0.0
        for parameter in parameters:
            assert parameter.grad is not None
            largest += float(parameter.grad.mul_(1.0 / self.scale).abs().max())
        if not math.isfinite(largest):
            self.scale, self._good = max(1.0, self.scale / 2), 0
            return False
        self._good += 1
        if self._good >= GOOD_STEPS_TO_DOUBLE:
            self.scale, self._good = self.scale * 2, 0
        return True

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # the price of measuring, and why it is by choice
        return time.perf_counter()


def _refuse_closure(arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    closure = named.get("closure", arguments[1] if len(arguments) > 1 else None)
    if closure is not None:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "The trainer's optimiser evaluates the loss itself, and [training] accumulate is more than 1.",
            "Batches cannot be collected around an optimiser that is called with a closure, as LBFGS is.",
            "Take accumulate out of job.toml, or use an optimiser without a closure.",
        )
