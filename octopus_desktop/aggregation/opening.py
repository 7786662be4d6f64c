"""Opens what the silos sent for one fold, and says who sent what cannot be used. Knows files; no round, no strategy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from octopus_desktop.aggregation.encodings.base import Encoding
from octopus_desktop.aggregation.encodings.sources import InMemory, Source, open_source
from octopus_desktop.aggregation.numbers import known
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout


class RejectedUpdates(Exception):
    """Some updates cannot be used: silo to its UserError (OCT-MODEL-SHAPE, OCT-MODEL-NAN, OCT-MODEL-NORM,
    OCT-BLOB-MISSING, OCT-ENCODING-BAD)."""

    def __init__(self, faults: dict[str, UserError]) -> None:
        super().__init__(", ".join(f"{silo}: {error.what}" for silo, error in faults.items()))
        self.faults = faults


def open_all(
    layout: Layout,
    encoding: Encoding | None,
    updates: Sequence[tuple[str, Path | InMemory | None]],
    stack: ExitStack,
    what: str = "update",
) -> list[Source]:
    """The updates, or ``what`` else was sent, seen to be what was agreed as far as that can be known without all of the
    bytes.

    Raises:
        RejectedUpdates: names everybody whose file is not.
        UserError: OCT-MODEL-SHAPE, when the global model itself cannot be aggregated.
    """
    strange = [t for t in layout if not known(t.dtype)]
    if strange:
        raise UserError(
            "OCT-MODEL-SHAPE",
            "The global model cannot be aggregated.",
            f"Tensor {strange[0].name!r} has the type {strange[0].dtype}.",
            "Keep the model's parameters in float32, float64, float16 or bfloat16.",
        )
    faults: dict[str, UserError] = {}
    sources: list[Source] = []
    for silo, path in updates:
        if isinstance(path, InMemory):
            sources.append(path)
            continue
        try:
            if path is None or not path.exists():
                raise UserError(
                    "OCT-BLOB-MISSING",
                    f"The {what} of {silo} is not in the store.",
                    "Its answer arrived, its bytes are gone.",
                    "The round goes on without it; look at the disk if this repeats.",
                )
            sources.append(open_source(layout, encoding, path, f"The {what} of {silo}", stack))
        except UserError as error:
            faults[silo] = error
    if faults:
        raise RejectedUpdates(faults)
    return sources
