"""The silo "alpha" of the MQTT carrier in a process of its own: ``python -m tests.communication.mqtt_silo_peer ROOT``;
the broker is that of the offer in ROOT/offer.json, and its disk is a slow one."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from octopus_desktop.communication.mqtt import MqttSiloEnd
from octopus_desktop.communication.settings import MqttOffer, OwnSide, Secrets, offer
from tests.communication.brokers import USERS
from tests.communication.parts import Keys, Owner
from tests.communication.stores import SlowStore

NAME = "alpha"


async def live(root: Path) -> None:
    keys = Keys.load(root / "keys")
    owner = Owner(root, NAME, keys)
    owner.store = SlowStore(root / "blobs")
    offered = offer("mqtt", (root / "offer.json").read_text())
    assert isinstance(offered, MqttOffer)
    end = MqttSiloEnd(
        offer=offered,
        own=OwnSide(username=NAME),
        secrets=Secrets(password=USERS[NAME]),
        party=keys.silo_party(NAME),
        owner=owner,
        version="1",
        boot_id="c",
    )
    print("ready", flush=True)
    await end.run()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1])))
