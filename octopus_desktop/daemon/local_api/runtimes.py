"""``Runtimes``: Python environments that jobs may train in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from octopus_desktop.daemon.services.places import Places
from octopus_desktop.daemon.services.runtimes import Runtimes
from octopus_desktop.wire.pb import local_pb2 as pb


class RuntimesApi:
    def __init__(self, runtimes: Runtimes, places: Places, in_use: Callable[[str], bool]) -> None:
        self._runtimes, self._places, self._in_use = runtimes, places, in_use

    async def Look(self, request: pb.LookRuntimeRequest) -> AsyncIterator[pb.CheckStep]:
        async for step in self._runtimes.look(request.path, request.id):
            yield step

    async def Add(self, request: pb.AddRuntimeRequest) -> pb.Runtime:
        return await self._runtimes.add(request.name, request.path)

    async def Check(self, request: pb.ById) -> pb.Runtime:
        await self._runtimes.check(request.id)
        return await self._places.check("runtime", request.id)

    async def Place(self, request: pb.PlaceRequest) -> pb.Runtime:
        return await self._places.put("runtime", request.id, request.node, request.path)

    async def Remove(self, request: pb.ById) -> pb.Ack:
        self._runtimes.remove(request.id, self._in_use(request.id))
        return pb.Ack()
