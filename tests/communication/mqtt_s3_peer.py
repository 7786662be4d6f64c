"""One end of the MQTT+S3 carrier in a process of its own, which a test may kill.

``python -m tests.communication.mqtt_s3_peer ROOT`` is a server, ``… ROOT SILO`` a silo that sends what is posted below
ROOT and then prints its state. ROOT/offer.json and ROOT/store.json say where broker and store are.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mqtt_s3 import MqttS3ServerEnd, MqttS3SiloEnd
from octopus_desktop.communication.settings import MqttS3Offer, OwnSide, Secrets, offer
from tests.communication.brokers import USERS
from tests.communication.parts import Keys, Owner
from tests.communication.peers import peer_owner


def offered(root: Path) -> MqttS3Offer:
    found = offer("mqtt_s3", (root / "offer.json").read_text())
    assert isinstance(found, MqttS3Offer)
    return found


async def serve(root: Path) -> None:
    keys, owner = peer_owner(root)
    key_id, secret = json.loads((root / "store.json").read_text())
    end = MqttS3ServerEnd(
        offer=offered(root),
        username=SERVER,
        store_key_id=key_id,
        secrets=Secrets(password=USERS[SERVER], store_secret=secret),
        party=keys.server_party(),
        owner=owner,
        version="1",
        boot_id="s",
    )
    await end.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def send(root: Path, name: str) -> None:
    keys = Keys.load(root / "keys")
    owner = Owner(root, name, keys)
    end = MqttS3SiloEnd(
        offer=offered(root),
        own=OwnSide(username=name),
        secrets=Secrets(password=USERS[name]),
        party=keys.silo_party(name),
        owner=owner,
        version="1",
        boot_id="c",
    )
    print("ready", flush=True)
    running = asyncio.create_task(end.run())
    await owner.until(lambda: owner.is_up and owner.open_count() == 0)
    print(json.dumps({"out": end.state.bytes_out, "resumed": end.state.bytes_resumed}), flush=True)
    running.cancel()
    await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(send(Path(sys.argv[1]), sys.argv[2]) if len(sys.argv) > 2 else serve(Path(sys.argv[1])))
