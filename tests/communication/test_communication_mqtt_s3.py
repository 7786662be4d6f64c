"""The MQTT+S3 carrier against the contract, through a real mosquitto and a real SeaweedFS."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.mqtt_s3 import MqttS3ServerEnd, MqttS3SiloEnd
from octopus_desktop.communication.mqtt_wire import MqttWire
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.settings import MIB, MqttS3Offer, OwnSide, Secrets
from octopus_desktop.communication.store_transfer import PARTS_UNDER_WAY
from tests.communication.brokers import USERS, Mosquitto, MqttWiring
from tests.communication.conformance import running
from tests.communication.mischief import Mischief
from tests.communication.parts import ANSWER, Keys, Owner
from tests.communication.peers import PeerProcess
from tests.communication.proxy import Proxy
from tests.communication.remote import RemoteConformance

PART_BYTES = 5 * MIB


class MqttS3Wiring(MqttWiring):
    """One server and its silos at one broker and one bucket. Silos reach the broker through ``proxy``, and all reach
    the store through ``line``."""

    def __init__(self, root: Path, mosquitto: Mosquitto, seaweed: Seaweed, proxy: Proxy, line: Proxy) -> None:
        super().__init__(root, mosquitto, proxy)
        self.seaweed, self.line = seaweed, line
        line.target = int(seaweed.endpoint.rpartition(":")[2])

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
            part_bytes=PART_BYTES,
        )

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MqttS3ServerEnd:
        return MqttS3ServerEnd(
            offer=self.offer(self.mosquitto.port),
            username=SERVER,
            store_key_id=self.seaweed.key_id,
            secrets=Secrets(password=USERS[SERVER], store_secret=self.seaweed.secret),
            party=party,
            owner=owner,
            **options,
        )

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MqttS3SiloEnd:
        end = MqttS3SiloEnd(
            offer=self.offer(self.proxy.port),
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
        self.lay_down(root, self.mosquitto.port)
        return await PeerProcess.start("tests.communication.mqtt_s3_peer", root, self.keys)

    def lay_down(self, root: Path, port: int) -> None:
        root.mkdir(exist_ok=True)
        (root / "offer.json").write_text(self.offer(port).to_json())
        (root / "store.json").write_text(json.dumps([self.seaweed.key_id, self.seaweed.secret]))
        self.keys.save(root / "keys")

    def cut(self) -> None:
        self.proxy.cut()
        self.line.cut()

    def disturb(self, mischief: Mischief | None) -> None:
        super().disturb(mischief)
        if mischief is None or mischief.kind == "corrupt":  # the rest is TCP's to mend
            self.line.mischief = mischief

    def freeze(self, frozen: bool) -> None:
        super().freeze(frozen)
        self.line.frozen = frozen

    def slow(self, rate: int) -> None:
        super().slow(rate)
        self.line.rate = rate // 3  # of each connection, and there are several at once


class TestMqttS3(RemoteConformance):
    @pytest.fixture(autouse=True)
    def store(self, seaweed: Seaweed) -> None:
        self.seaweed = seaweed

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MqttS3Wiring]:
        async with Mosquitto(tmp_path / "broker") as mosquitto, Proxy(0) as proxy, Proxy(0) as line:
            wiring = MqttS3Wiring(tmp_path, mosquitto, self.seaweed, proxy, line)
            await wiring.start(**options)
            try:
                yield wiring
            finally:
                await wiring.stop()

    async def test_while_the_store_is_away_mail_goes_on_and_blobs_wait_and_follow_by_themselves(
        self, tmp_path: Path
    ) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            wiring.line.refuse = True
            down = wiring.server.post("alpha", run="run-big", blobs=[wiring.server.blob(MIB)])
            up = silo.owner.post(SERVER, run="run-big", kind=ANSWER, blobs=[silo.owner.blob(MIB)])
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            for owner in (wiring.server, silo.owner):
                await owner.until(
                    lambda owner=owner: any(s.fault and s.fault.code == "OCT-STORE-DOWN" for s in owner.states)
                )
            small = wiring.server.post("alpha", run="run-small")
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: silo.owner.accepted == [small.id])
            assert silo.end.state.phase is LinkPhase.UP, "the link itself is well"
            wiring.line.refuse = False
            await silo.owner.until(lambda: silo.owner.accepted == [small.id, down.id])
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])

    async def test_a_silo_killed_in_the_middle_of_an_upload_goes_on_with_it(self, tmp_path: Path) -> None:
        size = 64 * MIB
        async with self.wiring(tmp_path) as wiring:
            wiring.keys.silo("alpha")
            root = tmp_path / "killed"
            wiring.lay_down(root, wiring.proxy.port)
            alpha = Owner(root, "alpha", Keys.load(root / "keys"))
            sent = alpha.post(SERVER, kind=ANSWER, blobs=[ref := alpha.blob(size)])
            wiring.line.rate = 10 * MIB
            first = await _silo(root)
            await wiring.line.passed(up=size // 2)
            first.kill()
            await asyncio.to_thread(first.communicate)
            assert wiring.server.accepted == []
            wiring.line.rate = 0
            second = await _silo(root)
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
            told = json.loads((await asyncio.to_thread(second.communicate))[0])
            assert wiring.server.store.size(ref.digest) == size
            assert told["resumed"] > 0 and told["resumed"] % MIB < 64 * 16, "whole parts"
            beside = MIB  # mail and the seals
            assert size <= told["out"] + told["resumed"] < size + beside
            assert told["out"] < size // 2 + (PARTS_UNDER_WAY + 1) * (PART_BYTES + MIB) + beside


async def _silo(root: Path) -> subprocess.Popen[str]:
    """A silo in a process of its own, which sends what is posted below ``root``."""
    return await asyncio.to_thread(_start_silo, root)


def _start_silo(root: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.communication.mqtt_s3_peer", str(root), "alpha"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process
