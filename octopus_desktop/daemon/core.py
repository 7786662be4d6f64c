"""What every service of the daemon shares: the open state, and changes that are one transaction and its events.

Knows how to store, record and tell; decides nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from google.protobuf.message import Message

from octopus_desktop import __version__
from octopus_desktop.daemon.hub import Hub
from octopus_desktop.storage.audit import AuditChain, Entry
from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.paths import SiloHome
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

KINDS: dict[str, type[Message]] = {
    "federation": pb.Federation,
    "node": pb.Node,
    "dataset": pb.Dataset,
    "offer": pb.SiloOffer,
    "run": pb.Run,
    "policy": pb.Policy,
    "runtime": pb.Runtime,
    "slurm_profile": pb.SlurmProfile,
}
AUDIT_TAIL = 10
DISK_RETRY_S = 5.0

log = logging.getLogger(__name__)

# (request id, method) of the command that is being carried out, so that its answer is kept with its effect
current_command: ContextVar[tuple[str, str] | None] = ContextVar("current_command", default=None)


class Silo:
    """The open state of one silo.

    Attributes:
        entities: kind -> id -> message, a copy of the database's rows; read it freely, change it through ``change``.
        status: who this silo is; kept in the database under ``status``.
    """

    def __init__(self, home: SiloHome, db: SiloDb) -> None:
        self.home, self.db = home, db
        self.audit = AuditChain(db)
        self.boot_id = new_id("b")
        self.started_at = time.time()
        self.hub = Hub(self.boot_id, self.snapshot)
        self.entities: dict[str, dict[str, Any]] = {
            kind: {m.id: m for m in db.all(kind, message)}  # type: ignore[attr-defined]
            for kind, message in KINDS.items()
        }
        self.status = pb.DaemonStatus.FromString(db.get("status") or b"")
        self.status.version, self.status.boot_id = __version__, self.boot_id
        self.status.started_at, self.status.home = self.started_at, str(home.root)
        self._events: list[tuple[str, Message]] | None = None
        self._after: list[Callable[[], None]] = []
        self._back: list[Callable[[], None]] = []
        self._undo: dict[tuple[str, str], Any] = {}

    # reading

    def get(self, kind: str, entity_id: str) -> Any:
        return self.entities[kind].get(entity_id)

    def all(self, kind: str) -> list[Any]:
        return list(self.entities[kind].values())

    @property
    def administrator(self) -> str:
        return self.status.administrator or "administrator"

    def snapshot(self) -> pb.Snapshot:
        self.status.bytes_out_today = self.bytes_out_today()
        entries, _ = self.audit.page(limit=AUDIT_TAIL)
        return pb.Snapshot(
            daemon=self.status,
            federations=self.all("federation"),
            nodes=self.all("node"),
            datasets=self.all("dataset"),
            offers=self.all("offer"),
            runs=self.all("run"),
            policies=self.all("policy"),
            runtimes=self.all("runtime"),
            slurm_profiles=self.all("slurm_profile"),
            audit_tail=[to_pb(e) for e in entries],
        )

    def bytes_out_today(self) -> int:
        row = self.db.one("SELECT coalesce(sum(bytes_out),0) FROM traffic WHERE day=?", today())
        return int(row[0])

    # changing

    @contextmanager
    def change(self, *, durable: bool = True) -> Iterator[None]:
        """One transaction. Its events go out, and its ``afterwards`` run, when it is committed; else nothing happened.

        May be nested; the outermost counts, also with ``durable`` (``SiloDb.transaction``).
        """
        if self._events is not None:
            yield
            return
        self._events, self._after, self._back, self._undo = [], [], [], {}
        status = pb.DaemonStatus.FromString(self.status.SerializeToString())
        try:
            with self.db.transaction(durable=durable):
                yield
        except BaseException:
            for (kind, entity_id), old in self._undo.items():
                if old is None:
                    self.entities[kind].pop(entity_id, None)
                else:
                    self.entities[kind][entity_id] = old
            for call in reversed(self._back):
                call()
            self.status = status
            self._events, self._after = None, []
            raise
        events, self._events = self._events, None
        after, self._after = self._after, []
        for what, message in events:
            self.hub.publish(what, message)
        for call in after:
            call()

    def put(self, kind: str, message: Any) -> None:
        """Store an entity and tell the watchers. Inside ``change``."""
        assert self._events is not None
        self._remember_old(kind, message.id)
        copy = type(message).FromString(message.SerializeToString())
        self.entities[kind][message.id] = copy
        self.db.put(kind, message.id, copy)
        self._events.append((kind, copy))

    def drop(self, kind: str, entity_id: str) -> None:
        assert self._events is not None
        self._remember_old(kind, entity_id)
        self.entities[kind].pop(entity_id, None)
        self.db.drop(kind, entity_id)
        self._events.append(("removed", pb.Removed(kind=kind, id=entity_id)))

    def put_status(self) -> None:
        """Store ``status`` as it is now."""
        assert self._events is not None
        kept = pb.DaemonStatus(
            organisation=self.status.organisation,
            administrator=self.status.administrator,
            configured=self.status.configured,
            approvers=self.status.approvers,
        )
        self.db.set("status", kept.SerializeToString())
        self._events.append(("daemon", pb.DaemonStatus.FromString(self.status.SerializeToString())))

    def record(self, actor: str, action: str, subject: str, detail: Mapping[str, Any] | None = None) -> Entry:
        """Add an audit entry. Inside ``change``."""
        assert self._events is not None
        entry = self.audit.append(actor, action, subject, detail)
        self._events.append(("audit", to_pb(entry)))
        return entry

    def notify(self, level: str, code: str, text: str, kind: str = "", subject: str = "") -> None:
        """Something that the administrator may want to see at once; goes out with the change, or now."""
        notice = pb.Notice(
            level=level, code=code, text=text, subject_kind=kind, subject_id=subject, at=round(time.time(), 3)
        )
        if self._events is not None:
            self._events.append(("notice", notice))
        else:
            self.hub.publish("notice", notice)

    def afterwards(self, call: Callable[[], None]) -> None:
        """Do this when the change is committed."""
        assert self._events is not None
        self._after.append(call)

    def answer(self, message: Message) -> None:
        """Keep the answer of the command that is being carried out in the same transaction as its effect."""
        command = current_command.get()
        if command:
            self.db.remember(command[0], command[1], message)

    def otherwise(self, call: Callable[[], None]) -> None:
        """Do this when the change does not come to be: put a copy in memory back."""
        self._back.append(call)

    def _remember_old(self, kind: str, entity_id: str) -> None:
        if (kind, entity_id) not in self._undo:
            self._undo[(kind, entity_id)] = self.entities[kind].get(entity_id)

    # finding, for commands

    def need(self, kind: str, entity_id: str) -> Any:
        """The entity, copied for changing; raises the kind's OCT-…-UNKNOWN when there is none."""
        found = self.entities[kind].get(entity_id)
        if found is None:
            raise unknown(kind, entity_id)
        return type(found).FromString(found.SerializeToString())


