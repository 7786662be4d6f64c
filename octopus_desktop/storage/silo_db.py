"""The silo's one database: SQLite in WAL mode, numbered migrations by ``PRAGMA user_version``, no ORM.

Rows are the truth of the daemon. Entities are kept as the protobuf messages that the local API shows, under (kind,
id). Knows how rows are kept, not what they mean.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.storage.unsynced import unsynced
from octopus_desktop.wire.errors import UserError

M = TypeVar("M", bound=Message)

REQUESTS_KEPT_S = 7 * 86400.0

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL);
    CREATE TABLE entities (kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, at REAL NOT NULL,
      PRIMARY KEY (kind, id)) WITHOUT ROWID;
    CREATE TABLE requests (id TEXT PRIMARY KEY, method TEXT NOT NULL, answer BLOB NOT NULL, at REAL NOT NULL);
    CREATE TABLE credentials (federation_id TEXT PRIMARY KEY, certificate_der BLOB NOT NULL, ca_der BLOB NOT NULL,
      server_key BLOB NOT NULL, key_name TEXT NOT NULL, at REAL NOT NULL);
    CREATE TABLE dataset_marks (dataset_id TEXT PRIMARY KEY, mark TEXT NOT NULL);
    CREATE TABLE lives (run_id TEXT PRIMARY KEY, federation_id TEXT NOT NULL, row TEXT NOT NULL,
      ended INTEGER NOT NULL);
    CREATE INDEX lives_open ON lives(ended);
    CREATE TABLE decisions (run_id TEXT NOT NULL, seq INTEGER NOT NULL, body BLOB NOT NULL, at REAL NOT NULL,
      PRIMARY KEY (run_id, seq));
    CREATE TABLE outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, federation_id TEXT NOT NULL,
      envelope BLOB NOT NULL, at REAL NOT NULL, delivered_at REAL);
    CREATE INDEX outbox_open ON outbox(delivered_at, federation_id, seq);
    CREATE TABLE seen (id TEXT PRIMARY KEY, at REAL NOT NULL);
    CREATE TABLE audit (seq INTEGER PRIMARY KEY, at REAL NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL,
      subject TEXT NOT NULL, detail TEXT NOT NULL, previous BLOB NOT NULL, hash BLOB NOT NULL);
    CREATE INDEX audit_action ON audit(action);
    CREATE INDEX audit_subject ON audit(subject);
    CREATE TABLE audit_heads (seq INTEGER PRIMARY KEY, hash BLOB NOT NULL, signature BLOB NOT NULL, at REAL NOT NULL);
    CREATE TABLE logs (seq INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, level TEXT NOT NULL,
      source TEXT NOT NULL, run_id TEXT NOT NULL, text TEXT NOT NULL);
    CREATE INDEX logs_run ON logs(run_id, seq);
    CREATE TABLE run_rounds (run_id TEXT NOT NULL, round INTEGER NOT NULL, body BLOB NOT NULL,
      PRIMARY KEY (run_id, round)) WITHOUT ROWID;
    CREATE TABLE run_points (seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX run_points_run ON run_points(run_id, seq);
    CREATE TABLE run_spans (seq INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, body BLOB NOT NULL);
    CREATE INDEX run_spans_run ON run_spans(run_id, seq);
    CREATE TABLE run_left (envelope_id TEXT PRIMARY KEY, run_id TEXT NOT NULL, at REAL NOT NULL, body BLOB NOT NULL,
      receipt_at REAL);
    CREATE INDEX run_left_run ON run_left(run_id, at);
    CREATE TABLE blob_uses (digest TEXT NOT NULL, run_id TEXT NOT NULL, kind TEXT NOT NULL, round INTEGER NOT NULL,
      PRIMARY KEY (run_id, kind, round, digest)) WITHOUT ROWID;
    CREATE INDEX blob_uses_digest ON blob_uses(digest);
    CREATE TABLE notes (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, path TEXT NOT NULL,
      line INTEGER NOT NULL, text TEXT NOT NULL, who TEXT NOT NULL, at REAL NOT NULL);
    CREATE TABLE traffic (day TEXT NOT NULL, federation_id TEXT NOT NULL, bytes_in INTEGER NOT NULL DEFAULT 0,
      bytes_out INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (day, federation_id)) WITHOUT ROWID;
    """,
)


