"""From an update to the file that leaves: its difference to the model, plus what earlier rounds left out, encoded.

Reads and writes tile by tile, in one thread. Knows files, and nothing of rounds or silos.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from octopus_desktop.aggregation.encodings.base import TILE_ELEMENTS, Encoding, Plan, make_plan
from octopus_desktop.aggregation.files import read_full, write_full
from octopus_desktop.aggregation.numbers import WORK_TYPE, Array, stored_type, widen
from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, TensorSpec, read_layout, require_same

COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Bytes of the encoded file, and of the update that it stands for."""

    size: int
    full_size: int


def encode(
    encoding: Encoding,
    *,
    update: Path,
    base: Path,
    kind: str,
    out: Path,
    before: Path | None = None,
    after: Path | None = None,
) -> Encoded:
    """Write an update's encoded form to ``out``, and to ``after`` what the encoding left out of it.

    Args:
        base: the global model that came in. kind: "weights" or "difference": what ``update`` holds.
        before: what was left out until now; None for nothing. after: None when it is not to be kept.

    Both files are new and are not forced to the disk; neither is left when this raises.

    Raises:
        UserError: OCT-MODEL-SHAPE when update and model do not agree; OCT-MODEL-NAN; OCT-ENCODING-BAD when a value is
            too large for the encoding, or ``before`` belongs to another model; OCT-DISK-FULL.
    """
    model = read_layout(base)
    require_same(model, read_layout(update), "The update")
    plan = make_plan(encoding, model)
    if before is not None:
        _require_residual(plan, before)
    try:
        with ExitStack() as stack:
            work = _Work(plan, kind, update, base, out, before, after, stack)
            for spec in model:
                work.encode(spec) if spec.name in plan.parts else work.copy(spec)
    except BaseException:
        for path in (out, after):
            if path:
                path.unlink(missing_ok=True)
        raise
    return Encoded(size=plan.layout.size, full_size=model.size)


class _Work:
    def __init__(
        self,
        plan: Plan,
        kind: str,
        update: Path,
        base: Path,
        out: Path,
        before: Path | None,
        after: Path | None,
        stack: ExitStack,
    ) -> None:
        self._plan, self._kind = plan, kind
        self._update, self._base = _open(update, stack), _open(base, stack)
        self._before = _open(before, stack) if before else None
        self._out_path, self._out = out, _create(out, plan.layout, stack)
        self._after = _create(after, plan.residual, stack) if after else None
        self._places = {spec.name: spec.begin for spec in plan.layout}
        self._residual = {spec.name: spec for spec in plan.residual}
        self._buffers = [np.empty(TILE_ELEMENTS * 8, np.uint8) for _ in range(5)]

    def copy(self, spec: TensorSpec) -> None:
        """A tensor that passes as it is."""
        at = self._places[spec.name]
        for start in range(0, spec.end - spec.begin, COPY_BYTES):
            part = np.empty(min(COPY_BYTES, spec.end - spec.begin - start), np.uint8)
            read_full(self._update, part, spec.begin + start)
            self._write(self._out, part, at + start)

    def encode(self, spec: TensorSpec) -> None:
        parts = self._plan.parts[spec.name]

        def put(number: int, start: int, values: Array) -> None:
            self._write(self._out, values, parts[number].begin + start * values.itemsize)

        def keep(start: int, left_out: Array) -> None:
            if self._after is not None:
                self._write(self._after, left_out, self._residual[spec.name].begin + start * left_out.itemsize)

        wanted = keep if self._after is not None else None
        self._plan.encoding.encode(spec, lambda: self._tiles(spec), put, wanted)

    def _tiles(self, spec: TensorSpec) -> Iterator[tuple[int, Array]]:
        """Δ + e, in buffers that are used again."""
        stored, kind = stored_type(spec.dtype), WORK_TYPE[spec.dtype]
        kept = self._residual[spec.name]
        for start in range(0, spec.elements, TILE_ELEMENTS):
            count = min(TILE_ELEMENTS, spec.elements - start)
            raw, other = (buffer.view(stored)[:count] for buffer in self._buffers[:2])
            wide, model, tile = (buffer.view(kind)[:count] for buffer in self._buffers[2:])
            at = spec.begin + start * stored.itemsize
            read_full(self._update, raw, at)
            sent = widen(raw, spec.dtype, wide)
            with np.errstate(all="ignore"):
                if self._kind == "weights":
                    read_full(self._base, other, at)
                    np.subtract(sent, widen(other, spec.dtype, model), out=tile)
                else:
                    np.copyto(tile, sent)
                if self._before is not None:
                    read_full(self._before, wide, kept.begin + start * wide.itemsize)
                    np.add(tile, wide, out=tile)
            yield start, tile

    def _write(self, fd: int, values: Array, at: int) -> None:
        with disk_errors(self._out_path):
            write_full(fd, np.ascontiguousarray(values).data.cast("B"), at)


def _require_residual(plan: Plan, before: Path) -> None:
    if read_layout(before).header != plan.residual.header:
        raise UserError(
            "OCT-ENCODING-BAD",
            "What earlier rounds left out of the updates does not fit the model.",
            f"{before.name} was kept for other tensors.",
            "The model changed its form within the run; start a new run.",
        )


def _open(path: Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    stack.callback(os.close, fd)
    return fd


def _create(path: Path, layout: Layout, stack: ExitStack) -> int:
    with disk_errors(path):
        path.unlink(missing_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        stack.callback(os.close, fd)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, layout.size)  # a full disk shows before the work
        write_full(fd, memoryview(layout.header), 0)
    return fd
