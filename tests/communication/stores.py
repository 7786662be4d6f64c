"""Blob stores with the faults of real disks, for carrier tests."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from octopus_desktop.storage.blobs import BlobStore, BlobWriter, disk_errors

MIB = 1 << 20


class SlowStore(BlobStore):
    """A receiver's slow disk: about 100 MiB/s."""

    def writer(self, digest: str, size: int) -> BlobWriter:
        writer = super().writer(digest, size)
        write = writer.write

        def slowly(data: bytes | memoryview) -> None:
            time.sleep(len(data) / (100 * MIB))
            write(data)

        writer.write = slowly  # type: ignore[method-assign]
        return writer


class CuttingStore(BlobStore):
    """Cuts the wire, each time that another of the given shares of one blob have come."""

    def __init__(self, root: Path, at: list[int], cut: Callable[[], None]) -> None:
        super().__init__(root)
        self.at, self.cut, self.loop = sorted(at), cut, asyncio.get_running_loop()

    def writer(self, digest: str, size: int) -> BlobWriter:
        writer = super().writer(digest, size)
        write = writer.write

        def cutting(data: bytes | memoryview) -> None:
            write(data)
            if self.at and writer.offset >= self.at[0]:
                self.at = [at for at in self.at if at > writer.offset]
                self.loop.call_soon_threadsafe(self.cut)

        writer.write = cutting  # type: ignore[method-assign]
        return writer


class FullStore(BlobStore):
    """No room for blobs that arrive, until ``full`` is cleared."""

    full = True
    refused = 0

    def writer(self, digest: str, size: int) -> BlobWriter:
        if self.full:
            self.refused += 1
            with disk_errors(self.root):
                raise OSError(28, "No space left on device")
        return super().writer(digest, size)
