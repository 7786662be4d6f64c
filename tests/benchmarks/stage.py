"""What a way needs around its processes: a broker, an object store, an MPI world. Real ones, on loopback."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from octopus_desktop.communication import broker
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.identity.authority import Authority

BROKERED = ("mqtt", "mqtt_s3", "paho")
STORED = ("mqtt_s3", "boto3")
FOLDER = "stage.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What the processes of one way are told.

    Attributes:
        silos: their names.
        port: a free one, for a rendezvous.
        offer: settings of an MQTT offer; ``store``: where the object store is, with its keys.
        passwords: at the broker.
        pids: processes around, by what they are.
    """

    silos: list[str]
    port: int
    offer: dict[str, Any] = field(default_factory=dict)
    store: dict[str, str] = field(default_factory=dict)
    passwords: dict[str, str] = field(default_factory=dict)
    pids: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def load(cls, root: Path) -> Stage:
        return cls(**json.loads((root / FOLDER).read_text()))


@contextmanager
def staged(way: str, root: Path, silos: Sequence[str]) -> Iterator[Stage]:
    """Everything that the way needs, up; and told to its processes in ROOT/stage.json."""
    with ExitStack() as stack:
        settings: dict[str, Any] = {}
        pids: dict[str, list[int]] = {}
        if way in BROKERED:
            offer, passwords, pid = stack.enter_context(_broker(root / "broker", silos))
            settings |= {"offer": offer, "passwords": passwords}
            pids["broker"] = [pid]
        if way in STORED:
            store = stack.enter_context(Seaweed(root / "store"))
            settings["store"] = {
                "endpoint": store.endpoint,
                "bucket": store.bucket,
                "key_id": store.key_id,
                "secret": store.secret,
            }
            pids["store"] = [store.pid]
        if way.startswith("mpi") and way != "mpi_send":
            pids["rank"] = stack.enter_context(_world(root, silos))
        stage = Stage(silos=list(silos), port=_free_port(), pids=pids, **settings)
        (root / FOLDER).write_text(json.dumps(asdict(stage)))
        yield stage


@contextmanager
def _broker(folder: Path, silos: Sequence[str]) -> Iterator[tuple[dict[str, Any], Mapping[str, str], int]]:
    authority, port = Authority.create("Broker's own CA"), _free_port()
    key, chain = authority.issue_server(["127.0.0.1"])
    passwords = {name: f"word of {name}" for name in (SERVER, *silos)}
    broker.prepare(folder, broker.BrokerPlan(port=port, users=passwords, key=key, chain=chain))
    pid = broker.start(folder)
    try:
        yield {"host": "127.0.0.1", "port": port, "ca_pem": authority.ca_pem.decode()}, passwords, pid
    finally:
        broker.stop(folder)


@contextmanager
def _world(root: Path, silos: Sequence[str]) -> Iterator[list[int]]:
    from tests.communication.mpi_worlds import RunningWorld

    world = RunningWorld(root, tuple(silos))
    try:
        world.until("world")
        yield list(world.pids.values())
        world.end()
    finally:
        world.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
