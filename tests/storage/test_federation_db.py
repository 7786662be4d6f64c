"""The federation server's rows, on a real SQLite file."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from octopus_desktop.storage.federation_db import (
    FederationDb,
    InvitationRow,
    JobRow,
    MemberRow,
    RoundRow,
    RunRow,
)
from octopus_desktop.storage.federation_engine import sqlite_url
from octopus_desktop.storage.federation_tables import metadata
from octopus_desktop.wire.errors import UserError


def make_db(path: Path) -> FederationDb:
    return FederationDb(sqlite_url(path / "federation.sqlite"))


def make_member(name: str) -> MemberRow:
    return MemberRow(
        name=name, role="silo", signing_key=b"k" * 32, fingerprint="f", certificate_expires=9e9, enrolled_at=1.0
    )


def make_run(db: FederationDb, run_id: str = "run-1", request_id: str = "q1") -> RunRow:
    digest = "d" * 64
    db.add_job(
        JobRow(
            digest=digest, name="heart", version="1", author="ada", author_fingerprint="f", author_key=b"k",
            submitted_at=1.0, size=5, purpose="",
        )
    )  # fmt: skip
    run = RunRow(
        id=run_id, job_digest=digest, job_name="heart", job_version="1", config_json="{}", config_digest="c",
        created_at=time.time(), offer_expires_at=9e9, rounds=3,
    )  # fmt: skip
    db.add_run(run, ["a", "b"], request_id, run_id.encode())
    return run


def test_migrations_lead_to_the_tables_that_the_code_uses(tmp_path: Path) -> None:
    make_db(tmp_path).close()
    found = sa.inspect(sa.create_engine(sqlite_url(tmp_path / "federation.sqlite")))
    for table in metadata.sorted_tables:
        there = {c["name"]: c["nullable"] for c in found.get_columns(table.name)}
        assert there == {c.name: bool(c.nullable) for c in table.columns}, table.name
        assert {i["name"] for i in found.get_indexes(table.name)} >= {i.name for i in table.indexes}


def test_it_is_durable_and_opens_again(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    db.set("colour", "blue")
    db.close()
    again = make_db(tmp_path)
    assert again.setting("colour") == "blue"
    with again.transaction() as c:
        assert c.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert c.exec_driver_sql("PRAGMA synchronous").scalar() == 2
    again.close()


def test_a_newer_database_is_refused_untouched(tmp_path: Path) -> None:
    make_db(tmp_path).close()
    with sqlite3.connect(tmp_path / "federation.sqlite") as raw:
        raw.execute("UPDATE alembic_version SET version_num='9999'")
    with pytest.raises(UserError) as raised:
        make_db(tmp_path)
    assert raised.value.code == "OCT-STATE-NEWER" and "9999" in raised.value.why


def test_an_unusable_address_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as raised:
        FederationDb("nonsense")
    assert raised.value.code == "OCT-CONFIG-INVALID"


def test_an_invitation_is_used_once(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    db.add_invitation(InvitationRow(id="i", role="silo", name="", serial="1", created_at=1.0, expires_at=9e9))
    assert db.enrol("i", "request", make_member("a"), "10")
    assert not db.enrol("i", "other", make_member("b"), "11")
    assert [m.name for m in db.members()] == ["a"] and db.member("b") is None
    assert (db.holder("10"), db.holder("11")) == ("a", "")
    used = db.invitation("i")
    assert used and (used.used_by, used.request_digest) == ("a", "request")


def test_a_run_comes_with_its_silos_and_the_answer_to_its_request(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    run = make_run(db)
    assert db.answered("q1") == b"run-1" and db.answered("q2") is None
    assert [(s.silo, s.decision) for s in db.run_silos(run.id)] == [("a", "offered"), ("b", "offered")]
    with pytest.raises(sa.exc.IntegrityError):
        make_run(db, "run-2")  # the same request again: nothing of it is there
    assert [r.id for r in db.runs()] == ["run-1"]


def test_what_was_read_before_a_write_is_read_again_after_it(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    run = make_run(db)
    assert db.run(run.id) == run and db.member("a") is None and db.holder("10") == ""
    assert [row.decision for row in db.run_silos(run.id)] == ["offered", "offered"]
    db.run_silos(run.id).clear()  # a reader's own list
    with pytest.raises(RuntimeError), db.transaction() as c:
        db.update_run(run.id, c, state="running")
        assert db.run(run.id) == run, "not yet"
        raise RuntimeError
    assert db.run(run.id) == run
    with db.transaction() as c:
        db.update_run(run.id, c, state="running")
        db.update_run_silo(run.id, "a", c, decision="approved")
        assert db.run(run.id) == run, "not yet"
    now = db.run(run.id)
    assert now and now.state == "running"
    assert [row.decision for row in db.run_silos(run.id)] == ["approved", "offered"]
    db.add_invitation(InvitationRow(id="i", role="silo", name="", serial="1", created_at=1.0, expires_at=9e9))
    db.enrol("i", "request", make_member("a"), "10")
    assert db.member("a") == make_member("a") and db.holder("10") == "a"


def test_a_round_said_twice_is_one_row_and_an_old_one_takes_nothing_back(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    run = make_run(db)
    db.put_round(RoundRow(run_id=run.id, round=1, metrics={"x": 1.0}, answered=("a",), model_digest="m1"))
    db.put_round(RoundRow(run_id=run.id, round=2, answered=("a", "b"), missing=(), model_digest="m2", model_size=4))
    db.put_round(RoundRow(run_id=run.id, round=1, metrics={"x": 2.0}, answered=("a",), model_digest="m1"))
    now = db.run(run.id)
    assert now and (now.round, now.model_digest, now.model_size) == (2, "m2", 4)
    assert [(r.round, r.metrics) for r in db.rounds(run.id)] == [(1, {"x": 2.0}), (2, {})]
    assert db.is_kept("m1") and db.is_kept("d" * 64) and not db.is_kept("u1")


def test_what_is_not_durable_is_a_transaction_all_the_same(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    run = make_run(db)
    for durable in (False, True):
        with pytest.raises(RuntimeError), db.transaction(durable=durable) as c:
            assert c.exec_driver_sql("PRAGMA synchronous").scalar() == (2 if durable else 1)
            db.update_run(run.id, c, state="running")
            raise RuntimeError
        assert db.run(run.id) == run
    with db.transaction(durable=False) as c:
        db.update_run(run.id, c, state="running")
    db.close()
    again = make_db(tmp_path).run(run.id)
    assert again and again.state == "running"


def test_a_seen_envelope_is_refused_for_ever_and_only_with_its_transaction(tmp_path: Path) -> None:
    db = make_db(tmp_path)
    with pytest.raises(RuntimeError), db.transaction() as c:
        assert db.first_sight(c, "e1")
        raise RuntimeError
    with db.transaction() as c:
        assert db.first_sight(c, "e1")
    with db.transaction() as c:
        assert not db.first_sight(c, "e1")


def test_a_witness_notes_chains_that_go_back_or_fork(tmp_path: Path) -> None:
    db = make_db(tmp_path)

    def witness(silo: str, seq: int, hash_: bytes) -> str:
        with db.transaction() as c:
            return db.witness(c, silo, seq, hash_, b"", 1.0)

    assert witness("a", 5, b"5") == "" and witness("a", 6, b"6") == "" and witness("a", 6, b"6") == ""
    assert "went back" in witness("a", 3, b"3")
    assert "rewritten" in witness("a", 6, b"other")
    assert witness("b", 1, b"1") == ""
    assert len(db.audit_problems("a")) == 2 and db.audit_problems("b") == []


def test_a_database_of_the_first_form_keeps_its_rows_and_gains_the_new_columns(tmp_path: Path) -> None:
    from alembic import command
    from alembic.config import Config

    from octopus_desktop.storage.federation_engine import MIGRATIONS, open_engine

    url = sqlite_url(tmp_path / "federation.sqlite")
    config, engine = Config(), open_engine(url)
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(sa.text("INSERT INTO jobs VALUES ('d', 'heart', '1', 'ada', 'f', x'00', 1.0, 5, '')"))
        columns = [c["name"] for c in sa.inspect(connection).get_columns("runs")]
        values = {c: 0 for c in columns} | {"id": "run-1", "job_digest": "d", "state": "completed", "rounds": 3}
        texts = ("job_name", "job_version", "config_json", "config_digest", "reason", "code", "model_digest")
        values |= dict.fromkeys(texts, "x") | {"metrics_json": "{}"}
        marks = ", ".join(f":{c}" for c in columns)
        connection.execute(sa.text(f"INSERT INTO runs VALUES ({marks})"), values)
        connection.execute(sa.text("INSERT INTO rounds VALUES ('run-1', 1, '{}', '[]', '[]', 1.0, 'm', 2, 3.0)"))
    engine.dispose()
    db = FederationDb(url)
    run, (row,) = db.run("run-1"), db.rounds("run-1")
    assert run and (run.rounds, run.best_round, run.best_digest) == (3, 0, "")
    assert (row.model_digest, row.late, row.silos) == ("m", (), {})
    db.close()
