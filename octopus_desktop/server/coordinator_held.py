"""A run's own hold on blobs that it still has to fold: hard links below its directory. Knows no round.

The federation's runs share one blob store, and two runs may come to the same bytes (a job run twice at a time). What
one run removes must not be missing in another.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError


class Held:
    """Links below one folder, named by digest."""

    def __init__(self, folder: Path, store: BlobStore) -> None:
        self._folder, self._store = folder, store
        folder.mkdir(exist_ok=True)

    def hold(self, digest: str) -> None:
        """Keep the blob's bytes, whatever becomes of it in the store."""
        try:
            os.link(self._store.path(digest), self._folder / digest)
        except (OSError, UserError):
            pass  # held already, gone (the fold will say so), or a file system without links

    def path(self, digest: str) -> Path | None:
        """Where the bytes are; None when they are nowhere."""
        held = self._folder / digest
        if held.exists():
            return held
        return self._store.path(digest) if self._store.has(digest) else None

    def returned(self, names: Sequence[str], answers: Sequence[AnswerFacts]) -> dict[str, list[Path | None]]:
        """Where that is what the silos sent beside their updates, by name, in the answers' order."""
        return {name: [self.path(answer.returned[name].digest) for answer in answers] for name in names}

    def keep_only(self, digests: set[str]) -> None:
        """Hold these, and let go of all others."""
        for place in self._folder.iterdir():
            if place.name not in digests:
                place.unlink(missing_ok=True)
        for digest in digests:
            self.hold(digest)
