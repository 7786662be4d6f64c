"""The federation server's rows: who is a member, which jobs are here, which runs there are and how far they got.

SQLite (WAL, synchronous=FULL) by default, PostgreSQL by URL without other code. One server process owns it. Calls are
short and synchronous: one transaction each. Values in and out are frozen rows; knows no TLS and no gRPC.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from octopus_desktop.storage import federation_tables as t
from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.storage.federation_engine import migrate, open_engine
from octopus_desktop.storage.unsynced import unsynced

ENDED = ("completed", "stopped", "failed")

Row = TypeVar("Row")
Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True)
class InvitationRow:
    """One-time; ``used_at`` 0 while it is open. ``serial`` of its own certificate; ``request_digest``: SHA-256 of the
    certificate request that used it, so that a repeated request after a crash gets its answer."""

    id: str
    role: str
    name: str
    serial: str
    created_at: float
    expires_at: float
    used_at: float = 0.0
    used_by: str = ""
    request_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A silo or an author. ``state``: active | revoked. ``fingerprint`` of the newest certificate."""

    name: str
    role: str
    organisation: str = ""
    contact: str = ""
    state: str = "active"
    signing_key: bytes
    fingerprint: str
    certificate_expires: float
    enrolled_at: float
    last_seen: float = 0.0
    revoked_at: float = 0.0
    reason: str = ""
    bytes_in: int = 0
    bytes_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorRow:
    """A key by which packages may be signed. ``state``: active | revoked."""

    fingerprint: str
    name: str
    key: bytes
    added_at: float
    state: str = "active"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRow:
    digest: str
    name: str
    version: str
    author: str
    author_fingerprint: str
    author_key: bytes
    submitted_at: float
    size: int
    purpose: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """``state``: offered | running | completed | stopped | failed. ``swept_round``: updates up to it are removed.
    ``mail_closed``: 1 when the run has ended and nothing waits for anybody. ``best_…``: the best round's model, where
    the run chooses one; round 0 while it has not."""

    id: str
    job_digest: str
    job_name: str
    job_version: str
    config_json: str
    config_digest: str
    state: str = "offered"
    reason: str = ""
    code: str = ""
    created_at: float
    offer_expires_at: float
    started_at: float = 0.0
    ended_at: float = 0.0
    round: int = 0
    rounds: int
    model_digest: str = ""
    model_size: int = 0
    metrics_json: str = "{}"
    swept_round: int = 0
    mail_closed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    best_round: int = 0
    best_value: float = 0.0
    best_digest: str = ""
    best_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSiloRow:
    """``decision``: offered | approved | rejected | changes_requested | revoked | expired."""

    run_id: str
    silo: str
    decision: str = "offered"
    in_cohort: int = 0
    reason: str = ""
    statement: bytes = b""
    signature: bytes = b""
    approver_key: bytes = b""
    decided_by: str = ""
    decided_at: float = 0.0
    live_state: str = ""
    round: int = 0
    fraction: float = 0.0
    metrics_json: str = "{}"
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundRow:
    """``late``: silos whose answer to an earlier round counted here. ``silos``: each silo's own metrics."""

    run_id: str
    round: int
    metrics: dict[str, float] = field(default_factory=dict)
    answered: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    seconds: float = 0.0
    model_digest: str = ""
    model_size: int = 0
    late: tuple[str, ...] = ()
    silos: dict[str, dict[str, float]] = field(default_factory=dict)


