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
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.settings import MqttOffer, OwnSide, Secrets
from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import Authority
from tests.communication.parts import Owner
from tests.communication.peers import PeerProcess
from tests.communication.proxy import Proxy
from tests.communication.unruly import MessageWiring

USERS = {SERVER: "server's word", "alpha": "alpha's word", "beta": "beta's word", "spy": "spy's word"}
EVERYTHING = "\nuser spy\ntopic readwrite #\n"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_certificate(authority: Authority, hosts: Sequence[str], valid_s: float) -> tuple[bytes, bytes]:
    """Key and certificate, PEM, for exactly these names; a negative ``valid_s`` lies in the past."""
    key = certificates.new_key()
    certificate = certificates.build(
        issuer=certificates.load(authority.ca_pem).subject,
        issuer_key=certificates.key_from_pem(authority.key_pem),
        who=certificates.subject("broker", "server"),
        public=key.public_key(),
        valid_s=valid_s,
        server_hosts=list(hosts),
    )
    return certificates.key_to_pem(key), certificates.to_pem(certificate)


class Mosquitto:
    """One broker in a folder of its own, with TLS, users and rights; "spy" may read and write everything."""

    def __init__(
        self,
        folder: Path,
        *,
        tls: bool = True,
        hosts: Sequence[str] = ("127.0.0.1", "localhost"),
        valid_s: float = 3600.0,
        extra: Sequence[str] = (),
    ) -> None:
        self.folder, self.port = folder, free_port()
        self.authority = Authority.create("Broker's own CA")
        key, chain = server_certificate(self.authority, hosts, valid_s) if tls else (b"", b"")
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

    def allow(self, *lines: str) -> None:
        """Replace everybody's rights; for a broker that was not started."""
        (self.folder / "acl").write_text("\n".join([*lines, EVERYTHING]))

    def drop(self, setting: str) -> None:
        """Take a line out of mosquitto.conf; for a broker that was not started."""
        conf = self.folder / "mosquitto.conf"
        conf.write_text("".join(line for line in conf.read_text().splitlines(True) if not line.startswith(setting)))

    def wire(self, name: str, *, packet_bytes: int = 1 << 20, **address: Any) -> MqttWire:
        """The wire of the server, or of a silo, in a federation of no further members."""
        return MqttWire(
            self.address(address.pop("user", name), **address),
            topics="octopus",
            federation="c0ff ee00",
            name=name,
            packet_bytes=packet_bytes,
        )


class MqttWiring(MessageWiring):
    """One server and its silos at one broker. Silos dial through ``proxy``."""

    def __init__(self, root: Path, mosquitto: Mosquitto, proxy: Proxy) -> None:
        super().__init__(root)
        self.mosquitto, self.proxy = mosquitto, proxy
        proxy.target = mosquitto.port

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MqttServerEnd:
        secrets = Secrets(password=USERS[SERVER])
        return MqttServerEnd(
            offer=self.mosquitto.offer(), username=SERVER, secrets=secrets, party=party, owner=owner, **options
        )

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MqttSiloEnd:
        end = MqttSiloEnd(
            offer=self.mosquitto.offer(port=self.proxy.port),
            own=OwnSide(username=owner.name),
            secrets=Secrets(password=USERS[owner.name]),
            party=party,
            owner=owner,
            **options,
        )
        assert isinstance(end.wire, MqttWire)
        end.wire.presence_s = 2.0  # no test waits longer for a server that does not come
        return end

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        (root / "offer.json").write_text(self.mosquitto.offer().to_json())
        return await PeerProcess.start("tests.communication.mqtt_peer", root, self.keys)

    def cut(self) -> None:
        self.proxy.cut()


@asynccontextmanager
async def mqtt_wiring(root: Path, **options: Any) -> AsyncIterator[MqttWiring]:
    async with Mosquitto(root / "broker") as mosquitto, Proxy(0) as proxy:
        wiring = MqttWiring(root, mosquitto, proxy)
        await wiring.start(**options)
        try:
            yield wiring
        finally:
            await wiring.stop()
