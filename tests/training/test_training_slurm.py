"""A run's workers in an allocation of a real Slurm: the runner, the queue, and what is left of them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.content import content_digest
from octopus_desktop.system import sandbox, slurm
from octopus_desktop.system.sandbox import Confinement
from octopus_desktop.system.slurm import Profile
from octopus_desktop.system.slurm_words import Job, ended_fault
from octopus_desktop.training.spec import Allocated, DataSource
from tests.slurm_cluster import Cluster, slurm_cluster
from tests.training.test_training_runner import Parent

NAME = "octopus-test-r1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as one:
        yield one


@pytest.fixture(scope="module", autouse=True)
def past_its_time(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An allocation that goes over its limit while the other tests run: the controller takes up to 30 s to see it."""
    folder, profile = tmp_path_factory.mktemp("long"), Profile(name="long", partition="aside", mem="100M", time="10")
    script = ("srun", "sleep", "600")
    job = asyncio.run(slurm.submit(profile, "long", script, folder=folder, environment={"PATH": os.environ["PATH"]}))
    end = time.monotonic() + 20
    while cluster.jobs().get(job) != ("long", "RUNNING"):
        assert time.monotonic() < end
        time.sleep(0.05)
    cluster.ask("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    return job


class Submitting(Parent):
    """A daemon's part of a run whose workers are in an allocation."""

    def __init__(self, root: Path, cluster: Cluster, workers: tuple[int, ...], profile: Profile, **words: Any) -> None:
        root.mkdir(exist_ok=True)
        deadline = words.pop("deadline_s", 600.0)
        config = RunConfig(rounds=3, seed=5, round_deadline_s=deadline, hyperparameters=words)
        super().__init__(root, config, sum(workers))
        self.cluster = cluster
        data = root / "rows.csv"
        source = DataSource(alias="rows", path=str(data), kind="csv", digest=content_digest(data, "csv")[0])
        allocated = asdict(Allocated(profile=profile.to_dict(), name=NAME, workers=workers))
        self.spec = replace(self.spec, slurm=allocated, data=(asdict(source),))
        self.spec.write(self.run_dir / "runner.json")

    def queue(self) -> list[str]:
        return [word["words"] for word in self.words if word["word"] == "queue"]

    def logs(self) -> str:
        return "\n".join(str(word["text"]) for word in self.words if word["word"] == "log")

    def until(self, condition: Callable[[], Any], seconds: float = 60.0) -> None:
        """Of what nothing tells: a queue, a file of the job's code."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.logs() + f"{self.queue()} {self.cluster.ask('squeue')}"
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """In the allocation: they are nobody's children here."""
        found = []
        for process in psutil.process_iter():
            try:
                line = " ".join(process.cmdline())
                if "octopus_desktop.training.worker" in line and str(self.run_dir) in line:
                    found.append(process)
            except psutil.Error:
                continue
        return [p for p in found if p.status() != psutil.STATUS_ZOMBIE and "bwrap" not in p.name()]

    def trained(self, round_: int = 1) -> Any:
        self.give(self.model(), round_)
        answer = self.answer(round_)
        assert answer.error == "", f"{answer.error} {self.logs()}"
        return answer


@contextmanager
def submitting(
    root: Path, cluster: Cluster, workers: tuple[int, ...] = (1,), profile: dict[str, Any] | None = None, **words: Any
) -> Iterator[Submitting]:
    values = {"name": "test", "nodes": len(workers), "cpus_per_task": 1, "mem": "1500M", "time": "10", "alone_s": 10}
    one = Submitting(root, cluster, workers, Profile(**{**values, **(profile or {})}), **words)
    try:
        one.start()
        yield one
    finally:
        if one.process and one.process.poll() is None:
            assert one.process.stdin
            one.process.stdin.close()
            one.process.wait(20)


def sandbox_works() -> bool:
    return not asyncio.run(sandbox.obstacle(Confinement(), {"PATH": os.environ["PATH"]}, "sys"))


def ours(cluster: Cluster) -> dict[str, str]:
    return {job: state for job, (name, state) in cluster.jobs().items() if name == NAME and state != "COMPLETING"}


def test_an_allocation_gives_the_update_of_this_machine_and_is_gone_with_the_run(
    tmp_path: Path, cluster: Cluster
) -> None:
    from tests.training.test_training_runner import parent

    with parent(tmp_path / "here", 2) as here:
        here.give(here.model())
        alone = here.answer()
    with submitting(tmp_path / "there", cluster, (1, 1)) as there:
        together = there.trained()
        if sandbox_works():
            assert "No sandbox there" not in there.logs(), "confined in the allocation as here"
        assert together.update.digest == alone.update.digest
        assert (together.examples, together.steps) == (alone.examples, alone.steps)
        [job] = ours(cluster)
        assert any(f"Slurm job {job} runs on n[1-2], at most until" in said for said in there.queue())
        there.trained(2)
        assert list(ours(cluster)) == [job], "one allocation for all rounds, and its workers stay warm"
        workers = there.workers()
        assert workers
    assert ours(cluster) == {}
    assert psutil.wait_procs(workers, timeout=10)[1] == []
    assert not (there.run_dir / "slurm" / "door.pem").exists()


def test_a_killed_worker_a_killed_runner_and_a_site_that_cancels_cost_no_round(
    tmp_path: Path, cluster: Cluster
) -> None:
    flag = tmp_path / "run" / "run" / "work" / "flag"
    with submitting(tmp_path / "run", cluster, wait=str(flag)) as run:
        # the worker is killed in the middle of the round: it begins again in the same allocation
        run.give(run.model())
        run.until(flag.exists)
        [job] = ours(cluster)
        [worker] = run.workers()
        worker.kill()
        assert run.answer().error == "", run.logs()
        assert list(ours(cluster)) == [job]

        # the runner is killed in the middle of the next: the one after it goes on in the same allocation
        flag.unlink()
        run.give(run.model(), 2)
        run.until(flag.exists)
        assert run.process
        run.process.kill()
        run.process.wait()
        assert list(ours(cluster)) == [job]
        run.start()
        assert run.answer(2).error == "", run.logs()
        assert list(ours(cluster)) == [job] and f"The run goes on in its Slurm job {job}." in run.logs()

        # the site cancels the allocation: another one is asked for, and the round begins again
        flag.unlink()
        run.give(run.model(), 3)
        run.until(flag.exists)
        cluster.ask("scancel", job)
        assert run.answer(3).error == "", run.logs()
        [other] = ours(cluster)
        assert other != job and f"Slurm job {job} was cancelled by somebody else" in run.logs()
    assert ours(cluster) == {}


def test_a_preempted_allocation_goes_on_when_the_site_gives_it_back(tmp_path: Path, cluster: Cluster) -> None:
    flag = tmp_path / "run" / "run" / "work" / "flag"
    with submitting(tmp_path / "run", cluster, wait=str(flag)) as run:
        run.give(run.model())
        run.until(flag.exists)
        [job] = ours(cluster)
        urgent = cluster.block("urgent")
        run.wait(lambda: any("put back" in said for said in run.queue()))
        assert ours(cluster) == {job: "PENDING"}
        cluster.ask("scancel", urgent)
        cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")  # a site's own wait is two minutes
        assert run.answer().error == "", run.logs()
        [job] = ours(cluster)  # the same, or one in its place
        cluster.ask("scancel", job)
        run.wait(lambda: "was cancelled by somebody else" in run.queue()[-1])
        run.until(lambda: not ours(cluster))
        run.trained(2)
        assert len(ours(cluster)) == 1 and job not in ours(cluster), "none is asked for before there is a task"


def test_a_pause_gives_the_allocation_back_and_a_deadline_in_the_queue_is_told(
    tmp_path: Path, cluster: Cluster
) -> None:
    blocker = cluster.block()
    with submitting(tmp_path / "run", cluster, deadline_s=30.0) as run:
        run.give(run.model())
        run.wait(lambda: any("waits for resources, 1st in the queue" in said for said in run.queue()))
        [first] = ours(cluster)
        assert run.process
        run.process.kill()  # and what is started anew is to ask for something else
        run.process.wait()
        assert run.spec.allocated
        profile = {**run.spec.allocated.profile, "time": "11"}
        replace(run.spec, slurm={**run.spec.slurm, "profile": profile}).write(run.run_dir / "runner.json")
        run.start()
        run.until(lambda: len(ours(cluster)) == 1 and first not in ours(cluster))
        run.wait(lambda: "waits for resources" in run.queue()[-1])
        run.say("pause")
        run.wait(lambda: run.queue()[-1] == "")
        run.until(lambda: not ours(cluster))
        run.say("resume")
        run.wait(lambda: "waits for resources" in run.queue()[-1])
        cluster.ask("scancel", blocker)
        assert run.answer().error == "", run.logs()
        run.say("pause")
        run.until(lambda: not ours(cluster))
    blocker = cluster.block()
    with submitting(tmp_path / "late", cluster, deadline_s=3.0) as run:
        run.give(run.model())
        answer = run.answer()
        assert answer.error_code == "OCT-SLURM-WAITING" and "n1" not in answer.error
        assert "waits for resources" in run.logs() and len(ours(cluster)) == 1, "it keeps its place"
    cluster.ask("scancel", blocker)


def test_an_allocation_without_its_runner_ends_itself(tmp_path: Path, cluster: Cluster) -> None:
    with submitting(tmp_path / "run", cluster, profile={"alone_s": 2}) as run:
        run.trained()
        [worker] = run.workers()
        assert run.process
        run.process.kill()
        run.process.wait()
        run.until(lambda: not ours(cluster))
        assert psutil.wait_procs([worker], timeout=10)[1] == []


@pytest.mark.parametrize(
    ("profile", "code", "said"),
    [
        ({"partition": "nowhere"}, "OCT-SLURM-PARTITION", "Invalid partition name"),
        ({"partition": "physics"}, "OCT-SLURM-ACCOUNT", "Invalid account"),
        ({"time": "120"}, "OCT-SLURM-LIMIT", "time limit is invalid"),
        ({"mem": "99G"}, "OCT-SLURM-LIMIT", "Memory specification"),
    ],
)
def test_what_the_site_refuses_is_told_and_tried_again_with_the_next_task(
    tmp_path: Path, cluster: Cluster, profile: dict[str, str], code: str, said: str
) -> None:
    with submitting(tmp_path / "run", cluster, profile=profile) as run:
        run.give(run.model())
        answer = run.answer()
        assert answer.error_code == code and said in run.logs()
        assert said not in answer.error, "what the site says stays at home"
        run.give(run.model(), 2)
        assert run.answer(2).error_code == code
    assert ours(cluster) == {}


def test_what_would_wait_in_the_queue_for_ever_is_cancelled_and_told(tmp_path: Path) -> None:
    with (
        slurm_cluster(tmp_path / "slurm", enforce="NO") as lenient,
        submitting(tmp_path / "run", lenient, profile={"time": "120"}) as run,
    ):
        run.give(run.model())
        answer = run.answer()
        assert answer.error_code == "OCT-SLURM-LIMIT" and "waits (Partition" in run.logs(), run.logs()
        run.until(lambda: not ours(lenient))


def test_a_node_that_does_not_see_our_files_or_other_data_or_has_too_little_memory_is_told(
    tmp_path: Path, cluster: Cluster
) -> None:
    with submitting(tmp_path / "python", cluster) as run:
        assert run.process
        run.process.kill()
        run.process.wait()
        replace(run.spec, python="/nowhere/bin/python").write(run.run_dir / "runner.json")
        run.start()
        run.give(run.model())
        assert run.answer().error_code == "OCT-SLURM-SHARED"
        assert "did not find the Python environment of the approved runtime" in run.logs()
    with submitting(tmp_path / "data", cluster) as run:
        (tmp_path / "data" / "rows.csv").write_text("a,b,c,y\n9,9,9,9\n")
        run.give(run.model())
        assert run.answer().error_code == "OCT-DATA-CHANGED", run.logs()
        run.until(lambda: not ours(cluster))
    with submitting(tmp_path / "memory", cluster, profile={"mem": "100M"}) as run:
        replace(run.spec, max_restarts=1).write(run.run_dir / "runner.json")
        run.process.kill()
        run.process.wait()
        run.start()
        run.give(run.model())
        assert run.answer().error_code == "OCT-SLURM-MEMORY", run.logs()


def test_an_allocation_past_its_time_is_told(cluster: Cluster, past_its_time: str) -> None:
    async def ended() -> Job:
        while True:  # the controller looks at limits every 30 s
            job = await slurm.look(past_its_time)
            assert job is not None
            if job.ended:
                return job
            await asyncio.sleep(0.2)

    job = asyncio.run(asyncio.wait_for(ended(), 60))
    fault = ended_fault(job)
    assert (job.state, fault.code) == ("TIMEOUT", "OCT-SLURM-TIME")


def test_a_controller_that_is_away_is_waited_for_and_not_needed_while_an_allocation_runs(
    tmp_path: Path, cluster: Cluster
) -> None:
    cluster.stop_controller()
    with submitting(tmp_path / "late", cluster, deadline_s=7.0) as run:
        run.give(run.model())
        assert run.answer().error_code == "OCT-SLURM-DOWN", run.logs()
    with submitting(tmp_path / "away", cluster) as run:
        run.give(run.model())
        run.wait(lambda: any("Slurm does not answer: Unable to contact" in said for said in run.queue()))
        cluster.start_controller()
        assert run.answer().error == "", run.logs()
        cluster.stop_controller()
        run.trained(2)
        cluster.start_controller()
    assert ours(cluster) == {}
