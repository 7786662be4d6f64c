"""topk: of each tensor only the elements that change most, with their places; the others wait in the error feedback.

    C(x)_i = x_i where |x_i| is among the k largest of the tensor, else 0          k = max(1, round(fraction n))
    ‖x - C(x)‖² <= (1 - k / n) ‖x‖²

    Aji, Heafield: Sparse Communication for Distributed Gradient Descent. EMNLP 2017, section 3.
    Stich, Cordonnier, Jaggi: Sparsified SGD with Memory. NeurIPS 2018, Definition 2.1 and Lemma A.1.
    Lin, Han, Mao, Wang, Dally: Deep Gradient Compression. ICLR 2018, section 3.1.

Exact over the whole tensor, in bounded memory: the bits of |x| as float32 are ordered as the numbers are, so that two
histograms over 16 bits each (a radix selection) name the k-th largest. Of equal ones the first in order are taken.
Values are float32 or float16; what that rounding leaves out goes to the error feedback too.
"""

from __future__ import annotations

import numpy as np

from octopus_desktop.aggregation.encodings.base import TILE_ELEMENTS, Bad, Get, Keep, Part, Put, Tiles, require_held
from octopus_desktop.aggregation.numbers import Array, stored_type
from octopus_desktop.wire.tensors import TensorSpec

TYPES = {"fp32": "F32", "fp16": "F16"}
MOST_ELEMENTS = 2**31 - 1
STRIDE = 1 << 16  # one known place for so many elements
_INFINITE = 0x7F80  # the upper half of float32's infinity; NaN is above


class TopK:
    name = "topk"

    def __init__(self, *, fraction: float = 0.01, values: str = "fp32", feedback: bool = True) -> None:
        self.fraction, self.feedback = fraction, feedback
        self._dtype = TYPES[values]
        self._stored = stored_type(self._dtype)

    def count(self, elements: int) -> int:
        """How many of a tensor's elements are sent."""
        return max(1, round(self.fraction * elements))

    def parts(self, spec: TensorSpec) -> tuple[Part, ...]:
        if spec.elements > MOST_ELEMENTS:
            raise Bad(f"it has {spec.elements} elements, and an index reaches to {MOST_ELEMENTS}")
        count = self.count(spec.elements)
        return (
            Part(suffix=":index", dtype="I32", shape=(count,)),
            Part(suffix=":value", dtype=self._dtype, shape=(count,)),
        )

    def encode(self, spec: TensorSpec, tiles: Tiles, put: Put, keep: Keep | None) -> None:
        least, ties = self._threshold(spec, tiles)
        sent = 0
        for start, tile in tiles():
            bits = _magnitude(tile)
            places = np.flatnonzero(bits >= least)
            equal = bits[places] == least
            over = int(np.count_nonzero(equal)) - ties
            if over > 0:  # of equal ones only the first may go
                places = np.delete(places, np.flatnonzero(equal)[ties:])
            ties = max(0, -over)
            with np.errstate(all="ignore"):
                values = tile[places].astype(self._stored)
            require_held(self.name, spec, tile, bool(np.isfinite(values).all()))
            put(0, sent, (places + start).astype("<i4"))
            put(1, sent, values)
            sent += len(places)
            if keep is not None:
                tile[places] -= values
                keep(start, tile)

    def _threshold(self, spec: TensorSpec, tiles: Tiles) -> tuple[int, int]:
        """The bits of the k-th largest magnitude, and how many elements that have exactly these are among the k."""
        upper = np.zeros(1 << 15, np.int64)
        for _, tile in tiles():
            found = np.bincount(_magnitude(tile) >> 16, minlength=1 << 15)
            require_held(self.name, spec, tile, not found[_INFINITE:].any())
            upper += found
        top, left = _reach(upper, self.count(spec.elements))
        lower = np.zeros(1 << 16, np.int64)
        for _, tile in tiles():
            bits = _magnitude(tile)
            lower += np.bincount(bits[bits >> 16 == top] & 0xFFFF, minlength=1 << 16)
        low, ties = _reach(lower, left)
        return top << 16 | low, ties

    def check(self, spec: TensorSpec, get: Get) -> Array:
        """Where in ``index`` each stride of elements begins."""
        count, last = self.count(spec.elements), -1
        begins = np.zeros(-(-spec.elements // STRIDE) + 1, np.int64)
        for start in range(0, count, TILE_ELEMENTS):
            index = get(0, start, min(TILE_ELEMENTS, count - start))
            if index[0] < 0 or index.max() >= spec.elements:
                raise Bad(f"an index lies outside of its {spec.elements} elements")
            if index[0] <= last or (np.diff(index) <= 0).any():
                raise Bad("its indices do not rise")
            if not np.isfinite(get(1, start, len(index))).all():
                raise Bad("a value is NaN or infinite")
            begins[1:] += np.bincount(index // STRIDE, minlength=len(begins) - 1)
            last = int(index[-1])
        return np.cumsum(begins)

    def decode(self, spec: TensorSpec, known: Array, get: Get, start: int, out: Array) -> None:
        end = start + len(out)
        first, last = int(known[start // STRIDE]), int(known[-(-end // STRIDE)])
        out.fill(0)
        index = get(0, first, last - first)
        low, high = np.searchsorted(index, (start, end))
        out[index[low:high] - start] = get(1, first + int(low), int(high - low))


def _magnitude(tile: Array) -> Array:
    """|x| as float32, as its bits: ordered as the numbers are."""
    with np.errstate(all="ignore"):
        bits: Array = np.abs(tile).astype(np.float32, copy=False).view(np.uint32)
    return bits


def _reach(counts: Array, wanted: int) -> tuple[int, int]:
    """The bin in which the ``wanted``-th largest lies, and which one it is in there, from 1."""
    above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(above, wanted))
    before = int(above[place - 1]) if place else 0
    return len(counts) - 1 - place, wanted - before
