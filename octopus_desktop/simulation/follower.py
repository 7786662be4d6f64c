"""The ranks above 0 of a simulation under ``torchrun``: they do what rank 0 tells, with silos of their own.

They print nothing and write nothing but into their own work folder. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.cohort import Outcome, Silos, local_silos, plain_outcome, read_tasks
from octopus_desktop.simulation.garbage import released
from octopus_desktop.simulation.group import Group
from octopus_desktop.simulation.jobs import Job
from octopus_desktop.simulation.memory import Places
from octopus_desktop.simulation.simulator import SiloData
from octopus_desktop.simulation.spread import add_up, blobs_in_files, names_digest, put, share_of
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout


def follow(group: Group, job: Job, data: SiloData, work: Path) -> bool:
    """Until rank 0 says that it is over: one run after the other. Whether all went well there.

    Raises:
        UserError: OCT-RUN-WORKERS, when rank 0 or another rank is gone.
    """
    runs = 0
    while (told := group.hear())["do"] != "over":
        if told["do"] != "begin":
            continue  # what rank 0 still says of a run that could not begin here
        runs += 1
        folder = work / f"run-{runs}"
        folder.mkdir(parents=True)
        try:
            run = _Run(group, job, data, folder, told)
        except UserError as error:
            group.report({"error": [error.code, error.what, error.why, error.next_step]})
            continue
        group.report({})
        try:
            told = run.until_end()
        finally:
            run.close()
        if told["do"] == "over":
            break
    group.leave()
    return not told["failed"]


class _Run:
    """One run's share of this rank."""

    def __init__(self, group: Group, job: Job, data: SiloData, work: Path, told: dict[str, Any]) -> None:
        if told["silos"] != names_digest(list(data)):
            raise UserError(
                "OCT-CLI-USAGE",
                f"Rank {group.rank} has other silos than rank 0.",
                "The silos' names, or their order, are not the same.",
                "Give every machine the same command and the same data.",
            )
        config = RunConfig.from_dict(told["config"])
        self._group = group
        self._rank = {name: number % group.size for number, name in enumerate(data)}
        self._store = BlobStore(work / "blobs", durable=False)
        self._silos: Silos = local_silos((job.folder, job.manifest.trainer, config, data, work), told["batched"])
        self._work = work
        self._places: Places | None = None

    def until_end(self) -> dict[str, Any]:
        """The word that ended it."""
        do: dict[str, Callable[[dict[str, Any]], None]] = {
            "file": self._file,
            "use": self._use,
            "tasks": self._tasks,
            "sum": self._sum,
            "bring": self._bring,
        }
        while (told := self._group.hear())["do"] not in ("end", "over"):
            do[told["do"]](told)
        return told

    def close(self) -> None:
        self._silos.close()
        if self._places:
            self._places.close()
        released()

    def _file(self, told: dict[str, Any]) -> None:
        raw = torch.empty(told["size"], dtype=torch.uint8)
        self._group.spread(raw)
        put(self._store, told["digest"], raw)
        for digest in told["drop"]:
            self._store.remove(digest)

    def _use(self, told: dict[str, Any]) -> None:
        model = self._store.path(told["model"])
        try:
            if told["places"]:
                self._places = Places.create(read_layout(model), told["places"], self._work, 0)
            self._silos.use(self._places, model)
            if self._places:
                self._places.forget_name()
        except UserError as error:
            self._group.report({"error": [error.code, error.what, error.why, error.next_step]})
            return
        self._group.report({})

    def _tasks(self, told: dict[str, Any]) -> None:
        tasks = read_tasks(told)
        shared = {name: self._store.path(path.name) for name, path in tasks.shared.items()}
        mine = share_of(tasks, self._rank, self._group.rank)
        found: dict[str, Outcome] = {}

        def done(outcome: Outcome) -> None:
            found[outcome.order.silo] = outcome

        if mine.orders:
            self._silos.run(replace(mine, shared=shared), done)
        outcomes = [found[order.silo] for order in mine.orders]
        self._group.report([plain_outcome(outcome) for outcome in outcomes])
        for outcome in outcomes:
            for blob in blobs_in_files(outcome):
                raw = bytearray(self._store.path(blob.digest).read_bytes())
                self._group.give(torch.frombuffer(raw, dtype=torch.uint8))
                self._store.remove(blob.digest)

    def _sum(self, told: dict[str, Any]) -> None:
        assert self._places is not None
        share: Sequence[tuple[int, float]] = told["shares"][self._group.rank]
        add_up(self._group, self._places, share, told["whole"])

    def _bring(self, told: dict[str, Any]) -> None:
        assert self._places is not None
        for place in told["shares"][self._group.rank]:
            self._group.give(self._places.held(place).body)
