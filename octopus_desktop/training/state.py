"""Models in and out of tensor files without a copy of the whole: read into the model's own storage, written in tiles.

The update file has exactly the layout of the model that came in, header included. Knows nothing of trainers.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, TensorSpec, make_layout, read_layout

TILE_BYTES = 1 << 20

TORCH_TYPES = {
    "F64": torch.float64, "I64": torch.int64, "F32": torch.float32, "I32": torch.int32, "F16": torch.float16,
    "BF16": torch.bfloat16, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in TORCH_TYPES.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A finished tensor file: its SHA-256 ("" when it was not asked for) and its size."""

    digest: str
    size: int


def tensors_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """All that travels: the state dict, buffers included, as references to the model's own storage.

    Raises:
        UserError: OCT-MODEL-SHAPE, when the state holds something else than tensors of known types.
    """
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor) or value.dtype not in _NAMES or value.layout != torch.strided:
            kind = f"{value.dtype} {value.layout}" if isinstance(value, torch.Tensor) else type(value).__name__
            raise _shape(f"Entry {name!r} of the state dict is {kind}; only dense tensors of common types can travel.")
    if not state:
        raise _shape("The model's state dict is empty.")
    return state


def signature(state: dict[str, torch.Tensor]) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: (_NAMES[t.dtype], tuple(t.shape)) for name, t in state.items()}


def require_fit(state: dict[str, torch.Tensor], layout: Layout, whose: str) -> None:
    """Raise OCT-MODEL-SHAPE naming the first tensor that is in one of the two only or differs in type or shape."""
    have = signature(state)
    for spec in layout:
        want = (spec.dtype, spec.shape)
        if spec.name not in have:
            raise _shape(f"{whose} lacks the tensor {spec.name!r} of the global model.")
        if have[spec.name] != want:
            got = have[spec.name]
            raise _shape(
                f"{whose} has {spec.name!r} as {got[0]} {list(got[1])}, the global model as {want[0]} {list(want[1])}."
            )
    if more := sorted(set(have) - {spec.name for spec in layout}):
        raise _shape(f"{whose} has the tensor {more[0]!r}, which the global model has not.")


def fits(state: dict[str, torch.Tensor], layout: Layout) -> bool:
    return signature(state) == {spec.name: (spec.dtype, spec.shape) for spec in layout}


@torch.no_grad()
def load_into(state: dict[str, torch.Tensor], path: Path, layout: Layout) -> None:
    """Read a file's bytes straight into the tensors' storage; only strided or device tensors need a tile in between."""
    with path.open("rb", buffering=0) as file:
        for spec in layout:
            target = state[spec.name]
            file.seek(spec.begin)
            if target.device.type == "cpu" and target.is_contiguous() and not is_shard(target):
                _read_full(file, _bytes(target), path)
                continue
            values = torch.empty(spec.elements, dtype=target.dtype)
            _read_full(file, _bytes(values), path)
            if is_shard(target):
                _load_shard(target, values.view(spec.shape))
            else:
                target.copy_(values.view(spec.shape))


def is_shard(tensor: torch.Tensor) -> bool:
    """Whether other ranks hold the rest of it (a DTensor; looked at so, since its module is slow to import)."""
    return hasattr(tensor, "full_tensor")


def _load_shard(target: Any, whole: torch.Tensor) -> None:
    from torch.distributed.tensor import distribute_tensor

    if whole.device != target.device:
        whole = whole.to(target.device)
    own = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)  # without a message
    target.to_local().copy_(own.to_local())


@torch.no_grad()
def write(
    state: dict[str, torch.Tensor],
    layout: Layout,
    out: Path,
    *,
    base: Path | None = None,
    digest: bool = True,
    durable: bool = False,
    what: str = "update",
) -> Written:
    """Write the tensors in a layout's order; with ``base``, their difference to that file (same layout). Booleans have
    no difference and are written as they are. ``what``: for errors.

    Raises:
        UserError: OCT-MODEL-NAN when a value is NaN or infinite, OCT-DISK-FULL. No file is left then.
    """
    sha = hashlib.sha256() if digest else None
    before = base.open("rb", buffering=0) if base else None
    done = False
    try:
        with disk_errors(out), out.open("wb", buffering=0) as file:
            for view in _bytes_of(state, layout, before, what):
                if sha:
                    sha.update(view)
                _write_full(file, view)
            if durable:
                os.fsync(file.fileno())
        done = True
    finally:
        if before:
            before.close()
        if not done:
            out.unlink(missing_ok=True)
    return Written(digest=sha.hexdigest() if sha else "", size=layout.size)


