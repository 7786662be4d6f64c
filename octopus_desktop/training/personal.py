"""A silo's own layers: tensors that are trained here, stay here, and are put into each model that comes in.

    Li, Jiang, Zhang, Kamp, Dou: FedBN: Federated Learning on Non-IID Features via Local Batch Normalization. ICLR 2021.
    Arivazhagan, Aggarwal, Singh, Choudhary: Federated Learning with Personalization Layers. 2019.

Which ones is said by [personal] layers (``jobs.personal``). Before a model is evaluated or trained, the silo's own
values take the place of the federation's, and after training they are written below the silo's run; the update then
leaves with the federation's own values, as they came in. One file a round, made from the newest file of an earlier one,
so a round that is trained again after a crash begins from the same values and writes the same file again. The last
evaluation uses the last round's. With several workers, the first one reads and writes, and the others get the values
from it. The files end with the run.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

from octopus_desktop.jobs.personal import personal
from octopus_desktop.training import state as files
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import make_layout, read_layout

Tensors = dict[str, torch.Tensor]
FOLDER = "layers"
KEPT_FILES = 2


class PersonalLayers:
    """The silo's own layers in one task.

    Arguments:
        patterns: the configuration's; none: this does nothing.
        state: the model's tensors, with the federation's values in them.
        keep: folder of the silo's memory of this run.

    Attributes:
        names: the tensors that are the silo's own.

    Raises:
        UserError: OCT-CONFIG-INVALID, when the patterns do not fit the model, or there is no place for the values.
    """

    def __init__(
        self, patterns: tuple[str, ...], state: Tensors, keep: Path | None, *, rank: int = 0, world_size: int = 1
    ) -> None:
        self.names = personal(patterns, state)
        self._rank, self._world_size = rank, world_size
        self._given: Tensors = {}
        if self.names and keep is None:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The job keeps layers at each silo, and there is no place for them here.",
                "The task was started without a folder for them.",
                "Run the job in a federation or with 'octopus simulate'.",
            )
        self._folder = keep / FOLDER if keep else Path()

    @torch.no_grad()
    def put_in(self, state: Tensors, before: int) -> None:
        """The silo's values after its newest round before ``before``, where it has any."""
        if not self.names:
            return
        self._given = {name: state[name].detach().clone() for name in self.names}
        if self._rank == 0 and (path := self._newest(before)):
            layout = read_layout(path)
            held = {spec.name: torch.empty(spec.shape, dtype=files.TORCH_TYPES[spec.dtype]) for spec in layout}
            files.load_into(held, path, layout)
            for name in self.names & held.keys():
                if held[name].shape == state[name].shape:
                    state[name].copy_(held[name])
        if self._world_size > 1:
            for name in sorted(self.names):
                raw = state[name].detach().contiguous().view(-1).view(torch.uint8)
                dist.broadcast(raw, 0)
                state[name].copy_(raw.view(state[name].dtype).view(state[name].shape))

    @torch.no_grad()
    def take_out(self, state: Tensors, round_: int) -> None:
        """Write the silo's values down, durable when it returns, and put the federation's back.

        Raises:
            UserError: OCT-MODEL-NAN or OCT-DISK-FULL; the values of the round before are still there then.
        """
        if not self.names:
            return
        if self._rank == 0:
            self._save({name: state[name].detach().cpu().contiguous() for name in sorted(self.names)}, round_)
        for name, given in self._given.items():
            state[name].copy_(given)

    def _save(self, tensors: Tensors, round_: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        kinds = files.signature(tensors)
        layout = make_layout([(name, *kinds[name]) for name in tensors])
        final = self._folder / f"{round_}.safetensors"
        fresh = final.with_suffix(".new")
        files.write(tensors, layout, fresh, digest=False, durable=True)
        os.replace(fresh, final)
        for _, path in sorted(self._kept())[:-KEPT_FILES]:
            path.unlink(missing_ok=True)

    def _newest(self, before: int) -> Path | None:
        earlier = [(number, path) for number, path in self._kept() if number < before]
        return max(earlier, default=(0, None))[1]

    def _kept(self) -> list[tuple[int, Path]]:
        return [(int(path.stem), path) for path in self._folder.glob("*.safetensors") if path.stem.isdigit()]
