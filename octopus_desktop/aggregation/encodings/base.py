"""The contract of an encoding, and the layout of an encoded file as it follows from the global model.

Knows no rounds and no silos. Floating tensors are computed in ``numbers.WORK_TYPE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from octopus_desktop.aggregation.numbers import WORK_TYPE, Array
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, TensorSpec, describe, make_layout

TILE_ELEMENTS = 1 << 17  # a multiple of every block size; a tile's arrays stay in the second-level cache
FEW = 1 << 14
_NAMES = {np.float32: "F32", np.float64: "F64"}

Get = Callable[[int, int, int], Array]
"""(part, first element, count) -> these elements as the file holds them."""
Put = Callable[[int, int, Array], None]
"""(part, first element, elements): write them."""
Keep = Callable[[int, Array], None]
"""(first element, what the encoding left out of the elements from there on)."""
Tiles = Callable[[], Iterator[tuple[int, Array]]]
"""Once through a tensor: (first element, what is to be encoded). Each array is valid until the next is taken, and may
be written over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One of the tensors that stand for a tensor: its name is the tensor's and ``suffix``."""

    suffix: str
    dtype: str
    shape: tuple[int, ...]


class Bad(Exception):
    """What is wrong with one encoded tensor, in words that go on after "Tensor 'w': "."""


class Encoding(Protocol):
    """One way to write a tensor's difference in fewer bytes.

    Constraints (checked by tests/aggregation/test_aggregation_encodings.py for every one):
        - the same difference gives the same bytes, and what ``decode`` gives does not depend on how it is cut;
        - what ``encode`` keeps is, to the bit, the tile less what ``decode`` will read from the parts that it put;
        - of a file that the checks pass, ``decode`` reads nothing outside of the parts' places.
    """

    name: str
    feedback: bool

    def parts(self, spec: TensorSpec) -> tuple[Part, ...]:
        """What stands for the tensor. Raises Bad when it cannot be encoded."""
        ...

    def encode(self, spec: TensorSpec, tiles: Tiles, put: Put, keep: Keep | None) -> None:
        """Put all parts, and keep what they leave out, tile by tile in order; None: it is not wanted.

        Raises:
            UserError: OCT-MODEL-NAN, OCT-ENCODING-BAD by ``require_held``.
        """
        ...

    def check(self, spec: TensorSpec, get: Get) -> Any:
        """Look at what can be wrong beside names and shapes; gives what ``decode`` wants to know again (small).

        Raises:
            Bad: the parts are not what ``encode`` writes.
        """
        ...

    def decode(self, spec: TensorSpec, known: Any, get: Get, start: int, out: Array) -> None:
        """Fill ``out`` with the elements from ``start`` on. Raises Bad for codes that ``encode`` does not write."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How the update of one global model is encoded. ``parts``: of the encoded tensors, by their names; ``layout`` is
    that of the encoded file, ``residual`` that of the error feedback."""

    encoding: Encoding
    model: Layout
    layout: Layout
    parts: Mapping[str, tuple[TensorSpec, ...]]
    residual: Layout


def make_plan(encoding: Encoding, model: Layout) -> Plan:
    """Raises UserError OCT-ENCODING-BAD for a model that this encoding cannot take."""
    entries: list[tuple[str, str, tuple[int, ...]]] = []
    names: dict[str, list[str]] = {}
    for spec in model:
        if not is_encoded(spec):
            entries.append((spec.name, spec.dtype, spec.shape))
            continue
        try:
            parts = encoding.parts(spec)
        except Bad as error:
            raise _impossible(encoding, spec, str(error)) from error
        names[spec.name] = [spec.name + part.suffix for part in parts]
        entries += [(spec.name + part.suffix, part.dtype, part.shape) for part in parts]
    seen: set[str] = set()
    for name, _, _ in entries:
        if name in seen:
            spec = next(t for t in model if t.name == name or name in names.get(t.name, ()))
            raise _impossible(encoding, spec, f"its encoded name {name!r} is that of another tensor")
        seen.add(name)
    layout = make_layout(entries, {"encoding": encoding.name, **describe(model)})
    places = {spec.name: spec for spec in layout}
    kept = [(t.name, _NAMES[WORK_TYPE[t.dtype]], t.shape) for t in model if t.name in names]
    return Plan(
        encoding=encoding,
        model=model,
        layout=layout,
        parts={name: tuple(places[part] for part in own) for name, own in names.items()},
        residual=make_layout(kept),
    )


def is_encoded(spec: TensorSpec) -> bool:
    return spec.dtype in WORK_TYPE and (len(spec.shape) > 1 or spec.elements >= FEW) and spec.elements > 0


def require_plan(plan: Plan, got: Layout, whose: str) -> None:
    """Raise OCT-ENCODING-BAD naming the first tensor in which a file is not what the plan says."""
    if got.header == plan.layout.header:
        return
    want, have = plan.layout.signature(), got.signature()
    homes = {part.name: name for name, own in plan.parts.items() for part in own}
    for left, right in zip(want, have, strict=False):
        if left != right:
            name = homes.get(left[0], left[0])
            raise bad(
                whose,
                f"Tensor {name!r}: expected {left[0]!r} {left[1]} {list(left[2])}, "
                f"got {right[0]!r} {right[1]} {list(right[2])}",
            )
    if len(want) != len(have):
        raise bad(whose, f"Expected {len(want)} tensors, got {len(have)}")
    raise bad(whose, f"Its header does not say {plan.encoding.name!r} of this model's tensors")


def bad(whose: str, why: str) -> UserError:
    return UserError(
        "OCT-ENCODING-BAD",
        f"{whose} cannot be decoded.",
        f"{why}.",
        "Silo and server must run the same job and settings; if they do, look at the silo's version of the program.",
    )


def require_held(encoding: str, spec: TensorSpec, values: Array, held: bool) -> None:
    """Raise when an encoding cannot hold these values: OCT-MODEL-NAN when they are no numbers, else OCT-ENCODING-BAD.

    Args:
        held: whether the encoded values are all finite.
    """
    if held:
        return
    if not np.isfinite(values).all():
        raise UserError(
            "OCT-MODEL-NAN",
            f"The update holds NaN or infinity in the tensor {spec.name!r}.",
            "The local training diverged, often by too large a learning rate or by unscaled inputs.",
            "Nothing was sent. Ask the job's author to correct the training.",
        )
    raise UserError(
        "OCT-ENCODING-BAD",
        f"The change of tensor {spec.name!r} is too large for the encoding {encoding!r}.",
        f"Its largest element is {float(np.abs(values).max()):.3g}.",
        "Nothing was sent. Lower the learning rate, or choose the encoding bf16 or none.",
    )


def _impossible(encoding: Encoding, spec: TensorSpec, why: str) -> UserError:
    return UserError(
        "OCT-ENCODING-BAD",
        f"The model cannot be encoded as {encoding.name!r}.",
        f"Tensor {spec.name!r}: {why}.",
        "Choose another encoding in [run] of job.toml.",
    )
