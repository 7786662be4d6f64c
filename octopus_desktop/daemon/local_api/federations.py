"""``Federations``: enrolment, carriers and links."""

from __future__ import annotations

from octopus_desktop.daemon.services.carriers import Carriers
from octopus_desktop.daemon.services.federations import Federations
from octopus_desktop.wire.pb import local_pb2 as pb


class FederationsApi:
    def __init__(self, federations: Federations, carriers: Carriers) -> None:
        self._federations, self._carriers = federations, carriers

    async def Inspect(self, request: pb.InspectRequest) -> pb.InvitationView:
        return self._federations.inspect(request.text)

    async def Enrol(self, request: pb.EnrolLocalRequest) -> pb.Federation:
        return await self._federations.enrol(
            request.text, request.name, request.contact, request.own_json, request.secret
        )

    async def Renew(self, request: pb.ById) -> pb.Federation:
        return await self._federations.renew(request.id)

    async def Leave(self, request: pb.ById) -> pb.Ack:
        await self._federations.leave(request.id)
        return pb.Ack()

    async def Check(self, request: pb.ById) -> pb.CheckReply:
        return await self._federations.check(request.id)

    async def ConfigureCarrier(self, request: pb.ConfigureCarrierRequest) -> pb.Federation:
        return await self._carriers.configure(request)

    async def EnrolRequestFile(self, request: pb.EnrolLocalRequest) -> pb.FileReply:
        return await self._federations.request_file(request.text, request.name, request.contact)

    async def EnrolFile(self, request: pb.EnrolFileLocalRequest) -> pb.Federation:
        return await self._federations.enrol_file(request.file)
