"""Runs that span machines: who gets how many workers, and words and blobs between a run's runner and its further parts.

A run spans machines only where its approval names them: workers of one group speak to one another without encryption,
and the network that they use for it is open to the job's code. Knows no link.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.daemon.services.logs import Logs
from octopus_desktop.daemon.services.places import of
from octopus_desktop.jobs.approval import Conditions
from octopus_desktop.jobs.manifest import JobManifest, RunConfig
from octopus_desktop.jobs.requirements import lacking, needed
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training.bench import interface_of
from octopus_desktop.training.spec import Further, RunnerSpec
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.node_pb2 import NodeAsk

LOOK_S = 20.0  # so long an approval waits for what machines find of its data

Say = Callable[..., None]


class Spread:
    """Which runs have parts on further machines, now."""

    def __init__(self, silo: Silo, agents: Agents, blobs: BlobStore, logs: Logs) -> None:
        self._silo, self._agents, self._blobs, self._logs = silo, agents, blobs, logs
        self._runs: dict[str, tuple[frozenset[str], Say]] = {}

    async def plan(
        self,
        run_id: str,
        manifest: JobManifest,
        config: RunConfig,
        conditions: Conditions,
        share: tuple[int, tuple[str, ...]],
    ) -> dict[str, Any]:
        """The fields of a runner's specification that say who trains. ``share``: this machine's (workers, devices)
        where it trains alone. A machine that cannot take part now is left out, and the run's log says why."""
        workers, devices = share
        alone = {"workers": workers, "devices": devices}
        further = []
        for node in filter(None, map(self._known, conditions.nodes)):
            if why := self.lack(node, manifest, conditions.runtime):
                self._logs.add("warning", "daemon", f"The run trains without {node.name}: {why}.", run_id)
            else:
                further.append(node)
        if not further:
            return alone
        try:
            address = await self._agents.own_address()
            interface_of(address)
        except UserError as error:
            self._logs.add("warning", "daemon", f"The run trains on this machine alone: {error}.", run_id)
            return alone
        own, parts = split(workers, devices, config.resources.workers, self._local(), further)
        if not parts:
            return alone
        placed = [self._placed(part, conditions) for part in parts]
        return {"workers": own, "devices": devices, "further": tuple(map(asdict, placed)), "address": address}

    def lack(self, node: pb.Node, manifest: JobManifest, runtime_id: str) -> str:
        """Why a further machine cannot train this job in this runtime, as far as its agent has told; "" when it can."""
        if not runtime_id:
            return _other_torch(node.torch, self._local().torch)
        runtime = self._silo.need("runtime", runtime_id)
        place = of(runtime, node.id)
        if place is None:
            return f"it has no runtime {runtime.name} that is known here (octopus runtime place {runtime.name} …)"
        if place.state != "ok":
            return f"its runtime {runtime.name} cannot be used: {place.error}"
        wanted = needed(manifest.trainer, manifest.requirements)
        if lacks := lacking(wanted, place.packages, place.python):
            return f"its runtime {runtime.name} lacks {', '.join(map(str, lacks))}"
        return _other_torch(place.torch, runtime.torch)

    async def must_take(self, manifest: JobManifest, conditions: Conditions) -> None:
        """Raises OCT-NODE-FURTHER unless each further machine that an approval names can train this job, as far as can
        be told: one that is not connected now is asked when the run begins."""
        for node in filter(None, map(self._known, conditions.nodes)):
            why = self.lack(node, manifest, conditions.runtime)
            if not why and self._agents.linked(node.id):
                why = await self._look(node, manifest, conditions)
            if why:
                raise UserError(
                    "OCT-NODE-FURTHER",
                    f"{node.name} cannot take part in this run.",
                    f"{why[0].upper()}{why[1:]}.",
                    "Bring that about, or approve the run without this node.",
                )

    async def _look(self, node: pb.Node, manifest: JobManifest, conditions: Conditions) -> str:
        """What its agent finds wanting: the data, or a package in its own environment."""
        asks = []
        for dataset in (self._silo.need("dataset", d) for d in sorted(set(conditions.datasets.values()))):
            place = of(dataset, node.id)
            path = place.path if place else dataset.path
            asks.append(NodeAsk(alias=dataset.alias, path=path, kind=dataset.kind, digest=dataset.digest))
        wanted = needed(manifest.trainer, manifest.requirements)
        if wanted and not conditions.runtime:
            asks.append(NodeAsk())
        try:
            async with asyncio.timeout(LOOK_S):
                for ask in asks:
                    place = await self._agents.ask(node.id, ask)
                    if not ask.alias and (lacks := lacking(wanted, place.packages, place.python)):
                        return f"its own environment lacks {', '.join(map(str, lacks))}"
        except UserError as error:
            return "" if error.code == "OCT-NODE-FURTHER" else f"{error.what} {error.why}".rstrip(". ")
        except TimeoutError:
            return ""  # much data: it is read again when the run begins
        return ""

    def _placed(self, part: Further, conditions: Conditions) -> Further:
        """With the paths that hold on that machine."""
        paths = {}
        for alias, dataset_id in conditions.datasets.items():
            if place := of(self._silo.need("dataset", dataset_id), part.node):
                paths[alias] = place.path
        python = ""
        if conditions.runtime:
            place = of(self._silo.need("runtime", conditions.runtime), part.node)
            python = place.path if place else ""
        return replace(part, python=python, paths=paths)

    def begin(self, run_id: str, spec: RunnerSpec, say: Say) -> None:
        """A runner was started."""
        if spec.further:
            self._runs[run_id] = (frozenset(m.node for m in spec.machines), say)
            say("nodes", up=self._agents.up())

    def asked(self, run_id: str, node: str, words: dict[str, Any]) -> None:
        """The runner's word for its part on a machine."""
        if run_id in self._runs and node in self._runs[run_id][0]:
            self._agents.say(node, run_id, words)

    def heard(self, node: str, run_id: str, words: dict[str, Any]) -> None:
        """A machine's word for the runner."""
        if run_id in self._runs and node in self._runs[run_id][0]:
            self._runs[run_id][1]("node", node=node, words=words)

    def end(self, run_id: str) -> None:
        """The runner is gone: so are its parts."""
        nodes, _ = self._runs.pop(run_id, (frozenset(), None))
        for node in nodes:
            self._agents.say(node, run_id, {"do": "close"})

    def up_changed(self) -> None:
        for _, say in self._runs.values():
            say("nodes", up=self._agents.up())

    def may_read(self, node: str, run_id: str, digest: str) -> Path | None:
        """Where a blob lies that this run needs, for a machine that has a part in it."""
        if run_id not in self._runs or node not in self._runs[run_id][0]:
            return None
        kinds = "('package','model')"
        found = self._silo.db.one(
            f"SELECT 1 FROM blob_uses WHERE run_id=? AND digest=? AND kind IN {kinds}", run_id, digest
        )
        return self._blobs.path(digest) if found and self._blobs.has(digest) else None

    def _known(self, node_id: str) -> pb.Node | None:
        return self._silo.get("node", node_id) if self._agents.knows(node_id) else None

    def _local(self) -> pb.Node:
        return next(n for n in self._silo.all("node") if n.local)


