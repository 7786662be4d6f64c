"""fp16 and bf16: each element of the difference rounded to nearest-even in half the bits. Half the bytes of float32.

IEEE 754 binary16 keeps 11 significant bits between 6e-8 and 65504, and refuses more; bfloat16 (Kalamkar et al.: A Study
of BFLOAT16 for Deep Learning Training. 2019, section 2) keeps 8 over float32's whole range. Of the difference, not of
the weights: a change far below a weight's own rounding still arrives. There is no error feedback: a rounding of 2^-9
of each change is below what the rounds' own noise does. A float64 difference is rounded to float32 first.
"""

from __future__ import annotations

import numpy as np

from octopus_desktop.aggregation.encodings.base import Get, Keep, Part, Put, Tiles, require_held
from octopus_desktop.aggregation.numbers import Array, finite, narrow, widen
from octopus_desktop.wire.tensors import TensorSpec

TYPES = {"fp16": "F16", "bf16": "BF16"}


class Halves:
    feedback = False

    def __init__(self, name: str) -> None:
        self.name, self._dtype = name, TYPES[name]

    def parts(self, spec: TensorSpec) -> tuple[Part, ...]:
        return (Part(suffix=f":{self.name}", dtype=self._dtype, shape=spec.shape),)

    def encode(self, spec: TensorSpec, tiles: Tiles, put: Put, keep: Keep | None) -> None:
        for start, tile in tiles():
            with np.errstate(all="ignore"):
                stored = narrow(tile.astype(np.float32, copy=False), self._dtype)
            require_held(self.name, spec, tile, finite(stored, self._dtype))
            put(0, start, stored)
            if keep is not None:
                keep(start, np.subtract(tile, self._wide(stored, np.empty_like(tile))))

    def check(self, spec: TensorSpec, get: Get) -> None:
        return None  # NaN and infinity are seen in the fold, as those of plain updates are

    def decode(self, spec: TensorSpec, known: None, get: Get, start: int, out: Array) -> None:
        self._wide(get(0, start, len(out)), out)

    def _wide(self, stored: Array, out: Array) -> Array:
        if out.dtype == np.float32:
            return widen(stored, self._dtype, out)
        np.copyto(out, widen(stored, self._dtype, np.empty(len(stored), np.float32)))
        return out
