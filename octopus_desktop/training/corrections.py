"""What a strategy asks of the local steps: terms added to every gradient, and a silo's own memory of earlier rounds.

The job's code does not change: a hook in front of each optimiser step adds the terms to the gradients (after
data-parallel averaging, so each worker adds the same). Words of ``Strategy.configure`` that are understood:

    proximal μ     g + μ (y − x)                        Li et al. 2020, FedProx, equation 2
    scaffold       g − c_k + c                          Karimireddy et al. 2020, Algorithm 1; c comes with the task
    dynamic α      g − h_k + α (y − x)                  Acar et al. 2021, FedDyn, Algorithm 1
    mime {…}       ((1 − β₁) g + β₁ m) / (√v + τ)       Karimireddy et al. 2021, Mime, Algorithm 1; m and v come with
                                                        the task; without ``tau`` there is no division. ``corrected``:
                                                        g is ∇f(y; ζ) − ∇f(x; ζ) + c, from the first task with c on
    steps n        training ends after n steps
    passes n       training ends after n passes over the data of the first ``ctx.loader``
    full_batch     ``ctx.loader`` gives all examples as one batch
    returns […]    "gradient": the gradient over all examples at x goes back as well (``training.gradient``)

``x``: the global model that came in, ``y``: the local model, ``g``: its gradient. c_k and h_k are the silo's memory:
one file a round below ``keep``, made from the newest file of an earlier round. So a round that is trained again after a
crash begins from the same memory and writes the same file again. Rank 0 reads and writes it; the other workers, which
may be on other machines, get it from there when a task begins. The memory advances with each round that the silo
trained, whether or not its answer was counted, and ends with the run.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from octopus_desktop.training import state as files
from octopus_desktop.training.anchored import Anchor
from octopus_desktop.training.steps import Enough, Steps
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import make_layout, read_layout

Tensors = dict[str, torch.Tensor]
KEPT_FILES = 2


class Corrections:
    """The terms of one training task. Use as a context manager around the trainer's ``train``.

    Arguments:
        words: the strategy's, of this round.
        model: holds the global weights now.
        shared: name to file of the strategy's state that came with the task; what is missing counts as zeros.
        keep: folder of the silo's memory; None where nothing is kept (and then no word may ask for it).
        pace: says which of an optimiser's calls are steps; None: all.
        own: names of parameters that are the silo's own, and none of the strategy's.
        rank, world_size: of this worker; rank 0 alone has the silo's memory, and gives it to the others.

    Attributes:
        steps: optimiser steps so far. rate_sum: the sum of their learning rates (Σ η over steps).
        anchor: what the loss at x is had from, where the strategy corrects steps by it; else None.
    """

    def __init__(
        self,
        words: Mapping[str, Any],
        model: nn.Module,
        shared: Mapping[str, Path],
        keep: Path | None,
        round: int,
        pace: Steps | None = None,
        own: Collection[str] = (),
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._pace = pace
        self.steps, self.rate_sum = 0, 0.0
        self._limit = int(words.get("steps", 0))
        self._proximal = float(words.get("proximal", 0.0))
        self._dynamic = float(words.get("dynamic", 0.0))
        self._scaffold = bool(words.get("scaffold", False))
        self._mime: Mapping[str, Any] = words.get("mime", {})
        self._momentum: Tensors = {}
        self._divisor: Tensors = {}
        self.anchor: Anchor | None = None
        self._keep, self._round = keep, round
        self._parameters = {name: p for name, p in model.named_parameters() if name not in own}
        self._names = {id(p): name for name, p in self._parameters.items()}
        self._start: Tensors = {}
        self._own: Tensors = {}
        self._common: Tensors = {}
        self._handles: list[Any] = []
        if self._proximal or self._dynamic or self._scaffold:
            self._start = {name: p.detach().clone() for name, p in self._parameters.items()}
        if self._dynamic or self._scaffold:
            newest = self._newest()
            self._own = self._load(newest if rank == 0 else None)
            for tensor in self._own.values() if world_size > 1 else ():
                dist.broadcast(tensor, 0)
        if self._scaffold:
            self._common = self._load(shared.get("c"))
        if self._mime:
            self._momentum = self._load(shared.get("m"))
            if tau := float(self._mime.get("tau", 0.0)):
                second = self._load(shared.get("v"), tau**2)
                self._divisor = {name: v.sqrt_().add_(tau) for name, v in second.items()}
            if self._mime.get("corrected") and "c" in shared:
                self._common = self._load(shared["c"])
                start = {name: p.detach().clone() for name, p in model.named_parameters()}
                self.anchor = Anchor(start, frozenset(own))

    def __enter__(self) -> Corrections:
        self._handles = [register_optimizer_step_pre_hook(self._before), register_optimizer_step_post_hook(self._after)]
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        for handle in self._handles:
            handle.remove()
        return kind is Enough

    def remember(self) -> None:
        """Write the silo's memory of this round. By one worker, after training; durable when it returns."""
        if not self._own:
            return
        with torch.no_grad():
            new: Tensors = {}
            for name, p in self._parameters.items():
                way = p.detach() - self._start[name]
                if self._scaffold:  # option II: c_k − c + (x − y) / Σ η
                    new[name] = self._own[name] - self._common[name]
                    if self.rate_sum > 0:
                        new[name] -= way / self.rate_sum
                else:  # h_k − α (y − x)
                    new[name] = self._own[name] - self._dynamic * way
        self._save({name: t.float().cpu().contiguous() for name, t in new.items()})

    # the hooks

    @torch.no_grad()
    def _before(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        if not self._start and not self._mime:
            return
        pull = self._proximal + self._dynamic
        for group in optimiser.param_groups:
            for p in group["params"]:
                name = self._names.get(id(p))
                if name is None or p.grad is None:
                    continue
                if pull:
                    p.grad.add_(p.detach() - self._start[name], alpha=pull)
                if self._own:
                    p.grad.sub_(self._own[name])
                if self._common:
                    p.grad.add_(self._common[name])
                if self._mime:
                    beta = float(self._mime["beta1"])
                    p.grad.mul_(1.0 - beta).add_(self._momentum[name], alpha=beta)
                if self._divisor:
                    p.grad.div_(self._divisor[name])

    def _after(self, optimiser: torch.optim.Optimizer, *_: object) -> None:
        if self._pace and self._pace.holding:
            return
        self.steps += 1
        self.rate_sum += float(optimiser.param_groups[0].get("lr", 0.0))
        if self._limit and self.steps >= self._limit:
            raise Enough

    # files

    def _load(self, path: Path | None, otherwise: float = 0.0) -> Tensors:
        """A file's tensors for the model's parameters; ``otherwise`` where it has none."""
        found = {name: torch.full_like(p, otherwise) for name, p in self._parameters.items()}
        if path is not None:
            layout = read_layout(path)
            held = {spec.name: torch.empty(spec.shape, dtype=files.TORCH_TYPES[spec.dtype]) for spec in layout}
            files.load_into(held, path, layout)
            for name, tensor in found.items():
                if name in held and held[name].shape == tensor.shape:
                    tensor.copy_(held[name])
        return found

    def _newest(self) -> Path | None:
        """The memory after the newest round before this one."""
        before = [(number, path) for number, path in self._kept() if number < self._round]
        return max(before, default=(0, None))[1]

    def _kept(self) -> list[tuple[int, Path]]:
        if self._keep is None:
            raise UserError(
                "OCT-STRATEGY-PARAMETER",
                "The strategy keeps a memory at each silo, and there is no place for it here.",
                "The task was started without a folder for it.",
                "Run the job in a federation or with 'octopus simulate'.",
            )
        self._keep.mkdir(parents=True, exist_ok=True)
        return [(int(path.stem), path) for path in self._keep.glob("*.safetensors") if path.stem.isdigit()]

    def _save(self, tensors: Tensors) -> None:
        assert self._keep is not None
        layout = make_layout([(name, "F32", tuple(t.shape)) for name, t in tensors.items()])
        final = self._keep / f"{self._round}.safetensors"
        fresh = final.with_suffix(".new")
        files.write(tensors, layout, fresh, digest=False, durable=True)
        os.replace(fresh, final)
        for _, path in sorted(self._kept())[:-KEPT_FILES]:
            path.unlink(missing_ok=True)
