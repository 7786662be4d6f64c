"""The MQTT carrier against the contract, through a real mosquitto with TLS, users and rights."""

from __future__ import annotations

import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.mqtt_connection import Connection
from octopus_desktop.communication.wires import CREDIT_BYTES
from tests.communication.brokers import MqttWiring, mqtt_wiring
from tests.communication.conformance import eventually, running
from tests.communication.parts import ANSWER, MIB, PROGRESS, Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance


class TestMqtt(RemoteConformance):
    def wiring(self, tmp_path: Path, **options: Any) -> AbstractAsyncContextManager[MqttWiring]:
        return mqtt_wiring(tmp_path, **options)

    async def test_a_killed_broker_that_returns_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            down = [wiring.server.post("alpha", run=f"run-{i}", blobs=[wiring.server.blob(8 * MIB)]) for i in range(4)]
            up = [silo.owner.post(SERVER, run=f"run-{i}", kind=ANSWER, blobs=[silo.owner.blob(8 * MIB)])
                  for i in range(4)]  # fmt: skip
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await eventually(lambda: min(silo.end.state.bytes_in, silo.end.state.bytes_out) > 4 * MIB)
            await wiring.mosquitto.stop(signal.SIGKILL)
            await silo.owner.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
            fault = silo.end.state.fault
            assert fault is not None and fault.code == "OCT-BROKER-DOWN"
            await eventually(lambda: any(s.peer == SERVER and s.fault for s in wiring.server_end.states()))
            shown = next(s for s in wiring.server_end.states() if s.peer == SERVER)
            assert shown.fault is not None and shown.fault.code == "OCT-BROKER-DOWN"
            await wiring.mosquitto.start()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            await wiring.server.until(lambda: wiring.server.open_count() == 0)
            assert sorted(silo.owner.accepted) == sorted(e.id for e in down), "each exactly once"
            assert sorted(wiring.server.accepted) == sorted(e.id for e in up)

    async def test_a_silo_killed_in_the_middle_of_a_blob_gets_the_rest_after_its_return(self, tmp_path: Path) -> None:
        size = 96 * MIB
        async with self.wiring(tmp_path) as wiring:
            wiring.keys.silo("alpha")
            root = tmp_path / "silo"
            root.mkdir()
            (root / "offer.json").write_text(wiring.mosquitto.offer().to_json())
            ref = wiring.server.blob(size)
            sent = wiring.server.post("alpha", blobs=[ref])
            partial = root / "blobs" / "partial" / ref.digest
            silo = await PeerProcess.start("tests.communication.mqtt_silo_peer", root, wiring.keys)
            try:
                await eventually(lambda: partial.exists() and partial.stat().st_size > size // 2)
                await silo.kill()
                assert partial.exists(), "it was killed in the middle"
                await wiring.server.until(lambda: not wiring.server.is_up)  # by its last will
                silo = await PeerProcess.start("tests.communication.mqtt_silo_peer", root, wiring.keys)
                await wiring.server.until(lambda: wiring.server.open_count() == 0)
                state = wiring.server_end.states()[0]
                assert state.bytes_resumed > size // 2 - CREDIT_BYTES
                assert state.bytes_out < size + self.lost_bytes
            finally:
                await silo.kill()
            stored = Owner(root, "alpha", wiring.keys)
            assert [e.id for _, e in stored.box("run-a").inbox()] == [sent.id]

    async def test_the_broker_sees_sizes_and_no_content(self, tmp_path: Path) -> None:
        seen: list[tuple[str, bytes]] = []
        async with self.wiring(tmp_path) as wiring:
            spy = Connection(
                wiring.mosquitto.address("spy"),
                "spy",
                receive=lambda topic, payload, kept: seen.append((topic, payload)),
                unheard=lambda topic: None,
                broke=lambda error, mute: None,
                receive_most=64,
            )
            await spy.open(["#"])
            async with running(wiring) as silo:
                secret = b"the whole of a body: heart-disease, accuracy 0.8125"
                blob = wiring.server.blob(2 * MIB)
                bytes_of_blob = wiring.server.store.path(blob.digest).read_bytes()
                down = wiring.server.post("alpha", run="run-cardiology", body=secret, blobs=[blob])
                wiring.server_end.outbox_changed("alpha")
                await silo.owner.until(lambda: silo.owner.accepted == [down.id])
                silo.end.send_live(silo.owner.envelope(SERVER, run="run-cardiology", kind=PROGRESS, body=secret))
                up = silo.owner.post(SERVER, run="run-cardiology", kind=ANSWER, body=secret, blobs=[blob])
                silo.end.outbox_changed()
                await wiring.server.until(lambda: wiring.server.accepted == [up.id])
                await wiring.server.until(lambda: bool(wiring.server.heard_live))
            left = next(topic for topic, _ in seen if topic.endswith("alive/alpha")), b""
            await eventually(lambda: left in seen)
            await spy.close()
        passed = b"".join(payload for _, payload in seen)
        assert len(passed) > 2 * MIB and {topic.split("/")[2] for topic, _ in seen} == {"up", "down", "alive"}
        for word in (secret, b"accuracy", b"0.8125", b"cardiology", blob.digest.encode(), down.id.encode()):
            assert word not in passed
        for at in range(0, len(bytes_of_blob) - 16, 65_536):
            assert bytes_of_blob[at : at + 16] not in passed
