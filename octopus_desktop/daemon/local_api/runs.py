"""``Runs``: pause, resume, stop, look, follow, export."""

from __future__ import annotations

from collections.abc import AsyncIterator

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.exports import Exports
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.daemon.services.runs import Runs
from octopus_desktop.wire.pb import local_pb2 as pb


class RunsApi:
    def __init__(self, silo: Silo, runs: Runs, record: Record, exports: Exports) -> None:
        self._silo, self._runs, self._record, self._exports = silo, runs, record, exports

    async def Pause(self, request: pb.ById) -> pb.Run:
        return self._runs.pause(request.id)

    async def Resume(self, request: pb.ById) -> pb.Run:
        return self._runs.resume(request.id)

    async def Stop(self, request: pb.StopLocalRequest) -> pb.Run:
        return self._runs.stop(request.id, request.reason)

    async def Detail(self, request: pb.ById) -> pb.RunDetail:
        return self._runs.detail(request.id)

    async def Follow(self, request: pb.ById) -> AsyncIterator[pb.RunUpdate]:
        async for update in self._record.follow(self._silo.need("run", request.id)):
            yield update

    async def ExportModel(self, request: pb.ExportRequest) -> pb.Ack:
        await self._exports.export(request)
        return pb.Ack()
