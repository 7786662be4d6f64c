"""A silo's runner: takes a run's tasks from the inbox, drives the workers, puts the answers into the outbox.

``python -m octopus_desktop.training.runner RUN_DIR`` with the daemon's words on stdin (``wire.child``). No torch here.
What must not be lost is in RUN_DIR/mailbox.sqlite: an answer is posted, and its task marked done, in one transaction,
after the update's blob is durable; so a task that was answered is never trained again, whatever is killed when. What an
encoding left out of the update is named in the same transaction, so that it is added to the next round once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.returned import returned
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training import frames, leaving
from octopus_desktop.training.feedback import Feedback
from octopus_desktop.training.launcher import TaskFailed, Workers
from octopus_desktop.training.spec import KEPT_MODEL, MAILBOX, PRIVATE, RunnerSpec, beside
from octopus_desktop.wire.blobs import answer_blobs
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.child import ParentLink, decode
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, TASK, Answer, BlobRef, Envelope, Span, Task

MEET_S = 5.0
LINE_BYTES = 8 << 20


class Runner:
    """One run of one silo."""

    def __init__(self, run_dir: Path, parent: ParentLink) -> None:
        self._run_dir, self._parent = run_dir, parent
        self._spec = RunnerSpec.read(run_dir / "runner.json")
        self._mailbox = Mailbox(run_dir / MAILBOX)
        self._blobs = BlobStore(Path(self._spec.blobs))
        self._config = self._spec.run_config
        self._private = run_dir / PRIVATE
        self._private.mkdir(exist_ok=True)
        self._feedback = Feedback(self._private, self._mailbox)
        self._left_out: Path | None = None  # by the encoding, of the update that is to be posted
        ask = self._ask if self._spec.further else None
        self._workers = Workers(run_dir, self._spec, self, confine=True, ask=ask, queue=self._queue)
        self._met = asyncio.Event()  # the parent has said which further machines are up
        self._mail = asyncio.Event()
        self._mail.set()
        self._going = asyncio.Event()
        self._going.set()
        self._current = (0, "", 0)  # round, task, epoch

    async def run(self) -> None:
        """Work until stdin ends or the parent says stop."""
        self._feedback.tidy()
        orders = asyncio.create_task(self._orders())
        if self._spec.further:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._met.wait(), MEET_S)
        await self._workers.start()
        self._parent.say("ready", workers=max(1, self._spec.workers), sandbox=self._workers.sandbox)
        if self._workers.sandbox == "none":
            said = f"The job's code runs without a sandbox: {self._workers.obstacle}"
            self._parent.log("warning", "runner", said)
        work = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait({work, orders}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            work.cancel()
            orders.cancel()
            await self._workers.stop()
        _end(0)  # at once: there is nothing to tidy that start-up would not

    async def _orders(self) -> None:
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            words = decode(line) or {}
            word = words.get("word")
            if word == "inbox":
                self._mail.set()
            elif word == "pause":
                self._going.clear()
                self._workers.pause()
                self._progress("paused", 0.0)
            elif word == "resume":
                self._going.set()
                self._workers.resume()
            elif word == "nodes":
                await self._workers.set_up(words["up"])
                self._met.set()
            elif word == "node":
                await self._workers.told(words["node"], words["words"])
            elif word == "stop":
                return

    def _queue(self, state: str, words: str) -> None:
        self._parent.say("queue", state=state, words=words)

    def _ask(self, node: str, words: dict[str, Any]) -> None:
        self._parent.say("node", node=node, words=words)

    async def _work(self) -> None:
        while True:
            await self._mail.wait()
            self._mail.clear()
            for seq, envelope in self._open_tasks():
                await self._going.wait()
                await self._do(seq, envelope)

    def _open_tasks(self) -> list[tuple[int, Envelope]]:
        """The tasks that are still wanted: of each kind of task the newest lease of the newest round."""
        rows = [(seq, e, Task.FromString(e.body)) for seq, e in self._mailbox.inbox() if e.kind == TASK]
        newest = max((e.round for _, e, _ in rows), default=0)
        wanted: dict[tuple[int, str], tuple[int, Envelope, int]] = {}
        for seq, envelope, task in rows:
            key = (envelope.round, task.task)
            before = wanted.get(key)
            if envelope.round < newest or (before and before[2] >= task.epoch):
                self._mailbox.done(seq)  # the round is over, or a newer lease of it is here
                continue
            if before:
                self._mailbox.done(before[0])
            wanted[key] = (seq, envelope, task.epoch)
        return [(seq, envelope) for seq, envelope, _ in wanted.values()]

    async def _do(self, seq: int, envelope: Envelope) -> None:
        task = Task.FromString(envelope.body)
        dedupe = f"{envelope.round}/{self._spec.silo}/{task.task}"
        self._current = (envelope.round, task.task, task.epoch)
        if sent := self._mailbox.sent(dedupe):
            self._repeat(seq, sent, task, dedupe)
            return
        self._progress("preparing" if self._spec.slurm else "training", 0.0)  # it may wait in the site's queue first
        self._left_out = None
        answer = await self._answer(envelope, task)
        reply = self._envelope(envelope.round, dedupe, answer)
        with self._mailbox.transaction():
            self._mailbox.post(reply)
            if self._left_out and not answer.error_code:
                self._feedback.keep(self._left_out)
            self._mailbox.done(seq)
        self._feedback.tidy()
        self._parent.say("outbox")
        self._progress("exchanging", 1.0)

    def _repeat(self, seq: int, sent: Envelope, task: Task, dedupe: str) -> None:
        """The task was answered before: give the same answer under the new lease, train nothing."""
        answer = Answer.FromString(sent.body)
        with self._mailbox.transaction():
            if task.epoch > answer.epoch:
                answer.epoch = task.epoch
                self._mailbox.repost(self._envelope(sent.round, dedupe, answer))
            self._mailbox.done(seq)
        self._parent.say("outbox")

    async def _answer(self, envelope: Envelope, task: Task) -> Answer:
        """Train or evaluate. What failed becomes an answer that says so."""
        config = json.loads(task.config_json or "{}")
        out = self._run_dir / "work" / f"update-{envelope.round}.safetensors"
        out.parent.mkdir(exist_ok=True)
        began = time.time()
        try:
            _require_keepable(self._config)
            model = self._blobs.path(task.model.digest)
            words = {
                "task": task.task,
                "round": envelope.round,
                "rounds": int(config.get("rounds", self._config.rounds)),
                "model": str(model),
                "config": config.get("strategy", {}),
                "shared": {name: str(self._blobs.path(ref.digest)) for name, ref in task.shared.items()},
                "keep": str(self._run_dir / "work" / "memory"),
                "out": str(out),
            }
            answer = _read_result(task, await self._workers.run(words))
            if task.task == "train":
                await self._take(out, model, answer)
            elif self._config.personal_keep:
                kept = self._run_dir / "work" / "memory" / KEPT_MODEL
                await asyncio.to_thread(leaving.keep_here, kept, model, self._run_dir / KEPT_MODEL)
        except (TaskFailed, UserError) as error:
            return self._failure(task, error, out)
        self._parent.log("info", "runner", f"Round {envelope.round}: {task.task} took {time.time() - began:.2f} s.")
        return answer

    async def _take(self, out: Path, model: Path, answer: Answer) -> None:
        """Check, filter and encode the workers' files, make them durable blobs, and name them in the answer: the update
        and what the approved strategy, whatever the task's words were, has a silo return beside it."""
        began, round_ = time.time(), self._current[0]
        if self._feedback.lost:
            said = "What the encoding left out of earlier rounds is gone from the disk; it is not added to this one."
            self._parent.log("warning", "runner", f"Round {round_}: {said}")
        clean = await asyncio.to_thread(
            leaving.prepare,
            out,
            model,
            self._config,
            private=self._private,
            before=self._feedback.before(),
            after=self._feedback.after(round_),
        )
        self._blobs.adopt_hashed(clean.path, clean.digest)
        self._left_out = clean.left_out
        answer.update.CopyFrom(BlobRef(digest=clean.digest, size=clean.size, encoding=clean.encoding))
        for name in returned(self._config.strategy):
            place = beside(out, name)
            more = await asyncio.to_thread(
                leaving.prepare_returned, name, place, model, self._config, private=self._private
            )
            self._blobs.adopt_hashed(more.path, more.digest)
            answer.returned[name].CopyFrom(BlobRef(digest=more.digest, size=more.size, encoding=more.encoding))
        if clean.metrics:
            told = ", ".join(f"{name} {value:.4g}" for name, value in clean.metrics.items())
            self._parent.log("info", "runner", f"Round {round_}: privacy filters: {told}.")
        if clean.encoding != "none":
            part = f"{clean.size:,} of {clean.full_size:,} bytes ({100 * clean.size / clean.full_size:.1f} %)"
            self._parent.log("info", "runner", f"Round {round_}: encoded as {clean.encoding}: {part}.")
        span = Span(lane="silo", step="filter", start=began, end=time.time())
        self._parent.say("span", lane=span.lane, step=span.step, round=self._current[0], start=began, end=span.end)
        answer.spans.append(span)

    def _failure(self, task: Task, error: TaskFailed | UserError, out: Path) -> Answer:
        shutil.rmtree(out, ignore_errors=True) if out.is_dir() and not out.is_symlink() else out.unlink(missing_ok=True)
        if isinstance(error, TaskFailed):
            code, public = error.fault["code"], error.fault["public"]
            text = "\n".join(filter(None, (error.fault["what"], error.fault["why"], error.fault["next"])))
        else:
            code, public, text = error.code, f"{error.what} {error.why}", str(error)
        self._parent.log("error", "runner", f"[{code}] {text}")
        return Answer(task=task.task, epoch=task.epoch, error=public[:4000], error_code=code)

    def _envelope(self, round_: int, dedupe: str, answer: Answer) -> Envelope:
        return Envelope(
            id=new_id("e"),
            run_id=self._spec.run_id,
            round=round_,
            kind=ANSWER,
            sender=self._spec.silo,
            recipient="server",
            body=answer.SerializeToString(),
            blobs={ref.digest: ref for ref in answer_blobs(answer)}.values(),  # two may be the same bytes
            dedupe=dedupe,
        )

    def _progress(self, state: str, fraction: float) -> None:
        round_, task, epoch = self._current
        self._parent.say("progress", state=state, round=round_, task=task, epoch=epoch, fraction=fraction)

    def heard(self, frame: frames.Frame) -> None:
        """A worker's live word, passed on."""
        word = frame["word"]
        if word == "progress":
            self._progress("training", float(frame["fraction"]))
        elif word == "log":
            self._parent.log(str(frame["level"]), "worker", str(frame["text"]))
        elif word in ("metrics", "span"):
            fields: dict[str, Any] = {name: value for name, value in frame.items() if name != "word"}
            self._parent.say(word, **fields)


