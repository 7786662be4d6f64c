"""``Nodes``: the silo's machines."""

from __future__ import annotations

from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.wire.pb import local_pb2 as pb


class NodesApi:
    def __init__(self, nodes: Nodes, agents: Agents) -> None:
        self._nodes, self._agents = nodes, agents

    async def Register(self, request: pb.RegisterNodeRequest) -> pb.Node:
        return await self._nodes.register(request.name.strip())

    async def Drain(self, request: pb.DrainRequest) -> pb.Node:
        if self._agents.knows(request.id):
            return self._agents.drain(request.id, request.drain)
        return self._nodes.drain(request.id, request.drain)

    async def Invite(self, request: pb.InviteNodeRequest) -> pb.InviteNodeReply:
        return await self._agents.invite(request)

    async def Codes(self, request: pb.Empty) -> pb.NodeCodeList:
        return pb.NodeCodeList(codes=self._agents.codes.open())

    async def Withdraw(self, request: pb.ById) -> pb.Ack:
        self._agents.codes.withdraw(request.id)
        return pb.Ack()

    async def Accept(self, request: pb.ById) -> pb.Node:
        return self._agents.accept(request.id)

    async def Remove(self, request: pb.ById) -> pb.Ack:
        self._agents.remove(request.id)
        return pb.Ack()
