"""A server of the MQTT carrier in a process of its own: ``python -m tests.communication.mqtt_peer ROOT``; the broker is
that of the offer in ROOT/offer.json."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mqtt import MqttServerEnd
from octopus_desktop.communication.settings import MqttOffer, Secrets, offer
from tests.communication.brokers import USERS
from tests.communication.peers import peer_owner


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    offered = offer("mqtt", (root / "offer.json").read_text())
    assert isinstance(offered, MqttOffer)
    end = MqttServerEnd(
        offer=offered,
        username=SERVER,
        secrets=Secrets(password=USERS[SERVER]),
        party=keys.server_party(),
        owner=owner,
        version="1",
        boot_id="s",
    )
    await end.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
