"""The audit chain shows every change to it."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.storage.audit import AuditChain
from octopus_desktop.storage.silo_db import SiloDb


def make_chain(path: Path, entries: int = 5) -> AuditChain:
    chain = AuditChain(SiloDb(path / "silo.sqlite"))
    for number in range(entries):
        chain.append("ada", f"thing.done{number}", f"run{number % 2}", {"number": number, "text": "Grüße"})
    return chain


def tamper(path: Path, sql: str) -> None:
    with sqlite3.connect(path / "silo.sqlite") as db:
        db.execute(sql)


def test_a_whole_chain_verifies(tmp_path: Path) -> None:
    found = make_chain(tmp_path).verify()
    assert found.whole and found.entries == 5 and found.first_bad == 0


@pytest.mark.parametrize(
    ("sql", "first_bad"),
    [
        ("UPDATE audit SET detail='{}' WHERE seq=3", 3),
        ("UPDATE audit SET actor='eve' WHERE seq=1", 1),
        ("UPDATE audit SET at=at+1 WHERE seq=5", 5),
        ("UPDATE audit SET hash=randomblob(32) WHERE seq=2", 2),
        ("DELETE FROM audit WHERE seq=2", 2),
        ("UPDATE audit SET seq=-seq WHERE seq=4", 1),
        ("UPDATE audit SET subject='run9' WHERE seq=4", 4),
    ],
)
def test_any_change_is_named(tmp_path: Path, sql: str, first_bad: int) -> None:
    chain = make_chain(tmp_path)
    tamper(tmp_path, sql)
    found = chain.verify()
    assert not found.whole and found.first_bad == first_bad and found.why


def test_cutting_off_the_end_shows_by_the_signed_head(tmp_path: Path) -> None:
    chain, key = make_chain(tmp_path), SigningKey.generate()
    seq, hashed, signature = chain.sign_head(key.sign)
    assert (seq, len(hashed), len(signature)) == (5, 32, 64)
    tamper(tmp_path, "DELETE FROM audit WHERE seq>=4")
    found = chain.verify()
    assert not found.whole and found.first_bad == 4 and "cut off" in found.why


def test_a_chain_rewritten_from_the_start_needs_the_key(tmp_path: Path) -> None:
    chain, key = make_chain(tmp_path), SigningKey.generate()
    chain.sign_head(key.sign)
    assert chain.verify(lambda data, sig: verify(key.public, data, sig)).whole
    other = SigningKey.generate()
    assert not chain.verify(lambda data, sig: verify(other.public, data, sig)).whole


def test_an_entry_is_there_exactly_when_its_transaction_is(tmp_path: Path) -> None:
    db = SiloDb(tmp_path / "silo.sqlite")
    chain = AuditChain(db)
    with pytest.raises(RuntimeError), db.transaction():
        chain.append("ada", "x", "y")
        raise RuntimeError
    assert chain.head() == (0, bytes(32))
    with db.transaction():
        chain.append("ada", "x", "y")
    assert chain.head()[0] == 1


def test_pages_filter_by_action_subject_and_text(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    assert [e.seq for e in chain.page(limit=2)[0]] == [5, 4]
    assert [e.seq for e in chain.page(before=4, limit=2)[0]] == [3, 2]
    entries, total = chain.page(subject="run1")
    assert [e.seq for e in entries] == [4, 2] and total == 2
    assert [e.seq for e in chain.page(action="thing.done3")[0]] == [4]
    assert chain.page(text="grüße")[1] == 5
