"""What simulated silos hand over without files: the global model that all of them read, and a place for each update.

The places lie in one block that several processes map: a file in the memory file system where there is one. Models too
large for that go through files of the blob store, as in deployment. Decides nothing about bits. Needs torch.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path

import torch

from octopus_desktop.aggregation.encodings.sources import InMemory
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training import state as files
from octopus_desktop.wire.tensors import Layout, read_layout

MOST_BYTES = 512 << 20  # of the updates of one round; above, they are files
KEPT_MODELS = 2
_SHARED_MEMORY = Path("/dev/shm")


class Models:
    """The newest global models in memory, read once for all silos of a process."""

    def __init__(self) -> None:
        self._held: dict[Path, files.Held] = {}
        self._newest: tuple[str, Path] = ("", Path())

    def named(self, store: BlobStore, digest: str) -> tuple[Path, files.Held]:
        """The store's model: its file, and what it holds. Most silos ask for the one that the last asked for."""
        if self._newest[0] != digest:
            self._newest = digest, store.path(digest)
        return self._newest[1], self.get(self._newest[1])

    def get(self, path: Path) -> files.Held:
        if path not in self._held:
            for old in list(self._held)[: 1 - KEPT_MODELS]:
                del self._held[old]
            self._held[path] = files.Held.read(path)
        return self._held[path]


class Places:
    """Room for ``count`` updates in a model's layout, in a file that several processes map."""

    def __init__(self, layout: Layout, count: int, path: Path) -> None:
        self.layout, self.count, self.path = layout, count, path
        self.stride = -(-files.body_bytes(layout) // 64) * 64
        self._file = path.open("r+b")
        self._map = mmap.mmap(self._file.fileno(), max(64, self.stride * count))
        block = torch.frombuffer(self._map, dtype=torch.uint8)
        self.rows = block[: self.stride * count].view(count, self.stride)
        self._free = list(range(count))[::-1]
        self._views: dict[int, files.Held] = {}

    @classmethod
    def make(cls, model: Path, count: int, at_once: int, work: Path) -> Places | None:
        """None when updates of this model had better be files. The file is sparse: only places in use cost memory."""
        layout = read_layout(model)
        stride = -(-files.body_bytes(layout) // 64) * 64
        if not files.holdable(layout) or stride * at_once > MOST_BYTES or any(t.elements == 0 for t in layout):
            return None
        return cls.create(layout, count, work, stride * at_once)

    @classmethod
    def create(cls, layout: Layout, count: int, work: Path, used: int) -> Places:
        """``used``: bytes that will be in use at once."""
        stride = -(-files.body_bytes(layout) // 64) * 64
        folder = _SHARED_MEMORY if _roomy(_SHARED_MEMORY, used) else work
        number, name = tempfile.mkstemp(prefix="octopus-updates-", dir=folder)
        os.ftruncate(number, max(64, stride * count))
        os.close(number)
        return cls(layout, count, Path(name))

    def take(self) -> int:
        """A free place; -1 when there is none, so that this update becomes a file."""
        return self._free.pop() if self._free else -1

    def give_back(self, place: int) -> None:
        self._free.append(place)

    def held(self, place: int) -> files.Held:
        """The place, to write an update into."""
        if place not in self._views:
            self._views[place] = files.Held(self.layout, self.rows[place][: files.body_bytes(self.layout)])
        return self._views[place]

    def source(self, place: int) -> InMemory:
        """The update at the place, for the fold."""
        return InMemory(self.layout, self.rows[place][: files.body_bytes(self.layout)].numpy().data)

    def shared_as(self) -> str:
        """By what name a child of this process opens the block, also after ``forget_name``."""
        number = Path(f"/proc/{os.getpid()}/fd/{self._file.fileno()}")
        return str(number if number.exists() else self.path)

    def forget_name(self) -> None:
        """Nothing is left behind from here on, however the process ends; where children can open it without a name."""
        if Path(self.shared_as()) != self.path:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()
        with contextlib.suppress(OSError):  # still mapped, where a system minds
            self.path.unlink(missing_ok=True)


def _roomy(folder: Path, size: int) -> bool:
    try:
        found = os.statvfs(folder)
    except (OSError, AttributeError):
        return False
    return os.access(folder, os.W_OK) and found.f_bavail * found.f_frsize > 2 * size + (64 << 20)
