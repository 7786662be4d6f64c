"""A run's workers in an allocation of a real Slurm: the runner, the queue, and what is left of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.content import content_digest
from octopus_desktop.system.slurm import Profile
from octopus_desktop.training.spec import Allocated, DataSource
from tests.slurm_cluster import Cluster, slurm_cluster
from tests.training.test_training_runner import Parent

NAME = "octopus-test-r1"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with slurm_cluster(tmp_path_factory.mktemp("slurm")) as one:
        yield one


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
