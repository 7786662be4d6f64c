"""Asynchronous runs by real processes: nobody waits for a silo that stands still, and a kill loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import LocalFederation
from tests.e2e.house import below, daemon_process, finish, heart_job, kill, make_federation, running, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("async"))) as house:
        yield house


def start(federation: LocalFederation, strategy: dict[str, Any], rounds: int) -> str:
    update = "difference" if strategy["name"] == "fedbuff" else "weights"
    run = {"rounds": rounds, "mode": "async", "update": update}
    return federation.start_run(federation.submit(heart_job()), {"run": run, "strategy": strategy})


def until(federation: LocalFederation, run_id: str, rounds: int) -> Any:
    for run in federation.watch(run_id):
        if len(run.history) >= rounds:
            return run
    raise AssertionError("the run ended before")


def test_versions_go_on_while_one_silo_stands_still_and_it_joins_again(federation: LocalFederation) -> None:
    run_id = start(federation, {"name": "fedasync", "mixing": 0.5, "staleness": "polynomial"}, 40)
    before = len(until(federation, run_id, 2).history)
    still = below(daemon_process(federation, 1), "training.")
    assert still
    for process in still:
        process.suspend()
    try:
        later = until(federation, run_id, before + 12)
    finally:
        for process in still:
            process.resume()
    alone = [list(row.answered) for row in later.history[-8:]]
    assert alone == [["cleveland"]] * 8
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert [row.round for row in after.history] == list(range(1, 41))
    joined = [row for row in after.history[len(later.history) :] if list(row.answered) == ["hungary"]]
    assert joined, "the silo that stood still takes part again"
    assert max(row.metrics["train/staleness"] for row in joined) >= 8, "its first answer was that old"
    assert after.history[-1].metrics["eval/accuracy"] > 0.7


@pytest.mark.parametrize("victim", ["coordinator", "server", "daemon"])
def test_a_kill_loses_no_version(federation: LocalFederation, victim: str) -> None:
    run_id = start(federation, {"name": "fedbuff", "buffer": 2}, 12)
    until(federation, run_id, 3)
    if victim == "coordinator":
        kill(below(server_process(federation), "server.coordinator")[0])
    elif victim == "server":
        kill(server_process(federation))
        federation.start_server()
    else:
        kill(daemon_process(federation))
        federation.silos[0].start()
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert [row.round for row in after.history] == list(range(1, 13))
    assert all(len(row.answered) in (1, 2) for row in after.history)
    assert after.history[-1].metrics["eval/accuracy"] > 0.7
