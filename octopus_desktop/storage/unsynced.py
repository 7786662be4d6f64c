"""Commits that do not wait for the disk. Knows no table."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def unsynced(db: sqlite3.Connection, wanted: bool) -> Iterator[None]:
    """Inside, a connection in WAL mode commits without a sync, when that is ``wanted``; outside of a transaction. What
    it writes is in the operating system's hands, and on the disk with the next commit that is synced."""
    if not wanted:
        yield
        return
    db.execute("PRAGMA synchronous=NORMAL")
    try:
        yield
    finally:
        db.execute("PRAGMA synchronous=FULL")
