"""The MQTT carrier: the message link over a broker. Thin; wire, sealing and sessions are elsewhere."""

from __future__ import annotations

from typing import Any

from octopus_desktop.communication.contract import SERVER, MailOwner
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.mqtt_tls import BrokerAddress
from octopus_desktop.communication.mqtt_wire import MqttWire
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.settings import MqttOffer, OwnSide, Secrets


class MqttSiloEnd(MessageSiloEnd):
    """The silo's end. ``own``: proxy, CA file and user name; ``secrets.password``: at the broker; ``options``: see
    ``MessageSiloEnd``."""

    def __init__(
        self, *, offer: MqttOffer, own: OwnSide, secrets: Secrets, party: SiloParty, owner: MailOwner, **options: Any
    ) -> None:
        super().__init__(wire=silo_wire(offer, own, secrets, party), party=party, owner=owner, **options)


class MqttServerEnd(MessageServerEnd):
    """The server's end. ``username`` and ``secrets.password``: at the broker; ``options``: see ``MessageServerEnd``."""

    def __init__(
        self, *, offer: MqttOffer, username: str, secrets: Secrets, party: ServerParty, owner: MailOwner, **options: Any
    ) -> None:
        super().__init__(wire=server_wire(offer, username, secrets, party), party=party, owner=owner, **options)


def silo_wire(offer: MqttOffer, own: OwnSide, secrets: Secrets, party: SiloParty) -> MqttWire:
    broker = _address(offer, own.username, secrets, ca_file=own.ca_file, proxy=own.proxy)
    return _wire(offer, broker, party.federation, party.name)


def server_wire(offer: MqttOffer, username: str, secrets: Secrets, party: ServerParty) -> MqttWire:
    return _wire(offer, _address(offer, username, secrets), party.federation, SERVER)


def _address(offer: MqttOffer, username: str, secrets: Secrets, *, ca_file: str = "", proxy: str = "") -> BrokerAddress:
    return BrokerAddress(
        host=offer.host,
        port=offer.port,
        tls=offer.tls,
        ca_pem=offer.ca_pem,
        ca_file=ca_file,
        proxy=proxy,
        username=username,
        password=secrets.password,
    )


def _wire(offer: MqttOffer, broker: BrokerAddress, federation: str, name: str) -> MqttWire:
    return MqttWire(broker, topics=offer.topics, federation=federation, name=name, packet_bytes=offer.packet_bytes)
