"""A real runner and its workers, driven as the daemon drives them: through the mailbox and a pipe of words."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore, file_digest
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training.spec import DataSource, RunnerSpec
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.child import encode
from octopus_desktop.wire.pb.envelope_pb2 import TASK, Answer, BlobRef, Envelope, Task

TRAINER = """
import os, signal, time, torch
from torch import nn
from octopus_desktop.training.sdk import ClientTrainer

def can(work):
    try:
        work()
    except OSError:
        return 0.0
    return 1.0

def peek(h):
    import socket
    return {
        "secret": can(lambda: open(h["secret"]).read()),
        "mail": can(lambda: open(os.path.join(h["run"], "mailbox.sqlite")).read(1)),
        "package": can(lambda: open(os.path.join(h["package"], "code", "trainer.py"), "a")),
        "data": can(lambda: open(h["data"], "a")),
        "network": can(lambda: socket.create_connection(("127.0.0.1", h["port"]), timeout=2)),
        "environment": float("OCTOPUS_TEST_SECRET" in os.environ),
        "work": can(lambda: open("note", "w")),
    }

class Trainer(ClientTrainer):
    def build_model(self, ctx):
        return nn.Linear(3, 1)

    def train(self, ctx, model):
        mode = ctx.hyperparameters.get("mode", "")
        table = ctx.dataset("rows").columns(["a", "b", "c", "y"])
        x = torch.tensor([table["a"], table["b"], table["c"]], dtype=torch.float32).T
        y = torch.tensor(table["y"], dtype=torch.float32)[:, None]
        optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
        for _ in ctx.epochs(3):
            for batch, target in ctx.loader((x, y), batch_size=4):
                loss = ((model(batch) - target) ** 2).mean()
                optimiser.zero_grad(); loss.backward(); optimiser.step()
                ctx.report(1, loss=float(loss))
        if mode == "raise":
            raise ValueError("patient 4711 has no heart")
        if mode == "exit":
            raise SystemExit(3)
        if mode == "nan":
            with torch.no_grad():
                next(iter(model.parameters())).fill_(float("nan"))
        if mode == "shout":
            for _ in range(200_000):
                print("x" * 100)
        if mode == "child" and os.fork() == 0:
            time.sleep(600)
        if mode == "escape" and os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                open(ctx.hyperparameters["note"], "w").close()
                time.sleep(600)
            os._exit(0)
        if mode == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "link":
            os.symlink(ctx.hyperparameters["target"], f"update-{ctx.round}.safetensors")
        if mode == "peek":
            return peek(ctx.hyperparameters)
        flag = ctx.hyperparameters.get("wait", "")
        if flag and not os.path.exists(flag):
            open(flag, "w").close()
            time.sleep(600)
        return {"loss": float(loss)}

    def evaluate(self, ctx, model):
        return {"weight": float(sum(p.abs().sum() for p in model.parameters()))}
"""


class Parent:
    """The daemon's part: mailbox, pipe, and what the runner said."""

    def __init__(
        self,
        root: Path,
        config: RunConfig,
        workers: int,
        max_restarts: int = 3,
        code: str = TRAINER,
        rows: int = 30,
        shares: tuple[float, ...] = (),
    ) -> None:
        self.run_dir, self.root = root / "run", root
        self.blobs = BlobStore(root / "blobs")
        package = root / "package"
        (package / "code").mkdir(parents=True, exist_ok=True)
        (package / "code" / "trainer.py").write_text(code)
        data = root / "rows.csv"
        lines = [f"{i % 5},{i % 3},{i % 7},{(i % 5) * 2 - i % 3}" for i in range(rows)]
        data.write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
        self.spec = RunnerSpec(
            run_id="r1",
            silo="st-marys",
            package=str(package),
            trainer="trainer:Trainer",
            config=config.to_dict(),
            blobs=str(self.blobs.root),
            workers=workers,
            max_restarts=max_restarts,
            shares=shares,
            data=(asdict(DataSource(alias="rows", path=str(data), kind="csv", digest="")),),
        )
        self.run_dir.mkdir(exist_ok=True)
        self.spec.write(self.run_dir / "runner.json")
        self.mailbox = Mailbox(self.run_dir / "mailbox.sqlite")
        self.words: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "octopus_desktop.training.runner", str(self.run_dir)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        threading.Thread(target=self._hear, args=(self.process,), daemon=True).start()

    def _hear(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout
        for line in process.stdout:
            with self._news:
                self.words.append(json.loads(line))
                self._news.notify_all()

    def wait(self, condition: Callable[[], Any], seconds: float = 60) -> Any:
        with self._news:
            assert self._news.wait_for(condition, seconds), self.words[-20:]
        return condition()

    def say(self, word: str) -> None:
        assert self.process and self.process.stdin
        self.process.stdin.write(encode(word).encode())
        self.process.stdin.flush()

    def model(self) -> BlobRef:
        from octopus_desktop.training.engine import initial_model

        out = self.root / "first.safetensors"
        written = initial_model(Path(self.spec.package), self.spec.trainer, self.spec.run_config, out)
        self.blobs.adopt(out)
        return BlobRef(digest=written.digest, size=written.size)

    def give(self, model: BlobRef, round_: int = 1, epoch: int = 1, task: str = "train", **strategy: Any) -> None:
        config = {"rounds": 3, "strategy": strategy}
        body = Task(task=task, epoch=epoch, model=model, config_json=json.dumps(config))
        self.mailbox.accept(
            Envelope(
                id=new_id("e"), run_id="r1", round=round_, kind=TASK, sender="server", recipient="st-marys",
                body=body.SerializeToString(),
            )
        )  # fmt: skip
        if self.process:
            self.say("inbox")

    def answer(self, round_: int = 1, task: str = "train", epoch: int = 1) -> Answer:
        def look() -> Answer | None:
            sent = self.mailbox.sent(f"{round_}/st-marys/{task}")
            found = Answer.FromString(sent.body) if sent else None
            return found if found and found.epoch >= epoch else None

        return self.wait(look)

    def children(self, word: str) -> list[psutil.Process]:
        assert self.process
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and word in " ".join(p.cmdline())]


