"""Strategies that share state with the silos or ask only some of them: a deployment gives the simulation's bits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import LocalFederation, octopus
from tests.e2e.house import below, daemon_process, finish, heart_job, kill, make_federation, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROUNDS = 6


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("strategies"))) as house:
        yield house


def simulated(federation: LocalFederation, strategy: str, per_round: int) -> str:
    words = ["simulate", str(federation.root / "heart.octojob"), "--rounds", str(ROUNDS), "--strategy", strategy]
    if per_round:
        words += ["--per-round", str(per_round)]
    for silo in federation.silos:
        words += ["--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}"]
    return str(json.loads(octopus(*words).stdout)["model"]["digest"])


def start(federation: LocalFederation, strategy: str, per_round: int) -> str:
    wish: dict[str, Any] = {"run": {"rounds": ROUNDS, "per_round": per_round}, "strategy": {"name": strategy}}
    return federation.start_run(federation.submit(heart_job()), wish)


@pytest.mark.parametrize(("strategy", "per_round"), [("scaffold", 0), ("feddyn", 0), ("rfa", 0), ("fedyogi", 1)])
def test_the_bits_of_the_simulation(federation: LocalFederation, strategy: str, per_round: int) -> None:
    after = finish(federation, start(federation, strategy, per_round))
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert all(len(row.answered) == (per_round or 2) for row in after.history)
    assert after.model.digest == simulated(federation, strategy, per_round)


@pytest.mark.parametrize("victim", ["training.runner", "training.worker"])
def test_a_kill_does_not_disturb_a_silos_memory(federation: LocalFederation, victim: str) -> None:
    run_id = start(federation, "scaffold", 0)
    for run in federation.watch(run_id):
        if len(run.history) >= 2:
            break
    kill(below(daemon_process(federation), victim)[-1])
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == simulated(federation, "scaffold", 0)
