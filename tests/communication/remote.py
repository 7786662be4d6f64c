"""What holds over carriers whose two sides are apart, as tests. See ``conformance`` for how a carrier plugs in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.wires import CREDIT_BYTES
from tests.communication.conformance import CarrierConformance, eventually, running
from tests.communication.parts import ANSWER, MIB, Keys, Owner


class RemoteConformance(CarrierConformance):
    """What holds between two sides that trust each other by their keys alone.

    Attributes:
        seal_faults: codes that a silo sees whose key or federation is not the server's.
        silence_faults: codes that a silo sees where another server answers it.
    """

    seal_faults: tuple[str, ...] = ("OCT-LINK-SEAL",)
    silence_faults: tuple[str, ...] = ("OCT-LINK-DOWN",)

    async def test_a_server_killed_in_the_middle_of_a_blob_gets_the_rest_after_its_return(self, tmp_path: Path) -> None:
        size = 96 * MIB
        soon = {"heartbeat_s": 0.5, "silence_s": 5.0}
        async with self.wiring(tmp_path, **soon) as wiring:
            await wiring.server_end.stop(1)
            alpha = wiring.owner("alpha")
            ref = alpha.blob(size)
            sent = alpha.post(SERVER, kind=ANSWER, blobs=[ref])
            root = tmp_path / "killed"
            partial = root / "blobs" / "partial" / ref.digest
            peer = await wiring.peer(root)
            try:
                async with running(wiring, alpha, **soon) as silo:
                    await eventually(lambda: partial.exists() and partial.stat().st_size > size // 2)
                    await peer.kill()
                    assert partial.exists(), "it was killed in the middle"
                    await alpha.until(lambda: not alpha.is_up)
                    peer = await wiring.peer(root)
                    await alpha.until(lambda: alpha.open_count() == 0)
                    assert silo.end.state.bytes_resumed > size // 2 - CREDIT_BYTES
                    assert silo.end.state.bytes_out < size + self.lost_bytes, "only what was on the way went twice"
            finally:
                await peer.kill()
            stored = Owner(root, SERVER, wiring.keys)
            assert [e.id for _, e in stored.box("run-a").inbox()] == [sent.id]
            assert stored.store.size(ref.digest) == size

    async def test_a_dead_line_is_noticed_by_both_sides(self, tmp_path: Path) -> None:
        soon = {"heartbeat_s": 0.2, "silence_s": 1.0}
        async with self.wiring(tmp_path, **soon) as wiring, running(wiring, **soon) as silo:
            wiring.freeze(True)
            await silo.owner.until(lambda: silo.end.state.phase is not LinkPhase.UP)
            await wiring.server.until(lambda: not wiring.server.is_up)
            wiring.cut()
            wiring.freeze(False)
            sent = silo.owner.post(SERVER, kind=ANSWER)
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])

    async def test_a_large_blob_on_a_slow_line_does_not_delay_another_run(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            wiring.slow(8 * MIB)
            wiring.server.post("alpha", run="run-big", blobs=[wiring.server.blob(32 * MIB)])
            silo.owner.post(SERVER, run="run-big", kind=ANSWER, blobs=[silo.owner.blob(32 * MIB)])
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await eventually(lambda: min(silo.end.state.bytes_in, silo.end.state.bytes_out) > 3 * MIB)
            down = wiring.server.post("alpha", run="run-small")
            up = silo.owner.post(SERVER, run="run-small", kind=ANSWER)
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.accepted == [down.id])
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])
            # and the large ones are still on their way
            wiring.slow(0)

    async def test_an_idle_silo_hears_at_once(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            loop = asyncio.get_running_loop()
            times = []
            for _ in range(20):
                began = loop.time()
                sent = wiring.server.post("alpha")
                wiring.server_end.outbox_changed("alpha")
                await silo.owner.until(lambda sent=sent: sent.id in silo.owner.accepted)
                times.append(loop.time() - began)
            assert sorted(times)[10] < 0.1  # some ms; a poll would show

    async def test_a_server_of_another_federation_is_not_believed(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, keys=Keys(), wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None and silo.end.state.fault.code in self.silence_faults
                assert alpha.greeted == [] and wiring.server.greeted == []

    async def test_a_silo_with_a_key_that_was_never_enrolled_is_refused(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, keys=wiring.keys.impostor(), wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None and silo.end.state.fault.code in self.seal_faults
                assert alpha.greeted == [] and wiring.server.greeted == []

    async def test_a_revoked_silo_is_turned_away_at_the_door(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            wiring.keys.revoked.add("alpha")
            async with running(wiring, alpha, wait_up=False) as silo:
                await asyncio.wait_for(silo.task, 20)
                assert silo.end.state.phase is LinkPhase.REVOKED
                assert wiring.server.greeted == []

    async def test_another_protocol_version_says_who_should_update(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, protocol=99, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                fault = silo.end.state.fault
                assert fault is not None and fault.code == "OCT-LINK-PROTOCOL"
                assert "99" in fault.why and "Update" in fault.next_step


class NetworkConformance(RemoteConformance):
    """What holds over a TCP port that silos dial. The wiring also has ``proxy``, through which they do."""

    seal_faults = ("OCT-LINK-TLS", "OCT-LINK-DOWN")
    silence_faults = ("OCT-LINK-TLS",)

    async def test_a_silo_waits_for_a_server_that_is_away(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            wiring.proxy.refuse = True
            alpha = wiring.owner("alpha")
            sent = alpha.post(SERVER, kind=ANSWER)
            async with running(wiring, alpha, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None and silo.end.state.fault.code == "OCT-LINK-DOWN"
                wiring.proxy.refuse = False
                await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
