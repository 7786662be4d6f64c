"""What is done to a silo's update before it leaves: a list of filters, each a function on the difference to the model.

A filter never holds the update as a whole: it takes one look at all tiles, which adds up to a number, and then changes
each tile in place. The runner applies the list, and encodes what it leaves (``encodings``); the silo's administrator
reads it in the offer. Knows files and nothing of rounds or silos.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from octopus_desktop.aggregation.numbers import WORK_TYPE, Array, narrow, stored_type, widen
from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, TensorSpec, read_layout, require_same

TILE_BYTES = 1 << 20


class Filter(Protocol):
    """One step. Tiles are flat float arrays of the difference to the global model, floating tensors only."""

    name: str

    def look(self, tile: Array) -> float:
        """This tile's part of the number; parts are added exactly (``math.fsum``)."""
        ...

    def change(self, tile: Array, total: float) -> None:
        """Change the tile in place, given the sum of all parts."""
        ...

    def tell(self, total: float) -> dict[str, float]:
        """What the silo may show of it, as metrics."""
        ...


class NormClip:
    """Scales the whole difference down so that its L2 norm is at most ``bound``: Δ · min(1, bound / ‖Δ‖₂).

    McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models. ICLR 2018, section 2
    (flat clipping). What a silo's training can add to the model in one round is bounded by it. An encoding with error
    feedback adds what it left out of earlier, clipped rounds after this: then the bound holds for the rounds' sum, and
    not for each by itself (``feedback = false`` in [encoding] makes it hold for each, up to rounding).
    """

    name = "clip_norm"

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def look(self, tile: Array) -> float:
        wide = tile.astype(np.float64)
        return float(np.add.reduce(np.multiply(wide, wide, out=wide)))

    def change(self, tile: Array, total: float) -> None:
        norm = math.sqrt(total)
        if norm > self.bound:
            np.multiply(tile, self.bound / norm, out=tile)

    def tell(self, total: float) -> dict[str, float]:
        norm = math.sqrt(total)
        return {"filter/norm": norm, "filter/clipped": float(norm > self.bound)}


FILTERS: dict[str, Callable[[float], Filter]] = {"clip_norm": NormClip}


def make(privacy: Mapping[str, Any]) -> list[Filter]:
    """The filters that a run's [privacy] table asks for, in the order in which they are applied.

    Raises:
        UserError: OCT-CONFIG-INVALID, for a key that is no filter: a promise of privacy is never passed over.
    """
    for key, value in privacy.items():
        good = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf
        if key not in FILTERS or not good:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"The privacy setting {key!r} = {value!r} cannot be kept.",
                f"Known are {', '.join(FILTERS)}; each takes a number above 0.",
                "Correct [privacy] in job.toml and build the job again.",
            )
    return [FILTERS[key](float(privacy[key])) for key in FILTERS if key in privacy]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """The update that may leave, and what may be shown of the filters' work."""

    digest: str
    size: int
    metrics: dict[str, float]


def apply(filters: Sequence[Filter], *, update: Path, base: Path, kind: str, out: Path) -> Filtered:
    """Write to ``out`` what the filters leave of an update.

    Args:
        base: the global model that came in. kind: "weights" or "difference": what ``update`` holds, and ``out`` too.

    Raises:
        UserError: OCT-MODEL-SHAPE when update and model do not agree, OCT-DISK-FULL.
    """
    layout = read_layout(base)
    require_same(layout, read_layout(update), "The update")
    metrics: dict[str, float] = {}
    digest, source = "", update
    for number, step in enumerate(filters):
        target = out.with_name(f"{out.name}.step{number}")
        total = math.fsum(step.look(delta) for _, delta, _ in _tiles(layout, source, base, kind))
        try:
            digest = _rewrite(step, total, layout, source, base, kind, target)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        finally:
            if source != update:
                source.unlink(missing_ok=True)
        metrics.update(step.tell(total))
        source = target
    if source == update:
        raise ValueError("there is no filter to apply")
    os.replace(source, out)
    return Filtered(digest=digest, size=layout.size, metrics=metrics)


def leave(privacy: Mapping[str, Any], *, update: Path, base: Path, kind: str) -> Filtered | None:
    """What a silo does before an update leaves it: ``update`` is replaced by what the run's [privacy] leaves of it.
    None when no filter is asked for. The same in deployment and simulation. Raises like ``make`` and ``apply``."""
    filters = make(privacy)
    return apply(filters, update=update, base=base, kind=kind, out=update) if filters else None


def _rewrite(step: Filter, total: float, layout: Layout, source: Path, base: Path, kind: str, target: Path) -> str:
    sha = hashlib.sha256()
    with disk_errors(target), target.open("wb") as file, source.open("rb") as old:
        for part in [layout.header]:
            sha.update(part)
            file.write(part)
        floating = _tiles(layout, source, base, kind)
        for spec in layout:
            for start, count in _cuts(spec):
                if spec.dtype in WORK_TYPE:
                    _, delta, model = next(floating)
                    step.change(delta, total)
                    values = narrow(np.add(model, delta) if kind == "weights" else delta, spec.dtype)
                else:
                    values = _load(old, spec, start, count)
                view = np.ascontiguousarray(values).data.cast("B")
                sha.update(view)
                file.write(view)
        file.flush()
        os.fsync(file.fileno())
    return sha.hexdigest()


def _tiles(layout: Layout, update: Path, base: Path, kind: str) -> Iterator[tuple[TensorSpec, Array, Array]]:
    """(tensor, difference, model) tile by tile, floating tensors only; the arrays are the taker's."""
    with update.open("rb") as new, base.open("rb") as old:
        for spec in layout:
            if spec.dtype not in WORK_TYPE:
                continue
            for start, count in _cuts(spec):
                sent, model = (
                    widen(_load(file, spec, start, count), spec.dtype, np.empty(count, WORK_TYPE[spec.dtype]))
                    for file in (new, old)
                )
                yield spec, np.subtract(sent, model) if kind == "weights" else sent, model


def _cuts(spec: TensorSpec) -> Iterator[tuple[int, int]]:
    step = TILE_BYTES // 8
    for start in range(0, spec.elements, step):
        yield start, min(step, spec.elements - start)


def _load(file: BinaryIO, spec: TensorSpec, start: int, count: int) -> Array:
    stored = stored_type(spec.dtype)
    values = np.empty(count, stored)
    file.seek(spec.begin + start * stored.itemsize)
    file.readinto(values.data.cast("B"))  # type: ignore[attr-defined]
    return values
