"""How the fold reads one silo's update: by places in the global model's file, whether it is encoded or not.

Several threads may read one source at a time, each into arrays of its own.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from octopus_desktop.aggregation.encodings.base import Bad, Encoding, Plan, bad, make_plan, require_plan
from octopus_desktop.aggregation.files import read_full
from octopus_desktop.aggregation.numbers import Array, stored_type, widen
from octopus_desktop.wire.tensors import Layout, TensorSpec, read_layout, require_same


class Source(Protocol):
    def floating(self, dtype: str, at: int, raw: Array, wide: Array, base: Array | None) -> Array:
        """The elements at byte ``at`` of the model's layout, as numbers to compute with: as many as ``raw`` holds.

        Gives ``raw`` or ``wide``, which are buffers of the stored and of the computed type. ``base``: the global
        model's elements, where an encoded difference is to become weights.
        Raises UserError OCT-ENCODING-BAD for an encoded file whose codes are unsound.
        """
        ...

    def stored(self, at: int, into: Array) -> None:
        """Integer or boolean elements, as they are."""
        ...


class Plain:
    """An update in the model's own layout. Raises UserError OCT-MODEL-SHAPE when it is not."""

    def __init__(self, model: Layout, path: Path, whose: str, stack: ExitStack) -> None:
        require_same(model, read_layout(path), whose)
        self._shift = read_layout(path).tensors[0].begin - model.tensors[0].begin if model.tensors else 0
        self._file = open_sequential(path, stack)

    def floating(self, dtype: str, at: int, raw: Array, wide: Array, base: Array | None) -> Array:
        read_full(self._file, raw, at + self._shift)
        return widen(raw, dtype, wide)

    def stored(self, at: int, into: Array) -> None:
        read_full(self._file, into, at + self._shift)


class InMemory:
    """An update in the model's own layout, in this process's memory. ``body``: the bytes behind the header."""

    def __init__(self, layout: Layout, body: memoryview) -> None:
        self._bytes, self._first = np.frombuffer(body, np.uint8), len(layout.header)

    def floating(self, dtype: str, at: int, raw: Array, wide: Array, base: Array | None) -> Array:
        self.stored(at, raw)
        return widen(raw, dtype, wide)

    def stored(self, at: int, into: Array) -> None:
        view = into.view(np.uint8)
        np.copyto(view, self._bytes[at - self._first : at - self._first + len(view)])


class Decoded:
    """An encoded update, decoded while it is read: no decoded copy is made anywhere.

    Raises:
        UserError: OCT-ENCODING-BAD naming the tensor and what is wrong with it.
    """

    def __init__(self, plan: Plan, path: Path, whose: str, stack: ExitStack) -> None:
        self._plan, self._whose = plan, whose
        require_plan(plan, read_layout(path), whose)
        self._tensors = [spec for spec in plan.model if spec.elements]
        self._begins = [spec.begin for spec in self._tensors]
        self._places = {spec.name: spec.begin for spec in plan.layout}
        self._file = open_sequential(path, stack)
        self._known: dict[str, Any] = {}
        for spec in self._tensors:
            if spec.name in plan.parts:
                try:
                    self._known[spec.name] = plan.encoding.check(spec, self._get(spec))
                except Bad as error:
                    raise self._bad(spec, error) from error

    def floating(self, dtype: str, at: int, raw: Array, wide: Array, base: Array | None) -> Array:
        for spec, start, count, where in self._pieces(dtype, at, len(raw)):
            out = wide[where : where + count]
            if spec.name in self._plan.parts:
                try:
                    self._plan.encoding.decode(spec, self._known[spec.name], self._get(spec), start, out)
                except Bad as error:
                    raise self._bad(spec, error) from error
                if base is not None:
                    np.add(base[where : where + count], out, out=out)
                continue
            part = raw[where : where + count]
            read_full(self._file, part, self._places[spec.name] + start * part.itemsize)
            if (values := widen(part, dtype, out)) is not out:
                np.copyto(out, values)
        return wide[: len(raw)]

    def stored(self, at: int, into: Array) -> None:
        view = into.view(np.uint8)
        for spec, start, count, where in self._pieces("U8", at, len(view)):
            read_full(self._file, view[where : where + count], self._places[spec.name] + start)

    def _pieces(self, dtype: str, at: int, count: int) -> Iterator[tuple[TensorSpec, int, int, int]]:
        """(tensor, its first element, how many, where they go) for ``count`` elements of this type from byte ``at``."""
        item, where = stored_type(dtype).itemsize, 0
        number = bisect_right(self._begins, at) - 1
        while where < count:
            spec = self._tensors[number]
            start = (at - spec.begin) // item + where
            take = min(count - where, (spec.end - spec.begin) // item - start)
            yield spec, start, take, where
            where, number = where + take, number + 1

    def _get(self, spec: TensorSpec) -> Any:
        parts = self._plan.parts[spec.name]

        def get(number: int, start: int, count: int) -> Array:
            stored = stored_type(parts[number].dtype)
            values = np.empty(count, stored)
            read_full(self._file, values, parts[number].begin + start * stored.itemsize)
            return values

        return get

    def _bad(self, spec: TensorSpec, error: Bad) -> Any:
        return bad(self._whose, f"Tensor {spec.name!r}: {error}")


def open_source(model: Layout, encoding: Encoding | None, path: Path, whose: str, stack: ExitStack) -> Source:
    """Raises UserError OCT-MODEL-SHAPE or OCT-ENCODING-BAD when the file is not what was agreed."""
    if encoding is None:
        return Plain(model, path, whose, stack)
    return Decoded(make_plan(encoding, model), path, whose, stack)


def open_sequential(path: Path, stack: ExitStack) -> int:
    fd = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    stack.callback(os.close, fd)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
    return fd
