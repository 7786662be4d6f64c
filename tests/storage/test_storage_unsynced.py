"""Commits that do not wait for the disk: all or nothing as any other, and no other commit becomes one."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.storage.unsynced import unsynced

FULL, NORMAL = 2, 1


def synchronous(db: SiloDb) -> int:
    return int(db.one("PRAGMA synchronous")[0])


def test_only_the_outermost_says_whether_a_commit_waits(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "silo.sqlite")
    assert synchronous(db) == FULL
    with db.transaction(durable=False):
        assert synchronous(db) == NORMAL
        with db.transaction():
            db.set("a", b"1")
    assert synchronous(db) == FULL
    with db.transaction():
        with db.transaction(durable=False):
            db.set("b", b"2")
        assert synchronous(db) == FULL
    db.close()
    again = SiloDb(tmp_path / "silo.sqlite")
    assert (again.get("a"), again.get("b")) == (b"1", b"2")


def test_a_failure_undoes_it_and_the_next_commit_waits_again(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "silo.sqlite")
    with pytest.raises(RuntimeError), db.transaction(durable=False):
        db.set("a", b"1")
        raise RuntimeError
    assert db.get("a") is None and synchronous(db) == FULL


def test_other_processes_see_it_at_once(tmp_path: Path) -> None:
    writer = sqlite3.connect(tmp_path / "x", isolation_level=None)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("CREATE TABLE t (v)")
    with unsynced(writer, True):
        writer.execute("INSERT INTO t VALUES(1)")
    with unsynced(writer, False):
        writer.execute("INSERT INTO t VALUES(2)")
    assert sqlite3.connect(tmp_path / "x").execute("SELECT v FROM t").fetchall() == [(1,), (2,)]
