"""One group of workers over several machines: a runner, and the share of a further machine as its agent starts it."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training.spec import Further, RunnerSpec
from octopus_desktop.wire.child import encode
from octopus_desktop.wire.pb.envelope_pb2 import Answer
from tests.training.test_training_runner import Parent


class Machine:
    """A further machine: what its agent does, without the link."""

    def __init__(self, root: Path, daemon: Parent) -> None:
        self.root, self.daemon = root, daemon
        self.process: subprocess.Popen[bytes] | None = None

    def do(self, words: dict[str, Any]) -> None:
        words = dict(words)
        word = words.pop("do")
        if word == "start" and (self.process is None or self.process.poll() is not None):
            self.root.mkdir(exist_ok=True)
            shutil.copytree(self.daemon.spec.package, self.root / "package", dirs_exist_ok=True)
            words["spec"].pop("package_size")
            spec = RunnerSpec(**{**words["spec"], "package": str(self.root / "package")})
            spec.write(self.root / "runner.json")
            command = [sys.executable, "-m", "octopus_desktop.training.share", str(self.root)]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            threading.Thread(target=self._hear, args=(self.process,), daemon=True).start()
        if word == "task":
            words["model"] = str(self.daemon.blobs.path(words["model"][0]))
        if self.process and self.process.poll() is None:
            assert self.process.stdin
            words.pop("spec", None)
            self.process.stdin.write(encode(word, **words).encode())
            self.process.stdin.flush()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            with contextlib.suppress(ValueError, BrokenPipeError):  # the runner has ended before
                self.daemon.send("node", node="n2", words=json.loads(line))

    def workers(self) -> list[psutil.Process]:
        if self.process is None or self.process.poll() is not None:
            return []
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "training.worker" in " ".join(p.cmdline())]


class Spanning(Parent):
    """A daemon's part that passes words on to one further machine."""

    def __init__(self, root: Path, config: RunConfig, workers: int, further: int) -> None:
        root.mkdir(exist_ok=True)
        super().__init__(root, config, workers)
        if further:
            machine = Further(node="n2", name="gpu-2", workers=further)
            self.spec = replace(self.spec, further=(asdict(machine),), address="127.0.0.1")
            self.spec.write(self.run_dir / "runner.json")
        self.further = Machine(root / "further", self)
        self._writing = threading.Lock()

    def send(self, word: str, **fields: Any) -> None:
        assert self.process and self.process.stdin
        with self._writing:
            self.process.stdin.write(encode(word, **fields).encode())
            self.process.stdin.flush()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            words = json.loads(line)
            if words["word"] == "node":
                assert words["node"] == "n2"
                self.further.do(words["words"])
                continue
            with self._news:
                self.words.append(words)
                self._news.notify_all()


@contextmanager
def spanning(root: Path, workers: int, further: int, **hyperparameters: Any) -> Iterator[Spanning]:
    one = Spanning(root, RunConfig(rounds=3, seed=5, hyperparameters=hyperparameters), workers, further)
    try:
        one.start()
        if further:
            one.send("nodes", up=["n2"])
        yield one
    finally:
        for process in (one.process, one.further.process):
            if process and process.poll() is None:
                below = psutil.Process(process.pid).children(recursive=True)
                assert process.stdin
                process.stdin.close()
                process.wait(30)
                _, left = psutil.wait_procs(below, timeout=10)
                assert left == []


def logs(daemon: Spanning) -> str:
    return "\n".join(word["text"] for word in daemon.words if word["word"] == "log")


def trained(daemon: Spanning) -> Answer:
    daemon.give(daemon.model())
    answer = daemon.answer()
    assert answer.error == "", logs(daemon)
    return answer


def test_a_strategy_with_a_memory_at_the_silo_spans_machines_of_which_one_has_it(tmp_path: Path) -> None:
    updates: dict[str, list[str]] = {}
    for name, workers, further in (("one", 3, 0), ("two", 1, 2)):
        with spanning(tmp_path / name, workers, further) as daemon:
            model = daemon.model()
            for round_ in (1, 2, 3):
                daemon.give(model, round_=round_, dynamic=0.3)
                answer = daemon.answer(round_=round_)
                assert answer.error == "", logs(daemon)
                model = answer.update
                updates.setdefault(name, []).append(model.digest)
            assert list((daemon.run_dir / "work" / "memory").glob("*.safetensors"))
            if further:
                assert daemon.further.workers()
                assert not list(daemon.further.root.rglob("memory/*.safetensors")), "rank 0 alone keeps it"
    assert updates["one"] == updates["two"] and len(set(updates["one"])) == 3


def test_two_machines_with_one_and_two_workers_give_the_update_of_one_with_three(tmp_path: Path) -> None:
    with spanning(tmp_path / "one", 3, 0) as daemon:
        alone = trained(daemon)
    with spanning(tmp_path / "two", 1, 2) as daemon:
        together = trained(daemon)
        assert len(daemon.further.workers()) >= 2
        assert together.update.digest == alone.update.digest
        assert together.examples == alone.examples and together.steps == alone.steps

        # a worker there is killed in the middle of the next round: the group begins again and loses nothing
        daemon.further.workers()[-1].kill()
        daemon.give(together.update, round_=2)
        assert daemon.answer(round_=2).error == "", logs(daemon)

        # the agent with all it started goes: the round is trained by those that are left
        assert daemon.further.process
        daemon.further.process.kill()
        daemon.further.process.wait(20)
        daemon.send("nodes", up=[])
        daemon.give(together.update, round_=3)
        assert daemon.answer(round_=3).error == "", logs(daemon)
        assert "gpu-2 went away" in logs(daemon)
