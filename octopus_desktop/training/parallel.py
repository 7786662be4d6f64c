"""One model on all workers of a silo: whole on each (DistributedDataParallel), or in shards (FSDP2). Knows no tasks, no
strategy, no processes; the caller has made the process group.

Sharded ([training] parallel = "fsdp"; Zhao et al. 2023, PyTorch FSDP): each worker holds its part of each parameter,
and of the optimiser's state, and the layers come together one after the other as they are needed. The model is built
in the host's memory, as the job's code says; from then on a worker's device holds its shards and the largest layer,
and loading and gathering hold one whole tensor at a time. The first worker alone writes. All workers evaluate all
examples, since they must call the model equally often.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import state as files
from octopus_desktop.training.sdk import ClientTrainer
from octopus_desktop.training.steps import Steps
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout


class Parallel:
    """How one rank's model and those of the others are one.

    Attributes:
        sharded: this rank has shards alone.
        passes: forward passes for training that this rank began since the last ``wrapped``; nought when it is alone.
    """

    def __init__(self, config: RunConfig, device: torch.device, rank: int, world_size: int) -> None:
        self._config, self._device, self._rank, self._world_size = config, device, rank, world_size
        self.sharded = config.training.parallel == "fsdp" and world_size > 1
        self.passes = 0

    def require_plain(self, words: dict[str, Any], shares: tuple[float, ...]) -> None:
        """Raise OCT-CONFIG-INVALID for what shards cannot do."""
        asked = {
            "shares that are not equal": bool(shares),
            "personal layers": self._config.is_personal,
            f"the strategy {self._config.strategy}, which keeps a memory at each silo": bool(
                words.get("scaffold") or words.get("dynamic")
            ),
            f"the strategy {self._config.strategy}, which steps by state of the server": bool(words.get("mime")),
        }
        if self.sharded and (wrong := [what for what, is_asked in asked.items() if is_asked]):
            raise UserError(
                "OCT-CONFIG-INVALID",
                f'[training] parallel = "fsdp" does not go together with {wrong[0]}.',
                "They need the whole model on each worker.",
                'Take parallel = "fsdp" out of job.toml, or choose otherwise for the rest.',
            )

    def spread(self, model: nn.Module) -> None:
        """Leave this rank's shards of a fresh model, where the job wants that: each layer of a list or sequence as one
        piece, and the rest as another."""
        if not self.sharded:
            return
        from torch.distributed.fsdp import fully_shard

        layers = [
            layer
            for several in model.modules()
            if isinstance(several, nn.ModuleList | nn.Sequential)
            for layer in several
            if not isinstance(layer, nn.ModuleList | nn.Sequential) and any(True for _ in layer.parameters())
        ]
        mesh = dist.init_device_mesh(self._device.type, (self._world_size,))  # type: ignore[attr-defined]
        for layer in dict.fromkeys(layers):
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        model.register_forward_pre_hook(self._count)

    def wrapped(
        self, model: nn.Module, trainer: ClientTrainer, pace: Steps, compiled: Callable[[nn.Module], Any]
    ) -> Any:
        """What the trainer gets. A fresh DDP for every task: its buckets are re-ordered after the first step, which a
        warm one would keep and a restarted worker would not have."""
        self.passes = 0
        if self.sharded:
            pace.take_as_averaged()
            return compiled(model)
        if self._world_size == 1 or not any(p.requires_grad for p in model.parameters()):
            return compiled(model)
        parallel = DistributedDataParallel(
            model,
            device_ids=[self._device] if self._device.type == "cuda" else None,
            find_unused_parameters=trainer.find_unused_parameters,
        )
        pace.attach(parallel)
        made = compiled(parallel)
        made.register_forward_pre_hook(self._count)
        return made

    def _count(self, module: nn.Module, _: object) -> None:
        self.passes += module.training and torch.is_grad_enabled()

    def evenly(self, wrapped: Any, trainer: ClientTrainer, pace: Steps) -> AbstractContextManager[Any]:
        """Around a trainer that says that its ranks may take unequal numbers of steps: who has finished follows the
        others' steps with gradients of nought."""
        if not trainer.uneven_steps or self._world_size == 1:
            return nullcontext()
        parallel = getattr(wrapped, "_orig_mod", wrapped)
        if pace.listening or not isinstance(parallel, DistributedDataParallel):
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The trainer takes unequal numbers of steps, and its steps are to be split, collected or sharded.",
                "Workers that do not keep step cannot share a step.",
                "Take accumulate, shares and parallel out of [training], or uneven_steps out of the trainer.",
            )
        return parallel.join()  # type: ignore[no-any-return]

    def write(
        self, state: dict[str, torch.Tensor], layout: Layout, out: Path, base: Path | None, digest: bool, durable: bool
    ) -> files.Written | None:
        """The whole model's file, by rank 0; the others have a part in gathering it."""
        whole = _Whole(state) if self.sharded else state
        if self._rank == 0:
            return files.write(whole, layout, out, base=base, digest=digest, durable=durable)
        if self.sharded:
            for spec in layout:
                whole[spec.name]
        return None


class _Whole(dict[str, torch.Tensor]):
    """Sharded tensors, each gathered when it is asked for, and let go with the next. All ranks ask in one order."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__(state)
        self._last: tuple[str, torch.Tensor] | None = None

    def __getitem__(self, name: str) -> torch.Tensor:
        if self._last is None or self._last[0] != name:
            self._last = None
            tensor = super().__getitem__(name)
            self._last = (name, tensor.full_tensor() if files.is_shard(tensor) else tensor)  # type: ignore[attr-defined]
        return self._last[1]


def gather_json(value: Any, world_size: int, group: Any) -> list[Any]:
    """Each rank's value, in ranks' order, as JSON bytes in tensors: torch's own object gather would unpickle."""
    raw = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size)]
    dist.all_gather(lengths, torch.tensor([len(raw)]), group=group)
    longest = max(int(n) for n in lengths)
    padded = torch.zeros(longest, dtype=torch.uint8)
    padded[: len(raw)] = raw
    parts = [torch.empty(longest, dtype=torch.uint8) for _ in range(world_size)]
    dist.all_gather(parts, padded, group=group)
    return [json.loads(bytes(p[: int(n)].tolist())) for p, n in zip(parts, lengths, strict=True)]
