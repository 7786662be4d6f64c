"""``Policies``: standing rules."""

from __future__ import annotations

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.policies import Policies
from octopus_desktop.wire.pb import local_pb2 as pb


class PoliciesApi:
    def __init__(self, silo: Silo, policies: Policies) -> None:
        self._silo, self._policies = silo, policies

    async def List(self, request: pb.Empty) -> pb.PolicyList:
        return pb.PolicyList(policies=self._silo.all("policy"))

    async def Put(self, request: pb.PutPolicyRequest) -> pb.Policy:
        return self._policies.put(request.policy)

    async def Remove(self, request: pb.ById) -> pb.Ack:
        self._policies.remove(request.id)
        return pb.Ack()