@contextmanager
def parent(
    root: Path,
    workers: int = 1,
    max_restarts: int = 3,
    privacy: dict[str, Any] | None = None,
    encoding: str = "none",
    code: str = TRAINER,
    rows: int = 30,
    settings: dict[str, Any] | None = None,
    shares: tuple[float, ...] = (),
    **hyperparameters: Any,
) -> Iterator[Parent]:
    config = RunConfig(rounds=3, seed=5, encoding=encoding, privacy=privacy or {}, hyperparameters=hyperparameters)
    one = Parent(root, replace(config, **(settings or {})), workers, max_restarts, code, rows, shares)
    below: list[psutil.Process] = []
    try:
        one.start()
        yield one
    finally:
        if one.process and one.process.poll() is None:
            below = psutil.Process(one.process.pid).children(recursive=True)
            assert one.process.stdin
            one.process.stdin.close()
            one.process.wait(20)
        _, left = psutil.wait_procs(below, timeout=10)
        for process in left:
            process.kill()
        assert left == [], "the runner left processes behind"


def test_a_task_is_trained_answered_and_reported(tmp_path: Path) -> None:
    with parent(tmp_path) as daemon:
        daemon.give(daemon.model())
        answer = daemon.answer()
        assert answer.error == ""
        assert answer.examples == 30 and answer.steps == 24
        assert daemon.blobs.has(answer.update.digest)
        assert {"eval/weight", "train/loss"} <= set(answer.metrics)
        assert daemon.mailbox.inbox() == []
        kinds = {word["word"] for word in daemon.words}
        assert {"ready", "progress", "metrics", "span", "outbox"} <= kinds


