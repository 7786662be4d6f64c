"""``Nodes``: the silo's machines."""

from __future__ import annotations

from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.wire.pb import local_pb2 as pb


class NodesApi:
    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    async def Register(self, request: pb.RegisterNodeRequest) -> pb.Node:
        return await self._nodes.register(request.name.strip())

    async def Drain(self, request: pb.DrainRequest) -> pb.Node:
        return self._nodes.drain(request.id, request.drain)
