"""A coordinator in a real process, and silos that are a script: they answer through the mailbox, as a server would
deliver them."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training import initial
from octopus_desktop.training.spec import MAILBOX, CoordinatorSpec
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.child import decode, encode
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, TASK, Answer, BlobRef, Envelope, Task
from octopus_desktop.wire.tensors import read_layout

SILOS = ("ada", "bob", "cyd")
TRAINER = """
import torch
from octopus_desktop.training.sdk import ClientTrainer

class Trainer(ClientTrainer):
    def build_model(self, ctx):
        return torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.BatchNorm1d(30), torch.nn.Linear(30, 2))
"""
WAIT_S = 40.0
READY_MADE = """
import sys
from octopus_desktop.training import initial
program = "import shutil, sys; shutil.copy(sys.argv[1], sys.argv[2]); print(sys.argv[3])"
initial.command = lambda spec, out: [sys.executable, "-S", "-c", program, {path!r}, str(out), {told!r}]
"""


class ScriptedRun:
    """One run's directory, the coordinator's process, and the silos' script."""

    def __init__(self, root: Path, *, silos: tuple[str, ...] = SILOS, trainer: str = TRAINER, **config: Any) -> None:
        (root / "package" / "code").mkdir(parents=True)
        self.trainer_source = root / "package" / "code" / "scripted.py"
        self.trainer_source.write_text(trainer)
        self.dir, self.silos = root / "run", silos
        self.dir.mkdir()
        self.config = RunConfig(**{"rounds": 3, "seed": 7, **config})
        CoordinatorSpec(
            run_id="r1",
            federation="Test",
            silos=silos,
            package=str(root / "package"),
            trainer="scripted:Trainer",
            config=self.config.to_dict(),
            blobs=str(root / "blobs"),
        ).write(self.dir / "coordinator.json")
        self.store = BlobStore(root / "blobs")
        self.mailbox = Mailbox(self.dir / MAILBOX)
        self.words: list[dict[str, Any]] = []
        self.trained: list[tuple[int, str, str]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.heard: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    # the process

    def start(self, patch: str = "", *, build: bool = False) -> None:
        """Start the coordinator; ``patch`` is code that its interpreter runs first. Without ``build`` the first model
        is one that was built before, because that takes seconds."""
        command = [sys.executable, "-m", "octopus_desktop.server.coordinator", str(self.dir)]
        if not build:
            patch = READY_MADE.format(path=str(first_model()[0]), told=json.dumps(first_model()[1])) + patch
        if patch:
            program = f"{patch}\nimport os, sys\nfrom octopus_desktop.server import coordinator as c\n"
            program += "code = c.main(sys.argv[1:]); os._exit(code)"
            command = [sys.executable, "-c", program, str(self.dir)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.heard = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self.process, self.heard), daemon=True).start()

    def _read(self, process: subprocess.Popen[bytes], heard: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        assert process.stdout
        for line in process.stdout:
            word = decode(line)
            assert word, line
            heard.put(word)
        heard.put(None)

    def tell(self, word: str, **fields: Any) -> None:
        assert self.process and self.process.stdin
        try:
            self.process.stdin.write(encode(word, **fields).encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died; the test looks at how

    def kill(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(WAIT_S)

    def close(self) -> None:
        if self.process and self.process.poll() is None:
            self.kill()
        if self.process:
            for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
                assert pipe
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self.mailbox.close()

    # the silos

    def until(self, done: Callable[[dict[str, Any]], bool], *, serve: bool = True) -> dict[str, Any]:
        """Hear words, and let the silos work, until a word is the one. AssertionError when the process dies first."""
        while True:
            word = self.heard.get(timeout=WAIT_S)
            if word is None:
                assert self.process and self.process.stderr
                raise Died(self.process.wait(WAIT_S), self.process.stderr.read().decode())
            self.words.append(word)
            if done(word):
                return word
            if serve and word["word"] in ("outbox", "ready"):
                self.serve()

    def ended(self) -> dict[str, Any]:
        return self.until(lambda word: word["word"] == "ended")

    def serve(self, only: tuple[str, ...] = ()) -> None:
        """Deliver every task and answer it, the last silo first."""
        for _, envelope in reversed(self.mailbox.pending()):
            if envelope.kind == TASK and (not only or envelope.recipient in only):
                self.answer(envelope)
                self.mailbox.delivered(envelope.id)
        self.tell("inbox")

    def tasks(self) -> list[tuple[str, int, str, int]]:
        """(silo, round, task, epoch) of every undelivered task."""
        found = [(e, Task.FromString(e.body)) for _, e in self.mailbox.pending() if e.kind == TASK]
        return [(e.recipient, e.round, t.task, t.epoch) for e, t in found]

    def answer(self, envelope: Envelope, **changes: Any) -> bool:
        """What this silo's training makes of the model: a function of the model, silo and round alone."""
        task, silo = Task.FromString(envelope.body), envelope.recipient
        self.trained.append((envelope.round, silo, task.task))
        number = self.silos.index(silo)
        metrics = {"eval/accuracy": 0.5 + envelope.round / 100 + number / 10, "eval/examples": 10.0 * (number + 1)}
        body = Answer(task=task.task, epoch=task.epoch, metrics=metrics)
        if task.task == "train":
            digest = self.store.put(self.train(task.model.digest, silo, envelope.round))
            update = BlobRef(digest=digest, size=self.store.size(digest), encoding="none")
            body.update.CopyFrom(update)
            body.examples, body.steps = 100 * (number + 1), 5
            body.metrics["train/loss"] = 1.0 / envelope.round
        for name, value in changes.items():
            setattr(body, name, value)
        return self.mailbox.accept(
            Envelope(
                id=new_id("e"),
                run_id="r1",
                round=envelope.round,
                kind=ANSWER,
                sender=silo,
                recipient="server",
                body=body.SerializeToString(),
                blobs=[body.update] if body.HasField("update") else [],
                dedupe=f"{envelope.round}/{silo}/{task.task}",
            )
        )

    def train(self, model: str, silo: str, round: int) -> bytes:
        path = self.store.path(model)
        data, layout = bytearray(path.read_bytes()), read_layout(path)
        random = np.random.default_rng([self.silos.index(silo), round])
        for tensor in layout:
            if tensor.dtype == "F32":
                values = np.frombuffer(data, np.float32, tensor.elements, tensor.begin)
                noise = random.normal(size=tensor.elements).astype(np.float32)
                data[tensor.begin : tensor.end] = (values + noise).tobytes()
        return bytes(data)

    def envelopes(self, kind: int) -> list[Envelope]:
        return [e for _, e in self.mailbox.pending() if e.kind == kind]

    def state(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.mailbox.read("rounds") or b"{}")
        return value

    def blobs(self) -> set[str]:
        return set(self.store.digests())


@functools.cache
def first_model() -> tuple[Path, dict[str, Any]]:
    """The trainer's first model, built once as the coordinator builds it."""
    root = Path(tempfile.mkdtemp(prefix="octopus-first-model-"))
    atexit.register(shutil.rmtree, root, True)
    (root / "code").mkdir()
    (root / "code" / "scripted.py").write_text(TRAINER)
    spec = {"package": str(root), "trainer": "scripted:Trainer", "config": RunConfig(rounds=3, seed=7).to_dict()}
    (root / "spec.json").write_text(json.dumps(spec))
    digest, size = initial.build(root / "spec.json", root / "model")
    return root / "model", {"digest": digest, "size": size}


class Died(AssertionError):
    """The coordinator ended before the word came."""

    def __init__(self, code: int, stderr: str) -> None:
        super().__init__(f"the coordinator ended with {code}: {stderr[-3000:]}")
        self.code = code


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
