"""Immutable bytes on disk, named by their SHA-256 digest. Knows nothing of what they mean or who may have them.

A blob is at ``aa/<digest>`` once it is whole; while it arrives it is ``partial/<digest>`` and grows at its end, so that
a transfer resumes where it broke off. Several processes may share a store: a blob appears by an atomic rename.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from octopus_desktop.wire.errors import UserError

CHUNK_BYTES = 1 << 20
WRITE_BEHIND_BYTES = 16 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FOLDERS = tuple(f"{number:02x}" for number in range(256))


class BlobStore:
    """Blobs below one directory.

    Constraints (checked by tests/storage/test_blobs.py):
        - ``path`` gives only blobs whose bytes were seen to fit the digest;
        - an interrupted write leaves either a partial blob that can be continued or nothing;
        - the content of a partial blob never shows up under the whole blob's path.

    ``durable=False`` is for stores that nothing outlives (a simulation's): taking over a file does not wait for the
    disk.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self.root, self.durable = root, durable
        self._partial = root / "partial"
        self._partial.mkdir(parents=True, exist_ok=True)
        if durable and not (root / _FOLDERS[-1]).exists():  # all at once: a blob's folder costs a wait for the disk
            for name in _FOLDERS:
                (root / name).mkdir(exist_ok=True)
            _sync(root)

    def path(self, digest: str) -> Path:
        """Where the whole blob lies. Raises OCT-BLOB-MISSING when it is not here."""
        place = self._place(digest)
        if not place.exists():
            raise UserError(
                "OCT-BLOB-MISSING",
                f"Blob {digest[:12]} is not in the store.",
                f"{self.root} holds no file for it.",
                "Fetch it again from the other side.",
            )
        return place

    def has(self, digest: str) -> bool:
        return self._place(digest).exists()

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def offset(self, digest: str) -> int:
        """Bytes already here: the whole size when complete, else the length of the partial blob, else 0."""
        for place in (self._place(digest), self._partial / digest):
            try:
                return place.stat().st_size
            except FileNotFoundError:
                continue
        return 0

    def writer(self, digest: str, size: int) -> BlobWriter:
        """Continue (or begin) receiving a blob; write from ``writer.offset`` on."""
        self._place(digest)
        return BlobWriter(self, digest, size)

    def create(self) -> BlobCreator:
        """Write a new blob whose digest is known only at its end; hashes while it writes."""
        return BlobCreator(self)

    def put(self, data: bytes) -> str:
        """Store bytes and return their digest."""
        with self.create() as new:
            new.write(data)
        return new.digest

    def adopt(self, path: Path, *, move: bool = False) -> str:
        """Store a file's content and return its digest. ``move``: the file is on this disk and is given away."""
        digest = file_digest(path)
        if self.has(digest):
            if move:
                path.unlink(missing_ok=True)
            return digest
        if move:
            _sync(path)
            self._install(path, digest)
            return digest
        with self.create() as new:
            new.copy_from(path)
        return new.digest

    def adopt_hashed(self, path: Path, digest: str) -> str:
        """Take over a file on this disk whose digest the caller computed while writing it. No second read."""
        self._place(digest)
        if self.durable:
            _sync(path)
        self._install(path, digest)
        return digest

    def remove(self, digest: str) -> None:
        self._place(digest).unlink(missing_ok=True)
        (self._partial / digest).unlink(missing_ok=True)

    def digests(self) -> Iterator[str]:
        for folder in self.root.iterdir():
            if len(folder.name) == 2:
                yield from (p.name for p in folder.iterdir())

    def _place(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise UserError(
                "OCT-BLOB-CORRUPT",
                "A blob was named by something that is no SHA-256 digest.",
                f"Got {digest[:80]!r}.",
                "Report this to the federation's coordinator.",
            )
        return self.root / digest[:2] / digest

    def _install(self, source: Path, digest: str) -> None:
        """Make a file whose bytes are on the disk visible, and the name with it: a receipt may follow."""
        place = self._place(digest)
        with disk_errors(place):
            try:
                place.parent.mkdir()
                if self.durable:
                    _sync(self.root)
            except FileExistsError:
                pass
            os.replace(source, place)
            if self.durable:
                _sync(place.parent)


class BlobWriter:
    """Receives one blob of a known digest. Use as a context manager: leaving early keeps the partial blob."""

    def __init__(self, store: BlobStore, digest: str, size: int) -> None:
        self._store, self._digest, self._size = store, digest, size
        self._path = store.root / "partial" / digest
        self._sha = hashlib.sha256()
        with disk_errors(self._path):
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115
        self.offset = self._file.tell()
        self._behind = _WriteBehind(self._file.fileno(), self.offset)
        if self.offset > size:
            self._file.truncate(0)
            self.offset = 0
        if self.offset:
            for chunk in read_chunks(self._path):
                self._sha.update(chunk)

    def write(self, data: bytes | memoryview) -> None:
        """Append the next bytes."""
        if self.offset + len(data) > self._size:
            self.discard()
            raise self._corrupt(f"more than the announced {self._size} bytes arrived")
        with disk_errors(self._path):
            view = memoryview(data)
            while len(view):
                view = view[self._file.write(view) :]
        self._sha.update(data)
        self.offset += len(data)
        self._behind.written(self.offset)

    def commit(self, *, durable: bool = True) -> None:
        """Check the digest and make the blob visible. Raises OCT-BLOB-CORRUPT and discards the bytes if it differs."""
        if self.offset != self._size:
            raise self._corrupt(f"{self.offset} of {self._size} bytes are here")
        if self._sha.hexdigest() != self._digest:
            self.discard()
            raise self._corrupt("their SHA-256 is another one")
        if durable:
            with disk_errors(self._path):
                os.fdatasync(self._file.fileno()) if hasattr(os, "fdatasync") else os.fsync(self._file.fileno())
        self._file.close()
        self._store._install(self._path, self._digest)

    def close(self) -> None:
        """Stop here; the partial blob stays."""
        self._file.close()

    def discard(self) -> None:
        """Throw the partial blob away."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def __enter__(self) -> BlobWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def _corrupt(self, why: str) -> UserError:
        return UserError(
            "OCT-BLOB-CORRUPT",
            f"The bytes received for blob {self._digest[:12]} do not fit its digest.",
            f"Of the announced blob, {why}.",
            "The transfer is tried again; if this repeats, the network or the sender's disk damages data.",
        )


class BlobCreator:
    """Writes one new blob and names it. Use as a context manager; ``digest`` and ``size`` are valid after it."""

    def __init__(self, store: BlobStore) -> None:
        self._store = store
        self._path = store.root / "partial" / f"new-{os.getpid()}-{os.urandom(6).hex()}"
        self._sha = hashlib.sha256()
        self.digest = ""
        self.size = 0
        with disk_errors(self._path):
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115
        self._behind = _WriteBehind(self._file.fileno(), 0)

    def write(self, data: bytes | memoryview) -> None:
        with disk_errors(self._path):
            view = memoryview(data).cast("B")
            self.size += len(view)
            self._sha.update(view)
            while len(view):
                view = view[self._file.write(view) :]
        self._behind.written(self.size)

    def copy_from(self, path: Path) -> None:
        for chunk in read_chunks(path):
            self.write(chunk)

    def __enter__(self) -> BlobCreator:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)
            return
        with disk_errors(self._path):
            os.fsync(self._file.fileno())
        self._file.close()
        self.digest = self._sha.hexdigest()
        self._store._install(self._path, self.digest)


def read_chunks(path: Path, offset: int = 0, chunk_bytes: int = CHUNK_BYTES) -> Iterator[memoryview]:
    """A file's bytes from ``offset`` on, in a buffer that is used again: consume each chunk before the next."""
    buffer = bytearray(chunk_bytes)
    view = memoryview(buffer)
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        while count := file.readinto(buffer):
            yield view[:count]


def file_digest(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """Lower-case hex SHA-256 of a file, read in chunks."""
    sha = hashlib.sha256()
    for chunk in read_chunks(path):
        sha.update(chunk)
        if progress:
            progress(len(chunk))
    return sha.hexdigest()


def _sync(path: Path) -> None:
    """A file's bytes, or a directory's names, to the disk. Windows has no such thing for directories."""
    if os.name == "nt" and path.is_dir():
        return
    with disk_errors(path):
        file_no = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
        try:
            os.fsync(file_no)
        finally:
            os.close(file_no)


class _WriteBehind:
    """Has the kernel write a growing file to the disk while it grows, so that the sync at its end has little to wait
    for. A hint: where the system does not know it, nothing happens."""

    _START = 2  # SYNC_FILE_RANGE_WRITE: begin, do not wait

    def __init__(self, file_no: int, offset: int) -> None:
        self._file_no, self._told = file_no, offset

    def written(self, offset: int) -> None:
        if offset - self._told >= WRITE_BEHIND_BYTES and _sync_file_range is not None:
            _sync_file_range(self._file_no, self._told, offset - self._told, self._START)
            self._told = offset


def _find_sync_file_range() -> Callable[[int, int, int, int], int] | None:
    if sys.platform != "linux":
        return None
    found = getattr(ctypes.CDLL(None), "sync_file_range", None)
    if found is not None:
        found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return found


_sync_file_range = _find_sync_file_range()


class disk_errors:
    """Turns ENOSPC and EDQUOT inside the block into OCT-DISK-FULL."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                "OCT-DISK-FULL",
                f"The disk is full; {self._path.name[:24]} could not be written.",
                f"No space is left below {self._path.parent}.",
                "Free some space; the work goes on by itself where it stopped.",
            ) from error
