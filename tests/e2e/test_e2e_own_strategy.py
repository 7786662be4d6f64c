"""A strategy of the job's own in a real federation: allowed, reviewed, killed, and bit for bit what was simulated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.cli.local_federation import LocalFederation, octopus
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import ById, ReadFileRequest
from octopus_desktop.wire.pb.operator_pb2 import ListRunsRequest
from tests.aggregation.own_strategies import NESTEROV, combining
from tests.e2e.house import below, finish, heart_job, kill, make_federation, running, server_process

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
ROUNDS = 6
PROCESS = "aggregation.own.process"


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with running(make_federation(tmp_path_factory.mktemp("own-strategy"))) as house:
        yield house


def job_with(federation: LocalFederation, source: str, entry: str, name: str) -> Path:
    """The heart job with this strategy in it."""
    folder = federation.root / name
    if not folder.exists():
        shutil.copytree(heart_job(), folder)
        (folder / "code" / "strategy.py").write_text(source)
        toml = (folder / "job.toml").read_text().replace('name = "fedavg"', f'name = "strategy:{entry}"')
        (folder / "job.toml").write_text(toml.replace("rounds = 30", f"rounds = {ROUNDS}"))
    return folder


def strategy_processes(federation: LocalFederation) -> list[psutil.Process]:
    return below(server_process(federation), PROCESS)


@pytest.fixture(scope="module")
def job(federation: LocalFederation) -> str:
    return federation.submit(job_with(federation, NESTEROV, "Nesterov", "nesterov"))


@pytest.fixture(scope="module")
def undisturbed(federation: LocalFederation, job: str) -> Any:
    return finish(federation, federation.start_run(job, own_strategy=True))


def test_the_same_package_gives_the_simulations_bits(federation: LocalFederation, undisturbed: Any) -> None:
    assert undisturbed.state == "completed", f"{undisturbed.code} {undisturbed.reason}"
    assert undisturbed.history[-1].metrics["eval/accuracy"] > 0.6
    assert strategy_processes(federation) == []
    words = ["simulate", str(federation.root / "nesterov.octojob")]
    for silo in federation.silos:
        words += ["--silo", f"{silo.plan.name}:patients={silo.plan.data['patients']}"]
    assert json.loads(octopus(*words).stdout)["model"]["digest"] == undisturbed.model.digest


def test_a_killed_coordinator_takes_it_along_and_the_run_gives_the_same_bits(
    federation: LocalFederation, job: str, undisturbed: Any
) -> None:
    run_id = federation.start_run(job, own_strategy=True)
    for run in federation.watch(run_id):
        if len(run.history) >= 2:
            break
    before = strategy_processes(federation)
    assert before
    kill(below(server_process(federation), "server.coordinator")[0])
    _, alive = psutil.wait_procs(before, timeout=10)
    assert alive == []
    after = finish(federation, run_id)
    assert after.state == "completed", f"{after.code} {after.reason}"
    assert after.model.digest == undisturbed.model.digest


def test_nothing_is_offered_without_the_operators_leave_or_when_it_cannot_run(
    federation: LocalFederation, job: str
) -> None:
    def count() -> int:
        return len(federation.server().call("Operator.ListRuns", ListRunsRequest()).runs)

    before = count()
    with pytest.raises(UserError) as refused:
        federation.start_run(job)
    assert refused.value.code == "OCT-STRATEGY-FOREIGN" and "--allow-own-strategy" in refused.value.next_step
    broken = federation.submit(job_with(federation, "import torch_of_mine", "Broken", "broken"))
    with pytest.raises(UserError) as unusable:
        federation.start_run(broken, own_strategy=True)
    assert unusable.value.code == "OCT-JOB-STRATEGY"
    assert "code/strategy.py, line 1, in <module>: ModuleNotFoundError" in unusable.value.why
    assert count() == before


def test_one_that_fails_ends_its_run_and_no_other(federation: LocalFederation, job: str, undisturbed: Any) -> None:
    failing = combining("if tile.round == 3: raise ValueError('enough')\nreturn weighted_sum(tile)")
    bad = federation.submit(job_with(federation, failing, "Mine", "failing"))
    one = federation.start_run(job, own_strategy=True)
    other = federation.start_run(bad, {"run": {"seed": 7}}, own_strategy=True)
    failed, fine = finish(federation, other), finish(federation, one)
    assert (failed.state, failed.code) == ("failed", "OCT-RUN-STRATEGY")
    assert "code/strategy.py, line 6, in combine: ValueError: enough" in failed.reason
    assert len(failed.history) == 2
    assert fine.model.digest == undisturbed.model.digest
    assert strategy_processes(federation) == []


def test_a_silos_review_shows_that_it_aggregates_and_its_source(federation: LocalFederation, undisturbed: Any) -> None:
    api = federation.silos[0].api()
    review: Any = api.call("Approvals.Review", ById(id=undisturbed.id))
    (finding,) = [f for f in review.findings if f.rule == "own-strategy"]
    assert (finding.severity, finding.path) == ("medium", "code/strategy.py")
    (line,) = [line.text for line in review.summary if line.topic == "strategy"]
    assert "by the package's own code at the federation's server, Nesterov in code/strategy.py" in line
    shown = api.call("Approvals.ReadFile", ReadFileRequest(id=undisturbed.id, path="code/strategy.py"))
    assert shown.content.decode() == NESTEROV
