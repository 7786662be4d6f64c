"""Where a tile lies in the memory that the fold and a strategy's process both see. Knows no process.

Each lane has cells of one tile's length: the model's elements, the result, one for each slot, and a window of updates.
The file behind it cannot change its size, so neither side can pull it away from under the other.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from octopus_desktop.aggregation.numbers import Array

KINDS = ("float32", "float64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """``slots``: names, in the order of their cells. ``window``: updates that are there at a time."""

    lanes: int
    slots: tuple[str, ...]
    window: int
    cell_bytes: int

    @property
    def lane_bytes(self) -> int:
        return (2 + len(self.slots) + self.window) * self.cell_bytes

    @property
    def size(self) -> int:
        return self.lanes * self.lane_bytes


class Cells:
    """One lane's cells in the shared memory."""

    def __init__(self, plan: Plan, lane: int, memory: mmap.mmap) -> None:
        self._plan, self._memory, self._first = plan, memory, lane * plan.lane_bytes

    def current(self, kind: str, length: int) -> Array:
        return self._cell(0, kind, length)

    def out(self, kind: str, length: int) -> Array:
        return self._cell(1, kind, length)

    def slot(self, name: str, kind: str, length: int) -> Array:
        return self._cell(2 + self._plan.slots.index(name), kind, length)

    def update(self, place: int, kind: str, length: int) -> Array:
        return self._cell(2 + len(self._plan.slots) + place, kind, length)

    def products(self, count: int) -> Array:
        """(count, count), float64, over the window's first cells."""
        first = self._first + (2 + len(self._plan.slots)) * self._plan.cell_bytes
        flat: Array = np.frombuffer(self._memory, np.float64, count * count, first)
        return flat.reshape(count, count)

    def _cell(self, number: int, kind: str, length: int) -> Array:
        dtype: np.dtype[Any] = np.dtype(kind)
        if length * dtype.itemsize > self._plan.cell_bytes:
            raise ValueError(f"a tile of {length} elements")
        return np.frombuffer(self._memory, dtype, length, self._first + number * self._plan.cell_bytes)


def shared_file(size: int) -> int:
    """A file descriptor of zeros, with no name anywhere, whose size stays as it is."""
    if not hasattr(os, "memfd_create"):
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            return os.dup(file.fileno())
    import fcntl  # there where memfd_create is

    fd = os.memfd_create("octopus-strategy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return fd
