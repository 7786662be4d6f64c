"""The silo's machines, and this one of them. Sampled only while somebody watches or a run is active. Knows no job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from octopus_desktop.daemon.core import Silo, when_possible
from octopus_desktop.nodes.report import fill
from octopus_desktop.system.inventory import machine
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

SAMPLE_S = 2.0


class Nodes:
    """The noun ``node``. States: ready | draining (runs go on, none begins) | drained; of further machines, which
    ``Agents`` keeps, also offline | asking (joined, not accepted yet)."""

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self.workers: Callable[[], int] = lambda: 0
        self.changed: Callable[[], None] = lambda: None
        self._useful = asyncio.Event()

    @property
    def local(self) -> pb.Node | None:
        return next((n for n in self._silo.all("node") if n.local), None)

    async def register(self, name: str) -> pb.Node:
        """Register this machine. Repeated, it renames it and refreshes what it has."""
        facts = await asyncio.to_thread(machine, self._silo.home.root)
        known = self.local
        node = pb.Node(
            id=known.id if known else new_id("n"),
            name=name or (known.name if known else facts.hostname),
            state=known.state if known else "ready",
            local=True,
            registered_at=known.registered_at if known else round(time.time(), 3),
        )
        fill(node, facts)
        with self._silo.change():
            self._silo.put("node", node)
            if not known or known.name != node.name:
                detail = {"name": node.name, "cpus": node.cpu_count, "gpus": [g.name for g in node.gpus]}
                self._silo.record(self._silo.administrator, "node.registered", node.id, detail)
            self._silo.answer(node)
            self._silo.afterwards(self.changed)
        return node

    def drain(self, node_id: str, drain: bool) -> pb.Node:
        """Let no further run begin here; or let them again."""
        with self._silo.change():
            node = self._silo.need("node", node_id)
            state = ("draining" if self.workers() else "drained") if drain else "ready"
            if node.state != state:
                node.state = state
                self._silo.put("node", node)
                action = "node.drained" if drain else "node.undrained"
                self._silo.record(self._silo.administrator, action, node_id, {"name": node.name})
                self._silo.afterwards(self.changed)
            self._silo.answer(node)
        return node

    def blocked(self, allowed: tuple[str, ...] = ()) -> str:
        """Why no run can begin on this machine now; "" when one can. ``allowed``: node ids of the approval."""
        node = self.local
        if node is None:
            return "Waits for a node: register this machine."
        if node.state != "ready":
            return f"Waits for node {node.name}, which is {node.state}."
        if allowed and node.id not in allowed:
            return f"Waits for a node that the approval names; {node.name} is not among them."
        return ""

    def must_know(self, node_ids: tuple[str, ...]) -> None:
        for node_id in node_ids:
            if self._silo.get("node", node_id) is None:
                raise UserError(
                    "OCT-NODE-UNKNOWN",
                    f"There is no node {node_id!r} here.",
                    "The approval's conditions name it.",
                    "Choose from the registered nodes.",
                )
        local = self.local
        if node_ids and (local is None or local.id not in node_ids):
            raise UserError(
                "OCT-NODE-FURTHER",
                "The run would have no node to train on.",
                "Runs train on the daemon's own machine; the conditions name further machines alone.",
                f"Name {local.name if local else 'this machine, once it is registered,'} among the nodes, or none.",
            )

    async def sample_while_useful(self) -> None:
        """Refresh this machine's figures every SAMPLE_S while somebody watches or a run is active; else sleep."""
        while True:
            while not self._silo.hub.watched and not self.workers():
                self._useful.clear()
                await self._useful.wait()
            await self.sample()
            await asyncio.sleep(SAMPLE_S)

    def wake(self) -> None:
        """Somebody watches now, or a run has begun."""
        self._useful.set()

    async def sample(self) -> None:
        node = self.local
        if node is None:
            return
        facts = await asyncio.to_thread(machine, self._silo.home.root)
        node = self.local
        if node is None:
            return
        fill(node, facts)
        node.workers_running = self.workers()
        if node.state == "draining" and not node.workers_running:
            when_possible(self._drained, node.id)
            return
        self._silo.hub.soon("node", node)

    def _drained(self, node_id: str) -> None:
        with self._silo.change():
            node = self._silo.need("node", node_id)
            node.state = "drained"
            self._silo.put("node", node)
