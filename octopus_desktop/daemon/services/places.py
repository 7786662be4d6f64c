"""Where datasets and runtimes are on the silo's further machines, as their agents saw it.

A dataset lies at its own path there unless a place says otherwise; a runtime is nowhere else until a place says where.
Knows no job.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import node_pb2 as npb

STATES = {"OCT-DATA-MISSING": "missing", "OCT-DATA-CHANGED": "changed"}
NAMES = {"dataset": "alias", "runtime": "name"}


class Places:
    """Of both nouns; ``kind`` is dataset | runtime."""

    def __init__(self, silo: Silo, agents: Agents) -> None:
        self._silo, self._agents = silo, agents

    async def put(self, kind: str, entity_id: str, node_id: str, path: str) -> Any:
        """Say where it is on a node, after its agent looked; "" forgets it. Returns the entity.

        Raises OCT-NODE-LOCAL, OCT-NODE-UNKNOWN, OCT-NODE-FURTHER (not connected), and what is wrong there:
        OCT-DATA-MISSING, OCT-DATA-CHANGED, OCT-RUNTIME-BROKEN.
        """
        entity, node = self._silo.need(kind, entity_id), self._silo.need("node", node_id)
        if not self._agents.knows(node_id):
            raise UserError(
                "OCT-NODE-LOCAL",
                f"{node.name} is the daemon's own machine.",
                "A place of its own is for further machines.",
                "To say where it lies here: octopus dataset relocate, or octopus runtime add.",
            )
        place = await self._agents.ask(node_id, _ask(kind, entity, path)) if path else None
        with self._silo.change():
            entity = self._silo.need(kind, entity_id)
            _set(entity, node_id, place)
            self._silo.put(kind, entity)
            what = {NAMES[kind]: getattr(entity, NAMES[kind]), "node": node.name, "path": path}
            action = f"{kind}.placed" if path else f"{kind}.unplaced"
            self._silo.record(self._silo.administrator, action, entity_id, what)
            self._silo.answer(entity)
        return entity

    async def check(self, kind: str, entity_id: str) -> Any:
        """Let all agents look again that are connected. Returns the entity."""
        entity = self._silo.need(kind, entity_id)
        asked = [place for place in entity.places if self._agents.linked(place.node)]
        seen = await asyncio.gather(*(self._look(kind, entity, place) for place in asked))
        if seen:
            with self._silo.change():
                entity = self._silo.need(kind, entity_id)
                for place in seen:
                    if of(entity, place.node) is not None:
                        _set(entity, place.node, place)
                self._silo.put(kind, entity)
        return entity

    def forget(self, node_id: str) -> None:
        """The node is no more. Inside ``change``."""
        for kind in NAMES:
            for entity in self._silo.all(kind):
                if of(entity, node_id) is not None:
                    entity = self._silo.need(kind, entity.id)
                    _set(entity, node_id, None)
                    self._silo.put(kind, entity)

    async def _look(self, kind: str, entity: Any, before: pb.NodePlace) -> pb.NodePlace:
        try:
            return await self._agents.ask(before.node, _ask(kind, entity, before.path))
        except UserError as error:
            place = pb.NodePlace.FromString(before.SerializeToString())
            if error.code != "OCT-NODE-FURTHER":
                place.state = STATES.get(error.code, "broken")
                place.error, place.checked_at = f"{error.what} {error.why}".strip(), round(time.time(), 3)
            return place


def of(entity: Any, node_id: str) -> pb.NodePlace | None:
    """Where a dataset or a runtime is on this node, when something was said of it."""
    return next((place for place in entity.places if place.node == node_id), None)


def _set(entity: Any, node_id: str, place: pb.NodePlace | None) -> None:
    others = [p for p in entity.places if p.node != node_id]
    del entity.places[:]
    entity.places.extend([*others, place] if place else others)


def _ask(kind: str, entity: Any, path: str) -> npb.NodeAsk:
    if kind == "runtime":
        return npb.NodeAsk(path=path)
    return npb.NodeAsk(alias=entity.alias, path=path, kind=entity.kind, digest=entity.digest)
