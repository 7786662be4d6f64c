"""How the C allocator treats the buffers of a transfer. Knows nothing of transfers.

A chunk of 1 MiB is above glibc's threshold for memory of its own: each one is mapped, zeroed by page faults and
unmapped again, which costs more than encrypting it. While something is moved, such buffers stay with the process;
afterwards the memory goes back to the system. And each thread likes to have a heap of its own, which keeps what another
thread freed: eight threads held 100 MiB more than two heaps do.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_MIB = 1 << 20
_KEEP = ((_M_MMAP_THRESHOLD, 16 * _MIB), (_M_TRIM_THRESHOLD, 64 * _MIB))

_HEAPS = 2

_libc: ctypes.CDLL | None = None
_users = 0


def blob_threads(count: int) -> ThreadPoolExecutor:
    """Threads for work on blobs. They share the process's heaps."""
    if libc := _glibc():
        libc.mallopt(_M_ARENA_MAX, _HEAPS)
    return ThreadPoolExecutor(count, thread_name_prefix="octopus-blobs")


@contextmanager
def kept_buffers() -> Iterator[None]:
    """Inside, freed buffers of some MiB are used again. Call from the event loop's thread; may be nested."""
    global _users
    _users += 1
    try:
        if _users == 1 and (libc := _glibc()):
            for option, value in _KEEP:
                libc.mallopt(option, value)
        yield
    finally:
        _users -= 1
        if _users == 0 and (libc := _glibc()):
            libc.malloc_trim(_MIB)


def _glibc() -> ctypes.CDLL | None:
    global _libc
    if _libc is None and sys.platform == "linux":
        found = ctypes.CDLL(None)
        if hasattr(found, "mallopt") and hasattr(found, "malloc_trim"):  # musl has neither
            _libc = found
    return _libc
