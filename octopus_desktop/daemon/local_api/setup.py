"""``Setup``: who this silo is."""

from __future__ import annotations

from octopus_desktop.daemon.services.setup import Setup
from octopus_desktop.wire.pb import local_pb2 as pb


class SetupApi:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    async def Configure(self, request: pb.ConfigureRequest) -> pb.DaemonStatus:
        return self._setup.configure(request.organisation, request.administrator, request.approver_key)
