"""The processes that ``measure.Peers`` runs: ``python -m tests.benchmarks.peers WAY server|silo ROOT NAME [PORT]``.

See ``words`` for what they hear and say, ``bare`` for the floors. Carriers are here, with real mailboxes and stores.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc.aio

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, server_credentials
from octopus_desktop.communication.settings import MpiOffer, MqttOffer, MqttS3Offer, OwnSide, Secrets, TorchRpcOffer
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from tests.benchmarks.stage import Stage
from tests.benchmarks.words import InLoop, obey, say
from tests.communication.parts import ANSWER, Keys, Owner, authenticate

PATIENCE_S = 900.0
CLEAR = "-clear"  # of a way's name: blob bytes pass unsealed


class Carrier(InLoop):
    """One end of a carrier. A silo answers a model with an update that was prepared before: as many bytes, others."""

    def __init__(self, way: str, role: str, keys: Keys, root: Path, name: str, port: int, stage: Stage) -> None:
        super().__init__()
        self.role, self.keys, self.port, self.stage, self.root = role, keys, port, stage, root
        self.carrier, self.clear = way.removesuffix(CLEAR), way.endswith(CLEAR)
        self.owner = Owner(root / name, name, keys)
        self.moved = 0
        self.run(self._start())

    async def _start(self) -> None:
        common = {"owner": self.owner, "version": "1", "boot_id": self.owner.name}
        if self.role == "server":
            self.end: Any = await self._server_end(common)
            await self.end.start()
            say(port=self.port)
            return
        self.end = self._silo_end(common)
        self.owner.before_accept = self._answer
        self.task = asyncio.create_task(self.end.run())
        await self.owner.until(lambda: self.owner.is_up, patience_s=60)
        say(up=True)

    async def _server_end(self, common: dict[str, Any]) -> Any:
        stage = self.stage
        if self.carrier == "grpc":
            self.server = grpc.aio.server(options=SERVER_OPTIONS)
            end = GrpcServerEnd(server=self.server, authenticate=authenticate, **common)
            self.port = self.server.add_secure_port("127.0.0.1:0", server_credentials(**self.keys.server_pems()))
            await self.server.start()
            return end
        common = {**common, "party": self.keys.server_party()}
        if self.carrier == "mqtt":
            from octopus_desktop.communication.mqtt import MqttServerEnd

            return MqttServerEnd(offer=MqttOffer(**stage.offer), username=SERVER, secrets=self._secrets(), **common)
        if self.carrier == "mqtt_s3":
            from octopus_desktop.communication.mqtt_s3 import MqttS3ServerEnd

            key_id = stage.store["key_id"]
            return MqttS3ServerEnd(
                offer=self._s3(), username=SERVER, store_key_id=key_id, secrets=self._secrets(), **common
            )
        if self.carrier == "torch_rpc":
            from octopus_desktop.communication.torch_rpc import TorchRpcServerEnd

            return TorchRpcServerEnd(offer=self._rpc(), run_dir=self.root, **common)
        from octopus_desktop.communication.mpi import MpiServerEnd

        return MpiServerEnd(offer=MpiOffer(sealed=not self.clear), run_dir=self.root / SERVER, **common)

    def _silo_end(self, common: dict[str, Any]) -> Any:
        name, stage = self.owner.name, self.stage
        if self.carrier == "grpc":
            return GrpcSiloEnd(address=f"127.0.0.1:{self.port}", credentials=self.keys.silo(name), **common)
        own = OwnSide(username=name, accept_unsealed=self.clear)
        common = {**common, "party": self.keys.silo_party(name), "own": own}
        if self.carrier == "mqtt":
            from octopus_desktop.communication.mqtt import MqttSiloEnd

            return MqttSiloEnd(offer=MqttOffer(**stage.offer), secrets=self._secrets(), **common)
        if self.carrier == "mqtt_s3":
            from octopus_desktop.communication.mqtt_s3 import MqttS3SiloEnd

            return MqttS3SiloEnd(offer=self._s3(), secrets=self._secrets(), **common)
        if self.carrier == "torch_rpc":
            from octopus_desktop.communication.torch_rpc import TorchRpcSiloEnd

            return TorchRpcSiloEnd(offer=self._rpc(), run_dir=self.root, **common)
        from octopus_desktop.communication.mpi import MpiSiloEnd

        return MpiSiloEnd(offer=MpiOffer(sealed=not self.clear), run_dir=self.root / name, **common)

    def _secrets(self) -> Secrets:
        """A silo has no credentials at the store: the server signs its URLs."""
        store_secret = self.stage.store.get("secret", "") if self.role == "server" else ""
        return Secrets(password=self.stage.passwords[self.owner.name], store_secret=store_secret)

    def _s3(self) -> MqttS3Offer:
        store = self.stage.store
        return MqttS3Offer(**self.stage.offer, endpoint=store["endpoint"], bucket=store["bucket"])

    def _rpc(self) -> TorchRpcOffer:
        networks = ("127.0.0.0/8",)
        return TorchRpcOffer(host="127.0.0.1", port=self.stage.port, networks=networks, sealed=not self.clear)

    def _answer(self, envelope: Envelope) -> None:
        self.owner.post(SERVER, kind=ANSWER, blobs=[self.ref])
        self.end.outbox_changed()

    def prepare(self, size: int, silos: int) -> None:
        self.silos = silos
        old = list(self.owner.store.digests())
        self.ref = self.owner.blob(size)
        for digest in old:  # as in a run: what an earlier round left makes room, memory among it, for this one
            self.owner.store.remove(digest)
        self.accepted = len(self.owner.accepted) + (silos if self.role == "server" else 1)

    def go(self) -> int:
        before = self._bytes()
        self.run(self._go())
        return self._bytes() - before

    def _bytes(self) -> int:
        """That silos sent and got: each link's once."""
        return 0 if self.role == "server" else self.end.state.bytes_in + self.end.state.bytes_out

    async def _go(self) -> None:
        if self.role == "server":
            for name in self.stage.silos:
                self.owner.post(name, blobs=[self.ref])
                self.end.outbox_changed(name)
        await self.owner.until(lambda: len(self.owner.accepted) >= self.accepted, patience_s=PATIENCE_S)
        await self.owner.until(lambda: self.owner.open_count() == 0, patience_s=PATIENCE_S)


def main() -> None:
    from tests.benchmarks import bare

    floors = {
        "tls": bare.Tls,
        "grpc-sync": bare.GrpcSync,
        "grpc-aio": bare.GrpcAio,
        "paho": bare.Paho,
        "boto3": bare.Boto,
        "rpc_sync": bare.RpcSync,
    }
    way, role, folder, name, *port = sys.argv[1:]
    root = Path(folder)
    told = (role, Keys.load(root / "keys"), root, name, int(port[0]) if port else 0, Stage.load(root))
    obey(floors[way](*told) if way in floors else Carrier(way, *told))


if __name__ == "__main__":
    main()