def _read_result(task: Task, result: frames.Frame) -> Answer:
    """The workers' word of what they did. Foreign code ran there, so that even its form is checked."""
    try:
        return Answer(
            task=task.task,
            epoch=task.epoch,
            examples=result["examples"],
            metrics=result["metrics"],
            train_seconds=result["train_seconds"],
            steps=result["steps"],
            spans=[Span(lane=lane, step=step, start=start, end=end) for lane, step, start, end in result["spans"]],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            "OCT-RUN-TRAINER",
            "The workers' answer cannot be read.",
            "The job's code has changed how a worker speaks to its runner.",
            "Nothing was sent. Look at what the job's code does with sockets.",
        ) from error


def _require_keepable(config: RunConfig) -> None:
    """Raise OCT-CONFIG-INVALID for a filter or an encoding that cannot be had, before anything is trained for it."""
    if config.privacy or config.encoding != "none":
        from octopus_desktop.aggregation import encodings, filters  # numpy, which most runners do not need

        filters.make(config.privacy)
        encodings.make(config.encoding, config.encoding_parameters)


def main(arguments: list[str]) -> None:
    parent = ParentLink()
    try:
        asyncio.run(Runner(Path(arguments[0]), parent).run())
    except UserError as error:
        parent.say("ended", state="failed", reason=error.what, code=error.code)
        sys.stderr.write(f"{error}\n")
        _end(1)


def _end(code: int) -> NoReturn:
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
