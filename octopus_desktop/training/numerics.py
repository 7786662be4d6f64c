"""What [training] in job.toml says of arithmetic, put around a trainer that need not know: autocast, ``torch.compile``,
and the pace of optimiser steps. Knows no files, no processes, no strategy."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from octopus_desktop.jobs.manifest import Training
from octopus_desktop.training.steps import Steps

if TYPE_CHECKING:
    from octopus_desktop.training.sdk import Reporter


class Numerics:
    """A job's wishes on one device."""

    def __init__(self, training: Training, device: torch.device, report: Reporter) -> None:
        self._training, self._device, self._report = training, device, report
        self._type = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(training.precision)
        if training.precision == "fp16" and device.type != "cuda":
            self._type = None
            report.log("warning", "The job asks for float16, which is for GPUs: this worker computes in float32.")
        self._compile = training.compile
        if self._compile and device.type == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
            self._compile = False
            report.log(
                "warning", "The job asks to compile its model, and there is no C++ compiler: it is run as it is."
            )

    def autocast(self) -> AbstractContextManager[Any]:
        """Around the trainer's ``train`` or ``evaluate`` as a whole. Without torch's cache of cast weights: it lives as
        long as the context, and would give the weights of the first step to all others."""
        if self._type is None:
            return contextlib.nullcontext()
        return torch.autocast(self._device.type, dtype=self._type, cache_enabled=False)

    def compiled(self, model: nn.Module) -> Any:
        return torch.compile(model) if self._compile else model

    def steps(self, world_size: int, shares: Sequence[float], measure: bool) -> Steps:
        return Steps(self._training, world_size=world_size, shares=tuple(shares), device=self._device, measure=measure)