class FederationDb:
    """The database of one federation.

    Constraints (checked by tests/storage/test_federation_db.py):
        - opening brings an older database to this version, and refuses a newer one with OCT-STATE-NEWER;
        - ``use_invitation`` succeeds once; again with the same request it gives the same name;
        - ``once`` gives for a request id the answer that was kept first;
        - a seen envelope id is refused by ``first_sight`` for ever.
    """

    def __init__(self, url: str) -> None:
        """``url``: a SQLAlchemy URL. Raises OCT-STATE-NEWER, or OCT-CONFIG-INVALID when it cannot be opened."""
        self._engine = open_engine(url)
        self._known: dict[tuple[str, str], Any] = {}  # rows that each message asks for, since the last write
        migrate(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, durable: bool = True) -> Iterator[Connection]:
        """All or nothing. Raises OCT-DISK-FULL when there is no room.

        ``durable=False``: a killed process loses nothing of it, a machine without power may (with SQLite).
        """
        with disk_errors(Path("federation database/rows")):
            try:
                with self._engine.connect() as connection, self._unsynced(connection, durable), connection.begin():
                    yield connection
            except sa.exc.OperationalError as error:
                if "disk is full" in str(error.orig):
                    raise OSError(28, "database or disk is full") from error
                raise
            finally:
                self._known = {}  # another one: what a thread reads just now goes into the old one

    def _unsynced(self, connection: Connection, durable: bool) -> AbstractContextManager[None]:
        raw = connection.connection.driver_connection
        return unsynced(raw, not durable) if isinstance(raw, sqlite3.Connection) else nullcontext()

    # settings and requests

    def setting(self, key: str, default: str = "") -> str:
        with self._engine.begin() as c:
            value = c.execute(sa.select(t.settings.c.value).where(t.settings.c.key == key)).scalar()
        return default if value is None else str(value)

    def set(self, key: str, value: str) -> None:
        with self.transaction() as c:
            c.execute(sa.delete(t.settings).where(t.settings.c.key == key))
            c.execute(sa.insert(t.settings).values(key=key, value=value))

    def answered(self, request_id: str) -> bytes | None:
        """The answer that was given to this request before."""
        with self._engine.begin() as c:
            value = c.execute(sa.select(t.requests.c.answer).where(t.requests.c.id == request_id)).scalar()
        return None if value is None else bytes(value)

    def first_sight(self, c: Connection, envelope_id: str) -> bool:
        """Within a transaction: note an envelope's id; False when it was noted before."""
        if c.execute(sa.select(t.seen.c.id).where(t.seen.c.id == envelope_id)).first():
            return False
        c.execute(sa.insert(t.seen).values(id=envelope_id, at=time.time()))
        return True

    # invitations and members

    def add_invitation(self, row: InvitationRow) -> None:
        self._insert(t.invitations, row)

    def invitations(self) -> list[InvitationRow]:
        return self._all(InvitationRow, t.invitations, order=t.invitations.c.created_at)

    def invitation(self, invitation_id: str) -> InvitationRow | None:
        return self._one(InvitationRow, t.invitations, t.invitations.c.id == invitation_id)

    def enrol(self, invitation_id: str, request_digest: str, member: MemberRow, serial: str) -> bool:
        """Use an invitation and add its member, in one transaction. False when somebody else used it meanwhile."""
        with self.transaction() as c:
            used = c.execute(
                sa.update(t.invitations)
                .where(t.invitations.c.id == invitation_id, t.invitations.c.used_at == 0)
                .values(used_at=member.enrolled_at, used_by=member.name, request_digest=request_digest)
            )
            if used.rowcount != 1:
                return False
            c.execute(sa.insert(t.members).values(**asdict(member)))
            self._certificate(c, member, serial)
            return True

    def certify(self, member: MemberRow, serial: str) -> None:
        """A further certificate for a member."""
        with self.transaction() as c:
            c.execute(
                sa.update(t.members)
                .where(t.members.c.name == member.name)
                .values(fingerprint=member.fingerprint, certificate_expires=member.certificate_expires)
            )
            self._certificate(c, member, serial)

    def _certificate(self, c: Connection, member: MemberRow, serial: str) -> None:
        c.execute(
            sa.insert(t.certificates).values(
                serial=serial,
                member=member.name,
                fingerprint=member.fingerprint,
                issued_at=time.time(),
                not_after=member.certificate_expires,
            )
        )

    def holder(self, serial: str) -> str:
        """The member to whom this certificate was issued; "" when we issued none such."""
        return self._kept("holder", serial, lambda: self._holder(serial))

    def _holder(self, serial: str) -> str:
        with self._engine.begin() as c:
            value = c.execute(sa.select(t.certificates.c.member).where(t.certificates.c.serial == serial)).scalar()
        return str(value or "")

    def members(self, role: str = "") -> list[MemberRow]:
        where = t.members.c.role == role if role else sa.true()
        return self._all(MemberRow, t.members, where, order=t.members.c.name)

    def member(self, name: str) -> MemberRow | None:
        return self._kept("member", name, lambda: self._one(MemberRow, t.members, t.members.c.name == name))

    def update_member(self, name: str, **values: Any) -> None:
        self._update(t.members, t.members.c.name == name, values)

    # authors and jobs

    def add_author(self, row: AuthorRow) -> None:
        """Add a key, or make a known one active again under the given name."""
        with self.transaction() as c:
            c.execute(sa.delete(t.authors).where(t.authors.c.fingerprint == row.fingerprint))
            c.execute(sa.insert(t.authors).values(**asdict(row)))

    def authors(self) -> list[AuthorRow]:
        return self._all(AuthorRow, t.authors, order=t.authors.c.name)

    def revoke_authors(self, name: str) -> None:
        self._update(t.authors, t.authors.c.name == name, {"state": "revoked"})

    def add_job(self, row: JobRow) -> None:
        """Nothing happens when the same package is here already."""
        with self.transaction() as c:
            if not c.execute(sa.select(t.jobs.c.digest).where(t.jobs.c.digest == row.digest)).first():
                c.execute(sa.insert(t.jobs).values(**asdict(row)))

    def jobs(self) -> list[JobRow]:
        """Newest first."""
        return self._all(JobRow, t.jobs, order=t.jobs.c.submitted_at.desc())

    def job(self, digest: str) -> JobRow | None:
        return self._one(JobRow, t.jobs, t.jobs.c.digest == digest)

    # runs

    def add_run(self, run: RunRow, silos: Sequence[str], request_id: str, answer: bytes) -> None:
        """The run, its silos and the answer to the request that made it, in one transaction."""
        with self.transaction() as c:
            c.execute(sa.insert(t.runs).values(**asdict(run)))
            for silo in silos:
                row = RunSiloRow(run_id=run.id, silo=silo)
                c.execute(sa.insert(t.run_silos).values(**asdict(row)))
            if request_id:
                c.execute(sa.insert(t.requests).values(id=request_id, answer=answer, at=time.time()))

    def runs(self, state: str = "") -> list[RunRow]:
        """Newest first."""
        where = t.runs.c.state == state if state else sa.true()
        return self._all(RunRow, t.runs, where, order=t.runs.c.created_at.desc())

    def run(self, run_id: str) -> RunRow | None:
        return self._kept("run", run_id, lambda: self._one(RunRow, t.runs, t.runs.c.id == run_id))

    def open_runs(self) -> list[RunRow]:
        """Runs that have not ended, or for which mail still waits."""
        where = sa.or_(t.runs.c.state.not_in(ENDED), t.runs.c.mail_closed == 0)
        return self._all(RunRow, t.runs, where, order=t.runs.c.created_at)

    def update_run(self, run_id: str, c: Connection | None = None, **values: Any) -> None:
        self._update(t.runs, t.runs.c.id == run_id, values, c)

    def run_silos(self, run_id: str) -> list[RunSiloRow]:
        silos = t.run_silos.c
        return list(
            self._kept(
                "silos", run_id, lambda: self._all(RunSiloRow, t.run_silos, silos.run_id == run_id, order=silos.silo)
            )
        )

    def runs_of(self, silo: str) -> list[RunSiloRow]:
        return self._all(RunSiloRow, t.run_silos, t.run_silos.c.silo == silo, order=t.run_silos.c.run_id)

    def update_run_silo(self, run_id: str, silo: str, c: Connection | None = None, **values: Any) -> None:
        where = sa.and_(t.run_silos.c.run_id == run_id, t.run_silos.c.silo == silo)
        self._update(t.run_silos, where, values, c)

    def put_round(self, row: RoundRow) -> None:
        """A round's history row, and the run's newest round and model, in one transaction. Not durable by itself: while
        a run goes on, its coordinator says all its rounds again after a crash."""
        with self.transaction(durable=False) as c:
            here = sa.and_(t.rounds.c.run_id == row.run_id, t.rounds.c.round == row.round)
            c.execute(sa.delete(t.rounds).where(here))
            c.execute(
                sa.insert(t.rounds).values(
                    run_id=row.run_id,
                    round=row.round,
                    metrics_json=json.dumps(row.metrics),
                    answered_json=json.dumps(list(row.answered)),
                    missing_json=json.dumps(list(row.missing)),
                    late_json=json.dumps(list(row.late)),
                    silos_json=json.dumps(row.silos),
                    seconds=row.seconds,
                    model_digest=row.model_digest,
                    model_size=row.model_size,
                    at=time.time(),
                )
            )
            c.execute(
                sa.update(t.runs)
                .where(t.runs.c.id == row.run_id, t.runs.c.round <= row.round)
                .values(
                    round=row.round,
                    model_digest=row.model_digest,
                    model_size=row.model_size,
                    metrics_json=json.dumps(row.metrics),
                )
            )

    def rounds(self, run_id: str) -> list[RoundRow]:
        with self._engine.begin() as c:
            rows = c.execute(sa.select(t.rounds).where(t.rounds.c.run_id == run_id).order_by(t.rounds.c.round))
            return [
                RoundRow(
                    run_id=r.run_id,
                    round=r.round,
                    metrics=json.loads(r.metrics_json),
                    answered=tuple(json.loads(r.answered_json)),
                    missing=tuple(json.loads(r.missing_json)),
                    late=tuple(json.loads(r.late_json)),
                    silos=json.loads(r.silos_json),
                    seconds=r.seconds,
                    model_digest=r.model_digest,
                    model_size=r.model_size,
                )
                for r in rows
            ]

    def is_kept(self, digest: str) -> bool:
        """Is this blob a package or a global model, to be kept?"""
        with self._engine.begin() as c:
            for column in (t.jobs.c.digest, t.rounds.c.model_digest, t.runs.c.model_digest, t.runs.c.best_digest):
                if c.execute(sa.select(column).where(column == digest).limit(1)).first():
                    return True
        return False

    def model_elsewhere(self, run_id: str, digest: str) -> bool:
        """Does another run have this model: as one of its rounds', or to begin with?"""
        runs, rounds = t.runs.c, t.rounds.c
        queries = (
            sa.select(rounds.run_id).where(rounds.model_digest == digest, rounds.run_id != run_id),
            sa.select(runs.id).where(runs.config_json.contains(digest), runs.id != run_id),
        )
        with self._engine.begin() as c:
            return any(c.execute(query.limit(1)).first() for query in queries)

    # witness of audit heads

    def witness(self, c: Connection, silo: str, seq: int, hash_: bytes, signature: bytes, at: float) -> str:
        """Keep the head of a silo's audit chain; returns what is wrong with it ("" for nothing): it went backwards,
        or another head with the same number was seen."""
        heads = t.audit_heads
        newest = c.execute(sa.select(sa.func.max(heads.c.seq)).where(heads.c.silo == silo)).scalar()
        same = c.execute(sa.select(heads.c.hash).where(heads.c.silo == silo, heads.c.seq == seq)).scalars().all()
        problem = ""
        if any(bytes(h) != hash_ for h in same):
            problem = f"entry {seq} has another hash than was witnessed before: the chain was rewritten"
        elif newest is not None and seq < newest and not same:
            problem = f"the chain went back from entry {newest} to {seq}"
        if not same or problem:
            c.execute(
                sa.insert(heads).values(silo=silo, seq=seq, hash=hash_, signature=signature, at=at, problem=problem)
            )
        return problem

    def audit_problems(self, silo: str) -> list[str]:
        heads = t.audit_heads
        with self._engine.begin() as c:
            rows = c.execute(sa.select(heads.c.problem).where(heads.c.silo == silo, heads.c.problem != ""))
            return [str(p) for (p,) in rows]

    # plumbing

    def _kept(self, what: str, key: str, read: Callable[[], Kept]) -> Kept:
        """What ``read`` gave since the last write. Nobody but this process writes."""
        known = self._known
        if (what, key) not in known:
            known[what, key] = read()
        found: Kept = known[what, key]
        return found

    def _insert(self, table: sa.Table, row: Any) -> None:
        with self.transaction() as c:
            c.execute(sa.insert(table).values(**asdict(row)))

    def _update(self, table: sa.Table, where: Any, values: Mapping[str, Any], c: Connection | None = None) -> None:
        statement = sa.update(table).where(where).values(**values)
        if c is not None:
            c.execute(statement)
            return
        with self.transaction() as own:
            own.execute(statement)

    def _all(self, kind: type[Row], table: sa.Table, where: Any = None, *, order: Any) -> list[Row]:
        query = sa.select(*_columns(kind, table)).where(sa.true() if where is None else where).order_by(order)
        with self._engine.begin() as c:
            return [kind(**row._mapping) for row in c.execute(query)]

    def _one(self, kind: type[Row], table: sa.Table, where: Any) -> Row | None:
        with self._engine.begin() as c:
            row = c.execute(sa.select(*_columns(kind, table)).where(where)).first()
        return None if row is None else kind(**row._mapping)


def _columns(kind: type[Any], table: sa.Table) -> list[sa.Column[Any]]:
    return [table.c[f.name] for f in fields(kind)]
