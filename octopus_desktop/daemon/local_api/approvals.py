"""``Approvals``: read what is asked, and decide."""

from __future__ import annotations

from octopus_desktop.daemon.services.approvals import Approvals
from octopus_desktop.daemon.services.reviews import Reviews
from octopus_desktop.wire.pb import local_pb2 as pb


class ApprovalsApi:
    def __init__(self, approvals: Approvals, reviews: Reviews) -> None:
        self._approvals, self._reviews = approvals, reviews

    async def Review(self, request: pb.ById) -> pb.ReviewReply:
        return await self._reviews.review(request.id)

    async def ReadFile(self, request: pb.ReadFileRequest) -> pb.ReadFileReply:
        return await self._reviews.read_file(request.id, request.path)

    async def Decide(self, request: pb.DecideRequest) -> pb.SiloOffer:
        return await self._approvals.decide(request.id, request.decision)

    async def Note(self, request: pb.NoteRequest) -> pb.Ack:
        self._reviews.note(request.id, request.path, request.line, request.text)
        return pb.Ack()
