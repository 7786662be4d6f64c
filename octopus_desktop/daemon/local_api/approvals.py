"""``Approvals``: read what is asked, and decide."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from octopus_desktop.daemon.services.approvals import Approvals
from octopus_desktop.daemon.services.reviews import Reviews
from octopus_desktop.daemon.services.trials import Trials
from octopus_desktop.wire.pb import local_pb2 as pb


class ApprovalsApi:
    def __init__(self, approvals: Approvals, reviews: Reviews, trials: Trials) -> None:
        self._approvals, self._reviews, self._trials = approvals, reviews, trials

    async def Try(self, request: pb.TryRequest) -> AsyncIterator[pb.TryUpdate]:
        async with contextlib.aclosing(self._trials.run(request)) as updates:
            async for update in updates:
                yield update

    async def Review(self, request: pb.ById) -> pb.ReviewReply:
        return await self._reviews.review(request.id)

    async def ReadFile(self, request: pb.ReadFileRequest) -> pb.ReadFileReply:
        return await self._reviews.read_file(request.id, request.path)

    async def Decide(self, request: pb.DecideRequest) -> pb.SiloOffer:
        return await self._approvals.decide(request.id, request.decision)

    async def Note(self, request: pb.NoteRequest) -> pb.Ack:
        self._reviews.note(request.id, request.path, request.line, request.text)
        return pb.Ack()
