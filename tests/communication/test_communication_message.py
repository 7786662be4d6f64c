"""The message link against the contract, over a wire in memory: what MQTT, PyTorch RPC and MPI stand on."""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import message_silo, sealing
from octopus_desktop.communication.contract import PROTOCOL, SERVER, SILENCE_S, LinkPhase, LinkState
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.sealing import Dialling
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError
from tests.communication.conformance import eventually, fail_once, running
from tests.communication.mischief import Mischief
from tests.communication.parts import ANSWER, MIB, Keys, Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance
from tests.communication.unruly import MessageWiring
from tests.communication.wires import Hub


class HubWiring(MessageWiring):
    def __init__(self, root: Path, hub: Hub | None = None) -> None:
        super().__init__(root)
        self.hub = hub or Hub()

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MessageServerEnd:
        return MessageServerEnd(wire=self.hub.wire(SERVER), party=party, owner=owner, **options)

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MessageSiloEnd:
        return MessageSiloEnd(wire=self.hub.wire(owner.name), party=party, owner=owner, **options)

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        await self.hub.listen(root / "hub")
        return await PeerProcess.start("tests.communication.message_peer", root, self.keys)


class TestMessage(RemoteConformance):
    @pytest.fixture(autouse=True)
    def silence_shows_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(message_silo, "DIAL_S", 3.0)

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, hub: Hub | None = None, **options: Any) -> AsyncIterator[HubWiring]:
        wiring = HubWiring(tmp_path, hub)
        await wiring.start(**options)
        try:
            yield wiring
        finally:
            await wiring.stop()
            await wiring.hub.close()

    async def test_the_wire_sees_no_content(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            seen: list[bytes] = []
            wiring.weather.watch = lambda source, target, lane, message: seen.append(message)
            async with running(wiring) as silo:
                blob = wiring.server.blob(MIB)
                content = wiring.server.store.path(blob.digest).read_bytes()
                wiring.server.post("alpha", body=b"a diagnosis", blobs=[blob])
                wiring.server_end.outbox_changed("alpha")
                await silo.owner.until(lambda: len(silo.owner.accepted) == 1)
            everything = b"".join(seen)
            assert len(everything) > MIB
            for secret in (b"diagnosis", b"run-a", blob.digest.encode(), content[1000:1032]):
                assert secret not in everything

    async def test_blobs_go_in_the_clear_where_both_sides_chose_it_and_mail_never(self, tmp_path: Path) -> None:
        for accepts, clear in ((True, True), (False, False)):
            async with self.wiring(tmp_path / str(accepts), sealed=False) as wiring:
                seen: list[bytes] = []
                wiring.weather.watch = lambda source, target, lane, message, seen=seen: seen.append(message)
                async with running(wiring, accept_unsealed=accepts) as silo:
                    down, up = wiring.server.blob(MIB), silo.owner.blob(MIB)
                    content = [wiring.server.store.path(down.digest).read_bytes()[9000:9032]]
                    content.append(silo.owner.store.path(up.digest).read_bytes()[9000:9032])
                    wiring.server.post("alpha", body=b"a diagnosis", blobs=[down])
                    silo.owner.post(SERVER, kind=ANSWER, blobs=[up])
                    wiring.server_end.outbox_changed("alpha")
                    silo.end.outbox_changed()
                    await silo.owner.until(lambda: len(silo.owner.accepted) == 1)
                    await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
                everything = b"".join(seen)
                assert all((piece in everything) is clear for piece in content)
                assert b"diagnosis" not in everything

    async def test_forged_and_repeated_messages_cut_no_link(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.wiring(tmp_path) as wiring:
            seen: list[tuple[str, str, Lane, bytes]] = []
            wiring.weather.watch = lambda *message: seen.append(message)
            async with running(wiring) as silo:
                silo.owner.post(SERVER, kind=ANSWER, blobs=[silo.owner.blob(MIB)])
                silo.end.outbox_changed()
                await silo.owner.until(lambda: silo.owner.open_count() == 0)
                recorded = list(seen)
                assert sum(message[:2] == b"\1\1" for *_, message in recorded) == 1, "an Opening is among them"
                attacker = wiring.hub.wire("attacker")
                await attacker.open(lambda *message: None, lambda peer: None)
                for source, target, lane, message in recorded:
                    ahead = message[:19] + (int.from_bytes(message[19:27]) + 30).to_bytes(8, "big") + message[27:]
                    for forged in (message, ahead, message[:40], message[:30] + bytes(len(message) - 30), b"", b"junk"):
                        await wiring.hub.carry(source, target, lane, forged)
                silo.owner.post(SERVER, kind=ANSWER)
                down = wiring.server.post("alpha")
                silo.end.outbox_changed()
                wiring.server_end.outbox_changed("alpha")
                await silo.owner.until(lambda: silo.owner.accepted == [down.id])
                await wiring.server.until(lambda: len(wiring.server.accepted) == 2)
                assert wiring.server.duplicates == []
                assert len(silo.owner.greeted) == len(wiring.server.greeted) == 1, "it is still the first session"
                assert any("dropped a message" in record.message for record in caplog.records)

    async def test_a_flood_of_openings_is_not_answered_and_leaves_other_silos_alone(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            answers = 0

            def count(source: str, target: str, lane: Lane, message: bytes) -> None:
                nonlocal answers
                answers += source == SERVER and target in ("beta", "nobody")

            wiring.weather.watch = count
            wiring.owner("beta")
            for name, keys in (("beta", wiring.keys.impostor()), ("nobody", Keys().impostor())):
                for _ in range(300):
                    flood = Dialling(keys.silo_party(name), PROTOCOL).message
                    await wiring.hub.carry(name, SERVER, Lane.MAIL, flood)
            sent = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
            assert 0 < answers < 60

    async def test_a_lost_last_message_shows_without_another(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            await silo.owner.until(lambda: silo.end.state.latency_ms > 0)
            mischief = Mischief("lose", chance=1.0, most=1)
            wiring.disturb(mischief)
            sent = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
            assert mischief.done == 1 and len(wiring.server.greeted) == 2
            lost = [s.fault.what for s in silo.owner.states if s.fault and s.fault.code == "OCT-LINK-DOWN"]
            assert "A message was lost on the way." in lost

    async def test_a_wire_that_cannot_be_opened_shows_at_both_ends_and_is_tried_again(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            wiring.hub.refuse = UserError(
                "OCT-BROKER-LOGIN", "The broker refused the login.", "Wrong password.", "Fix."
            )
            wiring.cut()
            await silo.owner.until(lambda: _shows(silo.end.state, "OCT-BROKER-LOGIN"))
            await eventually(lambda: _shows(wiring.server_end.states()[0], "OCT-BROKER-LOGIN"))
            own, alpha = wiring.server_end.states()
            assert own.peer == SERVER and own.phase is LinkPhase.DOWN and alpha.phase is LinkPhase.DOWN
            wiring.hub.refuse = None
            sent = silo.owner.post(SERVER, kind=ANSWER)
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])
            assert [state.peer for state in wiring.server_end.states()] == ["alpha"]

    async def test_a_server_that_starts_without_its_wire_starts_all_the_same(self, tmp_path: Path) -> None:
        wiring = HubWiring(tmp_path)
        wiring.hub.refuse = UserError("OCT-BROKER-DOWN", "The broker is away.", "Refused.", "Start it.")
        await wiring.start()
        assert _shows(wiring.server_end.states()[0], "OCT-BROKER-DOWN")
        wiring.hub.refuse = None
        async with running(wiring):
            pass
        await wiring.stop()

    async def test_who_leaves_by_the_wires_own_word_is_down_at_once(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            began = asyncio.get_running_loop().time()
            wiring.hub.gone("alpha")
            await wiring.server.until(lambda: not wiring.server.is_up)
            await wiring.server.until(lambda: wiring.server.is_up)
            wiring.hub.gone(SERVER)
            await silo.owner.until(lambda: not silo.owner.is_up)
            await silo.owner.until(lambda: silo.owner.is_up)
            assert asyncio.get_running_loop().time() - began < SILENCE_S / 2

    async def test_a_silo_hears_at_its_next_word_that_the_server_began_anew(self, tmp_path: Path) -> None:
        soon = {"heartbeat_s": 0.3}
        async with self.wiring(tmp_path, **soon) as wiring, running(wiring, **soon) as silo:
            wiring.freeze(True)  # no goodbye gets through
            await wiring.stop()
            wiring.freeze(False)
            await wiring.start(**soon)
            await silo.owner.until(lambda: len(silo.owner.greeted) == 2)
            assert any(s.fault and "no longer knows" in s.fault.what for s in silo.owner.states)

    async def test_a_silos_clock_that_is_off_is_said_at_the_silo(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        slow = functools.partial(Dialling, clock=lambda: time.time() - 300)
        monkeypatch.setattr(message_silo, "Dialling", slow)
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert _shows(silo.end.state, "OCT-CLOCK-OFF") and "300 s behind" in silo.end.state.fault.why

    async def test_answers_in_the_servers_name_that_it_did_not_sign_are_named(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha, keys=Keys(), wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert "not signed by the key" in silo.end.state.fault.why

    async def test_a_bug_behind_one_side_is_told_in_the_log_and_the_link_comes_back(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            for owner in (wiring.server, silo.owner):
                owner.before_accept = fail_once(owner)
            down = wiring.server.post("alpha")
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: silo.owner.accepted == [down.id])
            up = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])
            assert sum("broke" in record.message for record in caplog.records) == 2

    async def test_messages_larger_than_the_wires_go_in_parts(self, tmp_path: Path) -> None:
        small = Hub(message_bytes=64 << 10)
        async with self.wiring(tmp_path, hub=small) as wiring, running(wiring) as silo:
            down = [wiring.server.post("alpha", body=os.urandom(size)) for size in (10, 300_000, 65_000, 3 * MIB)]
            down.append(wiring.server.post("alpha", blobs=[wiring.server.blob(3 * MIB + 1)]))
            up = [silo.owner.post(SERVER, kind=ANSWER, body=os.urandom(200_000)) for _ in range(5)]
            silo.end.outbox_changed()
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: len(silo.owner.accepted) == len(down))
            await wiring.server.until(lambda: len(wiring.server.accepted) == len(up))
            assert [envelope for _, envelope in silo.owner.box("run-a").inbox()] == down
            assert len(silo.owner.greeted) == 1

    async def test_worn_out_keys_are_exchanged(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            monkeypatch.setattr(sealing, "COUNTER_MOST", 30)
            sent = []
            for _ in range(40):
                sent.append(silo.owner.post(SERVER, kind=ANSWER).id)
                silo.end.outbox_changed()
                await wiring.server.until(lambda: len(wiring.server.accepted) == len(sent))
            assert wiring.server.accepted == sent and len(wiring.server.greeted) > 1


def _shows(state: LinkState, code: str) -> bool:
    return state.fault is not None and state.fault.code == code
