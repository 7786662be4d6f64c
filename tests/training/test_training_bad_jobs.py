"""Trainers that do not end, keep no step, flood, or have next to no data: each told, and nothing left running."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from octopus_desktop.jobs.manifest import Training
from octopus_desktop.wire.pb.envelope_pb2 import Answer
from tests.training.groups import Case, make_rows, run_group
from tests.training.test_training_runner import Parent, parent

TRAINER = """
import os, re, sys, time, torch
from torch import nn
from octopus_desktop.training.sdk import ClientTrainer

class Trainer(ClientTrainer):
    uneven_steps = UNEVEN_STEPS

    def build_model(self, ctx):
        return nn.Linear(3, 1)

    def step(self, model, optimiser, x, y):
        loss = ((model(x) - y) ** 2).mean()
        optimiser.zero_grad(); loss.backward(); optimiser.step()
        return loss.item()

    def train(self, ctx, model):
        mode = ctx.hyperparameters["mode"].split(",")[ctx.round - 1]
        table = ctx.dataset("rows").columns(["a", "b", "c", "y"])
        x = torch.tensor([table["a"], table["b"], table["c"]], dtype=torch.float32).T
        y = torch.tensor(table["y"], dtype=torch.float32)[:, None]
        if mode == "one class":
            y = torch.zeros_like(y)
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01)
        loss = 0.0
        for _ in ctx.epochs(2):
            for batch, target in ctx.loader((x, y), batch_size=4):
                loss = self.step(model, optimiser, batch, target)
        if mode == "sleep":
            while True:
                time.sleep(60)
        if mode == "one sleeps" and ctx.rank == 1:
            time.sleep(600)
        if mode == "busy":  # in native code, with the interpreter's lock
            re.match("(a+)+$", "a" * 60 + "b")
        if mode == "slow":
            for part in range(25):
                time.sleep(0.2)
                ctx.progress(part / 25)
        if mode in ("uneven", "joined"):
            for _ in range(3 if ctx.rank else 5):
                loss = self.step(model, optimiser, x, y)
        if mode == "late":  # one worker does something of its own after the last step, without the others
            time.sleep(0 if ctx.rank else 4)
        if mode == "one raises" and ctx.rank == 1:
            raise ValueError("patient 4711")
        if mode == "memory" and ctx.rank == ctx.world_size - 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. patient 4711")
        if mode == "host memory":
            torch.empty(1 << 50, dtype=torch.uint8)
        if mode == "log":
            for _ in range(20_000):
                ctx.log("x" * 10_000)
        if mode == "print":
            block = "x" * 99 + "\\n"
            for _ in range(ctx.hyperparameters["mib"] * 10_486):
                sys.stdout.write(block)
        if mode == "line":
            for _ in range(ctx.hyperparameters["mib"]):
                sys.stdout.write("x" * (1 << 20))
        return {"loss": loss, "rank": ctx.rank}
"""


def job(uneven_steps: bool = False) -> str:
    return TRAINER.replace("UNEVEN_STEPS", str(uneven_steps))


def lines(daemon: Parent) -> list[str]:
    return [word["text"] for word in daemon.words if word["word"] == "log" and word["source"] == "worker"]


def expect(daemon: Parent, round_: int, code: str = "") -> Answer:
    """Give the round's task, and get this answer."""
    daemon.give(daemon.model(), round_=round_)
    answer = daemon.answer(round_=round_)
    assert answer.error_code == code, answer.error
    assert answer.HasField("update") == (code == "")
    return answer


def test_a_trainer_that_hangs_is_ended_and_told_and_one_that_goes_on_is_not(tmp_path: Path) -> None:
    settings = {"training": Training(stall_s=4.0)}
    with parent(tmp_path, code=job(), settings=settings, mode="busy,slow,one class") as daemon:
        assert "4 seconds" in expect(daemon, 1, "OCT-RUN-STALLED").error
        began = time.monotonic()
        expect(daemon, 2)
        assert time.monotonic() - began > 4, "it took longer than the limit, and went on all the time"
        assert expect(daemon, 3).examples == 30


def test_without_a_limit_of_the_jobs_own_the_rounds_deadline_ends_it(tmp_path: Path) -> None:
    with parent(tmp_path, code=job(), settings={"round_deadline_s": 6.0}, mode="sleep") as daemon:
        assert "deadline of 6 seconds" in expect(daemon, 1, "OCT-RUN-STALLED").error


def test_workers_that_lose_each_other_are_told_and_the_next_round_is_trained(tmp_path: Path) -> None:
    settings = {"training": Training(stall_s=7.0)}
    modes = "uneven,one sleeps,one raises,late"
    with parent(tmp_path, 2, code=job(), settings=settings, shares=(3.0, 1.0), mode=modes) as daemon:
        said = expect(daemon, 1, "OCT-RUN-UNEVEN").error
        assert "Worker 1 finished after 11 steps, and worker 0 waits for it in step 12" in said
        expect(daemon, 2, "OCT-RUN-STALLED")
        assert "4711" not in expect(daemon, 3, "OCT-RUN-TRAINER").error
        last = expect(daemon, 4)
        assert (last.examples, last.steps) == (30, 8), "three quarters and one quarter of each batch of eight"


def test_without_a_sandbox_hanging_workers_are_ended_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")
    with parent(tmp_path, 2, code=job(), settings={"training": Training(stall_s=4.0)}, mode="one sleeps") as daemon:
        daemon.give(daemon.model())
        daemon.wait(lambda: any(w["word"] == "progress" and w["fraction"] == 1.0 for w in daemon.words))
        workers = daemon.children("training.worker")
        assert daemon.answer().error_code == "OCT-RUN-STALLED"
        assert psutil.wait_procs(workers, timeout=40)[1] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_too_little_memory_is_told_as_such_and_the_next_round_is_trained_by_a_fresh_worker(
    tmp_path: Path, workers: int
) -> None:
    with parent(tmp_path, workers, code=job(), mode="memory,host memory,one class") as daemon:
        said = expect(daemon, 1, "OCT-RUN-MEMORY").error
        assert "ran out of memory in train" in said and "trainer.py" in said and "4711" not in said
        expect(daemon, 2, "OCT-RUN-MEMORY")
        assert expect(daemon, 3).examples == 30
        told = [word["text"] for word in daemon.words if word["word"] == "log" and word["source"] == "runner"]
        assert sum("End other programs on this device" in line for line in told) == 2


def test_a_trainer_may_say_that_its_steps_are_unequal(tmp_path: Path) -> None:
    with parent(tmp_path, 2, code=job(uneven_steps=True), mode="joined") as daemon:
        assert expect(daemon, 1).steps == 13


def test_fewer_rows_than_workers_are_enough(tmp_path: Path) -> None:
    home = make_rows(tmp_path, training_rows=1)
    got = run_group(home, 2, [Case(name="equal", batch=4), Case(name="uneven", batch=4, shares=(3, 1))])
    for _, facts in got.values():
        assert facts[0][:2] == [1, 1]


def test_a_flood_of_output_is_cut_and_holds_nothing_up(tmp_path: Path) -> None:
    mib = 1024 if os.environ.get("OCTOPUS_BIG_TESTS") else 64
    with parent(tmp_path, code=job(), mode="print,line,log", mib=mib) as daemon:
        for round_ in (1, 2, 3):
            expect(daemon, round_)
        told = lines(daemon)
        assert len(told) < 10_000 and sum(map(len, told)) < 4 << 20
        assert daemon.process
        assert psutil.Process(daemon.process.pid).memory_info().rss < 200 << 20
