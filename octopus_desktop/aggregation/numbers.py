"""Tensor bytes as NumPy arrays to compute with, and back. Knows no file and no strategy.

float16 and bfloat16 are computed in float32 and rounded to nearest-even at the end; float32 and float64 as they are.
Integers and booleans are never averaged.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

WORK_TYPE = {"F64": np.float64, "F32": np.float32, "F16": np.float32, "BF16": np.float32}
_STORED = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_INFINITE = {"F16": 0x7C00, "BF16": 0x7F80}  # its bits


def stored_type(dtype: str) -> np.dtype[Any]:
    """The NumPy type that holds a safetensors type's bytes. Raises KeyError for one that no model of ours may have."""
    return np.dtype(_STORED[dtype])


def known(dtype: str) -> bool:
    return dtype in _STORED


def widen(raw: Array, dtype: str, into: Array) -> Array:
    """Stored elements as numbers to compute with. Gives ``raw`` itself where nothing is to be converted."""
    if dtype in ("F32", "F64"):
        return raw
    if dtype == "F16":
        np.copyto(into, raw)
    else:
        bits = into.view(np.uint32)
        np.copyto(bits, raw)
        np.left_shift(bits, 16, out=bits)
    return into


def narrow(values: Array, dtype: str) -> Array:
    """Numbers as they are stored; float16 that overflows becomes infinite, which ``finite`` sees."""
    if dtype in ("F32", "F64"):
        return values
    if dtype == "F16":
        return values.astype("<f2")
    bits = values.view(np.uint32)
    rounding = ((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF)
    return ((bits + rounding) >> np.uint32(16)).astype("<u2")


def finite(stored: Array, dtype: str) -> bool:
    """Neither NaN nor infinity among stored elements. Integers always are."""
    if dtype in _INFINITE:  # NaN is above infinity; NumPy has no fast arithmetic in half precision
        return not len(stored) or bool((stored.view(np.uint16) & 0x7FFF).max() < _INFINITE[dtype])
    if dtype not in WORK_TYPE:
        return True
    # A sum carries every NaN and infinity at a fraction of isfinite's cost; it may overflow by itself, so ask again.
    with np.errstate(all="ignore"):
        return bool(np.isfinite(np.add.reduce(stored))) or bool(np.isfinite(stored).all())