class SiloDb:
    """The open database. One thread uses it (the daemon's event loop); other processes may only read.

    Constraints (checked by tests/storage/test_silo_db.py):
        - inside ``transaction`` all or nothing happens; nested blocks join the outermost;
        - a file that a newer version wrote raises OCT-STATE-NEWER and is left as it is;
        - a full disk raises OCT-DISK-FULL, and what was committed before stays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = sqlite3.connect(path, isolation_level=None, timeout=30)
        self._depth = 0
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("PRAGMA cache_size=-2000")
        self._migrate()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > len(MIGRATIONS):
            self._db.close()
            raise UserError(
                "OCT-STATE-NEWER",
                f"{self.path} was written by a newer version of Octopus Desktop.",
                f"Its format is {version}; this version knows up to {len(MIGRATIONS)}.",
                "Update Octopus Desktop, or restore the backup that was made before the update.",
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            with self.transaction():
                for statement in script.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={number}")

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing; may be nested, the outermost commits. Raises OCT-DISK-FULL when nothing could be written.

        ``durable=False``: a process that is killed loses nothing of it, a machine without power may lose it, if nothing
        durable came after it. For what is measured, and decides nothing.
        """
        with disk_errors(self.path), _sqlite_full(self.path), unsynced(self._db, not durable and self._depth == 0):
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0 and self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                try:
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """One statement with its values. Writes belong inside ``transaction``."""
        return self._db.execute(sql, values)

    def rows(self, sql: str, *values: Any) -> list[Any]:
        return self._db.execute(sql, values).fetchall()

    def one(self, sql: str, *values: Any) -> Any:
        """The first row, or None."""
        return self._db.execute(sql, values).fetchone()

    def write_many(self, sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        with self.transaction():
            self._db.executemany(sql, rows)

    # small values

    def get(self, key: str) -> bytes | None:
        row = self.one("SELECT value FROM meta WHERE key=?", key)
        return bytes(row[0]) if row else None

    def set(self, key: str, value: bytes) -> None:
        with self.transaction():
            self.execute("INSERT INTO meta VALUES(?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value", key, value)

    # entities

    def put(self, kind: str, entity_id: str, body: Message) -> None:
        with self.transaction():
            self.execute(
                "INSERT INTO entities VALUES(?,?,?,?) "
                "ON CONFLICT(kind,id) DO UPDATE SET body=excluded.body, at=excluded.at",
                kind,
                entity_id,
                body.SerializeToString(),
                time.time(),
            )

    def load(self, kind: str, entity_id: str, message: type[M]) -> M | None:
        row = self.one("SELECT body FROM entities WHERE kind=? AND id=?", kind, entity_id)
        return message.FromString(row[0]) if row else None

    def all(self, kind: str, message: type[M]) -> list[M]:
        return [message.FromString(body) for (body,) in self.rows("SELECT body FROM entities WHERE kind=?", kind)]

    def drop(self, kind: str, entity_id: str) -> None:
        with self.transaction():
            self.execute("DELETE FROM entities WHERE kind=? AND id=?", kind, entity_id)

    # answers to commands

    def answer_of(self, request_id: str) -> tuple[str, bytes] | None:
        """(method, serialised answer) that this command got before."""
        return self.one("SELECT method, answer FROM requests WHERE id=?", request_id)  # type: ignore[no-any-return]

    def remember(self, request_id: str, method: str, answer: Message) -> None:
        with self.transaction():
            self.execute(
                "INSERT OR IGNORE INTO requests VALUES(?,?,?,?)",
                request_id,
                method,
                answer.SerializeToString(),
                time.time(),
            )

    def forget_old_requests(self) -> None:
        with self.transaction():
            self.execute("DELETE FROM requests WHERE at<?", time.time() - REQUESTS_KEPT_S)

    def close(self) -> None:
        self._db.close()


@contextmanager
def _sqlite_full(path: Path) -> Iterator[None]:
    """SQLite tells of a full disk by an error of its own."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
            raise UserError(
                "OCT-DISK-FULL",
                f"The disk is full; {path.name} could not be written.",
                f"No space is left below {path.parent}.",
                "Free some space; the work goes on by itself where it stopped.",
            ) from error
        raise
