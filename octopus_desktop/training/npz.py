"""Small NPZ files, read in one go: ``numpy.load`` spends most of a small file's time on seeking through it.

That counts where a simulation opens a thousand of them. What is not as ``numpy.savez`` writes it is left to numpy. No
pickle.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

_LOCAL_HEADER_BYTES = 30
_ENCRYPTED = 1


def read(path: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """All arrays by name; None when this file wants numpy itself."""
    raw = path.read_bytes()
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            entries = archive.infolist()
        arrays = {}
        for entry in entries:
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
                return None
            head = raw[entry.header_offset : entry.header_offset + _LOCAL_HEADER_BYTES]
            begin = entry.header_offset + len(head)
            begin += int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            end = begin + entry.file_size
            body = memoryview(raw)[begin:end]
            if len(head) < _LOCAL_HEADER_BYTES or len(body) < entry.file_size or zlib.crc32(body) != entry.CRC:
                return None
            if (array := _array(body)) is None or not entry.filename.endswith(".npy"):
                return None
            arrays[entry.filename.removesuffix(".npy")] = array
        return arrays
    except (ValueError, zipfile.BadZipFile, NotImplementedError, IndexError):
        return None  # numpy says what is wrong with it


def _array(body: memoryview) -> np.ndarray[Any, Any] | None:
    """What an NPY file of format 1.0 holds; None for another, and for objects."""
    if bytes(body[:8]) != b"\x93NUMPY\x01\x00":
        return None
    data = 10 + int.from_bytes(body[8:10], "little")
    shape, fortran, kind = _header(bytes(body[:data]))
    if kind.hasobject or kind.itemsize == 0 or fortran:
        return None
    flat = np.frombuffer(body, kind, offset=data, count=int(np.prod(shape, dtype=np.int64)))
    return flat.reshape(shape).copy()  # in the file it lies at any byte


@lru_cache(maxsize=256)  # silos cut from one dataset share most of their headers
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = io.BytesIO(head)
    np.lib.format.read_magic(stream)
    return np.lib.format.read_array_header_1_0(stream)
