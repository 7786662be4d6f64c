"""Whole arrays from and to places in a file. Knows nothing of what they mean."""

from __future__ import annotations

import os

from octopus_desktop.aggregation.numbers import Array


def read_full(fd: int, into: Array, at: int) -> None:
    """Fill a contiguous array with the bytes from ``at`` on. Raises EOFError when there are fewer."""
    view = into.data.cast("B")
    while len(view):
        count = os.preadv(fd, [view], at)
        if not count:
            raise EOFError("a tensor file became shorter while it was read")
        view, at = view[count:], at + count


def write_full(fd: int, view: memoryview, at: int) -> None:
    while len(view):
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count
