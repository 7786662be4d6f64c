"""Real mosquittos for tests, and ends that talk through them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from octopus_desktop.communication import broker
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mqtt import MqttServerEnd, MqttSiloEnd
from octopus_desktop.communication.mqtt_tls import BrokerAddress
from octopus_desktop.communication.mqtt_wire import MqttWire
from octopus_desktop.communication.settings import MqttOffer, OwnSide, Secrets
from octopus_desktop.identity.authority import Authority
from tests.communication.parts import Keys, Owner
from tests.communication.proxy import Proxy

USERS = {SERVER: "server's word", "alpha": "alpha's word", "beta": "beta's word", "spy": "spy's word"}
EVERYTHING = "\nuser spy\ntopic readwrite #\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker in a folder of its own, with TLS, users and rights; "spy" may read and write everything."""

    def __init__(self, folder: Path, *, tls: bool = True, extra: Sequence[str] = ()) -> None:
        self.folder, self.port = folder, free_port()
        self.authority = Authority.create("Broker's own CA")
        key, chain = self.authority.issue_server(["127.0.0.1"]) if tls else (b"", b"")
        self.plan = broker.BrokerPlan(port=self.port, users=USERS, key=key, chain=chain, extra=tuple(extra))
        broker.prepare(folder, self.plan)
        with (folder / "acl").open("a") as file:
            file.write(EVERYTHING)

    async def start(self) -> None:
        await asyncio.to_thread(broker.start, self.folder)

    async def stop(self, how: int = 15) -> None:
        await asyncio.to_thread(broker.stop, self.folder, how)

    async def __aenter__(self) -> Mosquitto:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def offer(self, **changes: Any) -> MqttOffer:
        ca_pem = self.authority.ca_pem.decode() if self.plan.chain else ""
        settings = {"host": "127.0.0.1", "port": self.port, "tls": bool(self.plan.chain), "ca_pem": ca_pem, **changes}
        return MqttOffer(**settings)

    def address(self, user: str, **changes: Any) -> BrokerAddress:
        offer = self.offer()
        settings = {
            "host": offer.host,
            "port": offer.port,
            "tls": offer.tls,
            "ca_pem": offer.ca_pem,
            "username": user,
            "password": USERS.get(user, ""),
            **changes,
        }
        return BrokerAddress(**settings)

    def wire(self, name: str, *, presence_s: float = 10.0, packet_bytes: int = 1 << 20, **address: Any) -> MqttWire:
        """The wire of the server, or of a silo, in a federation of no further members."""
        return MqttWire(
            self.address(address.pop("user", name), **address),
            topics="octopus",
            federation="c0ff ee00",
            name=name,
            packet_bytes=packet_bytes,
            presence_s=presence_s,
        )


class MqttWiring:
    """One server and its silos at one broker. Silos dial through ``proxy``."""

    def __init__(self, root: Path, mosquitto: Mosquitto, proxy: Proxy, **options: Any) -> None:
        self.root, self.mosquitto, self.proxy = root, mosquitto, proxy
        self.keys = Keys()
        proxy.target = mosquitto.port
        self.server = Owner(root / "server", SERVER, self.keys)
        self.server_end = MqttServerEnd(
            offer=mosquitto.offer(),
            username=SERVER,
            secrets=Secrets(password=USERS[SERVER]),
            party=self.keys.server_party(),
            owner=self.server,
            version="1",
            boot_id="s",
            **options,
        )

    def owner(self, name: str) -> Owner:
        self.keys.silo(name)
        return Owner(self.root / name, name, self.keys)

    def silo_end(self, owner: Owner, *, keys: Keys | None = None, port: int = 0, **options: Any) -> MqttSiloEnd:
        return MqttSiloEnd(
            offer=self.mosquitto.offer(port=port or self.proxy.port),
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


@asynccontextmanager
async def mqtt_wiring(root: Path, **options: Any) -> AsyncIterator[MqttWiring]:
    async with Mosquitto(root / "broker") as mosquitto, Proxy(0) as proxy:
        wiring = MqttWiring(root, mosquitto, proxy, **options)
        await wiring.server_end.start()
        try:
            yield wiring
        finally:
            await wiring.server_end.stop(1)
