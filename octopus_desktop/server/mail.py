"""The server's mail: one mailbox a run, shared with its coordinator; each carrier's end works on its own view of it.

Signs what leaves and checks the signature of what comes. Answers go to the run's inbox; decisions, audit heads and
progress are handed to a listener. Which envelope goes by which carrier is decided here: control by the silo's control
carrier, the data of a run that asks for a carrier by that one. Knows no reducer and no process.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from google.protobuf.message import DecodeError

from octopus_desktop.communication.contract import SERVER, LinkPhase, LinkState
from octopus_desktop.communication.settings import CONTROL
from octopus_desktop.identity import envelopes
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.server.mail_view import MailView
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import ENDED, FederationDb, MemberRow, RunRow
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.system.paths import FederationHome
from octopus_desktop.training.spec import MAILBOX
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import (
    ANSWER,
    AUDIT_HEAD,
    DECISION,
    FINISHED,
    OFFER,
    STOP,
    AuditHead,
    BlobRef,
    Decision,
    Envelope,
    Progress,
)

log = logging.getLogger(__name__)

UPDATE_SLACK_BYTES = 16 << 20  # an update may be larger than the model by its encoding's side information
UPDATE_FACTOR = 4
NO_MODEL_YET_BYTES = 64 << 30
BY_CONTROL = (OFFER, STOP, DECISION, FINISHED)  # also in a run whose data goes by a carrier of its own


class MailListener(Protocol):
    """What the mail tells the runs. Calls come from the event loop and are quick."""

    def decided(self, envelope: Envelope, decision: Decision) -> bool:
        """Verify and take a decision, durably; False when this envelope was taken before. Raises UserError."""
        ...

    def answered(self, run_id: str) -> None: ...

    def progressed(self, run_id: str, silo: str, round_: int, progress: Progress) -> None: ...

    def greeted(self, silo: str, runs: Sequence[str]) -> None: ...

    def link_changed(self, silo: str, up: bool) -> None:
        """The first control link of a silo came up, or its last one went down."""
        ...


class ServerMail:
    """All mail of the federation; ``view`` gives each carrier its ``communication.contract.MailOwner``."""

    def __init__(self, home: FederationHome, db: FederationDb, blobs: BlobStore, signing: SigningKey) -> None:
        self._home, self._db, self._blobs, self._signing = home, db, blobs, signing
        self._boxes: dict[str, Mailbox] = {}
        self._open: set[str] = {run.id for run in db.open_runs()}
        self._signed: dict[str, Envelope] = {}  # by id; lives until its receipt
        self._model_bytes: dict[str, int] = {}
        self._traffic: dict[str, list[int]] = {}
        self._base: dict[str, tuple[int, int]] = {}
        self._saved: dict[str, tuple[object, ...]] = {}
        self._links: dict[tuple[str, str], LinkState] = {}  # (silo, carrier)
        self._earlier: dict[tuple[str, str], tuple[int, int]] = {}  # bytes by ends that are gone
        self._control: dict[str, str] = {}  # silo -> the carrier by which its control goes
        self._asked: dict[str, str] = {}  # run -> the carrier that it asks for, "" for none
        self.listener: MailListener | None = None
        self.notify: Callable[[str], None] = lambda peer: None  # the carriers' ``outbox_changed``

    # for the runs

    def box(self, run_id: str) -> Mailbox:
        box = self._boxes.get(run_id)
        if box is None:
            box = self._boxes[run_id] = Mailbox(self._home.run(run_id) / MAILBOX)
        self._open.add(run_id)
        return box

    def post(self, envelope: Envelope) -> None:
        """Put an envelope of the server's own into its run's outbox; the same id again does nothing."""
        envelope.sender = SERVER
        self.box(envelope.run_id).post(envelope)
        self._db.update_run(envelope.run_id, mail_closed=0)
        self.notify(envelope.recipient)

    def close_if_idle(self, run_id: str) -> None:
        """Close the mailbox of an ended run for which nothing waits any more."""
        run = self._db.run(run_id)
        active = {m.name for m in self._db.members("silo") if m.state == "active"}
        if run and run.state in ENDED and not any(e.recipient in active for _, e in self.box(run_id).pending()):
            self._db.update_run(run_id, mail_closed=1)
            self._boxes.pop(run_id).close()
            self._open.discard(run_id)
            self._signed = {i: e for i, e in self._signed.items() if e.run_id != run_id}
            self._model_bytes.pop(run_id, None)

    def traffic(self, run_id: str) -> tuple[int, int]:
        """Bytes in and out since they were last asked for."""
        moved = self._traffic.pop(run_id, [0, 0])
        return moved[0], moved[1]

    def view(self, carrier: str) -> MailView:
        return MailView(self, carrier)

    def control(self, silo: str) -> str:
        """The carrier by which this silo's control goes: of those that are up, the one that it greeted with last."""
        return self._control.get(silo, "")

    def carrier(self, run_id: str) -> str:
        """The carrier that a run asks for; "" when its data goes by each silo's control carrier."""
        if run_id not in self._asked:
            run = self._db.run(run_id)
            name = json.loads(run.config_json).get("carrier", "") if run else ""
            self._asked[run_id] = "" if name == "auto" else name
        return self._asked[run_id]

    def link(self, silo: str) -> LinkState | None:
        """The silo's control link."""
        return self._links.get((silo, self.control(silo)))

    def is_up(self, silo: str) -> bool:
        """Whether any control link of the silo is up."""
        return any(self._is_up(silo, carrier) for carrier in CONTROL)

    def _is_up(self, silo: str, carrier: str) -> bool:
        state = self._links.get((silo, carrier))
        return state is not None and state.phase is LinkPhase.UP

    def save_links(self) -> None:
        """Write what is known of all links to the members' rows."""
        for silo in {silo for silo, _ in self._links}:
            self._save(silo)

    def close(self) -> None:
        self.save_links()
        for box in self._boxes.values():
            box.close()

    # what the views ask

    def pending(self, peer: str, carrier: str) -> Sequence[Envelope]:
        """What waits for this silo and goes by this carrier. What an ended run left goes by control: the end for its
        data may be closed."""
        found: list[Envelope] = []
        control = self.control(peer)
        for run_id in sorted(self._open):
            waiting = self.box(run_id).pending(peer)
            data = self._data_carrier(run_id) if waiting else ""
            for _, envelope in waiting:
                by = data if data and envelope.kind not in BY_CONTROL else control
                if by == carrier:
                    found.append(self._sign(envelope))
        return found

    def _data_carrier(self, run_id: str) -> str:
        name = self.carrier(run_id)
        run = self._db.run(run_id) if name else None
        return name if run and run.state not in ENDED else ""

    def _sign(self, envelope: Envelope) -> Envelope:
        signed = self._signed.get(envelope.id)
        if signed is None:
            envelopes.sign(envelope, self._signing)
            signed = self._signed[envelope.id] = envelope
            for blob in envelope.blobs if envelope.kind != OFFER else ():
                most = self._model_bytes.get(envelope.run_id, 0)
                self._model_bytes[envelope.run_id] = max(most, blob.size)
        return signed

    def delivered(self, envelope: Envelope) -> None:
        if envelope.run_id not in self._open:
            return  # a second receipt, by another carrier, of what closed the mailbox
        self.box(envelope.run_id).delivered(envelope.id)
        self._signed.pop(envelope.id, None)
        self._moved(envelope, 1)
        run = self._db.run(envelope.run_id)
        if run and run.state in ENDED:
            self.close_if_idle(envelope.run_id)

    def accept(self, envelope: Envelope) -> bool:
        self._check(envelope)
        assert self.listener is not None
        try:
            if envelope.kind == ANSWER:
                return self._accept_answer(envelope)
            if envelope.kind == DECISION:
                return self.listener.decided(envelope, Decision.FromString(envelope.body))
            if envelope.kind == AUDIT_HEAD:
                return self._witness(envelope, AuditHead.FromString(envelope.body))
        except DecodeError as error:
            raise _malformed(envelope, f"its body cannot be read ({error})") from error
        raise _malformed(envelope, f"a silo sends nothing of the kind {envelope.kind}")

    def live(self, envelope: Envelope) -> None:
        try:
            self._check(envelope)
            progress = Progress.FromString(envelope.body)
        except (UserError, DecodeError) as error:
            log.warning("progress of %s was dropped: %s", envelope.sender[:64], error)
            return
        if self.listener and self._run_of(envelope.run_id, envelope.sender):
            self.listener.progressed(envelope.run_id, envelope.sender, envelope.round, progress)

    def blobs(self) -> BlobStore:
        return self._blobs

    def may_read(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        """What waits for this silo in this run names the blob, or it is the run's package or one of its models."""
        run = self._run_of(run_id, peer)
        if run is None:
            return False
        if blob.digest == run.job_digest:
            return True
        if any(blob.digest == b.digest for _, e in self.box(run_id).pending(peer) for b in e.blobs):
            return True
        return any(row.model_digest == blob.digest for row in self._db.rounds(run_id))

    def may_write(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        """Silos of the cohort may send updates, of a size that fits the model, while the run runs."""
        run = self._run_of(run_id, peer, cohort=True)
        if run is None or run.state != "running":
            return False
        model = self._model_bytes.get(run_id) or run.model_size
        return blob.size <= (UPDATE_FACTOR * model + UPDATE_SLACK_BYTES if model else NO_MODEL_YET_BYTES)

    def open_runs(self) -> Sequence[str]:
        return [run.id for run in self._db.open_runs() if run.state not in ENDED]

    def link_changed(self, carrier: str, state: LinkState) -> None:
        silo, key = state.peer, (state.peer, carrier)
        before, was_up = self._links.get(key), self.is_up(silo)
        self._links[key] = state
        if before and (state.bytes_in < before.bytes_in or state.bytes_out < before.bytes_out):  # an end made anew
            came, left = self._earlier.get(key, (0, 0))
            self._earlier[key] = (came + before.bytes_in, left + before.bytes_out)
        if before and before.phase is state.phase:
            return
        self._save(silo)
        other = next((name for name in CONTROL if self._is_up(silo, name)), "")
        if other and state.phase is not LinkPhase.UP and self.control(silo) == carrier:
            self._control[silo] = other
            self.notify(silo)
        if self.listener and carrier in CONTROL and (was_up != self.is_up(silo) or before is None):
            self.listener.link_changed(silo, self.is_up(silo))

    def peer_greeted(self, carrier: str, peer: str, runs: Sequence[str]) -> None:
        if carrier in CONTROL:
            self._control[peer] = carrier
            if self.listener:
                self.listener.greeted(peer, runs)
        self.notify(peer)

    # how

    def _check(self, envelope: Envelope) -> MemberRow:
        member = self._db.member(envelope.sender)
        if member is None or member.state != "active" or member.role != "silo":
            raise _malformed(envelope, "its sender is no active silo of the federation")
        envelopes.check(envelope, member.signing_key)
        if envelope.recipient != SERVER:
            raise _malformed(envelope, f"it is meant for {envelope.recipient[:64]!r}")
        return member

    def _run_of(self, run_id: str, silo: str, *, cohort: bool = False) -> RunRow | None:
        """The run, when this silo has a part in it."""
        run = self._db.run(run_id)
        rows = [row for row in self._db.run_silos(run_id) if row.silo == silo] if run else []
        if not rows or (cohort and not rows[0].in_cohort):
            return None
        return run

    def _accept_answer(self, envelope: Envelope) -> bool:
        run = self._run_of(envelope.run_id, envelope.sender, cohort=True)
        if run is None:
            raise UserError(
                "OCT-RUN-UNKNOWN",
                "An answer was refused.",
                f"{envelope.sender} takes no part in the run {envelope.run_id[:40]!r}.",
                "Nothing is to be done; the silo learns of the run's end by itself.",
            )
        if run.state != "running":
            raise UserError(
                "OCT-RUN-STATE",
                "An answer came too late.",
                f"The run {run.id} is {run.state}.",
                "Nothing is to be done; the silo learns of the run's end by itself.",
            )
        if envelope.dedupe.rpartition("/")[0] != f"{envelope.round}/{envelope.sender}":
            raise _malformed(envelope, "its answer's key names another round or silo")
        new = self.box(run.id).accept(envelope)
        if new:
            self._moved(envelope, 0)
        if self.listener:
            self.listener.answered(run.id)  # also for a duplicate: the word may have been lost in a crash
        return new

    def _witness(self, envelope: Envelope, head: AuditHead) -> bool:
        with self._db.transaction() as c:
            if not self._db.first_sight(c, envelope.id):
                return False
            problem = self._db.witness(c, envelope.sender, head.seq, head.hash, head.signature, time.time())
        if problem:
            log.warning("AUDIT of %s: %s", envelope.sender, problem)
        return True

    def _moved(self, envelope: Envelope, out: int) -> None:
        moved = self._traffic.setdefault(envelope.run_id, [0, 0])
        moved[out] += len(envelope.body) + sum(blob.size for blob in envelope.blobs)

    def _save(self, silo: str) -> None:
        """A silo's bytes over all its links, and when it was last heard."""
        states = {key: state for key, state in self._links.items() if key[0] == silo}
        up = any(state.phase is LinkPhase.UP for state in states.values())
        earlier = [self._earlier.get(key, (0, 0)) for key in states]
        came = sum(state.bytes_in for state in states.values()) + sum(e[0] for e in earlier)
        left = sum(state.bytes_out for state in states.values()) + sum(e[1] for e in earlier)
        member, news = self._db.member(silo), (up, came, left)
        if member is None or (self._saved.get(silo) == news and not up):
            return
        self._saved[silo] = news
        base = self._base.setdefault(silo, (member.bytes_in, member.bytes_out))
        seen = time.time() if up else max(state.since for state in states.values())
        self._db.update_member(silo, last_seen=seen, bytes_in=base[0] + came, bytes_out=base[1] + left)


def _malformed(envelope: Envelope, why: str) -> UserError:
    return UserError(
        "OCT-LINK-ENVELOPE",
        f"A message of {envelope.sender[:64] or 'nobody'} was refused.",
        f"Of the message {envelope.id[:64]!r}, {why}.",
        "Update Octopus Desktop on both sides to versions that fit; if it repeats, tell the coordinator.",
    )
