"""The layout of a tensor file (safetensors) without loading it: names, dtypes, shapes and where the bytes lie.

Format: 8 bytes little-endian header length, JSON header, then the tensors' bytes, row-major, little-endian, without
gaps. Knows nothing of torch; aggregation maps the bytes that a layout names.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from octopus_desktop.wire.errors import UserError

HEADER_LIMIT_BYTES = 64 << 20
ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I8": 1,
    "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor's place: ``begin`` and ``end`` are byte offsets from the start of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A file's tensors in the order of their bytes, its header bytes (with the length field), and its whole size.
    ``metadata``: texts that stand in the header beside the tensors."""

    tensors: tuple[TensorSpec, ...]
    header: bytes
    size: int
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __iter__(self) -> Iterator[TensorSpec]:
        return iter(self.tensors)

    def signature(self) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
        """What must agree between a global model and an update: names, dtypes, shapes, in order."""
        return tuple((t.name, t.dtype, t.shape) for t in self.tensors)


def read_layout(path: Path) -> Layout:
    """Read and check the header of a tensor file.

    Raises:
        UserError: OCT-MODEL-SHAPE, when the file is no safetensors file or its header does not fit its bytes.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(HEADER_LIMIT_BYTES, size - 8):
            raise _bad(path.name, "its header length does not fit the file")
        raw = file.read(length)
    return _parse(start + raw, size, path.name[:16])


@lru_cache(maxsize=32)  # a run's files have few layouts, and each is asked for with every task and update
def _parse(head: bytes, size: int, name: str) -> Layout:
    """A header (with its length field) of a file of ``size`` bytes."""
    raw, length = head[8:], len(head) - 8
    try:
        header = json.loads(raw)
        items = [(name, spec) for name, spec in header.items() if name != "__metadata__"]
        specs = [
            TensorSpec(
                name=name,
                dtype=spec["dtype"],
                shape=tuple(int(n) for n in spec["shape"]),
                begin=8 + length + int(spec["data_offsets"][0]),
                end=8 + length + int(spec["data_offsets"][1]),
            )
            for name, spec in items
        ]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise _bad(name, f"its header cannot be read ({error})") from error
    specs.sort(key=lambda t: (t.begin, t.end))
    at = 8 + length
    for spec in specs:
        if spec.dtype not in ITEM_BYTES or any(n < 0 for n in spec.shape):
            raise _bad(name, f"tensor {spec.name!r} has the type {spec.dtype!r} and shape {spec.shape}")
        if spec.begin != at or spec.end - spec.begin != spec.elements * ITEM_BYTES[spec.dtype]:
            raise _bad(name, f"tensor {spec.name!r} does not lie where its header says")
        at = spec.end
    if at != size:
        raise _bad(name, f"it has {size - at} bytes that belong to no tensor")
    notes = header.get("__metadata__") or {}
    metadata = {str(k): str(v) for k, v in notes.items()} if isinstance(notes, dict) else {}
    return Layout(tensors=tuple(specs), header=head, size=size, metadata=metadata)


def make_layout(
    tensors: Sequence[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str] | None = None
) -> Layout:
    """The layout of a file that holds the given (name, dtype, shape) in this order. Same input, same bytes."""
    offsets: dict[str, Mapping[str, object]] = {"__metadata__": metadata} if metadata else {}
    at = 0
    for name, dtype, shape in tensors:
        length = math.prod(shape) * ITEM_BYTES[dtype]
        offsets[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + length]}
        at += length
    raw = json.dumps(offsets, separators=(",", ":")).encode()
    raw += b" " * (-(8 + len(raw)) % 64)  # tensors begin on a cache line
    header = len(raw).to_bytes(8, "little") + raw
    specs, position = [], len(header)
    for name, dtype, shape in tensors:
        length = math.prod(shape) * ITEM_BYTES[dtype]
        specs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(shape), begin=position, end=position + length))
        position += length
    return Layout(tensors=tuple(specs), header=header, size=position, metadata=metadata or {})


def describe(layout: Layout) -> dict[str, str]:
    """Metadata by which a file tells of other tensors than it holds: those of a model that it stands for."""
    return {"tensors": json.dumps([[t.name, t.dtype, list(t.shape)] for t in layout], separators=(",", ":"))}


def described(layout: Layout) -> list[tuple[str, str, tuple[int, ...]]]:
    """(name, dtype, shape) of the tensors that a file stands for by ``describe``, else of those that it holds. What a
    file says of itself is not checked against any model."""
    try:
        told = json.loads(layout.metadata["tensors"])
        return [(str(name), str(dtype), tuple(int(n) for n in shape)) for name, dtype, shape in told]
    except (KeyError, ValueError, TypeError):
        return [(t.name, t.dtype, t.shape) for t in layout]


def require_same(expected: Layout, got: Layout, whose: str) -> None:
    """Raise OCT-MODEL-SHAPE naming the first difference, when two layouts do not agree in names, dtypes and shapes."""
    if expected is got:
        return
    want, have = expected.signature(), got.signature()
    if want == have:
        return
    for left, right in zip(want, have, strict=False):
        if left != right:
            raise UserError(
                "OCT-MODEL-SHAPE",
                f"{whose} does not have the agreed form.",
                f"Expected tensor {left[0]!r} {left[1]} {list(left[2])}, got {right[0]!r} {right[1]} {list(right[2])}.",
                "Build the model with the same code and configuration in every silo.",
            )
    raise UserError(
        "OCT-MODEL-SHAPE",
        f"{whose} does not have the agreed form.",
        f"Expected {len(want)} tensors, got {len(have)}.",
        "Build the model with the same code and configuration in every silo.",
    )


def _bad(name: str, why: str) -> UserError:
    return UserError(
        "OCT-MODEL-SHAPE",
        f"{name[:16]} is not a sound tensor file.",
        f"The file is damaged or was not written as safetensors: {why}.",
        "Fetch or write the file again.",
    )
