"""From the file that the workers wrote to the update that may leave: checked, filtered, named by its digest.

What the workers say of their own file counts for nothing: foreign code ran there. Knows neither mailbox nor rounds.
No torch here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from octopus_desktop.storage.blobs import disk_errors, file_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same

if TYPE_CHECKING:
    from octopus_desktop.aggregation.filters import Filter


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """``path``: the file to send, durable on the disk; ``metrics``: what the filters may tell ("filter/…")."""

    path: Path
    digest: str
    size: int
    metrics: dict[str, float] = field(default_factory=dict)


def prepare(written: Path, model: Path, kind: str, steps: Sequence[Filter], *, durable: bool = True) -> Leaving:
    """Check an update against the model it comes from, and apply the run's privacy filters. Blocks.

    Args:
        kind: "weights" or "difference": what the file holds.
        durable: see that the bytes are on the disk.

    Raises:
        UserError: OCT-MODEL-SHAPE when it is no plain file in the model's layout, OCT-DISK-FULL.
    """
    found = written.lstat() if written.exists() or written.is_symlink() else None
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise UserError(
            "OCT-MODEL-SHAPE",
            "The workers' update is not a plain file of their own.",
            "There is none, or the job's code put a link in its place.",
            "Nothing was sent. Look at what the job's code does with files.",
        )
    require_same(read_layout(model), read_layout(written), "The update")
    if steps:
        from octopus_desktop.aggregation import filters  # numpy, which most runners do not need

        clean = filters.apply(steps, update=written, base=model, kind=kind, out=written.with_suffix(".leaving"))
        written.unlink()
        return Leaving(
            path=written.with_suffix(".leaving"), digest=clean.digest, size=clean.size, metrics=clean.metrics
        )
    with ThreadPoolExecutor(1) as pool:  # the disk writes while the digest is computed
        syncing = pool.submit(_to_disk, written) if durable else None
        digest = file_digest(written)
        if syncing:
            syncing.result()
    return Leaving(path=written, digest=digest, size=found.st_size)


def _to_disk(path: Path) -> None:
    with disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())
