"""Carries the reducer's outcomes out: row, entities, audit, messages to the server in one transaction; the rest after.

Knows how instructions are carried out, not when an event happens.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from octopus_desktop.daemon import reducer
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.reducer import Life
from octopus_desktop.daemon.services.carrier_views import asked
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import AUDIT_HEAD, DECISION, AuditHead, Decision, Envelope

log = logging.getLogger(__name__)


class Lives:
    """All offers and runs as the reducer sees them.

    Attributes:
        launch, tell, end, check_package, apply_policy: what the services do after the transaction; set by ``app``.
        posted: told of the federation for which there are new rows in the outbox.
        active_changed: told of the federation of which a run began or ended.
    """

    def __init__(self, silo: Silo, keys: SiloKeys, record: Record) -> None:
        self._silo, self._keys, self._record = silo, keys, record
        self._lives = {
            run_id: Life.from_dict(json.loads(row)) for run_id, row in silo.db.rows("SELECT run_id, row FROM lives")
        }
        self.launch: Callable[[str, float], None] = lambda run_id, delay_s: None
        self.tell: Callable[[str, str], None] = lambda run_id, word: None
        self.end: Callable[[str, str], None] = lambda run_id, reason: None
        self.check_package: Callable[[str], None] = lambda run_id: None
        self.apply_policy: Callable[[str], None] = lambda run_id: None
        self.posted: Callable[[str], None] = lambda federation_id: None
        self.active_changed: Callable[[str], None] = lambda federation_id: None

    def get(self, run_id: str) -> Life:
        return self._lives.get(run_id) or Life(run_id=run_id)

    def open(self) -> list[Life]:
        return [life for life in self._lives.values() if not life.ended]

    def active(self) -> list[Life]:
        return [life for life in self._lives.values() if life.active]

    def apply(self, run_id: str, event: reducer.Event, decision: Decision | None = None) -> Life:
        """Let an event happen. ``decision``: the approver's signed one, when the event is one. Raises IllegalMove."""
        before = self.get(run_id)
        life, instructions = reducer.reduce(before, event)
        silo = self._silo
        with silo.change():
            self._lives[run_id] = life
            silo.otherwise(lambda: self._put_back(before))
            silo.db.execute(
                "INSERT OR REPLACE INTO lives VALUES(?,?,?,?)",
                run_id,
                life.federation_id,
                json.dumps(life.to_dict()),
                int(life.ended),
            )
            self._show(before, life)
            for instruction in instructions:
                self._inside(life, instruction, decision)
            silo.afterwards(lambda: self._after(life, instructions))
            if before.active != life.active:
                silo.afterwards(lambda: self.active_changed(life.federation_id))
        return life

    def post(self, federation_id: str, run_id: str, kind: Any, body: bytes) -> None:
        """Put a message for the server out. Inside ``change``."""
        federation = self._silo.get("federation", federation_id)
        if federation is None or federation.link == "left":
            return
        envelope = Envelope(
            id=new_id("e"), run_id=run_id, kind=kind, sender=federation.silo_name, recipient="server", body=body
        )
        self._silo.db.execute(
            "INSERT INTO outbox(id,federation_id,envelope,at) VALUES(?,?,?,?)",
            envelope.id,
            federation_id,
            envelope.SerializeToString(),
            time.time(),
        )
        self._silo.afterwards(lambda: self.posted(federation_id))

    def sign_head(self, federation_id: str) -> None:
        """Sign the audit chain's head and send it as witness. Inside ``change``."""
        try:
            key = self._keys.silo
        except UserError as error:
            log.warning("the audit chain's head was not signed: %s", error.what)
            return
        seq, hashed, signature = self._silo.audit.sign_head(key.sign)
        head = AuditHead(seq=seq, hash=hashed, signature=signature)
        self.post(federation_id, "", AUDIT_HEAD, head.SerializeToString())

    def _put_back(self, before: Life) -> None:
        if before.offer:
            self._lives[before.run_id] = before
        else:
            self._lives.pop(before.run_id, None)

    def _after(self, life: Life, instructions: list[reducer.Instruction]) -> None:
        for instruction in instructions:
            match instruction:
                case reducer.Launch(delay_s=delay_s):
                    self.launch(life.run_id, delay_s)
                case reducer.Tell(word=word):
                    self.tell(life.run_id, word)
                case reducer.End(reason=reason):
                    self.end(life.run_id, reason)
                case reducer.CheckPackage():
                    self.check_package(life.run_id)
                case reducer.ApplyPolicy():
                    self.apply_policy(life.run_id)

    def _inside(self, life: Life, instruction: reducer.Instruction, decision: Decision | None) -> None:
        silo = self._silo
        match instruction:
            case reducer.Audit(actor=actor, action=action, detail=detail):
                silo.record(actor, action, life.run_id, {**self._facts(life), **dict(detail)})
            case reducer.PostDecision(verdict=verdict, reason=reason):
                if decision is None:
                    decision = Decision(
                        verdict=verdict.upper(),
                        reason=reason,
                        decided_by=silo.status.organisation or "daemon",
                        decided_at=time.time(),
                    )
                self.post(life.federation_id, life.run_id, DECISION, decision.SerializeToString())
            case reducer.SignHead():
                self.sign_head(life.federation_id)
            case reducer.Notify(level=level, code=code, text=text):
                kind = "run" if life.run else "offer"
                silo.notify(level, code, f"{self._title(life)}: {text}", kind, life.run_id)

    def _facts(self, life: Life) -> dict[str, Any]:
        offer = self._silo.get("offer", life.run_id)
        return {"job": self._title(life), "package": offer.offer.package.digest} if offer else {}

    def _title(self, life: Life) -> str:
        offer = self._silo.get("offer", life.run_id)
        return f"{offer.offer.job_name} {offer.offer.job_version}".strip() if offer else life.run_id

    def _show(self, before: Life, life: Life) -> None:
        """Bring the entities that the window sees in line with the row."""
        silo, now = self._silo, round(time.time(), 3)
        offer = silo.get("offer", life.run_id)
        if offer is not None and (before.offer, before.reason) != (life.offer, life.reason) and not life.run:
            offer = silo.need("offer", life.run_id)
            offer.state, offer.reason = life.offer, life.reason or offer.reason
            if life.offer == "invalid":
                offer.problem_code, offer.problem = life.code, life.reason
            silo.put("offer", offer)
        if offer is not None and life.run and before.offer != life.offer:
            offer = silo.need("offer", life.run_id)
            offer.state = life.offer
            silo.put("offer", offer)
        if not life.run:
            return
        run = silo.get("run", life.run_id)
        run = silo.need("run", life.run_id) if run else self._new_run(life)
        run.state, run.code = life.run, life.code
        run.reason = life.reason or life.note
        run.round = life.round
        run.updated_at = now
        if life.run in ("preparing", "training") and not run.started_at:
            run.started_at = now
        if life.run in reducer.RUN_ENDED and not run.ended_at:
            run.ended_at = now
            run.workers = 0
            run.queue = ""
            run.eta_s = 0.0
            run.fraction = 1.0 if life.run == "completed" else run.fraction
        silo.put("run", run)
        silo.afterwards(lambda: self._record.run_changed(run))

    def _new_run(self, life: Life) -> pb.Run:
        offer = self._silo.get("offer", life.run_id)
        federation = self._silo.get("federation", life.federation_id)
        conditions = json.loads(offer.conditions_json or "{}")
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        return pb.Run(
            id=life.run_id,
            federation_id=life.federation_id,
            job_name=offer.offer.job_name,
            job_version=offer.offer.job_version,
            package_digest=offer.offer.package.digest,
            rounds=life.rounds,
            approved_at=offer.decided_at,
            approved_by=offer.decided_by,
            conditions_json=offer.conditions_json,
            silos=offer.offer.silos,
            datasets=sorted(set(conditions.get("datasets", {}).values())),
            carrier=asked(offer.offer.config_json) or federation.carrier,
            encoding=config.encoding,
        )
