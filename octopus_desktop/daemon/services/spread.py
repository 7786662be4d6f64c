"""Runs that span machines: who gets how many workers, and words and blobs between a run's runner and its further parts.

A run spans machines only where its approval names them: workers of one group speak to one another without encryption,
and the network that they use for it is open to the job's code. Knows no link.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.daemon.services.logs import Logs
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training.bench import interface_of
from octopus_desktop.training.spec import Further, RunnerSpec
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

REMEMBERING = ("scaffold", "feddyn")  # each worker reads the silo's memory of earlier rounds, which lies on one machine

Say = Callable[..., None]


class Spread:
    """Which runs have parts on further machines, now."""

    def __init__(self, silo: Silo, agents: Agents, blobs: BlobStore, logs: Logs) -> None:
        self._silo, self._agents, self._blobs, self._logs = silo, agents, blobs, logs
        self._runs: dict[str, tuple[frozenset[str], Say]] = {}

    async def plan(
        self,
        run_id: str,
        config: RunConfig,
        nodes: Sequence[str],
        share: tuple[int, tuple[str, ...]],
        *,
        elsewhere: bool = False,
    ) -> dict[str, Any]:
        """The fields of a runner's specification that say who trains. ``nodes``: what the approval names; ``share``:
        this machine's (workers, devices) where it trains alone; ``elsewhere``: in a Python of this machine's own."""
        workers, devices = share
        alone = {"workers": workers, "devices": devices}
        further = [n for n in map(self._known, nodes) if n is not None]
        if not further:
            return alone
        why = ""
        if config.strategy in REMEMBERING:
            why = f"{config.strategy} keeps a memory at the silo, which only its own machine has"
        elif elsewhere:
            why = "the job's Python environment is known on this machine alone"
        else:
            try:
                address = await self._agents.own_address()
                interface_of(address)
            except UserError as error:
                why = str(error)
        if why:
            self._logs.add("warning", "daemon", f"The run trains on this machine alone: {why}.", run_id)
            return alone
        own, parts = split(workers, devices, config.resources.workers, self._local(), further)
        if not parts:
            return alone
        return {"workers": own, "devices": devices, "further": tuple(map(asdict, parts)), "address": address}

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
