"""The shell around the runs' reducer: rows, envelopes, coordinators, timers and watchers. Decides nothing itself.

Each event builds the run's life from its rows, applies the event, writes the rows in one transaction, and only then
posts envelopes and touches processes; both can be done again, and are, at the server's start and at each greeting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from octopus_desktop.communication.settings import Offer
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.package import unpack
from octopus_desktop.server import reducer as r
from octopus_desktop.server import run_wishes as wishes
from octopus_desktop.server.carriers import not_offered
from octopus_desktop.server.catalogue import Catalogue
from octopus_desktop.server.decisions import check_decision
from octopus_desktop.server.mail import ServerMail
from octopus_desktop.server.retention import spent
from octopus_desktop.server.run_mail import finished_envelope, offer_envelope, removed_envelope, stop_envelope
from octopus_desktop.server.run_view import Live, run_info
from octopus_desktop.server.supervisor import Supervisor, Word
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import ENDED, FederationDb, RoundRow, RunRow
from octopus_desktop.system.paths import FederationHome
from octopus_desktop.training.spec import CoordinatorSpec
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Decision, Envelope, Progress
from octopus_desktop.wire.pb.operator_pb2 import RunInfo, StartRunRequest

log = logging.getLogger(__name__)

OFFER_VALID_S = 7 * 86_400.0
TIMER_MOST_S = 86_400.0
WATCH_EVERY_S = 0.1
TEXT_LIMIT = 2000
CENTRAL = "central.json"


class Runs:
    """All runs of the federation. Implements ``server.mail.MailListener``.

    Attributes:
        offered: the carriers that the federation offers.
        carriers_changed: told when the runs that are open, and so the carriers that they ask for, have changed.
    """

    def __init__(
        self, home: FederationHome, federation: str, db: FederationDb, blobs: BlobStore, mail: ServerMail,
        catalogue: Catalogue,
    ) -> None:  # fmt: skip
        self._home, self._federation, self._db, self._blobs = home, federation, db, blobs
        self._mail, self._catalogue = mail, catalogue
        self.supervisor = Supervisor(on_word=self._on_word, on_lost=self._on_lost, greeting=self._greeting)
        self._live: dict[tuple[str, str], Live] = {}
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._launches: dict[str, asyncio.Task[None]] = {}
        self.offered: Callable[[], Sequence[Offer]] = tuple
        self.carriers_changed: Callable[[], None] = lambda: None
        mail.listener = self

    async def start(self) -> None:
        """Bring processes, offers and farewells to where the rows are."""
        for run in self._db.open_runs():
            self.apply(run.id, r.Recovered())
            self._set_timer(run.id)
            self._mail.close_if_idle(run.id)

    async def close(self) -> None:
        for timer in self._timers.values():
            timer.cancel()
        for task in self._launches.values():
            task.cancel()
        await self.supervisor.close()

    # the operator's words

    async def start_run(self, request: StartRunRequest) -> RunInfo:
        """Offer a run to silos. Raises OCT-JOB-UNKNOWN, OCT-CONFIG-INVALID, OCT-STRATEGY-PARAMETER,
        OCT-CARRIER-REFUSED, OCT-ENROL-NAME or OCT-RUN-QUORUM; for a fork also OCT-RUN-UNKNOWN, OCT-BLOB-MISSING or
        OCT-MODEL-SHAPE; for a package's own strategy OCT-STRATEGY-FOREIGN, OCT-JOB-STRATEGY or OCT-RUN-STRATEGY."""
        if request.request_id and (known := self._db.answered(request.request_id)):
            return self.info(known.decode())
        job = self._catalogue.find(request.job)
        package = await asyncio.to_thread(self._catalogue.package, job)
        config = wishes.with_overrides(package.manifest.config, request.overrides_json)
        wishes.require_allowed(config, job, request.allow_own_strategy)
        if config.carrier not in ("", "auto", *(names := [offer.name for offer in self.offered()])):
            raise not_offered(config.carrier, names, f"The job asks for the carrier {config.carrier}.")
        silos = wishes.chosen(self._db.members("silo"), list(request.silos), config)
        strategy = await asyncio.to_thread(wishes.tried, config, job, self._blobs, len(silos))  # refused before offers
        central = wishes.central_sources(package, config, request.central_data_json)
        if request.from_run:
            old = self.find(request.from_run)
            config = await wishes.forked(
                config, strategy, job, package.manifest.trainer, old, self.model(old, request.from_round), self._blobs,
                lambda: self._mail.box(old.id).read("rounds"),
            )  # fmt: skip
        if request.request_id and (known := self._db.answered(request.request_id)):
            return self.info(known.decode())  # it was asked twice at the same time
        now = time.time()
        run = RunRow(
            id=new_id("run-"),
            job_digest=job.digest,
            job_name=job.name,
            job_version=job.version,
            config_json=config.to_json(),
            config_digest=config.digest(),
            created_at=now,
            offer_expires_at=now + (request.offer_valid_s or OFFER_VALID_S),
            rounds=config.rounds,
        )
        if central:
            self._home.run(run.id).mkdir(parents=True)
            (self._home.run(run.id) / CENTRAL).write_text(json.dumps(central))
        self._db.add_run(run, silos, request.request_id, run.id.encode())
        log.info("run %s of %s@%s is offered to %s", run.id, job.name, job.version, ", ".join(silos))
        self.apply(run.id, r.Recovered())
        self._set_timer(run.id)
        self.carriers_changed()
        return self.info(run.id)

    def carriers_wanted(self) -> dict[str, str]:
        """The carriers that open runs ask for by name, each with one such run."""
        open_runs = [run.id for run in self._db.open_runs() if run.state not in ENDED]
        return {name: run_id for run_id in open_runs if (name := self._mail.carrier(run_id))}

    def stop_run(self, wanted: str, reason: str) -> RunInfo:
        """Raises OCT-RUN-UNKNOWN, or OCT-RUN-STATE when it has ended."""
        run = self.find(wanted)
        if run.state in ENDED:
            raise UserError(
                "OCT-RUN-STATE", f"The run {run.id} cannot be stopped.", f"It is {run.state}.", "Nothing is left to do."
            )
        self.apply(run.id, r.StopAsked(reason=reason[:TEXT_LIMIT] or "stopped by the coordinator"))
        return self.info(run.id)

    def find(self, wanted: str) -> RunRow:
        """By id or its unique beginning; "last" for the newest. Raises OCT-RUN-UNKNOWN."""
        runs = self._db.runs()
        hits = runs[:1] if wanted == "last" else [run for run in runs if wanted and run.id.startswith(wanted)]
        if len(hits) == 1:
            return hits[0]
        raise UserError(
            "OCT-RUN-UNKNOWN",
            f"{'More than one run fits' if hits else 'No run fits'} {wanted!r}.",
            f"There are {len(runs)} runs.",
            "Look with 'octopus server runs list'.",
        )

    def model(self, run: RunRow, round_: int, *, best: bool = False) -> tuple[int, str]:
        """(round, digest) of a round's global model; of the newest for 0. Raises OCT-BLOB-MISSING."""
        return wishes.model_of(run, self._db.rounds(run.id), round_, self._blobs, best=best)

    def info(self, run_id: str) -> RunInfo:
        run = self.find(run_id)
        live = {silo: state for (rid, silo), state in self._live.items() if rid == run.id}
        rows = self._db.run_silos(run.id)
        by = self._mail.carrier(run.id)
        return run_info(
            run, rows, self._db.rounds(run.id), live, {row.silo: by or self._mail.control(row.silo) for row in rows},
            by or "auto",
        )  # fmt: skip

    def infos(self, state: str = "") -> list[RunInfo]:
        return [self.info(run.id) for run in self._db.runs(state)]

    async def watch(self, wanted: str) -> AsyncIterator[RunInfo]:
        """The run now, then after changes (several may come as one), until it ends."""
        run_id = self.find(wanted).id
        changed = asyncio.Event()
        self._watchers.setdefault(run_id, set()).add(changed)
        try:
            while True:
                changed.clear()
                info = self.info(run_id)
                yield info
                if info.state in ENDED:
                    return
                await changed.wait()
                await asyncio.sleep(WATCH_EVERY_S)  # several changes become one
        finally:
            self._watchers[run_id].discard(changed)

    def active(self) -> int:
        return sum(run.state not in ENDED for run in self._db.open_runs())

    # events

    def apply(self, run_id: str, event: r.Event, decision: Mapping[str, Any] | None = None, seen: str = "") -> bool:
        """One event: rows first, in one transaction; then the rest. ``decision``: further columns for the silo that
        decided; ``seen``: the id of the envelope that brought the event: False when it was taken before."""
        run = self._db.run(run_id)
        if run is None:
            return False
        rows = {row.silo: (row.decision, bool(row.in_cohort)) for row in self._db.run_silos(run_id)}
        quorum = RunConfig.from_dict(json.loads(run.config_json)).quorum
        life = r.life_of(run_id, quorum, run.state, run.reason, run.code, rows)
        with self._db.transaction() as c:
            if seen and not self._db.first_sight(c, seen):
                return False
            todo = life.apply(event)
            for order in todo:
                if isinstance(order, r.SetDecision):
                    self._write_decision(c, run_id, order, event, decision or {})
                elif isinstance(order, r.SetState):
                    self._write_state(c, run_id, order)
        for order in todo:
            self._do(run_id, order, event)
        if any(isinstance(order, r.SetDecision | r.SetState) for order in todo):
            self._changed(run_id)
        return True

    def _write_decision(
        self, c: Any, run_id: str, order: r.SetDecision, event: r.Event, decision: Mapping[str, Any]
    ) -> None:
        more = decision if isinstance(event, r.Decided) and event.silo == order.silo else {}
        self._db.update_run_silo(
            run_id, order.silo, c, decision=order.decision, in_cohort=int(order.in_cohort),
            reason=order.reason[:TEXT_LIMIT], at=time.time(), **more,
        )  # fmt: skip

    def _write_state(self, c: Any, run_id: str, order: r.SetState) -> None:
        now = time.time()
        at = {"started_at": now} if order.state == r.RUNNING else {"ended_at": now}
        self._db.update_run(
            run_id, c, state=order.state, reason=order.reason[:TEXT_LIMIT], code=order.code, mail_closed=0, **at
        )
        for silo in order.cohort:
            self._db.update_run_silo(run_id, silo, c, in_cohort=1)

    def _do(self, run_id: str, order: r.Instruction, event: r.Event) -> None:
        match order:
            case r.SetState(state=state, reason=reason, code=code):
                log.info("run %s is %s %s %s", run_id, state, reason, code)
                if state in ENDED:
                    self._ended(run_id)
            case r.SendOffer(silo=silo, again=again):
                run = self._run(run_id)
                job = self._catalogue.find(run.job_digest)
                silos = [row.silo for row in self._db.run_silos(run_id)]
                self._mail.post(offer_envelope(run, job, silo, silos, self._federation, again=again))
            case r.SendStop(silo=silo, again=again):
                self._mail.post(stop_envelope(run_id, silo, order.reason, order.code, again=again))
            case r.SendFinished(silo=silo, again=again):
                self._mail.post(finished_envelope(self._run(run_id), silo, again=again))
            case r.StartCoordinator(cohort=cohort):
                self._launch(run_id, cohort)
            case r.StopCoordinator(reason=reason):
                self._cancel_launch(run_id)
                self.supervisor.stop(run_id, reason)
            case r.TellSiloLeft(silo=silo):
                reason = event.reason if isinstance(event, r.Decided | r.SiloRemoved) else ""
                self._mail.box(run_id).accept(removed_envelope(run_id, silo, reason))
                self.supervisor.say(run_id, "inbox")

    def _ended(self, run_id: str) -> None:
        """Updates that nobody folds any more are removed; models and packages stay."""
        self._flush_traffic(run_id)
        self.carriers_changed()
        if timer := self._timers.pop(run_id, None):
            timer.cancel()
        for key in [key for key in self._live if key[0] == run_id]:
            live = self._live.pop(key)
            self._db.update_run_silo(
                run_id, key[1], live_state=live.state, round=live.round, fraction=live.fraction,
                metrics_json=json.dumps(live.metrics), at=live.at,
            )  # fmt: skip
        box = self._mail.box(run_id)
        for _, envelope in box.inbox():
            for blob in envelope.blobs:
                if not self._db.is_kept(blob.digest) and not self._wanted_elsewhere(run_id, blob.digest):
                    self._blobs.remove(blob.digest)

    def _wanted_elsewhere(self, run_id: str, digest: str) -> bool:
        others = [run.id for run in self._db.open_runs() if run.id != run_id]
        return any(b.digest == digest for o in others for _, e in self._mail.box(o).inbox() for b in e.blobs)

    # MailListener

    def decided(self, envelope: Envelope, decision: Decision) -> bool:
        run, silo = self._db.run(envelope.run_id), envelope.sender
        if run is None or silo not in {row.silo for row in self._db.run_silos(run.id)}:
            raise UserError(
                "OCT-RUN-UNKNOWN",
                "A decision was refused.",
                f"The run {envelope.run_id[:40]!r} was not offered to {silo}.",
                "Nothing is to be done here; ask the federation's coordinator.",
            )
        verdict = check_decision(run, silo, decision)
        more = {
            "statement": decision.statement,
            "signature": decision.signature,
            "approver_key": decision.approver_key,
            "decided_by": decision.decided_by[:200],
            "decided_at": decision.decided_at,
        }
        event = r.Decided(silo=silo, verdict=verdict, reason=decision.reason[:TEXT_LIMIT])
        new = self.apply(run.id, event, more, seen=envelope.id)
        if new:
            log.info("run %s: %s %s %s", run.id, silo, verdict, decision.reason[:200])
        return new

    def answered(self, run_id: str) -> None:
        self.supervisor.say(run_id, "inbox")

    def progressed(self, run_id: str, silo: str, round_: int, progress: Progress) -> None:
        self._live[run_id, silo] = Live(
            state=progress.state, round=round_, fraction=progress.fraction, metrics=dict(progress.metrics),
            at=time.time(),
        )  # fmt: skip
        self.supervisor.say(
            run_id, "live", silo=silo, round=round_, fraction=progress.fraction, state=progress.state,
            task=progress.task, epoch=progress.epoch,
        )  # fmt: skip
        self._changed(run_id)

    def greeted(self, silo: str, runs: Sequence[str]) -> None:
        held = set(runs)
        known = {row.run_id for row in self._db.runs_of(silo)}
        live = {run.id for run in self._db.open_runs()} & known
        for run_id in sorted(live | (held & known)):
            self.apply(run_id, r.Greeted(silo=silo, holds=run_id in held))
        for run_id in sorted(held - known):
            log.warning("%s holds the run %s, which the federation does not know", silo, run_id[:64])

    def link_changed(self, silo: str, up: bool) -> None:
        for row in self._db.runs_of(silo):
            if row.in_cohort:
                self.supervisor.say(row.run_id, "silo", silo=silo, up=up)

    def member_removed(self, silo: str, reason: str) -> None:
        for run in self._db.open_runs():
            self.apply(run.id, r.SiloRemoved(silo=silo, reason=reason))

    # coordinators

    def _launch(self, run_id: str, cohort: tuple[str, ...]) -> None:
        if run_id not in self._launches and not self.supervisor.running(run_id):
            task = asyncio.create_task(self._prepare(run_id, cohort))
            self._launches[run_id] = task
            task.add_done_callback(lambda _: self._launches.pop(run_id, None))

    def _cancel_launch(self, run_id: str) -> None:
        if task := self._launches.get(run_id):
            task.cancel()

    async def _prepare(self, run_id: str, cohort: tuple[str, ...]) -> None:
        """The unpacked package and the coordinator's specification; then the process. The specification of a run that
        began is never changed: the order of sums hangs on it."""
        try:
            run = self._run(run_id)
            package = await asyncio.to_thread(self._catalogue.package, self._catalogue.find(run.job_digest))
            folder = self._home.run(run_id) / "package"
            await asyncio.to_thread(self._unpack, run.job_digest, folder)
            central = self._home.run(run_id) / CENTRAL
            spec = CoordinatorSpec(
                run_id=run_id,
                federation=self._federation,
                silos=cohort,
                package=str(folder),
                trainer=package.manifest.trainer,
                config=json.loads(run.config_json),
                blobs=str(self._home.blobs),
                central_data=tuple(json.loads(central.read_text())) if central.exists() else (),
            )
            if not (self._home.run(run_id) / "coordinator.json").exists():
                spec.write(self._home.run(run_id) / "coordinator.json")
            self.supervisor.start(run_id, self._home.run(run_id))
        except UserError as error:
            self.apply(run_id, r.CoordinatorEnded(state=r.FAILED, reason=str(error), code=error.code))
        except OSError as error:
            log.exception("the coordinator of %s could not be prepared", run_id)
            self.apply(run_id, r.CoordinatorLost(reason=str(error)))

    def _unpack(self, digest: str, folder: Any) -> None:
        if folder.exists():
            return
        half = folder.with_name("package.new")
        shutil.rmtree(half, ignore_errors=True)
        unpack(self._blobs.path(digest), half)
        os.replace(half, folder)

    def _greeting(self, run_id: str) -> Sequence[Word]:
        rows = [row for row in self._db.run_silos(run_id) if row.in_cohort]
        return [{"word": "silo", "silo": row.silo, "up": self._mail.is_up(row.silo)} for row in rows]

    def _on_word(self, run_id: str, word: Word) -> None:
        match word["word"]:
            case "outbox":
                for row in self._db.run_silos(run_id):
                    self._mail.notify(row.silo)
            case "round":
                self._round(run_id, word)
            case "trouble":
                log.info("run %s: %s", run_id, word["text"])
                self._db.update_run_silo(run_id, str(word["silo"]), reason=str(word["text"])[:TEXT_LIMIT])
                self._changed(run_id)
            case "log":
                level = logging.getLevelName(str(word.get("level", "info")).upper())
                level = level if isinstance(level, int) else logging.INFO
                log.log(level, "run %s: %s", run_id, word.get("text", ""))
            case "ended":
                state = str(word.get("state", r.FAILED))
                self._keep_model(run_id, word)
                event = r.CoordinatorEnded(
                    state=state if state in ENDED else r.FAILED,
                    reason=str(word.get("reason", "")),
                    code=str(word.get("code", "")),
                )
                self.apply(run_id, event)
                for row in self._db.run_silos(run_id):
                    self._mail.notify(row.silo)

    def _on_lost(self, run_id: str, why: str) -> None:
        self.apply(run_id, r.CoordinatorLost(reason=why))

    def _round(self, run_id: str, word: Word) -> None:
        model = word.get("model") or {}
        self._flush_traffic(run_id)
        self._db.put_round(
            RoundRow(
                run_id=run_id,
                round=int(word["round"]),
                metrics={str(k): float(v) for k, v in word.get("metrics", {}).items()},
                answered=tuple(word.get("answered", ())),
                missing=tuple(word.get("missing", ())),
                seconds=float(word.get("seconds", 0.0)),
                model_digest=str(model.get("digest", "")),
                model_size=int(model.get("size", 0)),
                late=tuple(word.get("late", ())),
                silos=word.get("silos", {}),
            )
        )
        self._keep_best(run_id, word)
        self._forget_models(run_id)
        self._changed(run_id)

    def _keep_model(self, run_id: str, word: Word) -> None:
        model = word.get("model") or {}
        if model.get("digest"):
            metrics = {str(k): float(v) for k, v in (word.get("metrics") or {}).items()}
            self._keep_best(run_id, word)
            self._db.update_run(
                run_id, model_digest=str(model["digest"]), model_size=int(model.get("size", 0)),
                metrics_json=json.dumps(metrics),
            )  # fmt: skip

    def _keep_best(self, run_id: str, word: Word) -> None:
        if best := word.get("best"):
            self._db.update_run(run_id, **{f"best_{name}": best[name] for name in ("round", "value", "digest", "size")})

    def _forget_models(self, run_id: str) -> None:
        run = self._run(run_id)
        keep = RunConfig.from_dict(json.loads(run.config_json)).keep_models
        rounds = self._db.rounds(run_id) if keep else []
        for digest in spent(rounds, keep, run.best_round, lambda digest: self._db.model_elsewhere(run_id, digest)):
            self._blobs.remove(digest)

    # small things

    def _run(self, run_id: str) -> RunRow:
        run = self._db.run(run_id)
        assert run is not None
        return run

    def _flush_traffic(self, run_id: str) -> None:
        came, left = self._mail.traffic(run_id)
        if came or left:
            run = self._run(run_id)
            self._db.update_run(run_id, bytes_in=run.bytes_in + came, bytes_out=run.bytes_out + left)

    def _changed(self, run_id: str) -> None:
        for watcher in self._watchers.get(run_id, ()):
            watcher.set()

    def _set_timer(self, run_id: str) -> None:
        run = self._run(run_id)
        if run.state != r.OFFERED:
            return
        wait = max(0.0, run.offer_expires_at - time.time())
        loop = asyncio.get_running_loop()
        self._timers[run_id] = loop.call_later(min(wait, TIMER_MOST_S), self._on_timer, run_id)

    def _on_timer(self, run_id: str) -> None:
        self._timers.pop(run_id, None)
        if self._run(run_id).offer_expires_at <= time.time():
            self.apply(run_id, r.OfferExpired())
        else:
            self._set_timer(run_id)
