"""Helpers: an update encoded on disk, and what a reader makes of it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from octopus_desktop.aggregation.encodings import FEW, Encoding, make
from octopus_desktop.aggregation.encodings.encode import encode
from octopus_desktop.aggregation.encodings.sources import open_source
from octopus_desktop.aggregation.numbers import WORK_TYPE, Array, stored_type
from octopus_desktop.wire.tensors import read_layout

Tensors = dict[str, Array]
ALL = ("fp16", "bf16", "int8", "int4", "topk")


def encoding(name: str, **parameters: Any) -> Encoding:
    made = make(name, parameters)
    assert made is not None
    return made


class Desk:
    """A global model and updates of it below one folder."""

    def __init__(self, root: Path, model: Tensors) -> None:
        self.root, self.model = root, root / "model.safetensors"
        root.mkdir(exist_ok=True)
        save_file(model, self.model)

    def encoded(
        self,
        how: Encoding,
        delta: Tensors,
        name: str = "update",
        *,
        kind: str = "difference",
        before: Path | None = None,
        after: Path | None = None,
    ) -> Path:
        """The difference encoded; with ``kind`` "weights" the model is added before."""
        plain, out = self.root / f"{name}.plain", self.root / f"{name}.encoded"
        model = load_file(self.model)
        values = {n: model[n] + v if kind == "weights" and v.dtype != np.bool_ else v for n, v in delta.items()}
        save_file({n: np.asarray(v) for n, v in values.items()}, plain)
        encode(how, update=plain, base=self.model, kind=kind, out=out, before=before, after=after)
        return out

    def decoded(self, how: Encoding, path: Path, *, cut: int = 1 << 16, lift: bool = False) -> Tensors:
        """As the fold reads it, ``cut`` elements at a time; with ``lift``, weights in place of differences."""
        layout, model, found = read_layout(self.model), load_file(self.model), {}
        with ExitStack() as stack:
            source = open_source(layout, how, path, "The update of ada", stack)
            for spec in layout:
                stored = stored_type(spec.dtype)
                if spec.dtype not in WORK_TYPE:
                    values = np.empty(spec.elements, stored)
                    source.stored(spec.begin, values)
                else:
                    kind = WORK_TYPE[spec.dtype]
                    base = model[spec.name].reshape(-1).astype(kind)
                    values = np.empty(spec.elements, kind)
                    for start in range(0, spec.elements, cut):
                        count = min(cut, spec.elements - start)
                        at = spec.begin + start * stored.itemsize
                        held = base[start : start + count] if lift else None
                        raw, wide = np.empty(count, stored), np.empty(count, kind)
                        values[start : start + count] = source.floating(spec.dtype, at, raw, wide, held)
                found[spec.name] = values.reshape(spec.shape)
        return found


def a_model(seed: int = 0, dtype: Any = np.float32) -> Tensors:
    draw = np.random.default_rng(seed)
    return {
        "conv.weight": draw.normal(size=(9, 7, 3, 3)).astype(dtype),
        "conv.bias": draw.normal(size=9).astype(dtype),
        "norm.num_batches_tracked": np.array(10 + seed),
        "mask": np.array([True, False, seed % 2 == 0]),
        "head.weight": draw.normal(size=(21, 77)).astype(dtype),
        "empty": np.zeros((0, 4), dtype),
        "flat": draw.normal(size=FEW + 3).astype(dtype),
    }


def a_change(seed: int = 1, scale: float = 1e-3, dtype: Any = np.float32) -> Tensors:
    draw = np.random.default_rng(seed)
    return {
        name: (draw.normal(size=value.shape) * scale).astype(dtype) if value.dtype == dtype else value
        for name, value in a_model(seed, dtype).items()
    }


def parts(path: Path) -> dict[str, tuple[str, list[int], list[Any]]]:
    """The file read by the header alone: name -> (dtype, shape, raw elements)."""
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    types = {"I8": "i1", "U8": "u1", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I32": "<i4", "I64": "<i8", "BOOL": "?"}
    found = {}
    for name, spec in header.items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in spec["data_offsets"])
            values = np.frombuffer(raw[begin:end], types[spec["dtype"]]).tolist()
            found[name] = (spec["dtype"], spec["shape"], values)
    return found
