"""The silo's mail with one federation; each carrier's end works on its own view of it. Checks who sent what; decides
nothing about runs.

Small messages that belong to the daemon (decisions, audit heads) wait in the silo's database; tasks and answers in the
run's mailbox, which the runner shares. Those go by the federation's control carrier, these by the run's. What
is handed to a carrier is signed, and recorded, at that moment: the record may tell of a message that then did not get
through, never the other way round.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.communication.contract import SERVER, LinkState
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.mail_view import MailView
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.identity import envelopes
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.wire.canonical import digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, Answer, BlobRef, Envelope, Kind

if TYPE_CHECKING:
    from octopus_desktop.daemon.services.lives import Lives

RUN_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Mailboxes:
    """The runs' mailboxes, opened when first needed and closed when the run has ended."""

    def __init__(self, place: Callable[[str], Path]) -> None:
        self._place = place
        self._open: dict[str, Mailbox] = {}

    def get(self, run_id: str) -> Mailbox:
        if run_id not in self._open:
            self._open[run_id] = Mailbox(self._place(run_id) / "mailbox.sqlite")
        return self._open[run_id]

    def close(self, run_id: str) -> None:
        box = self._open.pop(run_id, None)
        if box:
            box.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class Inward:
    """What the services do with what arrived. Each returns whether it is new; UserError refuses it."""

    offer: Callable[[str, Envelope], bool]
    task: Callable[[Envelope], bool]
    stop: Callable[[Envelope], bool]
    finished: Callable[[Envelope], bool]
    round: Callable[[Envelope], bool]