class Held:
    """A tensor file in memory: its layout, and each tensor as a view into one block. Read-only by agreement.

    Attributes:
        tensors: by name, in the file's order.
        floating: the same bytes as flat tensors, one for all neighbours of one floating type.
    """

    def __init__(self, layout: Layout, body: torch.Tensor) -> None:
        """``body``: uint8, the bytes behind the header."""
        self.layout, self.body = layout, body
        first = layout.tensors[0].begin if layout.tensors else 0
        self.tensors = {
            t.name: body[t.begin - first : t.end - first].view(TORCH_TYPES[t.dtype]).view(t.shape) for t in layout
        }
        self.floating = [
            body[begin - first : end - first].view(TORCH_TYPES[dtype]) for dtype, begin, end in _floating(layout)
        ]

    @classmethod
    def read(cls, path: Path) -> Held:
        layout = read_layout(path)
        body = torch.empty(body_bytes(layout), dtype=torch.uint8)
        with path.open("rb", buffering=0) as file:
            file.seek(len(layout.header))
            _read_full(file, _bytes(body), path)
        return cls(layout, body)


def _floating(layout: Layout) -> list[tuple[str, int, int]]:
    """(type, first byte, last byte + 1) of neighbours that share a floating type."""
    runs: list[tuple[str, int, int]] = []
    for t in layout:
        if not TORCH_TYPES[t.dtype].is_floating_point:
            continue
        if runs and runs[-1][0] == t.dtype and runs[-1][2] == t.begin:
            runs[-1] = (t.dtype, runs[-1][1], t.end)
        else:
            runs.append((t.dtype, t.begin, t.end))
    return runs


def body_bytes(layout: Layout) -> int:
    return layout.size - len(layout.header)


def holdable(layout: Layout) -> bool:
    """Whether every tensor lies where a view of its type can begin, counted from the end of the header."""
    first = len(layout.header)
    return all((t.begin - first) % TORCH_TYPES[t.dtype].itemsize == 0 for t in layout if t.dtype in TORCH_TYPES)


@torch.no_grad()
def load_held(state: dict[str, torch.Tensor], held: Held) -> None:
    torch._foreach_copy_([state[name] for name in held.tensors], list(held.tensors.values()))


@torch.no_grad()
def write_held(state: dict[str, torch.Tensor], out: Held, base: Held | None = None) -> None:
    """As ``write``, into memory. Raises OCT-MODEL-NAN."""
    for name, target in out.tensors.items():
        value = state[name]
        if base is not None and value.dtype != torch.bool:
            torch.sub(value.detach().to(target.device), base.tensors[name], out=target)
        else:
            target.copy_(value)
    if not all(_finite(run) for run in out.floating):
        for spec in out.layout:
            _require_finite(out.tensors[spec.name], spec)


def write_model(model: nn.Module, out: Path) -> Written:
    """A model as a fresh tensor file, in the order of its state dict."""
    state = tensors_of(model)
    layout = make_layout([(name, _NAMES[t.dtype], tuple(t.shape)) for name, t in state.items()])
    return write(state, layout, out, durable=True)


def _bytes_of(state: dict[str, torch.Tensor], layout: Layout, before: Any, what: str) -> Iterator[memoryview]:
    yield memoryview(layout.header)
    for spec in layout:
        flat = state[spec.name].detach().reshape(-1)
        items = max(1, TILE_BYTES // flat.element_size())
        for start in range(0, flat.numel(), items):
            tile = flat[start : start + items].cpu()
            if before is not None and tile.dtype != torch.bool:
                base = torch.empty_like(tile)
                before.seek(spec.begin + start * tile.element_size())
                _read_full(before, _bytes(base), Path("the global model"))
                tile = torch.sub(tile, base, out=base)
            _require_finite(tile, spec, what)
            yield _bytes(tile)


def _require_finite(tile: torch.Tensor, spec: TensorSpec, what: str = "update") -> None:
    if not tile.is_floating_point() or _finite(tile):
        return
    raise UserError(
        "OCT-MODEL-NAN",
        f"The {what} holds NaN or infinity in the tensor {spec.name!r}.",
        "The local training diverged, often by too large a learning rate or by unscaled inputs.",
        "Nothing was sent. Ask the job's author to correct the training.",
    )


def _finite(values: torch.Tensor) -> bool:
    """A sum carries every NaN and infinity at a quarter of isfinite's cost; it may overflow by itself, so ask again."""
    return math.isfinite(values.sum().item()) or bool(torch.isfinite(values).all())


def _bytes(tensor: torch.Tensor) -> memoryview:
    """The storage of a contiguous CPU tensor, writable, without a copy."""
    flat: Any = tensor.detach().reshape(-1).view(torch.uint8).numpy()
    return memoryview(flat).cast("B")


def _read_full(file: Any, view: memoryview, path: Path) -> None:
    while len(view):
        count = file.readinto(view)
        if not count:
            raise _shape(f"{path.name[:16]} ended before its last tensor.")
        view = view[count:]


def _write_full(file: Any, view: memoryview) -> None:
    while len(view):
        view = view[file.write(view) :]


def _shape(why: str) -> UserError:
    return UserError(
        "OCT-MODEL-SHAPE",
        "The model does not have the agreed form.",
        why,
        "The package must build the same model in every silo and keep its shapes while training.",
    )


__all__ = ["Held", "Written", "fits", "load_into", "read_layout", "require_fit", "tensors_of", "write", "write_model"]
