"""How long updates are, for runs that bound it ([run] most_norm). Knows what a fold reads, and no round.

Blanchard et al. (NeurIPS 2017, section 2): one update of any length moves a weighted mean to wherever it likes. A bound
that sound updates never reach takes that power away, whatever the strategy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from octopus_desktop.aggregation.encodings.sources import Source
from octopus_desktop.aggregation.numbers import WORK_TYPE, stored_type
from octopus_desktop.wire.errors import UserError


def lengths(
    tiles: Iterable[tuple[str, int, int]],
    sources: Sequence[Source],
    origins: Sequence[Source | None],
    check: Callable[[], None],
) -> list[float]:
    """‖Δ_i‖₂ of each source over all floating elements, in float64; NaN or infinity where an element is.

    Args:
        tiles: (dtype, first byte, elements). origins: what is taken from each source; None where a difference comes.
        check: called between tiles; raises to stop.
    """
    squares: list[list[float]] = [[] for _ in sources]
    for dtype, at, count in tiles:
        if dtype not in WORK_TYPE:
            continue
        check()
        raw, wide = np.empty(count, stored_type(dtype)), np.empty(count, WORK_TYPE[dtype])
        with np.errstate(all="ignore"):
            for source, origin, parts in zip(sources, origins, squares, strict=True):
                # Of an encoded difference small tensors may be whole all the same: all becomes whole, and is compared.
                base = None if origin is None else origin.floating(dtype, at, raw, wide, None).copy()
                delta = source.floating(dtype, at, raw, wide, base).astype(np.float64)
                if base is not None:
                    delta -= base
                parts.append(float(np.add.reduce(np.square(delta, out=delta))))
    return [math.sqrt(math.fsum(parts)) for parts in squares]


def too_long(
    most: float,
    silos: Sequence[str],
    sources: Sequence[Source],
    origins: Sequence[Source | None],
    tiles: Iterable[tuple[str, int, int]],
    check: Callable[[], None],
) -> dict[str, UserError]:
    """OCT-MODEL-NORM for each silo whose update is longer than ``most``; what is no number is for others to name."""
    return {
        silo: UserError(
            "OCT-MODEL-NORM",
            f"The update of {silo} is out of range.",
            f"Its difference to the model is {norm:.4g} long (2-norm); [run] most_norm allows {most:g}.",
            "Look at this silo's data and learning rate, or raise most_norm when sound updates are that long.",
        )
        for silo, norm in zip(silos, lengths(tiles, sources, origins, check), strict=True)
        if math.isfinite(norm) and norm > most
    }
