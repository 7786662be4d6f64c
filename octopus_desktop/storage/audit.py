"""An append-only record whose entries are chained by hash, so that a change anywhere shows. Knows no actor or action.

An entry's hash is SHA-256 over the canonical JSON of its fields with the hash of the entry before it (32 zero bytes
before the first). Heads are signed by the silo's key, and go to the federation as witness: whoever rewrites the chain
would have to rewrite what others hold. After Schneier and Kelsey, "Secure Audit Logs to Support Computer Forensics".
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.wire.canonical import canonical_json

GENESIS = bytes(32)
HEAD_DOMAIN = b"octopus-desktop/audit-head/1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One line of the record. ``detail`` is a JSON object; ``at`` in Unix seconds."""

    seq: int
    at: float
    actor: str
    action: str
    subject: str
    detail_json: str
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """Whether the chain is whole. ``first_bad``: the first entry that does not fit, 0 when all do."""

    whole: bool
    entries: int
    first_bad: int = 0
    why: str = ""
    head: bytes = GENESIS


class AuditChain:
    """The chain inside the silo's database.

    Constraints (checked by tests/storage/test_audit.py):
        - an entry appended inside a transaction is there exactly when the transaction is;
        - changing, removing, inserting or reordering any entry makes ``verify`` name the first place that is off;
        - cutting off the end shows as soon as one signed head lies beyond it.
    """

    def __init__(self, db: SiloDb) -> None:
        self._db = db

    def append(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> Entry:
        """Add an entry; joins the caller's transaction."""
        text = canonical_json(dict(detail or {})).decode()
        with self._db.transaction():
            seq, previous = self.head()
            seq, at = seq + 1, round(time.time(), 6)
            hashed = entry_hash(previous, seq, at, actor, action, subject, text)
            self._db.execute(
                "INSERT INTO audit VALUES(?,?,?,?,?,?,?,?)", seq, at, actor, action, subject, text, previous, hashed
            )
        return Entry(seq=seq, at=at, actor=actor, action=action, subject=subject, detail_json=text, hash=hashed)

    def head(self) -> tuple[int, bytes]:
        """(number, hash) of the newest entry; (0, 32 zero bytes) before the first."""
        row = self._db.one("SELECT seq, hash FROM audit ORDER BY seq DESC LIMIT 1")
        return (row[0], bytes(row[1])) if row else (0, GENESIS)

    def sign_head(self, sign: Callable[[bytes], bytes]) -> tuple[int, bytes, bytes]:
        """Sign the newest entry and keep the signature: (number, hash, signature)."""
        with self._db.transaction():
            seq, hashed = self.head()
            signature = sign(head_bytes(seq, hashed))
            self._db.execute("INSERT OR REPLACE INTO audit_heads VALUES(?,?,?,?)", seq, hashed, signature, time.time())
        return seq, hashed, signature

    def verify(self, check: Callable[[bytes, bytes], bool] | None = None) -> Verification:
        """Recompute the whole chain. ``check(data, signature)`` tests the signed heads, when the key is at hand."""
        heads = {s: (bytes(h), bytes(g)) for s, h, g in self._db.rows("SELECT seq, hash, signature FROM audit_heads")}
        previous, count = GENESIS, 0
        cursor = self._db.execute("SELECT seq,at,actor,action,subject,detail,previous,hash FROM audit ORDER BY seq")
        for seq, at, actor, action, subject, detail, linked, hashed in cursor:
            bad = ""
            if seq != count + 1:
                bad = f"entry {count + 1} is missing"
            elif bytes(linked) != previous:
                bad = f"entry {seq} does not follow the entry before it"
            elif entry_hash(previous, seq, at, actor, action, subject, detail) != bytes(hashed):
                bad = f"the content of entry {seq} was changed"
            elif seq in heads and heads[seq][0] != bytes(hashed):
                bad = f"entry {seq} is not the one that was signed"
            elif seq in heads and check is not None and not check(head_bytes(seq, bytes(hashed)), heads[seq][1]):
                bad = f"the signature at entry {seq} is not this silo's"
            if bad:
                return Verification(whole=False, entries=count, first_bad=count + 1, why=bad, head=previous)
            previous, count = bytes(hashed), seq
        beyond = [seq for seq in heads if seq > count]
        if beyond:
            why = f"entries after {count} were cut off: entry {max(beyond)} was signed"
            return Verification(whole=False, entries=count, first_bad=count + 1, why=why, head=previous)
        return Verification(whole=True, entries=count, head=previous)

    def page(
        self, *, before: int = 0, limit: int = 200, action: str = "", text: str = "", subject: str = ""
    ) -> tuple[Sequence[Entry], int]:
        """Newest first, below ``before`` (0: from the end); and how many fit in all. ``action`` matches by prefix."""
        where, values = ["1=1"], list[Any]()
        if action:
            where.append("substr(action,1,?)=?")
            values += [len(action), action]
        if subject:
            where.append("subject=?")
            values.append(subject)
        if text:
            where.append("(instr(lower(detail),?) OR instr(lower(subject),?) OR instr(lower(actor),?))")
            values += [text.lower()] * 3
        condition = " AND ".join(where)
        (total,) = self._db.one(f"SELECT count(*) FROM audit WHERE {condition}", *values)
        if before:
            condition += " AND seq<?"
            values.append(before)
        rows = self._db.rows(
            f"SELECT seq,at,actor,action,subject,detail,hash FROM audit WHERE {condition} ORDER BY seq DESC LIMIT ?",
            *values,
            limit,
        )
        return [
            Entry(seq=q, at=t, actor=a, action=c, subject=s, detail_json=d, hash=bytes(h))
            for q, t, a, c, s, d, h in rows
        ], total


def entry_hash(previous: bytes, seq: int, at: float, actor: str, action: str, subject: str, detail_json: str) -> bytes:
    """32 bytes: SHA-256 over the canonical JSON of an entry with its predecessor's hash."""
    fields = {
        "previous": previous.hex(),
        "seq": seq,
        "at": at,
        "actor": actor,
        "action": action,
        "subject": subject,
        "detail": detail_json,
    }
    return hashlib.sha256(canonical_json(fields)).digest()


def head_bytes(seq: int, hashed: bytes) -> bytes:
    """What the silo's key signs of a head."""
    return HEAD_DOMAIN + seq.to_bytes(8, "big") + hashed
