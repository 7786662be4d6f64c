"""``Datasets``: what jobs may ask for."""

from __future__ import annotations

from octopus_desktop.daemon.services.datasets import Datasets
from octopus_desktop.daemon.services.places import Places
from octopus_desktop.wire.pb import local_pb2 as pb


class DatasetsApi:
    def __init__(self, datasets: Datasets, places: Places) -> None:
        self._datasets, self._places = datasets, places

    async def Probe(self, request: pb.ProbeRequest) -> pb.Dataset:
        return await self._datasets.probe(request.path, request.kind)

    async def Register(self, request: pb.RegisterDatasetRequest) -> pb.Dataset:
        return await self._datasets.register(request.alias, request.path, request.kind, request.description)

    async def Check(self, request: pb.ById) -> pb.Dataset:
        await self._datasets.check(request.id)
        return await self._places.check("dataset", request.id)

    async def Relocate(self, request: pb.RelocateRequest) -> pb.Dataset:
        await self._datasets.relocate(request.id, request.path)
        return await self._places.check("dataset", request.id)

    async def Place(self, request: pb.PlaceRequest) -> pb.Dataset:
        return await self._places.put("dataset", request.id, request.node, request.path)

    async def Remove(self, request: pb.ById) -> pb.Ack:
        self._datasets.remove(request.id)
        return pb.Ack()
