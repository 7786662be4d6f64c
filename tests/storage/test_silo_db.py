"""The silo's database: transactions, migrations, a newer version, a full disk."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from octopus_desktop.storage.silo_db import MIGRATIONS, SiloDb
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import Node


def test_a_nested_failure_undoes_everything(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "s.sqlite")
    with pytest.raises(ZeroDivisionError), db.transaction():
        db.put("node", "a", Node(id="a"))
        with db.transaction():
            db.put("node", "b", Node(id="b"))
            raise ZeroDivisionError
    assert db.all("node", Node) == []


def test_what_was_committed_is_there_for_the_next_life(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "s.sqlite")
    db.put("node", "a", Node(id="a", name="first"))
    db.put("node", "a", Node(id="a", name="second"))
    db.remember("q1", "m", Node(id="x"))
    again = SiloDb(tmp_path / "s.sqlite")
    assert [n.name for n in again.all("node", Node)] == ["second"]
    assert again.answer_of("q1") == ("m", Node(id="x").SerializeToString())
    assert again.answer_of("q2") is None


def test_a_newer_state_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    SiloDb(path).close()
    with sqlite3.connect(path) as plain:
        plain.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    with pytest.raises(UserError) as error:
        SiloDb(path)
    assert error.value.code == "OCT-STATE-NEWER"
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS) + 1,)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "s.sqlite")
    db.set("small", b"kept")
    (pages,) = db.one("PRAGMA page_count")
    db.execute(f"PRAGMA max_page_count={pages + 2}")
    with pytest.raises(UserError) as error:
        db.set("large", bytes(1 << 20))
    assert error.value.code == "OCT-DISK-FULL"
    assert db.get("small") == b"kept" and db.get("large") is None
    db.execute("PRAGMA max_page_count=100000")
    db.set("large", bytes(1 << 20))
    assert len(db.get("large") or b"") == 1 << 20