class SiloMail:
    """All mail with one enrolled federation; ``view`` gives each carrier its ``communication.contract.MailOwner``."""

    def __init__(
        self,
        *,
        silo: Silo,
        lives: Lives,
        record: Record,
        mailboxes: Mailboxes,
        blobs: BlobStore,
        federation_id: str,
        name: str,
        key: SigningKey,
        server_key: bytes,
        inward: Inward,
        allowed: Callable[[Envelope, Answer], bool],
        answered: Callable[[Envelope], None],
    ) -> None:
        self.name = name
        self._silo, self._lives, self._record = silo, lives, record
        self._mailboxes, self._blobs = mailboxes, blobs
        self._federation_id, self._key, self._server_key = federation_id, key, server_key
        self._inward, self._allowed, self._answered = inward, allowed, answered
        self._left_by: dict[str, str] = {}  # envelope -> the carrier to which it was handed last

    def view(self, carrier: str, changed: Callable[[LinkState], None]) -> MailView:
        return MailView(self, carrier, changed)

    # out

    def pending(self, carrier: str) -> Sequence[Envelope]:
        """What waits for the server and goes by this carrier; from here on it counts as having left."""
        federation = self._silo.get("federation", self._federation_id)
        control = federation.carrier if federation else ""
        found = []
        if carrier == control:
            rows = self._silo.db.rows(
                "SELECT envelope FROM outbox WHERE delivered_at IS NULL AND federation_id=? ORDER BY seq",
                self._federation_id,
            )
            found = [Envelope.FromString(raw) for (raw,) in rows]
        for life in self._lives.active():
            run = self._silo.get("run", life.run_id)
            by = (run.carrier if run is not None else "") or control
            if life.federation_id == self._federation_id and by == carrier:
                found += [e for _, e in self._mailboxes.get(life.run_id).pending(SERVER) if self._may_leave(e)]
        for envelope in found:
            envelopes.sign(envelope, self._key)
        self._note_leaving(found, carrier)
        return found

    def delivered(self, envelope: Envelope) -> None:
        with self._silo.change(durable=False):  # who loses this note sends once more what is there already
            self._silo.db.execute(
                "UPDATE outbox SET delivered_at=? WHERE id=? AND delivered_at IS NULL", time.time(), envelope.id
            )
            self._record.receipt(envelope.id)
        self._left_by.pop(envelope.id, None)
        if envelope.kind == ANSWER:
            self._mailboxes.get(envelope.run_id).delivered(envelope.id)
            self._answered(envelope)

    def _may_leave(self, envelope: Envelope) -> bool:
        """Whether the run's conditions still let this answer out."""
        return envelope.kind != ANSWER or self._allowed(envelope, Answer.FromString(envelope.body))

    def _note_leaving(self, found: Sequence[Envelope], carrier: str) -> None:
        new = [e for e in found if self._left_by.get(e.id) != carrier and self._last_carrier(e.id) != carrier]
        if new:
            with self._silo.change():
                for envelope in new:
                    self._note(envelope, carrier)
        self._left_by |= {envelope.id: carrier for envelope in found}

    def _last_carrier(self, envelope_id: str) -> str | None:
        row = self._silo.db.one("SELECT body FROM run_left WHERE envelope_id=?", envelope_id)
        return (pb.Left.FromString(row[0]).carrier or "grpc") if row else None

    def _note(self, envelope: Envelope, carrier: str) -> None:
        """One message, and each further carrier to which the same message is handed."""
        size = len(envelope.body) + sum(blob.size for blob in envelope.blobs)
        kind = Kind.Name(envelope.kind)
        entry = pb.Left(at=round(time.time(), 3), round=envelope.round, kind=kind, bytes=size, recipient=SERVER)
        entry.carrier = carrier
        entry.digest = digest(envelope.body)
        detail: dict[str, Any] = {"body": entry.digest}
        if envelope.kind == ANSWER:
            answer = Answer.FromString(envelope.body)
            detail |= {"task": answer.task, "examples": answer.examples, "metrics": sorted(answer.metrics)}
            if answer.update.digest:
                entry.digest, entry.encoding = answer.update.digest, answer.update.encoding
                entry.layers.extend(layers_of(self._blobs, answer.update))
            for name, ref in sorted(answer.returned.items()):
                entry.layers.extend(layers_of(self._blobs, ref, f"{name}: "))
                detail.setdefault("returned", {})[name] = ref.digest
        first = self._record.left(envelope.id, envelope.run_id, entry)
        self._silo.record(
            "daemon",
            "message.left",
            envelope.run_id or self._federation_id,
            {
                **detail,
                "id": envelope.id,
                "kind": kind,
                "digest": entry.digest,
                "blobs": [blob.digest for blob in envelope.blobs],
                "bytes": size,
                "round": envelope.round,
                "recipient": f"{SERVER} of {self._federation_name}",
                "carrier": carrier,
            },
        )
        if first:
            self._count(envelope.run_id, 0, size)

    # in

    def accept(self, envelope: Envelope) -> bool:
        envelopes.check(envelope, self._server_key)
        if envelope.sender != SERVER or not RUN_ID.fullmatch(envelope.run_id):
            raise self._refused("it names no run, or not the server as its sender")
        life = self._lives.get(envelope.run_id)
        if life.offer and life.federation_id != self._federation_id:
            raise self._refused("its run belongs to another federation")
        missing = [blob for blob in envelope.blobs if not self._blobs.has(blob.digest)]
        if missing:
            raise UserError("OCT-BLOB-MISSING", "A message came without its blob.", missing[0].digest, "")
        kind = Kind.Name(envelope.kind)
        if kind == "OFFER":
            new = self._inward.offer(self._federation_id, envelope)
        elif not life.offer:
            raise self._refused("this silo knows no such run")
        else:
            handlers = {"TASK": self._inward.task, "STOP": self._inward.stop}
            handlers |= {"FINISHED": self._inward.finished, "ROUND": self._inward.round}
            if kind not in handlers:
                raise self._refused(f"a server does not send {kind}")
            new = handlers[kind](envelope)
        if new:
            self._count(envelope.run_id, len(envelope.body) + sum(blob.size for blob in envelope.blobs), 0)
        return new

    # blobs and link

    def blobs(self) -> BlobStore:
        return self._blobs

    def may_read(self, run_id: str, blob: BlobRef) -> bool:
        row = self._silo.db.one(
            "SELECT 1 FROM blob_uses WHERE run_id=? AND digest=? AND kind='update'", run_id, blob.digest
        )
        return row is not None

    def may_write(self, run_id: str) -> bool:
        return bool(RUN_ID.fullmatch(run_id))

    def open_runs(self) -> Sequence[str]:
        return [life.run_id for life in self._lives.open() if life.federation_id == self._federation_id]

    @property
    def _federation_name(self) -> str:
        federation = self._silo.get("federation", self._federation_id)
        return federation.name if federation else ""

    def _count(self, run_id: str, bytes_in: int, bytes_out: int) -> None:
        self._record.traffic(self._federation_id, bytes_in, bytes_out)
        run = self._silo.get("run", run_id)
        if run is not None:
            run.bytes_in += bytes_in
            run.bytes_out += bytes_out
            self._silo.hub.soon("run", run)

    def _refused(self, why: str) -> UserError:
        return UserError(
            "OCT-LINK-ENVELOPE",
            "A message from the federation server was refused.",
            f"Of the message, {why}.",
            "Nothing was taken. If it repeats, tell the federation's coordinator.",
        )


def layers_of(blobs: BlobStore, ref: BlobRef, of: str = "") -> list[pb.LayerSummary]:
    """Names and shapes of the model's tensors that an update tells of, encoded or not, read from its header. ``of``
    stands before each name."""
    from octopus_desktop.wire.tensors import described, read_layout

    try:
        tensors = described(read_layout(blobs.path(ref.digest)))
    except (UserError, ValueError, OSError):
        return []
    return [
        pb.LayerSummary(name=of + name, shape="×".join(map(str, shape)) or "scalar", elements=math.prod(shape))
        for name, _, shape in tensors
    ]
