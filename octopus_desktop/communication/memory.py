"""How the C allocator treats the buffers of a transfer. Knows nothing of transfers.

A chunk of 1 MiB is above glibc's threshold for memory of its own: each one is mapped, zeroed by page faults and
unmapped again, which costs more than encrypting it. While something is moved, such buffers stay with the process;
afterwards the memory goes back to the system.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MIB = 1 << 20
_KEEP = ((_M_MMAP_THRESHOLD, 16 * _MIB), (_M_TRIM_THRESHOLD, 64 * _MIB))

_libc: ctypes.CDLL | None = None
_users = 0


@contextmanager
def kept_buffers() -> Iterator[None]:
    """Inside, freed buffers of some MiB are used again. Call from the event loop's thread; may be nested."""
    global _users
    _users += 1
    try:
        if _users == 1:
            _keep()
        yield
    finally:
        _users -= 1
        if _users == 0 and _libc is not None:
            _libc.malloc_trim(_MIB)


def _keep() -> None:
    global _libc
    if _libc is None and sys.platform == "linux":
        found = ctypes.CDLL(None)
        if hasattr(found, "mallopt") and hasattr(found, "malloc_trim"):  # musl has neither
            _libc = found
            for option, value in _KEEP:
                found.mallopt(option, value)
