"""A run over MPI as a cluster's operator sees it: a daemon that did not run, an approval that is missing, a rank that
dies in the middle, and a second world that brings the run to its end. Real processes throughout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from octopus_desktop.cli.local_federation import LocalFederation
from tests.e2e.house import below, daemon_process, heart_job, kill, make_federation, running

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

ROUNDS = 8
SETTINGS = {"run": {"rounds": ROUNDS}}


def until(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    end = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.1)


def rank_process(world: int, rank: int) -> psutil.Process:
    """The process that speaks MPI for this rank."""
    found = below(psutil.Process(world), "mpi_endpoint")
    return next(process for process in found if process.environ().get("PMI_RANK") == str(rank))


def words(house: LocalFederation, run_id: str) -> list[str]:
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", "federation", "run", "--mpi", run_id]
    command += ["--server-home", str(house.home.root)]
    return command + [w for s in house.silos for w in ("--silo-home", f"{s.plan.name}={s.home.root}")]


def test_a_run_over_mpi_survives_a_dead_rank_and_ends_in_the_next_world(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(make_federation(tmp_path, carrier="mpi", asks=("hungary",))) as house:
        hungary = house.silos[1]
        log = house.parts.root / "mpi.log"
        digest = house.submit(heart_job())
        kill(daemon_process(house, 1))
        monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(hungary.passphrase_file))  # for the daemon that is started
        run_id = house.start_run(digest, SETTINGS)

        def said(text: str) -> None:
            until(lambda: text in log.read_text(), log.read_text)

        said("hungary: the daemon was started, and stays")
        said(f"hungary: has not approved {run_id}, and does not train without that")
        assert not house.run(run_id).history
        hungary.command("approvals", "approve", run_id)
        until(lambda: len(house.run(run_id).history) > 0, lambda: log.read_text() + str(house.run(run_id)))

        world = json.loads((house.parts.root / "parts.json").read_text())["worlds"][-1]
        kill(rank_process(world, 2))
        said("hungary: A rank of the MPI world is lost.")
        assert rank_process(world, 0).is_running() and rank_process(world, 1).is_running()
        assert house.run(run_id).state == "running"
        house.parts.stop_worlds()
        assert not psutil.pid_exists(world)

        done = subprocess.run(words(house, run_id), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert [(run["id"], run["state"]) for run in told["runs"]] == [(run_id, "completed")]
        assert {silo["name"]: silo["dead"] for silo in told["silos"]} == {"cleveland": False, "hungary": False}
        run = house.run(run_id)
        assert [row.round for row in run.history] == list(range(1, ROUNDS + 1))
        assert all(sorted(row.answered) == ["cleveland", "hungary"] for row in run.history), "each once"

        again = subprocess.run(words(house, run_id), capture_output=True, text=True, timeout=60)
        assert again.returncode == 1
        assert json.loads(again.stderr.strip().splitlines()[-1])["error"]["code"] == "OCT-RUN-STATE"
