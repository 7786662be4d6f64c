"""``Logs``: what daemon and runs wrote."""

from __future__ import annotations

from collections.abc import AsyncIterator

from octopus_desktop.daemon.services.logs import Logs
from octopus_desktop.wire.pb import local_pb2 as pb

PAGE_MOST = 2000


class LogsApi:
    def __init__(self, logs: Logs) -> None:
        self._logs = logs

    async def Page(self, request: pb.LogPageRequest) -> pb.LogPageReply:
        return self._logs.page(request, min(request.limit or 200, PAGE_MOST))

    async def Tail(self, request: pb.LogPageRequest) -> AsyncIterator[pb.LogPageReply]:
        """The newest page, then what is added, at most ten times a second."""
        async for page in self._logs.tail(request, min(request.limit or 200, PAGE_MOST)):
            yield page
