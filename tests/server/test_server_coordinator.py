"""The coordinator as a real process, over a real mailbox, killed with a real SIGKILL wherever it hurts."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.wire.pb.envelope_pb2 import (
    DECISION,
    FINISHED,
    ROUND,
    STOP,
    TASK,
    Decision,
    Envelope,
    Finished,
    Task,
)
from octopus_desktop.wire.pb.envelope_pb2 import RoundResult as RoundResultBody
from tests.server.scripted_run import SILOS, Died, ScriptedRun, cpu_seconds


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Any]:
    runs: list[ScriptedRun] = []

    def make(name: str = "one", **config: Any) -> ScriptedRun:
        run = ScriptedRun(tmp_path / name, **config)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptedRun]:
    run = ScriptedRun(tmp_path_factory.mktemp("undisturbed") / "run", strategy="fedavgm")
    run.start(build=True)
    run.ended()
    yield run
    run.close()


def test_a_run_completes_and_tells_server_and_silos_what_became_of_it(undisturbed: ScriptedRun) -> None:
    ended = undisturbed.words[-1]
    assert (ended["state"], ended["code"]) == ("completed", "")
    assert ended["metrics"]["eval/accuracy"] == pytest.approx(0.53 + (0 * 10 + 0.1 * 20 + 0.2 * 30) / 60)
    rows = [w for w in undisturbed.words if w["word"] == "round"]
    assert [r["round"] for r in rows] == [1, 1, 2, 2, 3, 3]
    assert all(r["answered"] == list(SILOS) and r["missing"] == [] and r["rounds"] == 3 for r in rows)
    assert "eval/accuracy" not in rows[0]["metrics"]
    assert rows[1]["metrics"]["eval/accuracy"] == pytest.approx(0.52 + (0 * 10 + 0.1 * 20 + 0.2 * 30) / 60)
    assert {s["step"] for s in rows[-1]["spans"] if s["lane"] == "server"} == {"wait", "aggregate"}
    assert rows[-1]["model"] == ended["model"]
    finished = undisturbed.envelopes(FINISHED)
    assert sorted(e.recipient for e in finished) == list(SILOS)
    assert Finished.FromString(finished[0].body).model.digest == ended["model"]["digest"]
    assert len(undisturbed.envelopes(ROUND)) == 6 * 3
    body = RoundResultBody.FromString(undisturbed.envelopes(ROUND)[-1].body)
    assert body.metrics["eval/accuracy"] == ended["metrics"]["eval/accuracy"]


def test_the_next_task_goes_out_before_the_report_that_nobody_waits_for(undisturbed: ScriptedRun) -> None:
    with sqlite3.connect(undisturbed.mailbox.path) as db:
        rows = db.execute("SELECT kind, round FROM outbox WHERE recipient='bob' ORDER BY seq").fetchall()
    for round_ in (1, 2):
        assert rows.index((TASK, round_ + 1)) < rows.index((ROUND, round_))
    assert [kind for kind, _ in rows][-1] == FINISHED, "the end comes last"


def test_updates_and_old_state_are_removed_and_every_rounds_model_stays(undisturbed: ScriptedRun) -> None:
    state = undisturbed.state()
    slots = {blob["digest"] for blob in state["slots"].values()}
    assert len(state["models"]) == 4
    assert undisturbed.blobs() == set(state["models"]) | slots
    assert list((undisturbed.store.root / "partial").iterdir()) == []
    assert list(undisturbed.dir.glob("initial-*")) == []


def test_a_task_tells_what_a_silo_needs(make_run: Any) -> None:
    run = make_run(hyperparameters={"lr": 0.1}, update="difference")
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    (_, envelope), *_ = run.mailbox.pending("bob")
    body = Task.FromString(envelope.body)
    assert json.loads(body.config_json) == {
        "seed": 7,
        "rounds": 3,
        "update": "difference",
        "hyperparameters": {"lr": 0.1},
        "strategy": {"name": "fedavg"},
        "encoding": "none",
    }
    assert (body.task, body.epoch, envelope.round) == ("train", 1, 1)
    assert [b.digest for b in envelope.blobs] == [body.model.digest]
    assert 0 < body.until - time.time() <= 120


KILL = "import os, signal, sys, pathlib\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n"
NTH = "count = [0]\ndef at(n):\n    count[0] += 1\n    if count[0] == n: die()\n"
MAILBOX = KILL + NTH + "from octopus_desktop.storage.mailbox import Mailbox\n"
BEFORE_COMMIT = MAILBOX + (
    "write = Mailbox.write\n"
    "def dying(self, key, value):\n    write(self, key, value)\n    if key == 'rounds': at({n})\n"
    "Mailbox.write = dying\n"
)
AFTER_COMMIT = (
    KILL
    + NTH
    + (
        "from octopus_desktop.server import coordinator as c\n"
        "after = c.Coordinator._after\n"
        "def dying(self, todo):\n    at({n})\n    after(self, todo)\n"
        "c.Coordinator._after = dying\n"
    )
)
IN_FOLD = (
    KILL
    + NTH
    + (
        "from octopus_desktop.aggregation import fold as f\n"
        "install = f._Output.install\n"
        "def dying(self):\n    at({n})\n    return install(self)\n"
        "f._Output.install = dying\n"
    )
)
AFTER_FOLD = (
    KILL
    + NTH
    + (
        "from octopus_desktop.server import coordinator as c\n"
        "folded = c.Coordinator._folded\n"
        "def dying(self, *what):\n    at({n})\n    return folded(self, *what)\n"
        "c.Coordinator._folded = dying\n"
    )
)
WHILE_REMOVING = (
    KILL
    + NTH
    + (
        "from octopus_desktop.storage.blobs import BlobStore\n"
        "remove = BlobStore.remove\n"
        "def dying(self, digest):\n    here = self.has(digest)\n    remove(self, digest)\n    if here: at({n})\n"
        "BlobStore.remove = dying\n"
    )
)


@pytest.mark.parametrize(
    ("where", "n", "least"),
    [
        (BEFORE_COMMIT, 3, 3),
        (AFTER_COMMIT, 2, 7),
        (AFTER_COMMIT, 4, 2),
        (IN_FOLD, 3, 1),
        (AFTER_FOLD, 2, 1),
        (WHILE_REMOVING, 2, 3),
    ],
    ids=["before a commit", "after each commit", "after a commit", "in the fold", "after the fold", "while removing"],
)
def test_killed_again_and_again_it_ends_with_the_same_model_and_counts_nothing_twice(
    make_run: Any, undisturbed: ScriptedRun, where: str, n: int, least: int
) -> None:
    run = make_run(strategy="fedavgm")
    deaths = 0
    while True:
        run.start(where.format(n=n))
        try:
            ended = run.ended()
            break
        except Died as death:
            assert death.code == -9, death
            deaths += 1
    assert deaths >= least
    assert ended["model"] == undisturbed.words[-1]["model"]
    assert ended["metrics"] == undisturbed.words[-1]["metrics"]
    assert run.state()["models"] == undisturbed.state()["models"]
    assert set(Counter(run.trained).values()) == {1}, "no silo was asked twice for the same task"
    assert run.blobs() == undisturbed.blobs()
    assert list((run.store.root / "partial").iterdir()) == []
    rows = {w["round"]: w for w in run.words if w["word"] == "round"}
    assert {r: w["metrics"] for r, w in rows.items()} == {
        w["round"]: w["metrics"] for w in undisturbed.words if w["word"] == "round"
    }
    run.start()
    assert run.ended()["model"] == ended["model"], "started again after the end it only tells the end again"


def test_a_lease_without_progress_is_handed_out_again_and_the_old_answer_gives_way_to_the_new(make_run: Any) -> None:
    run = make_run(rounds=1, lease_s=1.0, silos=("ada", "bob"))
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    (_, first), *_ = run.mailbox.pending("bob")
    (_, other), *_ = run.mailbox.pending("ada")
    run.answer(other)
    run.tell("inbox")
    run.until(lambda w: w["word"] == "log" and "bob made no progress" in w["text"], serve=False)
    assert run.tasks() == [("ada", 1, "train", 1), ("bob", 1, "train", 2)], "the old lease is not sent any more"
    assert run.answer(first)
    run.tell("inbox")
    run.until(lambda w: w["word"] == "log" and "is not counted" in w["text"], serve=False)
    run.serve(only=("bob",))
    assert run.until(lambda w: w["word"] == "round")["answered"] == ["ada", "bob"]
    assert run.ended()["state"] == "completed"


def test_progress_renews_the_lease(make_run: Any) -> None:
    run = make_run(rounds=1, lease_s=1.5, silos=("ada",))
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    end = time.monotonic() + 3
    while time.monotonic() < end:
        run.tell("live", silo="ada", round=1, fraction=0.5, state="training")
        time.sleep(0.3)  # the silo trains
    assert run.tasks() == [("ada", 1, "train", 1)]
    run.serve()
    assert run.ended()["state"] == "completed"


def test_the_deadline_closes_the_round_with_a_quorum(make_run: Any) -> None:
    run = make_run(rounds=1, quorum=2, round_deadline_s=2.0)
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    run.serve(only=("ada", "cyd"))
    row = run.until(lambda w: w["word"] == "round", serve=False)
    assert (row["answered"], row["missing"]) == (["ada", "cyd"], ["bob"])
    assert run.ended()["state"] == "completed"


def test_without_a_quorum_the_run_fails_and_every_silo_is_told_to_stop(make_run: Any) -> None:
    run = make_run(quorum=2)
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    for _, envelope in run.mailbox.pending()[:2]:
        run.answer(envelope, error="no such column", error_code="OCT-DATA-COLUMN")
    run.tell("inbox")
    ended = run.ended()
    assert (ended["state"], ended["code"]) == ("failed", "OCT-RUN-QUORUM")
    assert "no such column [OCT-DATA-COLUMN]" in ended["reason"]
    assert sorted(e.recipient for e in run.envelopes(STOP)) == list(SILOS)


def test_an_update_with_nan_is_named_and_the_round_goes_on_without_it(make_run: Any) -> None:
    run = make_run(rounds=1, quorum=2)
    sound = run.train

    def train(model: str, silo: str, round: int) -> bytes:
        data = sound(model, silo, round)
        return data[:-4] + b"\x00\x00\xc0\x7f" if silo == "bob" else data

    run.train = train
    run.start()
    row = run.until(lambda w: w["word"] == "round")
    assert row["answered"] == ["ada", "cyd"]
    assert any("update of bob holds NaN" in w.get("text", "") for w in run.words)
    assert run.ended()["state"] == "completed"


def test_what_another_run_removes_from_the_common_store_is_not_missing_here(make_run: Any) -> None:
    run = make_run(rounds=1, silos=("ada", "bob"))
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    run.serve(only=("bob",))
    held = run.dir / "held"
    deadline = time.monotonic() + 20
    while not any(held.iterdir()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (update,) = [place.name for place in held.iterdir()]
    run.store.remove(update)
    run.serve(only=("ada",))
    assert run.until(lambda w: w["word"] == "round")["answered"] == ["ada", "bob"]
    assert run.ended()["state"] == "completed"
    assert list(held.iterdir()) == []


def test_an_update_that_is_nowhere_is_laid_aside_with_its_reason(make_run: Any) -> None:
    run = make_run(rounds=1, quorum=1, silos=("ada", "bob"))
    answer = run.answer

    def lose(envelope: Envelope, **changes: Any) -> bool:
        before = run.blobs()
        done = answer(envelope, **changes)
        if envelope.recipient == "bob":
            for digest in run.blobs() - before:
                run.store.remove(digest)
        return done

    run.answer = lose
    run.start()
    assert run.until(lambda w: w["word"] == "round")["missing"] == ["bob"]
    assert any("OCT-BLOB-MISSING" in w.get("text", "") for w in run.words)
    assert run.ended()["state"] == "completed"


def test_a_revoked_approval_takes_the_silo_out_of_the_run(make_run: Any) -> None:
    run = make_run(rounds=2, quorum=2)
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    decision = Decision(verdict=Decision.REVOKED, reason="the ethics board said no")
    run.mailbox.accept(Envelope(id="d1", run_id="r1", kind=DECISION, sender="ada", body=decision.SerializeToString()))
    run.serve(only=("bob", "cyd"))
    assert run.ended()["state"] == "completed"
    assert run.state()["withdrawn"] == ["ada"]


def test_an_envelope_that_cannot_be_read_changes_nothing(make_run: Any) -> None:
    run = make_run(rounds=1)
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    run.mailbox.accept(Envelope(id="bad", run_id="r1", kind=4, sender="ada", round=1, body=b"\xff\xff\xff"))
    run.tell("inbox")
    run.until(lambda w: w["word"] == "log" and "cannot be read" in w["text"], serve=False)
    run.serve()
    assert run.ended()["state"] == "completed"


def test_a_person_stops_the_run(make_run: Any) -> None:
    run = make_run()
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    run.tell("stop", reason="the coordinator wishes so")
    ended = run.ended()
    assert (ended["state"], ended["code"], ended["reason"]) == (
        "stopped",
        "OCT-RUN-STOPPED",
        "the coordinator wishes so",
    )
    assert len(run.envelopes(STOP)) == 3


@pytest.mark.parametrize(
    ("trainer", "code"),
    [("class Other: pass", "OCT-JOB-TRAINER"), ("import nothing_like_this", "OCT-JOB-TRAINER")],
)
def test_a_package_that_builds_no_model_fails_the_run_with_its_reason(make_run: Any, trainer: str, code: str) -> None:
    run = make_run(trainer=trainer)
    run.start(build=True)
    ended = run.ended()
    assert (ended["state"], ended["code"]) == ("failed", code)


def test_impossible_configurations_end_the_run_at_once(make_run: Any) -> None:
    run = make_run("strategy", strategy="fedmagic")
    run.start()
    assert run.ended()["code"] == "OCT-STRATEGY-PARAMETER"
    run = make_run("quorum", quorum=9)
    run.start()
    assert run.ended()["code"] == "OCT-RUN-QUORUM"


def test_a_full_disk_is_waited_out(make_run: Any) -> None:
    patch = (
        "import errno, os\nfrom octopus_desktop.server import coordinator as c\nc.RETRY_S = 0.2\n"
        "real, count = os.posix_fallocate, [0]\n"
        "def full(*a):\n    count[0] += 1\n"
        "    if count[0] <= 2: raise OSError(errno.ENOSPC, 'No space left on device')\n    return real(*a)\n"
        "os.posix_fallocate = full\n"
    )
    run = make_run(rounds=1)
    run.start(patch)
    assert run.ended()["state"] == "completed"
    assert sum("OCT-DISK-FULL" in w.get("text", "") for w in run.words) == 2


def test_it_ends_with_its_parent_and_costs_nothing_while_it_waits(make_run: Any) -> None:
    run = make_run()
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    windows = []
    for _ in range(5):
        before = cpu_seconds(run.process.pid)
        time.sleep(0.5)  # idle is what is measured
        windows.append(cpu_seconds(run.process.pid) - before)
    assert min(windows) == 0.0, windows
    maps = Path(f"/proc/{run.process.pid}/maps").read_text()
    assert "torch" not in maps
    run.process.stdin.close()
    assert run.process.wait(10) == 0


def test_a_model_that_the_server_cannot_evaluate_itself_is_told_and_stops_nothing(make_run: Any) -> None:
    run = make_run(central=True, rounds=2)  # its trainer needs data that nobody gave
    run.trainer_source.write_text(run.trainer_source.read_text() + EVALUATES)
    run.start(build=True)
    run.ended()
    assert run.words[-1]["state"] == "completed"
    told = [w["text"] for w in run.words if w["word"] == "log" and "could not be evaluated at the server" in w["text"]]
    assert [text.split(" could")[0] for text in told] == ["Round 1", "Round 2"]
    assert "OCT-DATA-ALIAS" in told[0] or "was not approved" in told[0]
    assert not any(name.startswith("central/") for w in run.words if w["word"] == "round" for name in w["metrics"])


def test_the_servers_own_metrics_stand_in_the_rounds_row(make_run: Any) -> None:
    run = make_run(central=True, rounds=2, best="max central/answer")
    run.trainer_source.write_text(run.trainer_source.read_text() + EVALUATES.replace('ctx.dataset("d")', "None"))
    run.start(build=True)
    run.ended()
    rows = {w["round"]: w for w in run.words if w["word"] == "round"}
    assert all(row["metrics"]["central/answer"] == 42 for row in rows.values())
    assert run.words[-1]["best"]["round"] == 1


def test_a_fork_whose_model_is_gone_fails_and_says_so(make_run: Any) -> None:
    run = make_run(first_model="ab" * 32)
    run.start(build=True)
    run.ended()
    assert (run.words[-1]["state"], run.words[-1]["code"]) == ("failed", "OCT-BLOB-MISSING")


def test_personal_layers_that_fit_no_tensor_end_the_run_before_it_begins(make_run: Any) -> None:
    run = make_run(personal_layers=("head.*",))
    run.start(build=True)
    run.ended()
    assert (run.words[-1]["state"], run.words[-1]["code"]) == ("failed", "OCT-CONFIG-INVALID")
    assert "'head.*'" in run.words[-1]["reason"]


EVALUATES = """
    def evaluate(self, ctx, model):
        ctx.dataset("d")
        ctx.examples = 3
        return {"answer": 42}
"""
