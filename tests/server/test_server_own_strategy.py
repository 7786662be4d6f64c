"""A coordinator whose strategy is the package's own: killed, stopped, failing, and always with the same bits."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.wire.pb.envelope_pb2 import STOP, TASK, Task
from tests.aggregation.own_strategies import CLIPPED, LAGGING, NESTEROV, combining, make_package
from tests.server.scripted_run import SILOS, ScriptedRun

LOUD = NESTEROV.replace("beta = self", "print('round', tile.round); beta = self")


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Any]:
    runs: list[ScriptedRun] = []

    def make(name: str, source: str, **config: Any) -> ScriptedRun:
        run = ScriptedRun(tmp_path / name, **config)
        make_package(tmp_path / name / "package", source)
        runs.append(run)
        return run

    yield make
    for run in runs:
        run.close()


def below(run: ScriptedRun) -> list[psutil.Process]:
    assert run.process
    return psutil.Process(run.process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def ending(run: ScriptedRun) -> dict[str, Any]:
    """The run's last word, and nothing of it is left running."""
    started = below(run)
    assert any("aggregation.own.process" in " ".join(p.cmdline()) for p in started)
    word = run.ended()
    assert run.process and run.process.wait(10) == 0
    assert gone(started)
    return word


@pytest.mark.parametrize(
    ("source", "config"),
    [
        (NESTEROV, {"strategy": "strategy:Nesterov", "strategy_parameters": {"momentum": 0.5}}),
        (CLIPPED, {"strategy": "strategy:Clipped", "strategy_parameters": {"norm": 3.0}}),
        (LAGGING, {"strategy": "strategy:Lagging", "mode": "async", "update": "difference"}),
    ],
)
def test_a_run_completes(make_run: Any, source: str, config: dict[str, Any]) -> None:
    run = make_run("one", source, **config)
    run.start()
    run.until(lambda w: w["word"] == "ready")
    word = ending(run)
    assert (word["state"], word["reason"]) == ("completed", "")
    assert set(run.state()["slots"]) == ({"velocity"} if source == NESTEROV else set())


def test_a_kill_in_the_middle_of_a_fold_changes_no_bit(make_run: Any) -> None:
    calm = make_run("calm", LOUD, strategy="strategy:Nesterov")
    calm.start()
    calm.until(lambda w: w["word"] == "ready")
    want = ending(calm)["model"]
    run = make_run("killed", LOUD, strategy="strategy:Nesterov")
    for number in (1, 2, 3):
        run.start()
        run.until(lambda w, n=number: w["word"] == "log" and w["text"] == f"round {n}")
        started = below(run)
        run.kill()
        assert gone(started)
    run.start()
    run.until(lambda w: w["word"] == "ready")
    assert ending(run)["model"] == want


def test_what_it_raises_ends_the_run_with_its_line(make_run: Any) -> None:
    source = combining("if tile.round == 2: raise ValueError('not this one')\nreturn weighted_sum(tile)")
    run = make_run("raises", source, strategy="strategy:Mine")
    run.start()
    run.until(lambda w: w["word"] == "ready")
    word = ending(run)
    assert (word["state"], word["code"]) == ("failed", "OCT-RUN-STRATEGY")
    assert "code/strategy.py, line 6, in combine: ValueError: not this one" in word["reason"]
    assert run.state()["phase"] == "failed" and len(run.state()["models"]) == 2
    assert sorted(e.recipient for e in run.envelopes(STOP)) == list(SILOS)


def test_words_for_the_silos_that_fail_later_end_the_run(make_run: Any) -> None:
    source = (
        combining("return weighted_sum(tile)") + "    def configure(self, round): return {'part': 6 / (3 - round)}\n"
    )
    run = make_run("words", source, strategy="strategy:Mine")
    run.start()
    run.until(lambda w: w["word"] == "outbox", serve=False)
    (_, envelope), *_ = [pair for pair in run.mailbox.pending("bob") if pair[1].kind == TASK]
    assert '"strategy":{"part":3.0}' in Task.FromString(envelope.body).config_json
    run.serve()
    word = ending(run)
    assert (word["state"], word["code"]) == ("failed", "OCT-RUN-STRATEGY")
    assert "line 7, in configure: ZeroDivisionError" in word["reason"]


def test_one_that_cannot_be_imported_ends_the_run_before_any_task(make_run: Any) -> None:
    run = make_run("import", "import torch_of_mine", strategy="strategy:Mine")
    run.start()
    word = run.ended()
    assert (word["state"], word["code"]) == ("failed", "OCT-JOB-STRATEGY")
    assert "ModuleNotFoundError" in word["reason"] and run.envelopes(TASK) == []


def test_a_run_is_stopped_at_once_while_it_hangs(make_run: Any) -> None:
    run = make_run("hangs", combining("print('hangs')\nwhile True: pass"), strategy="strategy:Mine")
    run.start()
    run.until(lambda w: w["word"] == "log" and w["text"] == "hangs")
    began = time.monotonic()
    run.tell("stop", reason="enough")
    word = ending(run)
    assert (word["state"], word["reason"]) == ("stopped", "enough")
    assert time.monotonic() - began < 10