def test_an_update_passes_the_privacy_filters_before_it_leaves(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    with parent(tmp_path, privacy={"clip_norm": 0.01}) as daemon:
        daemon.give(first := daemon.model())
        update = daemon.answer().update
        before, after = (load_file(daemon.blobs.path(blob.digest)) for blob in (first, update))
        moved = sum(float(((after[n] - before[n]).astype("f8") ** 2).sum()) for n in before) ** 0.5
        assert moved == pytest.approx(0.01, rel=1e-3)
        assert file_digest(daemon.blobs.path(update.digest)) == update.digest
        assert not any(name.startswith("filter/") for name in daemon.answer().metrics), "norms stay at home"
    with parent(tmp_path / "lie", privacy={"epsilon": 1.0}) as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error_code == "OCT-CONFIG-INVALID"


def test_a_killed_worker_changes_no_bit(tmp_path: Path) -> None:
    with parent(tmp_path / "calm") as daemon:
        daemon.give(daemon.model())
        calm = daemon.answer()
    flag = tmp_path / "storm" / "run" / "work" / "flag"
    with parent(tmp_path / "storm", wait=str(flag)) as daemon:
        daemon.give(daemon.model())
        daemon.wait(lambda: any(w["word"] == "progress" and w["fraction"] == 1.0 for w in daemon.words))
        while not flag.exists():
            pass
        for worker in daemon.children("training.worker"):
            worker.kill()
        storm = daemon.answer()
    assert storm.update.digest == calm.update.digest


def test_a_killed_runner_goes_on_and_never_trains_an_answered_task_again(tmp_path: Path) -> None:
    with parent(tmp_path) as daemon:
        model = daemon.model()
        daemon.give(model)
        first = daemon.answer()
        assert daemon.process
        daemon.process.kill()
        daemon.process.wait(20)
        spans = [word for word in daemon.words if word["word"] == "span" and word["step"] == "train"]
        daemon.start()
        daemon.give(model, epoch=2)
        again = daemon.answer(epoch=2)
        assert again.update.digest == first.update.digest
        after = [word for word in daemon.words if word["word"] == "span" and word["step"] == "train"]
        assert after == spans
        daemon.give(model, round_=2)
        assert daemon.answer(round_=2).update.digest != ""


def test_two_workers_train_as_one_group(tmp_path: Path) -> None:
    with parent(tmp_path, workers=2) as daemon:
        daemon.give(daemon.model())
        answer = daemon.answer()
        assert answer.error == "" and answer.examples == 30
        assert len(daemon.children("training.worker")) >= 2
        daemon.children("training.worker")[-1].kill()
        daemon.give(answer.update, round_=2)
        assert daemon.answer(round_=2).error == ""


@pytest.mark.parametrize(
    ("mode", "code"), [("raise", "OCT-RUN-TRAINER"), ("exit", "OCT-RUN-TRAINER"), ("nan", "OCT-MODEL-NAN")]
)
def test_a_trainer_that_fails_is_answered_with_a_code_and_without_its_data(
    tmp_path: Path, mode: str, code: str
) -> None:
    with parent(tmp_path, mode=mode) as daemon:
        daemon.give(daemon.model())
        answer = daemon.answer()
        assert answer.error_code == code
        assert "4711" not in answer.error
        assert not answer.HasField("update")


def test_a_trainer_that_shouts_and_forks_leaves_nothing_behind(tmp_path: Path) -> None:
    with parent(tmp_path, mode="shout") as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error == ""
        lines = [word for word in daemon.words if word["word"] == "log" and word["source"] == "worker"]
        assert 0 < len(lines) < 5000
    with parent(tmp_path / "fork", mode="child") as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error == ""


def test_confined_code_sees_its_data_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTOPUS_TEST_SECRET", "x")
    secret = tmp_path / "secret"
    secret.write_text("key")
    with socket.create_server(("127.0.0.1", 0)) as server:
        places = {
            "run": str(tmp_path / "run"),
            "package": str(tmp_path / "package"),
            "data": str(tmp_path / "rows.csv"),
        }
        with parent(tmp_path, mode="peek", secret=str(secret), port=server.getsockname()[1], **places) as daemon:
            ready = daemon.wait(lambda: next((w for w in daemon.words if w["word"] == "ready"), None))
            if ready["sandbox"] == "none":  # a machine without bubblewrap, or one that forbids user namespaces
                assert any(w["word"] == "log" and "without a sandbox" in w["text"] for w in daemon.words)
                return
            daemon.give(daemon.model())
            answer = daemon.answer()
    seen = {name.removeprefix("train/"): value for name, value in answer.metrics.items() if name.startswith("train/")}
    assert seen == {
        "secret": 0, "mail": 0, "package": 0, "data": 0, "network": 0, "environment": 0, "work": 1,
    }  # fmt: skip


def test_without_a_sandbox_it_says_so_and_still_leaves_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")
    with parent(tmp_path, mode="escape", note=str(tmp_path / "note")) as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error == ""
        assert any(w["word"] == "ready" and w["sandbox"] == "none" for w in daemon.words)
        assert any(w["word"] == "log" and w["level"] == "warning" and "sandbox" in w["text"] for w in daemon.words)
        while not (tmp_path / "note").exists():
            pass
        assert len(daemon.children("training.worker")) == 2, "the runner adopted what left the worker's session"


def test_workers_that_always_die_end_in_an_answer_that_says_so(tmp_path: Path) -> None:
    with parent(tmp_path, mode="die", max_restarts=1) as daemon:
        daemon.give(daemon.model())
        assert daemon.answer().error_code == "OCT-RUN-WORKERS"


def test_a_link_in_the_updates_place_is_not_followed(tmp_path: Path) -> None:
    with parent(tmp_path, mode="link", target=str(tmp_path / "work-target")) as daemon:
        daemon.give(daemon.model())
        answer = daemon.answer()
        assert answer.error_code in ("OCT-MODEL-SHAPE", "OCT-RUN-WORKERS") and not answer.HasField("update")


def test_paused_takes_no_task_resumed_does_and_stop_ends_everything(tmp_path: Path) -> None:
    with parent(tmp_path) as daemon:
        model = daemon.model()
        daemon.give(model)
        first = daemon.answer()
        daemon.say("pause")
        daemon.wait(lambda: any(w["word"] == "progress" and w["state"] == "paused" for w in daemon.words))
        count = len(daemon.words)
        daemon.give(first.update, round_=2)
        assert daemon.mailbox.sent("2/st-marys/train") is None
        assert not any(w["word"] == "progress" and w["state"] == "training" for w in daemon.words[count:])
        daemon.say("resume")
        assert daemon.answer(round_=2).error == ""
        workers = daemon.children("training.worker")
        daemon.say("stop")
        assert daemon.process and daemon.process.wait(20) == 0
        assert psutil.wait_procs(workers, timeout=10)[1] == []


def test_missing_data_is_told_with_its_code(tmp_path: Path) -> None:
    one = Parent(tmp_path, RunConfig(rounds=1), 1)
    (tmp_path / "rows.csv").unlink()
    model = one.model()
    shutil.rmtree(tmp_path / "run" / "work", ignore_errors=True)
    one.start()
    try:
        one.give(model)
        assert one.answer().error_code == "OCT-DATA-MISSING"
    finally:
        assert one.process and one.process.stdin
        one.process.stdin.close()
        one.process.wait(20)
