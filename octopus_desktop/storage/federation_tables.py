"""The federation server's tables. Data only; the migrations below ``federation_migrations`` bring a database here."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

settings = Table(
    "settings",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

invitations = Table(
    "invitations",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("name", String(64), nullable=False),
    Column("serial", String(64), nullable=False, unique=True),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("used_at", Float, nullable=False),
    Column("used_by", String(64), nullable=False),
    Column("request_digest", String(64), nullable=False),
)

members = Table(
    "members",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("organisation", Text, nullable=False),
    Column("contact", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("signing_key", LargeBinary, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("certificate_expires", Float, nullable=False),
    Column("enrolled_at", Float, nullable=False),
    Column("last_seen", Float, nullable=False),
    Column("revoked_at", Float, nullable=False),
    Column("reason", Text, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
)

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(64), primary_key=True),
    Column("member", String(64), ForeignKey("members.name"), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("issued_at", Float, nullable=False),
    Column("not_after", Float, nullable=False),
)

authors = Table(
    "authors",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("key", LargeBinary, nullable=False),
    Column("added_at", Float, nullable=False),
    Column("state", String(16), nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("digest", String(64), primary_key=True),
    Column("name", String(128), nullable=False),
    Column("version", String(64), nullable=False),
    Column("author", String(64), nullable=False),
    Column("author_fingerprint", String(64), nullable=False),
    Column("author_key", LargeBinary, nullable=False),
    Column("submitted_at", Float, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("purpose", Text, nullable=False),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("job_digest", String(64), ForeignKey("jobs.digest"), nullable=False),
    Column("job_name", String(128), nullable=False),
    Column("job_version", String(64), nullable=False),
    Column("config_json", Text, nullable=False),
    Column("config_digest", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=False),
    Column("code", String(32), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("offer_expires_at", Float, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("ended_at", Float, nullable=False),
    Column("round", Integer, nullable=False),
    Column("rounds", Integer, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("model_size", BigInteger, nullable=False),
    Column("metrics_json", Text, nullable=False),
    Column("swept_round", Integer, nullable=False),
    Column("mail_closed", Integer, nullable=False),
    Column("bytes_in", BigInteger, nullable=False),
    Column("bytes_out", BigInteger, nullable=False),
    Column("best_round", Integer, nullable=False, server_default="0"),
    Column("best_value", Float, nullable=False, server_default="0"),
    Column("best_digest", String(64), nullable=False, server_default=""),
    Column("best_size", BigInteger, nullable=False, server_default="0"),
)
Index("runs_state", runs.c.state)

run_silos = Table(
    "run_silos",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id"), primary_key=True),
    Column("silo", String(64), primary_key=True),
    Column("decision", String(32), nullable=False),
    Column("in_cohort", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("statement", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("approver_key", LargeBinary, nullable=False),
    Column("decided_by", Text, nullable=False),
    Column("decided_at", Float, nullable=False),
    Column("live_state", String(32), nullable=False),
    Column("round", Integer, nullable=False),
    Column("fraction", Float, nullable=False),
    Column("metrics_json", Text, nullable=False),
    Column("at", Float, nullable=False),
)

rounds = Table(
    "rounds",
    metadata,
    Column("run_id", String(64), ForeignKey("runs.id"), primary_key=True),
    Column("round", Integer, primary_key=True),
    Column("metrics_json", Text, nullable=False),
    Column("answered_json", Text, nullable=False),
    Column("missing_json", Text, nullable=False),
    Column("late_json", Text, nullable=False, server_default="[]"),
    Column("silos_json", Text, nullable=False, server_default="{}"),
    Column("seconds", Float, nullable=False),
    Column("model_digest", String(64), nullable=False),
    Column("model_size", BigInteger, nullable=False),
    Column("at", Float, nullable=False),
)

audit_heads = Table(
    "audit_heads",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("silo", String(64), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("signature", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
    Column("problem", Text, nullable=False),
)
Index("audit_heads_silo", audit_heads.c.silo, audit_heads.c.seq)

requests = Table(
    "requests",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("answer", LargeBinary, nullable=False),
    Column("at", Float, nullable=False),
)

# ids of envelopes that the server itself dealt with: a replay finds its id here
seen = Table(
    "seen",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("at", Float, nullable=False),
)
