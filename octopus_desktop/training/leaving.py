"""From the file that the workers wrote to the update that may leave: checked, filtered, named by its digest.

What the workers say of their own file counts for nothing: foreign code ran there. Knows neither mailbox nor rounds.
No torch here.
"""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import disk_errors, file_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """The file's digest and bytes, as they may leave. ``metrics`` is what the filters found ("filter/…"): it stays at
    home, since the norm of an update says something of the data."""

    digest: str
    size: int
    metrics: dict[str, float] = field(default_factory=dict)


def prepare(written: Path, model: Path, config: RunConfig, *, durable: bool = True) -> Leaving:
    """Check an update against the model it comes from, and make of it, in place, what the run's filters leave. Blocks.

    Args:
        durable: see that the bytes are on the disk.

    Raises:
        UserError: OCT-MODEL-SHAPE when it is no plain file in the model's layout; OCT-CONFIG-INVALID for a filter that
            is not known; OCT-DISK-FULL.
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
    if config.privacy:
        from octopus_desktop.aggregation import filters  # numpy, which most runners do not need

        if clean := filters.leave(config.privacy, update=written, base=model, kind=config.update):
            return Leaving(digest=clean.digest, size=clean.size, metrics=clean.metrics)
    with ThreadPoolExecutor(1) as pool:  # the disk writes while the digest is computed
        syncing = pool.submit(_to_disk, written) if durable else None
        digest = file_digest(written)
        if syncing:
            syncing.result()
    return Leaving(digest=digest, size=found.st_size)


def _to_disk(path: Path) -> None:
    with disk_errors(path), path.open("rb") as file:
        os.fsync(file.fileno())
