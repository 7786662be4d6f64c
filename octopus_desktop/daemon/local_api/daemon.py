"""``Daemon``: greeting, the stream of events, the end."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable

from octopus_desktop import __version__
from octopus_desktop.daemon.core import Silo
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

PROTOCOL_MIN, PROTOCOL_MAX = 1, 1
CAPABILITIES = ("watch-resume", "request-ids", "policies", "audit-heads")


class DaemonApi:
    def __init__(self, silo: Silo, shutdown: Callable[[], None]) -> None:
        self._silo, self._shutdown = silo, shutdown

    async def Hello(self, request: pb.LocalHelloRequest) -> pb.LocalHelloReply:
        newest = request.protocol_max or PROTOCOL_MAX
        if request.protocol_min > PROTOCOL_MAX or newest < PROTOCOL_MIN:
            older = "the daemon" if request.protocol_min > PROTOCOL_MAX else request.client or "the caller"
            raise UserError(
                "OCT-DAEMON-PROTOCOL",
                "The caller and the daemon are of versions that do not fit.",
                f"The daemon {__version__} speaks {PROTOCOL_MIN} to {PROTOCOL_MAX}; "
                f"the caller speaks {request.protocol_min} to {newest}.",
                f"Restart {older} after the update.",
            )
        return pb.LocalHelloReply(
            protocol=min(newest, PROTOCOL_MAX),
            boot_id=self._silo.boot_id,
            version=__version__,
            capabilities=CAPABILITIES,
            pid=os.getpid(),
            home=str(self._silo.home.root),
        )

    async def Watch(self, request: pb.WatchRequest) -> AsyncIterator[pb.Event]:
        async for event in self._silo.hub.watch(request.boot_id, request.after):
            yield event

    async def Shutdown(self, request: pb.ShutdownRequest) -> pb.Ack:
        self._shutdown()
        return pb.Ack()
