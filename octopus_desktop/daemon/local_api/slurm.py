"""``Slurm``: parts of the site's cluster that jobs may train on."""

from __future__ import annotations

from collections.abc import Callable

from octopus_desktop.daemon.services.slurm import Slurm
from octopus_desktop.wire.pb import local_pb2 as pb


class SlurmApi:
    def __init__(self, slurm: Slurm, in_use: Callable[[str], bool]) -> None:
        self._slurm, self._in_use = slurm, in_use

    async def Put(self, request: pb.SlurmProfile) -> pb.SlurmProfile:
        return await self._slurm.put(request)

    async def Check(self, request: pb.ById) -> pb.SlurmProfile:
        return await self._slurm.check(request.id)

    async def Remove(self, request: pb.ById) -> pb.Ack:
        self._slurm.remove(request.id, self._in_use(request.id))
        return pb.Ack()