_UNKNOWN = {
    "federation": ("OCT-FEDERATION-UNKNOWN", "federation"),
    "node": ("OCT-NODE-UNKNOWN", "node"),
    "dataset": ("OCT-DATA-ALIAS", "dataset"),
    "offer": ("OCT-RUN-UNKNOWN", "offer"),
    "run": ("OCT-RUN-UNKNOWN", "run"),
    "policy": ("OCT-POLICY-INVALID", "policy"),
    "runtime": ("OCT-RUNTIME-UNKNOWN", "runtime"),
    "slurm_profile": ("OCT-SLURM-UNKNOWN", "Slurm profile"),
}


def unknown(kind: str, entity_id: str) -> UserError:
    code, noun = _UNKNOWN[kind]
    return UserError(code, f"There is no {noun} {entity_id!r} here.", "Its id is not in this silo's state.",
                     f"List the {noun}s and give one of their ids.")  # fmt: skip


def when_possible(call: Callable[..., Any], *arguments: Any) -> None:
    """Do this now; while the disk is full, again every few seconds. For what must not be lost and has no caller."""
    try:
        call(*arguments)
    except UserError as error:
        if error.code != "OCT-DISK-FULL":
            raise
        log.warning("waits for room on the disk: %s", error.what)
        asyncio.get_running_loop().call_later(DISK_RETRY_S, when_possible, call, *arguments)


def to_pb(entry: Entry) -> pb.AuditEntry:
    return pb.AuditEntry(
        seq=entry.seq,
        at=entry.at,
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        detail_json=entry.detail_json,
        hash=entry.hash,
    )


def today() -> str:
    """The local day, as the administrator counts."""
    return time.strftime("%Y-%m-%d")
