"""Runs that were approved: launching, mail from the server, the administrator's commands, conditions in time.

Nothing runs here that ``Approvals.lawful`` does not let pass, at every launch anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from octopus_desktop.daemon import reducer
from octopus_desktop.daemon.core import Silo, when_possible
from octopus_desktop.daemon.mail import Mailboxes
from octopus_desktop.daemon.services import conditions as terms
from octopus_desktop.daemon.services.blob_uses import BlobUses
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.logs import Logs
from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.daemon.services.spread import Spread
from octopus_desktop.daemon.services.words import Words
from octopus_desktop.daemon.supervisor import Runner
from octopus_desktop.jobs.approval import Conditions
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training.spec import GIVEN, PRIVATE, SLURM, WORK, RunnerSpec
from octopus_desktop.wire.blobs import answer_blobs
from octopus_desktop.wire.errors import IllegalMove, UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Answer, Envelope, Finished, RoundResult, Stop, Task

log = logging.getLogger(__name__)

RUNNER = "octopus_desktop.training.runner"
DISK_LOOK_S = 5.0
DISK_FREE_BYTES = 64 << 20
RETRY_S = 10.0
TEXT_LIMIT = 2000


class Runs:
    """The noun ``run``.

    Attributes:
        lawful: checks approval, package and data, and gives the runner's specification; raises UserError: (run id, run
            directory) -> RunnerSpec.
        give_back: sees that nothing is left of the run in the site's Slurm. Both are set by ``app``.
    """

    def __init__(
        self,
        silo: Silo,
        lives: Lives,
        record: Record,
        logs: Logs,
        nodes: Nodes,
        mailboxes: Mailboxes,
        blobs: BlobStore,
        uses: BlobUses,
        words: Words,
        spread: Spread,
    ) -> None:
        self._silo, self._lives, self._record, self._logs = silo, lives, record, logs
        self._nodes, self._mailboxes, self._blobs, self._uses, self._words = nodes, mailboxes, blobs, uses, words
        self._spread = spread
        self.lawful: Callable[[str, Path], Awaitable[RunnerSpec]]
        self.give_back: Callable[[str], None] = lambda run_id: None
        self._stopping = False
        self._runners: dict[str, Runner] = {}
        self._launching: dict[str, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._clocks: dict[str, asyncio.Task[None]] = {}
        self._disk: asyncio.Task[None] | None = None

    def workers(self) -> int:
        """How many worker processes are meant to run now."""
        return sum(self._silo.get("run", run_id).workers or 1 for run_id in self._runners)

    # commands

    def pause(self, run_id: str) -> pb.Run:
        return self._command(run_id, reducer.Held("person", self._silo.administrator, "Paused by the administrator."))

    def resume(self, run_id: str) -> pb.Run:
        return self._command(run_id, reducer.Released("person", self._silo.administrator))

    def stop(self, run_id: str, reason: str) -> pb.Run:
        return self._command(run_id, reducer.StopAsked(self._silo.administrator, reason or "Stopped by the silo."))

    def stop_all_of(self, federation_id: str) -> None:
        for life in self._lives.active():
            if life.federation_id == federation_id:
                event = reducer.StopAsked(self._silo.administrator, "The silo leaves the federation.")
                self._lives.apply(life.run_id, event)

    def _command(self, run_id: str, event: reducer.Event) -> pb.Run:
        self._silo.need("run", run_id)
        try:
            with self._silo.change():
                self._lives.apply(run_id, event)
                run: pb.Run = self._silo.get("run", run_id)
                self._silo.answer(run)
        except IllegalMove as error:
            run = self._silo.get("run", run_id)
            raise UserError(
                "OCT-RUN-STATE",
                f"The run is {run.state}; it cannot be changed in this way.",
                run.reason or "Its state does not allow it.",
                "Look at the run's state first.",
            ) from error
        return run

    def detail(self, run_id: str) -> pb.RunDetail:
        run = self._silo.need("run", run_id)
        offer = self._silo.get("offer", run_id)
        return self._record.detail(run, offer.offer.config_json if offer else "")

    # from the server

    def task_came(self, envelope: Envelope) -> bool:
        life = self._lives.get(envelope.run_id)
        if life.ended:
            return False  # the server will learn, or knows, that this run is over here
        if not life.active:
            raise UserError("OCT-RUN-STATE", "The run is not approved here.", f"It is {life.offer}.", "Wait for it.")
        task = Task.FromString(envelope.body)
        refused = terms.round_allowed(self._conditions(envelope.run_id), envelope.round)
        if refused:
            self._lives.apply(envelope.run_id, reducer.Broken(refused.code, refused.why))
            return True
        now = time.time()
        with self._silo.change():  # the model is spoken for before the task can be seen
            for blob in (task.model, *task.shared.values()):
                self._uses.add(envelope.run_id, "model", envelope.round, blob.digest)
            made_by = envelope.round - (task.task == "train")  # after the last round its own model is evaluated
            if made_by:
                row = self._record.round(envelope.run_id, made_by)
                row.model_digest, row.model_size = task.model.digest, task.model.size
                self._record.touch(envelope.run_id, made_by)
        new = self._mailboxes.get(envelope.run_id).accept(envelope)
        runner = self._runners.get(envelope.run_id)
        if runner:
            runner.say("inbox")
        else:
            self.launch(envelope.run_id, 0.0)
        self._words.task_arrived(envelope, task, now)
        self._uses.drop_before(envelope.run_id, envelope.round)
        return new

    def stop_came(self, envelope: Envelope) -> bool:
        stop = Stop.FromString(envelope.body)
        self._lives.apply(envelope.run_id, reducer.StopCame(stop.code, stop.reason))
        return True

    def finished_came(self, envelope: Envelope) -> bool:
        finished = Finished.FromString(envelope.body)
        life = self._lives.get(envelope.run_id)
        if life.ended:
            return False
        with self._silo.change():
            last = finished.rounds or life.round
            if finished.model.digest:
                self._uses.add(envelope.run_id, "final", last, finished.model.digest)
                row = self._record.round(envelope.run_id, last)
                row.model_digest, row.model_size = finished.model.digest, finished.model.size
                self._record.touch(envelope.run_id, last)
            if finished.best.digest:
                self._uses.add(envelope.run_id, "final", finished.best_round, finished.best.digest)
            run = self._silo.get("run", envelope.run_id)
            if run is not None:
                run = self._silo.need("run", envelope.run_id)
                run.metrics.update(finished.metrics)
                run.best_round, run.best_value = finished.best_round, finished.best_value
                self._silo.put("run", run)
            self._lives.apply(envelope.run_id, reducer.FinishedCame(finished.rounds, finished.reason[:TEXT_LIMIT]))
        return True

    def round_came(self, envelope: Envelope) -> bool:
        """What the federation made of a round."""
        result = RoundResult.FromString(envelope.body)
        run = self._silo.get("run", envelope.run_id)
        if run is None:
            return False
        with self._silo.change():
            row = self._record.round(envelope.run_id, envelope.round)
            row.federation.clear()
            row.federation.update(result.metrics)
            row.seconds = result.seconds
            for kept, told in ((row.answered, result.answered), (row.missing, result.missing), (row.late, result.late)):
                del kept[:]
                kept.extend(told)
            for silo, numbers in result.silos.items():
                row.silos[silo].values.update(numbers.values)
            if result.model.digest:
                row.model_digest, row.model_size = result.model.digest, result.model.size
            self._record.touch(envelope.run_id, envelope.round)
            run = self._silo.need("run", envelope.run_id)
            run.metrics.update(result.metrics)
            del run.silos_present[:]
            run.silos_present.extend(result.answered)
            run.round = max(run.round, envelope.round)
            run.rounds = result.rounds or run.rounds
            run.eta_s = max(0, run.rounds - envelope.round) * result.seconds
            self._silo.put("run", run)
        at = time.time()
        points = [[name, "federation", envelope.round, 0, value, at] for name, value in result.metrics.items()]
        self._record.points(envelope.run_id, points)
        for span in result.spans:
            self._record.span(envelope.run_id, envelope.round, span)
        self._record.run_changed(run)
        return True

    def answer_allowed(self, envelope: Envelope, answer: Answer) -> bool:
        """Asked each time before an answer is handed to the carrier."""
        life = self._lives.get(envelope.run_id)
        if not life.active:
            return False
        limits = self._conditions(envelope.run_id)
        if limits.max_bytes_out or limits.max_epsilon:
            sent = sum(
                pb.Left.FromString(body).bytes
                for (body,) in self._silo.db.rows(
                    "SELECT body FROM run_left WHERE run_id=? AND envelope_id<>?", envelope.run_id, envelope.id
                )
                if pb.Left.FromString(body).kind == "ANSWER"
            )
            size = sum(blob.size for blob in answer_blobs(answer))
            refused = terms.answer_allowed(limits, sent, size, answer.metrics)
            if refused:
                event = reducer.Broken(refused.code, refused.why)
                asyncio.get_running_loop().call_soon(when_possible, self._lives.apply, envelope.run_id, event)
                return False
        self._words.answer_leaves(envelope, answer)
        return True

    def answer_delivered(self, envelope: Envelope) -> None:
        self._words.answer_delivered(envelope)

    # launching

    def launch(self, run_id: str, delay_s: float = 0.0) -> None:
        """See that a runner works for this run; the rest is checked when the time has come."""
        if run_id in self._runners or run_id in self._launching:
            return
        task = asyncio.create_task(self._launch(run_id, delay_s))
        self._launching[run_id] = task
        task.add_done_callback(lambda _: self._launching.pop(run_id, None))

    def launch_waiting(self) -> None:
        """Something changed that launches may have waited for."""
        for life in self._lives.active():
            if life.run != "paused":
                self.launch(life.run_id)

    async def _launch(self, run_id: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        life = self._lives.get(run_id)
        if not life.active or life.run == "paused":
            return
        limits = self._conditions(run_id)
        try:
            if self._time_is_over(run_id, limits):
                return
            blocked = self._nodes.blocked(limits.nodes)
            if blocked:
                self._lives.apply(run_id, reducer.LaunchBlocked(blocked))
                return
            place = self._silo.home.run(run_id)
            place.mkdir(parents=True, exist_ok=True, mode=0o700)
            spec = await self.lawful(run_id, place)
            spec.write(place / "runner.json")
            life = self._lives.get(run_id)
            if not life.active or life.run == "paused":
                return
            await self._start(run_id, spec, place)
        except UserError as error:
            self._launch_failed(run_id, error)
        except Exception as error:
            log.exception("the launch of %s failed", run_id)
            self._lives.apply(run_id, reducer.Broken("OCT-RUN-WORKERS", f"The runner could not be started: {error!r}"))

    async def _start(self, run_id: str, spec: RunnerSpec, place: Path) -> None:
        runner = Runner(
            heard=lambda word: self._heard(run_id, word),
            wrote=lambda text: self._logs.add("info", "runner", text, run_id),
            gone=lambda why: self._gone(run_id, runner, why),
        )
        self._mailboxes.get(run_id)  # its tables are there before the child looks
        with self._silo.change():
            run = self._silo.need("run", run_id)
            run.workers = spec.workers + sum(machine.workers for machine in spec.machines)
            self._silo.put("run", run)
            self._lives.apply(run_id, reducer.RunnerUp())
        self._runners[run_id] = runner
        self._nodes.wake()
        try:
            await runner.start(RUNNER, str(place), cwd=place)
        except OSError:
            self._runners.pop(run_id, None)
            raise
        if self._runners.get(run_id) is not runner:
            return  # the run ended meanwhile, and the runner with it
        self._spread.begin(run_id, spec, runner.say)
        self._watch_time(run_id)

    def _launch_failed(self, run_id: str, error: UserError) -> None:
        if error.code == "OCT-DISK-FULL":
            self._disk_full(run_id, error)
            return
        self._lives.apply(run_id, reducer.Broken(error.code, f"{error.what} {error.why}".strip()))

    # what the runner says

    def _heard(self, run_id: str, word: dict[str, Any]) -> None:
        try:
            if word["word"] == "ended":
                self._ended(run_id, word)
            elif word["word"] == "node":
                self._spread.asked(run_id, word["node"], word["words"])
            else:
                self._words.heard(run_id, word)
        except UserError as error:  # the database's disk is full: the words are hints, rows are looked at again
            log.warning("a word of the runner was not kept: %s", error.what)
            if error.code == "OCT-DISK-FULL":
                asyncio.get_running_loop().call_later(RETRY_S, self._words.look_again, run_id)
        except (KeyError, TypeError, ValueError) as error:
            log.warning("the runner of %s sent a word that cannot be read: %r (%s)", run_id, word.get("word"), error)

    def _ended(self, run_id: str, word: dict[str, Any]) -> None:
        state, code, reason = word.get("state", ""), str(word.get("code", "")), str(word.get("reason", ""))
        if code == "OCT-DISK-FULL":
            self._disk_full(run_id, UserError(code, "The disk is full.", reason, "Free some space."))
        elif state == "failed" or code:
            self._lives.apply(run_id, reducer.RunnerEnded(code or "OCT-RUN-WORKERS", reason or "The runner gave up."))

    def _gone(self, run_id: str, runner: Runner, why: str) -> None:
        if self._stopping:
            return
        if self._runners.get(run_id) is runner:
            del self._runners[run_id]
            self._spread.end(run_id)
        life = self._lives.get(run_id)
        if life.active and "disk" not in life.held:
            self._logs.add("warning", "daemon", f"The runner ended: {why}", run_id)
            when_possible(self._lives.apply, run_id, reducer.RunnerGone(why))
            if self._lives.get(run_id).run == "paused":
                self._give_back(run_id)

    def tell(self, run_id: str, word: str) -> None:
        runner = self._runners.get(run_id)
        if runner:
            runner.say(word)
        elif word == "pause":
            self._give_back(run_id)
        self._words.held(run_id)

    def end(self, run_id: str, reason: str) -> None:
        """The run is over here: end its processes, close its mail."""
        runner = self._runners.pop(run_id, None)
        self._spread.end(run_id)
        clock = self._clocks.pop(run_id, None)
        if clock:
            clock.cancel()
        task = asyncio.create_task(self._end(run_id, runner, reason))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _end(self, run_id: str, runner: Runner | None, reason: str) -> None:
        if runner:
            await runner.end(reason)
        self._give_back(run_id)
        self._mailboxes.close(run_id)
        self._uses.drop_updates(run_id)
        place = self._silo.home.run(run_id)
        # the silo's own model, where one is kept, lies beside them
        for folder in ("package", WORK, GIVEN, PRIVATE, SLURM):
            await asyncio.to_thread(shutil.rmtree, place / folder, True)
        await self._nodes.sample()

    def _give_back(self, run_id: str) -> None:
        """What its runner has not given back by itself."""
        if self._conditions(run_id).slurm:
            self.give_back(run_id)

    def allocated(self) -> set[str]:
        """The runs that may have an allocation of the site's Slurm."""
        going = (life.run_id for life in self._lives.active() if life.run != "paused" or life.run_id in self._runners)
        return {run_id for run_id in going if self._conditions(run_id).slurm}

    async def leave(self) -> None:
        """The daemon ends. Runners on this machine end with it as they are; those whose workers are elsewhere are asked
        to, so that nothing of theirs begins anew."""
        self._stopping = True
        away = [runner for run_id, runner in self._runners.items() if self._conditions(run_id).slurm]
        await asyncio.gather(*(runner.end("The daemon ends.") for runner in away))

    # time and disk

    def _conditions(self, run_id: str) -> Conditions:
        run = self._silo.get("run", run_id)
        return Conditions.from_dict(json.loads(run.conditions_json)) if run and run.conditions_json else Conditions()

    def _time_is_over(self, run_id: str, limits: Conditions) -> bool:
        """Apply what the clock says of the conditions; True when nothing may run now."""
        run = self._silo.get("run", run_id)
        now = terms.standing(limits, time.time(), run.started_at)
        life = self._lives.get(run_id)
        if now.over:
            self._lives.apply(run_id, reducer.Broken(now.over.code, now.over.why))
            return True
        if now.closed and "hours" not in life.held:
            hours = ", ".join(f"{a}–{b}" for a, b in limits.hours_of_day)
            self._lives.apply(run_id, reducer.Held("hours", "daemon", f"Trains only within the hours {hours}."))
        elif not now.closed and "hours" in life.held:
            self._lives.apply(run_id, reducer.Released("hours", "daemon"))
        if now.closed:
            self._watch_time(run_id)
        return now.closed

    def _watch_time(self, run_id: str) -> None:
        limits = self._conditions(run_id)
        if run_id in self._clocks or not (limits.hours_of_day or limits.expires_at or limits.max_hours):
            return
        self._clocks[run_id] = asyncio.create_task(self._clock(run_id, limits))

    async def _clock(self, run_id: str, limits: Conditions) -> None:
        while self._lives.get(run_id).active:
            look_at = terms.standing(limits, time.time(), self._silo.get("run", run_id).started_at).look_at
            await asyncio.sleep(max(0.05, look_at - time.time()))
            when_possible(self._time_is_over, run_id, limits)

    def _disk_full(self, run_id: str, error: UserError) -> None:
        """The run waits; it goes on by itself when there is room."""
        self._silo.notify("error", error.code, f"{error.what} {error.why}", "run", run_id)
        try:
            self._lives.apply(run_id, reducer.Held("disk", "daemon", "Waits until the disk has room again."))
        except UserError:
            pass  # not even this could be written; the loop below tries again
        if self._disk is None or self._disk.done():
            self._disk = asyncio.create_task(self._until_room())

    async def _until_room(self) -> None:
        while shutil.disk_usage(self._silo.home.root).free < DISK_FREE_BYTES:  # noqa: ASYNC110
            await asyncio.sleep(DISK_LOOK_S)  # no system tells of room on a disk
        for life in self._lives.active():
            if "disk" in life.held:
                self._lives.apply(life.run_id, reducer.Released("disk", "daemon"))
        self.launch_waiting()

    def restart_all(self) -> None:
        """After the daemon's start: every run that has not ended goes on."""
        for life in self._lives.active():
            self._count_again(life.run_id)
            if "hours" in life.held:
                self._time_is_over(life.run_id, self._conditions(life.run_id))
            if "disk" in life.held and self._disk is None:
                self._disk = asyncio.create_task(self._until_room())

    def _count_again(self, run_id: str) -> None:
        """Bytes out from the record: the counter in the entity may lag behind by what was not stored yet."""
        run = self._silo.get("run", run_id)
        rows = self._silo.db.rows("SELECT body FROM run_left WHERE run_id=?", run_id)
        run.bytes_out = max(run.bytes_out, sum(pb.Left.FromString(body).bytes for (body,) in rows))