def _other_torch(theirs: str, ours: str) -> str:
    """Why workers with these versions of torch cannot be one group; builds of one version may differ."""
    theirs, ours = theirs.partition("+")[0], ours.partition("+")[0]
    return f"its torch is {theirs}, this machine's {ours}" if theirs and ours and theirs != ours else ""


def split(
    workers: int, devices: Sequence[str], wanted: int, local: pb.Node, further: Sequence[pb.Node]
) -> tuple[int, list[Further]]:
    """(workers here, parts of further machines). With GPUs one worker for each; else what the job asks for, by cores,
    at least one each, and one each where it asks for nothing. Machines for which no worker is left get no part."""
    if devices:
        parts = [(node, [f"cuda:{gpu.index}" for gpu in node.gpus]) for node in further]
        return workers, [
            Further(node=n.id, name=n.name, workers=len(gpus), devices=tuple(gpus)) for n, gpus in parts if gpus
        ]
    wanted = wanted or 1 + len(further)
    machines = [local, *further][:wanted]
    counts = [1] * len(machines)
    for _ in range(wanted - len(machines)):  # the next worker where a worker has most cores
        free = [max(1, node.cpu_count) / count for node, count in zip(machines, counts, strict=True)]
        counts[free.index(max(free))] += 1
    made = [Further(node=n.id, name=n.name, workers=c) for n, c in zip(machines[1:], counts[1:], strict=True)]
    return counts[0], made
