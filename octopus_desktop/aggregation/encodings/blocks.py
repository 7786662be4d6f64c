"""int8 and int4: each block of neighbouring elements as whole multiples of a scale of its own, with error feedback.

    s = max |x_i| / L        q_i = round-half-even(x_i / s)        decoded: q_i s        |x_i - q_i s| <= s / 2

over a block of 64 or 128 elements; L = 127 (int8) or 7 (int4). Symmetric, so that zero stays zero; a scale for each
block, so that one large element costs its block alone its precision.
    Dettmers, Lewis, Shleifer, Zettlemoyer: 8-bit Optimizers via Block-wise Quantization. ICLR 2022, section 2.1.
    Alistarh, Grubic, Li, Tomioka, Vojnovic: QSGD. NeurIPS 2017, section 3.3 (buckets); here rounded to nearest, since
        error feedback takes the place of unbiased rounding.

``int4`` stores q + 8 in four bits: element 2i in the low half of byte i, element 2i + 1 in the high one; the half that
is left over at an odd end holds 8, which is zero. -128 and the four-bit 0 are never written and never accepted. A block
whose scale would be below the smallest normal float32 is written as zeros with scale 0.
"""

from __future__ import annotations

import numpy as np

from octopus_desktop.aggregation.encodings.base import TILE_ELEMENTS, Bad, Get, Keep, Part, Put, Tiles, require_held
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.wire.tensors import TensorSpec

LEVELS = {"int8": 127, "int4": 7}
_TINY = float(np.finfo(np.float32).tiny)


class Blocks:
    def __init__(self, name: str, *, block: int = 64, feedback: bool = True) -> None:
        self.name, self.block, self.feedback = name, block, feedback
        self._levels = LEVELS[name]

    def parts(self, spec: TensorSpec) -> tuple[Part, ...]:
        scales = Part(suffix=":scale", dtype="F32", shape=(-(-spec.elements // self.block),))
        if self.name == "int8":
            return Part(suffix=":int8", dtype="I8", shape=spec.shape), scales
        return Part(suffix=":int4", dtype="U8", shape=(-(-spec.elements // 2),)), scales

    def encode(self, spec: TensorSpec, tiles: Tiles, put: Put, keep: Keep | None) -> None:
        for start, tile in tiles():
            short = -len(tile) % self.block
            whole = np.concatenate([tile, np.zeros(short, tile.dtype)]) if short else tile
            rows = whole.reshape(-1, self.block)
            work = np.abs(rows)
            with np.errstate(all="ignore"):
                scales = (work.max(axis=1) / self._levels).astype(np.float32)
                require_held(self.name, spec, tile, bool(np.isfinite(scales).all()))
                scales[scales < _TINY] = 0
                np.divide(rows, np.where(scales == 0, np.float32(np.inf), scales)[:, None], out=work)
            np.rint(work, out=work)
            codes = work.astype(np.int8)
            flat = codes.reshape(-1)[: len(tile)]
            put(0, start if self.name == "int8" else start // 2, flat if self.name == "int8" else pack(flat))
            put(1, start // self.block, scales)
            if keep is not None:
                np.multiply(codes, scales[:, None], out=work)
                keep(start, np.subtract(rows, work, out=work).reshape(-1)[: len(tile)])

    def check(self, spec: TensorSpec, get: Get) -> None:
        count = -(-spec.elements // self.block)
        for start in range(0, count, TILE_ELEMENTS):
            scales = get(1, start, min(TILE_ELEMENTS, count - start))
            if not np.isfinite(scales).all():
                raise Bad("a scale is NaN or infinite")
            if (scales < 0).any():
                raise Bad("a scale is negative")
        if self.name == "int4" and spec.elements % 2 and get(0, spec.elements // 2, 1)[0] >> 4 != 8:
            raise Bad("the last half byte holds an element that the tensor has not")

    def decode(self, spec: TensorSpec, known: None, get: Get, start: int, out: Array) -> None:
        end, block = start + len(out), self.block
        codes = self._codes(get, start, end)
        first = start // block
        scales = get(1, first, -(-end // block) - first)
        head = min(-start % block, len(out))  # elements before the first whole block
        middle = (len(out) - head) // block
        body, at = head + middle * block, 1 if head else 0
        if head:
            np.multiply(codes[:head], scales[:1], out=out[:head])
        rows = codes[head:body].reshape(-1, block)
        np.multiply(rows, scales[at : at + middle, None], out=out[head:body].reshape(-1, block))
        if body < len(out):
            np.multiply(codes[body:], scales[-1:], out=out[body:])

    def _codes(self, get: Get, start: int, end: int) -> Array:
        if self.name == "int8":
            codes = get(0, start, end - start)
        else:
            first = start // 2
            codes = unpack(get(0, first, -(-end // 2) - first))[start - 2 * first : end - 2 * first]
        if len(codes) and codes.min() < -self._levels:
            raise Bad(f"a code is below {-self._levels}")
        return codes


def pack(codes: Array) -> Array:
    """Elements in -7..7, int8, as two a byte."""
    halves = np.full(len(codes) + len(codes) % 2, 8, np.uint8)
    np.add(codes, 8, out=halves[: len(codes)], casting="unsafe")
    pairs = halves.view("<u2")
    packed: Array = (pairs | (pairs >> 4)).astype(np.uint8)
    return packed


def unpack(packed: Array) -> Array:
    """The elements of ``pack``, int8; one more at an odd end."""
    pairs = packed.astype("<u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    codes: Array = pairs.view(np.int8)
    codes -= 8
    return codes
