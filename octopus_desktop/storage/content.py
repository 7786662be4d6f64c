"""What a dataset holds, as one digest: the same wherever a copy of it lies. Knows no row and no column."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.wire.canonical import canonical_json, digest


def content_digest(path: Path, kind: str) -> tuple[str, int]:
    """(digest, bytes) of a file, or of every file below a folder by its relative path. Raises OSError."""
    if kind != "folder":
        return file_digest(path), path.stat().st_size
    files = [(f.relative_to(path).as_posix(), f.stat().st_size, file_digest(f)) for f in files_below(path)]
    return digest(canonical_json(files)), sum(bytes_ for _, bytes_, _ in files)


def files_below(folder: Path) -> Iterator[Path]:
    """Every regular file, in one order everywhere: sorted by the relative path's parts. Links are not followed."""
    found = []
    for base, folders, files in os.walk(folder, followlinks=False):
        folders.sort()
        found += [Path(base, name) for name in files if not Path(base, name).is_symlink()]
    yield from sorted(found, key=lambda p: p.relative_to(folder).parts)
