"""The MQTT+S3 carrier against the contract, through a real mosquitto and a real SeaweedFS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mqtt_s3 import MqttS3ServerEnd, MqttS3SiloEnd
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.settings import MIB, MqttS3Offer, OwnSide, Secrets
from tests.communication.brokers import USERS, Mosquitto
from tests.communication.conformance import CarrierConformance
from tests.communication.parts import Keys, Owner
from tests.communication.proxy import Proxy


class MqttS3Wiring:
    """One server and its silos at one broker and one bucket. Silos reach the broker through ``proxy``, and all reach
    the store through ``line``."""

    def __init__(
        self, root: Path, mosquitto: Mosquitto, seaweed: Seaweed, proxy: Proxy, line: Proxy, **options: Any
    ) -> None:
        self.root, self.mosquitto, self.seaweed, self.proxy, self.line = root, mosquitto, seaweed, proxy, line
        self.keys = Keys()
        proxy.target = mosquitto.port
        line.target = int(seaweed.endpoint.rpartition(":")[2])
        self.server = Owner(root / "server", SERVER, self.keys)
        self.server_end = MqttS3ServerEnd(
            offer=self.offer(mosquitto.port),
            username=SERVER,
            store_key_id=seaweed.key_id,
            secrets=Secrets(password=USERS[SERVER], store_secret=seaweed.secret),
            party=self.keys.server_party(),
            owner=self.server,
            version="1",
            boot_id="s",
            **options,
        )

    def offer(self, port: int) -> MqttS3Offer:
        broker = self.mosquitto.offer(port=port)
        return MqttS3Offer(
            host=broker.host,
            port=broker.port,
            tls=broker.tls,
            ca_pem=broker.ca_pem,
            endpoint=f"http://127.0.0.1:{self.line.port}",
            bucket=self.seaweed.bucket,
            prefix=f"octopus/{self.root.name}/",
            part_bytes=8 * MIB,
        )

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, *, keys: Keys | None = None, port: int = 0, **options: Any) -> MqttS3SiloEnd:
        return MqttS3SiloEnd(
            offer=self.offer(port or self.proxy.port),
            own=OwnSide(username=owner.name),
            secrets=Secrets(password=USERS[owner.name]),
            party=(keys or self.keys).silo_party(owner.name),
            owner=owner,
            version="1",
            boot_id="c",
            **options,
        )

    def cut(self) -> None:
        self.proxy.cut()
        self.line.cut()


class TestMqttS3(CarrierConformance):
    @pytest.fixture(autouse=True)
    def store(self, seaweed: Seaweed) -> None:
        self.seaweed = seaweed

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MqttS3Wiring]:
        async with Mosquitto(tmp_path / "broker") as mosquitto, Proxy(0) as proxy, Proxy(0) as line:
            wiring = MqttS3Wiring(tmp_path, mosquitto, self.seaweed, proxy, line, **options)
            await wiring.server_end.start()
            try:
                yield wiring
            finally:
                await wiring.server_end.stop(1)
