"""A run's durable inbox, outbox and journal in one SQLite file, shared by a parent process and its child.

Acknowledged means on disk. Rows are the truth; whoever adds rows tells the other process by a word (``wire.child``),
and the other looks here. The owner of decisions (coordinator or runner) changes journal and outbox in one transaction.
Knows nothing of sockets or of what the envelopes mean.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.storage.unsynced import unsynced
from octopus_desktop.wire.pb.envelope_pb2 import Envelope

_SCHEMA = """
CREATE TABLE IF NOT EXISTS inbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, dedupe TEXT UNIQUE, sender TEXT NOT NULL,
  kind INTEGER NOT NULL, round INTEGER NOT NULL, envelope BLOB NOT NULL, at REAL NOT NULL,
  done INTEGER NOT NULL DEFAULT 0);
CREATE INDEX IF NOT EXISTS inbox_open ON inbox(done, seq);
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, dedupe TEXT UNIQUE, recipient TEXT NOT NULL,
  kind INTEGER NOT NULL, round INTEGER NOT NULL, envelope BLOB NOT NULL, at REAL NOT NULL, delivered_at REAL);
CREATE INDEX IF NOT EXISTS outbox_open ON outbox(delivered_at, recipient, seq);
CREATE TABLE IF NOT EXISTS journal (key TEXT PRIMARY KEY, value BLOB NOT NULL, at REAL NOT NULL);
"""


class Mailbox:
    """One run's mail on one side.

    Constraints (checked by tests/storage/test_mailbox.py):
        - ``accept`` of the same id, or of another envelope with the same ``dedupe``, stores nothing and returns False;
        - what ``accept`` and ``post`` returned from is on disk;
        - ``pending`` yields a recipient's rows in the order of posting until ``delivered`` names them;
        - inside ``transaction`` all or nothing happens.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)
        self._depth = 0

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[None]:
        """All or nothing; may be nested, the outermost commits. ``durable=False``: a killed process loses nothing of
        it, a machine without power may."""
        with self._lock, disk_errors(self.path), unsynced(self._db, not durable and self._depth == 0):
            if self._depth == 0:
                self._db.execute("BEGIN IMMEDIATE")
            self._depth += 1
            try:
                yield
            except BaseException:
                self._depth -= 1
                if self._depth == 0:
                    self._db.execute("ROLLBACK")
                raise
            self._depth -= 1
            if self._depth == 0:
                self._db.execute("COMMIT")

    # inbox

    def accept(self, envelope: Envelope) -> bool:
        """Store what arrived. False when it is here already (by id, or by dedupe key)."""
        with self.transaction():
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO inbox(id,dedupe,sender,kind,round,envelope,at) VALUES(?,?,?,?,?,?,?)",
                (
                    envelope.id,
                    envelope.dedupe or None,
                    envelope.sender,
                    envelope.kind,
                    envelope.round,
                    envelope.SerializeToString(),
                    time.time(),
                ),
            )
            return cursor.rowcount == 1

    def inbox(self, *, after: int = 0) -> list[tuple[int, Envelope]]:
        """(seq, envelope) of everything that is not done, oldest first, with a seq above ``after``."""
        with self._lock:
            rows = self._db.execute("SELECT seq, envelope FROM inbox WHERE done=0 AND seq>? ORDER BY seq", (after,))
            return [(seq, Envelope.FromString(raw)) for seq, raw in rows.fetchall()]

    def done(self, seq: int) -> None:
        """The inbox row has been dealt with, for ever."""
        with self.transaction():
            self._db.execute("UPDATE inbox SET done=1 WHERE seq=?", (seq,))

    def forget(self, seq: int) -> None:
        """The inbox row does not count, and its dedupe key is free again: the sender may send another in its place."""
        with self.transaction():
            self._db.execute("DELETE FROM inbox WHERE seq=?", (seq,))

    # outbox

    def post(self, envelope: Envelope) -> bool:
        """Put an envelope out for sending. With a dedupe key that is there already: nothing, False."""
        with self.transaction():
            cursor = self._db.execute(
                "INSERT OR IGNORE INTO outbox(id,dedupe,recipient,kind,round,envelope,at) VALUES(?,?,?,?,?,?,?)",
                (
                    envelope.id,
                    envelope.dedupe or None,
                    envelope.recipient,
                    envelope.kind,
                    envelope.round,
                    envelope.SerializeToString(),
                    time.time(),
                ),
            )
            return cursor.rowcount == 1

    def repost(self, envelope: Envelope) -> None:
        """Put an envelope out in place of the one that bears the same dedupe key, delivered or not."""
        with self.transaction():
            self._db.execute("DELETE FROM outbox WHERE dedupe=?", (envelope.dedupe,))
            self.post(envelope)

    def withdraw(self, envelope_id: str) -> None:
        """Do not send the envelope, if it is not delivered yet."""
        with self.transaction():
            self._db.execute("DELETE FROM outbox WHERE id=? AND delivered_at IS NULL", (envelope_id,))

    def pending(self, recipient: str = "", *, after: int = 0) -> list[tuple[int, Envelope]]:
        """(seq, envelope) of what is not delivered, oldest first; of one recipient, or of all with ""."""
        query = (
            "SELECT seq, envelope FROM outbox "
            "WHERE delivered_at IS NULL AND seq>? AND (?='' OR recipient=?) ORDER BY seq"
        )
        with self._lock:
            rows = self._db.execute(query, (after, recipient, recipient)).fetchall()
        return [(seq, Envelope.FromString(raw)) for seq, raw in rows]

    def delivered(self, envelope_id: str) -> None:
        """The receipt came: durable at the other side. Who loses this note sends once more what is there already."""
        with self.transaction(durable=False):
            self._db.execute(
                "UPDATE outbox SET delivered_at=? WHERE id=? AND delivered_at IS NULL", (time.time(), envelope_id)
            )

    def sent(self, dedupe: str) -> Envelope | None:
        """The envelope in the outbox with this dedupe key, delivered or not."""
        with self._lock:
            row = self._db.execute("SELECT envelope FROM outbox WHERE dedupe=?", (dedupe,)).fetchone()
        return Envelope.FromString(row[0]) if row else None

    # journal

    def write(self, key: str, value: bytes) -> None:
        with self.transaction():
            self._db.execute(
                "INSERT INTO journal VALUES(?,?,?) ON CONFLICT(key) DO UPDATE SET value=excluded.value, at=excluded.at",
                (key, value, time.time()),
            )

    def read(self, key: str) -> bytes | None:
        with self._lock:
            row = self._db.execute("SELECT value FROM journal WHERE key=?", (key,)).fetchone()
        return bytes(row[0]) if row else None

    def keys(self, prefix: str = "") -> list[str]:
        with self._lock:
            rows = self._db.execute(
                "SELECT key FROM journal WHERE substr(key,1,?)=? ORDER BY key", (len(prefix), prefix)
            ).fetchall()
        return [key for (key,) in rows]

    def close(self) -> None:
        with self._lock:
            self._db.close()
