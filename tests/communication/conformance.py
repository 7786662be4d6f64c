"""The contract of every carrier, as tests. A carrier's test file subclasses ``CarrierConformance`` (and, where it runs
over TCP, ``NetworkConformance``) and supplies ``wiring``.

Constraints tested: see ``octopus_desktop.communication.contract``.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from octopus_desktop.communication.contract import SERVER, LinkPhase, ServerEnd, SiloEnd
from octopus_desktop.storage.blobs import BlobStore, BlobWriter, disk_errors
from octopus_desktop.wire.errors import UserError
from tests.communication.parts import ANSWER, MIB, PROGRESS, Keys, Owner
from tests.communication.proxy import Proxy

BIG = bool(os.environ.get("OCTOPUS_BIG_TESTS"))


class Wiring(Protocol):
    """One server, its wire, and a way to dial it."""

    keys: Keys
    server: Owner
    server_end: ServerEnd

    def owner(self, name: str) -> Owner: ...

    def silo_end(self, owner: Owner, **options: Any) -> SiloEnd:
        """An end that is not yet running."""
        ...

    def cut(self) -> None:
        """Break every connection now."""
        ...


class Silo:
    """A silo at work: owner, end, and the task that runs the end."""

    def __init__(self, owner: Owner, end: SiloEnd) -> None:
        self.owner, self.end = owner, end
        self.task = asyncio.create_task(end.run())


@asynccontextmanager
async def running(wiring: Wiring, owner: Owner | str = "alpha", **options: Any) -> AsyncIterator[Silo]:
    """A silo whose end runs, and is up at first unless ``wait_up=False``."""
    wait_up = options.pop("wait_up", True)
    who = wiring.owner(owner) if isinstance(owner, str) else owner
    silo = Silo(who, wiring.silo_end(who, **options))
    try:
        if wait_up:
            await who.until(lambda: who.is_up)
        yield silo
    finally:
        silo.task.cancel()
        await asyncio.wait([silo.task])
        if not silo.task.cancelled() and (error := silo.task.exception()):
            raise error


def peak_rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def reset_peak_rss() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class CarrierConformance:
    """What holds over every carrier."""

    @abstractmethod
    def wiring(self, tmp_path: Path) -> AbstractAsyncContextManager[Wiring]: ...

    async def test_mail_and_blobs_arrive_in_both_directions_in_order(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            down = [wiring.server.post("alpha", body=b"%d" % i) for i in range(20)]
            down.append(wiring.server.post("alpha", blobs=[wiring.server.blob(3 * MIB + 7), wiring.server.blob(0)]))
            wiring.server_end.outbox_changed("alpha")
            up = [silo.owner.post(SERVER, kind=ANSWER, blobs=[silo.owner.blob(2 * MIB)]) for _ in range(3)]
            silo.end.outbox_changed()
            await silo.owner.until(lambda: len(silo.owner.accepted) == len(down))
            await wiring.server.until(lambda: len(wiring.server.accepted) == len(up))
            assert silo.owner.accepted == [e.id for e in down]
            assert wiring.server.accepted == [e.id for e in up]
            stored = [envelope for _, envelope in silo.owner.box("run-a").inbox()]
            assert stored == down, "arrived as it was posted, signature and all"
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            await wiring.server.until(lambda: wiring.server.open_count() == 0)

    async def test_what_was_posted_before_the_link_came_up_is_delivered(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            first = wiring.server.post("alpha")
            alpha = wiring.owner("alpha")
            second = alpha.post(SERVER, kind=ANSWER)
            async with running(wiring, alpha):
                await alpha.until(lambda: alpha.accepted == [first.id])
                await wiring.server.until(lambda: wiring.server.accepted == [second.id])

    async def test_both_sides_greet_each_other_with_their_open_runs(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            wiring.server.box("run-s")
            alpha = wiring.owner("alpha")
            alpha.box("run-a")
            async with running(wiring, alpha):
                assert alpha.greeted == [(SERVER, ["run-s"])]
                assert wiring.server.greeted == [("alpha", ["run-a"])]

    async def test_two_silos_get_their_own_mail(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring, "alpha") as a, running(wiring, "beta") as b:
            ref = wiring.server.blob(MIB)
            for_a, for_b = wiring.server.post("alpha", blobs=[ref]), wiring.server.post("beta", blobs=[ref])
            wiring.server_end.outbox_changed("alpha")
            wiring.server_end.outbox_changed("beta")
            await a.owner.until(lambda: a.owner.accepted == [for_a.id])
            await b.owner.until(lambda: b.owner.accepted == [for_b.id])
            assert {s.peer for s in wiring.server_end.states() if s.phase is LinkPhase.UP} == {"alpha", "beta"}

    async def test_a_lost_receipt_leads_to_a_duplicate_that_is_dropped(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            cuts = 0

            def cut_once(_: object) -> None:
                nonlocal cuts
                if not cuts:
                    cuts = 1
                    wiring.cut()

            wiring.server.before_accept = cut_once
            sent = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            assert wiring.server.accepted == [sent.id]
            assert wiring.server.duplicates == [sent.id]

    async def test_nothing_is_lost_or_doubled_over_cuts_at_random_moments(self, tmp_path: Path) -> None:
        chance = random.Random(7)
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            cuts = 0

            def maybe_cut(_: object) -> None:
                nonlocal cuts
                if cuts < 8 and chance.random() < 0.08:
                    cuts += 1
                    asyncio.get_running_loop().call_later(chance.random() * 0.02, wiring.cut)

            wiring.server.before_accept = silo.owner.before_accept = maybe_cut
            down, up = [], []
            for i in range(100):
                blobs = [wiring.server.blob(3 * MIB)] if i % 20 == 0 else []
                down.append(wiring.server.post("alpha", run=f"run-{i % 3}", blobs=blobs).id)
                blobs = [silo.owner.blob(3 * MIB)] if i % 20 == 0 else []
                up.append(silo.owner.post(SERVER, run=f"run-{i % 3}", kind=ANSWER, blobs=blobs).id)
            silo.end.outbox_changed()
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            await wiring.server.until(lambda: wiring.server.open_count() == 0)
            assert cuts > 0
            for got, sent in ((silo.owner.accepted, down), (wiring.server.accepted, up)):
                assert sorted(got) == sorted(sent), "each exactly once"

    async def test_a_reposted_answer_counts_once(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            first = silo.owner.post(SERVER, kind=ANSWER, dedupe="1/alpha/train")
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            again = silo.owner.envelope(SERVER, kind=ANSWER, dedupe="1/alpha/train")
            silo.owner.box("run-a").repost(again)
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            assert wiring.server.accepted == [first.id]
            assert wiring.server.duplicates == [again.id]

    async def test_a_replayed_envelope_is_dropped(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            sent = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            silo.owner.box("replays").post(sent)  # the same signed bytes, once more
            silo.end.outbox_changed()
            await wiring.server.until(lambda: wiring.server.duplicates == [sent.id])
            assert wiring.server.accepted == [sent.id]

    async def test_who_claims_another_name_is_refused(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            beta = wiring.owner("beta")
            silo.owner.box("run-a").post(beta.envelope(SERVER, kind=ANSWER))  # properly signed, by somebody else
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            assert wiring.server.accepted == []
            fault = silo.end.state.fault
            assert fault is not None and fault.code == "OCT-LINK-ENVELOPE"

    async def test_a_changed_envelope_is_refused_and_its_row_ends(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            changed = silo.owner.envelope(SERVER, kind=ANSWER, body=b"true")
            changed.body = b"false"
            silo.owner.box("run-a").post(changed)
            good = silo.owner.post(SERVER, kind=ANSWER)
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            assert wiring.server.accepted == [good.id]
            assert any(s.fault and s.fault.code == "OCT-LINK-ENVELOPE" for s in silo.owner.states)

    async def test_a_large_blob_arrives_whole_and_memory_stays_flat(self, tmp_path: Path) -> None:
        size = 2048 * MIB if BIG else 192 * MIB
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            down, up = wiring.server.blob(size), silo.owner.blob(size)
            reset_peak_rss()
            before = peak_rss_mib()
            wiring.server.post("alpha", blobs=[down])
            silo.owner.post(SERVER, kind=ANSWER, blobs=[up])
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await silo.owner.until(lambda: len(silo.owner.accepted) == 1)
            await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
            assert silo.owner.store.size(down.digest) == wiring.server.store.size(up.digest) == size
            assert peak_rss_mib() - before < 160  # two transfers, both ends of each in this one process

    async def test_a_slow_receiver_does_not_fill_the_senders_memory(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            alpha.store = SlowStore(alpha.root / "blobs")
            async with running(wiring, alpha):
                ref = wiring.server.blob(128 * MIB)
                reset_peak_rss()
                before = peak_rss_mib()
                wiring.server.post("alpha", blobs=[ref])
                wiring.server_end.outbox_changed("alpha")
                await alpha.until(lambda: len(alpha.accepted) == 1)
                assert peak_rss_mib() - before < 96  # both ends together, the transport's windows among it

    async def test_a_blob_goes_on_where_it_broke_off(self, tmp_path: Path) -> None:
        size = 48 * MIB
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            wiring.server.store = CuttingStore(wiring.server.root / "blobs", size // 2, wiring)
            alpha.store = CuttingStore(alpha.root / "blobs", size // 2, wiring)
            async with running(wiring, alpha) as silo:
                wiring.server.post("alpha", blobs=[wiring.server.blob(size)])
                wiring.server_end.outbox_changed("alpha")
                await alpha.until(lambda: len(alpha.accepted) == 1)
                alpha.post(SERVER, kind=ANSWER, blobs=[alpha.blob(size)])
                silo.end.outbox_changed()
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
                state = silo.end.state
                assert state.bytes_resumed > size // 2, "a good part was there already, each time"
                assert state.bytes_in < 1.4 * size and state.bytes_out < 1.4 * size, "and was not sent again"

    async def test_a_blob_that_came_whole_but_unchecked_before_a_crash_is_not_sent_again(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            down, up = wiring.server.blob(3 * MIB), alpha.blob(3 * MIB)
            for ref, source, target in ((down, wiring.server, alpha), (up, alpha, wiring.server)):
                (target.store.root / "partial" / ref.digest).write_bytes(source.store.path(ref.digest).read_bytes())
            wiring.server.post("alpha", blobs=[down])
            alpha.post(SERVER, kind=ANSWER, blobs=[up])
            async with running(wiring, alpha) as silo:
                await alpha.until(lambda: len(alpha.accepted) == 1)
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
                assert silo.end.state.bytes_in < MIB and silo.end.state.bytes_out < MIB

    async def test_a_damaged_partial_blob_is_thrown_away_and_fetched_again(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            down, up = wiring.server.blob(3 * MIB), alpha.blob(3 * MIB)
            (alpha.store.root / "partial" / down.digest).write_bytes(b"\0" * MIB)
            (wiring.server.store.root / "partial" / up.digest).write_bytes(b"\0" * MIB)
            wiring.server.post("alpha", blobs=[down])
            alpha.post(SERVER, kind=ANSWER, blobs=[up])
            async with running(wiring, alpha):
                await alpha.until(lambda: len(alpha.accepted) == 1)
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)

    async def test_a_blob_damaged_at_its_source_is_refused_and_keeps_nothing_else_back(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            for owner, other in ((wiring.server, "alpha"), (alpha, SERVER)):
                bad = owner.blob(2 * MIB)
                place = owner.store.path(bad.digest)
                place.write_bytes(b"\1" + place.read_bytes()[1:])
                owner.post(other, run="run-bad", kind=ANSWER, blobs=[bad])
                owner.post(other, run="run-good", kind=ANSWER)
            async with running(wiring, alpha):
                for owner in (wiring.server, alpha):
                    await owner.until(lambda owner=owner: len(owner.accepted) == 1)
                    await owner.until(
                        lambda owner=owner: any(s.fault and s.fault.code == "OCT-BLOB-CORRUPT" for s in owner.states)
                    )
                    assert [e.run_id for e in owner.pending("alpha" if owner is wiring.server else SERVER)] == [
                        "run-bad"
                    ]

    async def test_a_full_disk_holds_the_mail_back_until_there_is_room(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            alpha.store = full = FullStore(alpha.root / "blobs")
            wiring.server.store = full_too = FullStore(wiring.server.root / "blobs")
            async with running(wiring, alpha):
                wiring.server.post("alpha", blobs=[wiring.server.blob(MIB)])
                alpha.post(SERVER, kind=ANSWER, blobs=[alpha.blob(MIB)])
                wiring.cut()
                await alpha.until(lambda: full.refused > 0 and full_too.refused > 0)
                assert alpha.accepted == [] and wiring.server.accepted == []
                full.full = full_too.full = False
                await alpha.until(lambda: len(alpha.accepted) == 1)
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
                assert any(s.fault and s.fault.code == "OCT-DISK-FULL" for s in alpha.states)

    async def test_a_blob_of_a_foreign_run_does_not_pass(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            wiring.server.closed_runs.add("run-x")
            alpha = wiring.owner("alpha")
            async with running(wiring, alpha) as silo:
                alpha.post(SERVER, run="run-x", kind=ANSWER, blobs=[alpha.blob(MIB)])
                silo.end.outbox_changed()
                await alpha.until(lambda: alpha.open_count() == 0)
                assert wiring.server.accepted == []
                assert any(s.fault and s.fault.code == "OCT-BLOB-FORBIDDEN" for s in alpha.states)
                wiring.server.post("alpha", run="run-x", blobs=[wiring.server.blob(MIB)])
                wiring.server_end.outbox_changed("alpha")
                await wiring.server.until(lambda: wiring.server.open_count() == 0)
                assert alpha.accepted == []

    async def test_many_small_envelopes_arrive_each_once(self, tmp_path: Path) -> None:
        count = 100_000 if BIG else 5_000
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            with silo.owner.box("run-a").transaction():
                sent = [silo.owner.post(SERVER, kind=ANSWER).id for _ in range(count)]
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.delivered_count == count, patience_s=600)
            assert wiring.server.accepted == sent

    async def test_live_messages_reach_the_other_side_and_are_never_stored(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            for i in range(100):
                silo.end.send_live(silo.owner.envelope(SERVER, kind=PROGRESS, body=b"%d" % i))
            await wiring.server.until(lambda: any(e.body == b"99" for e in wiring.server.heard_live))
            assert len(wiring.server.heard_live) < 100, "the newest replaced those that waited"
            assert wiring.server.accepted == []
            await silo.owner.until(lambda: silo.end.state.latency_ms > 0)

    async def test_a_live_message_without_a_link_is_lost(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            end = wiring.silo_end(alpha)
            end.send_live(alpha.envelope(SERVER, kind=PROGRESS))
            end.outbox_changed()
            assert end.state.phase is not LinkPhase.UP

    async def test_the_newest_connection_of_a_silo_wins(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as old, running(wiring, "alpha") as new:
            await old.owner.until(lambda: old.end.state.phase is LinkPhase.DOWN)
            fault = old.end.state.fault
            assert fault is not None and fault.code == "OCT-LINK-REPLACED"
            sent = wiring.server.post("alpha")
            wiring.server_end.outbox_changed("alpha")
            await new.owner.until(lambda: new.owner.accepted == [sent.id])

    async def test_a_revoked_silo_is_cut_off_and_stays_away(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            wiring.server_end.disconnect("alpha", revoked())
            await asyncio.wait_for(silo.task, 20)  # run() returns by itself
            assert silo.end.state.phase is LinkPhase.REVOKED
            assert silo.end.state.fault is not None and silo.end.state.fault.code == "OCT-CERT-REVOKED"

    async def test_a_link_that_ended_shows_so_at_both_sides(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            async with running(wiring) as silo:
                await wiring.server.until(lambda: wiring.server.is_up)
            await wiring.server.until(lambda: not wiring.server.is_up)
            assert silo.end.state.phase is LinkPhase.DOWN


class NetworkConformance(CarrierConformance):
    """What holds over carriers that dial a TCP port. The wiring also has ``proxy`` (which silos dial)."""

    peer_module: str  # ``python -m MODULE ROOT`` runs a server of this carrier and prints its port

    async def test_a_server_killed_in_the_middle_of_a_blob_gets_the_rest_after_its_return(self, tmp_path: Path) -> None:
        size = 64 * MIB
        async with self.wiring(tmp_path) as wiring, Proxy(0) as proxy:
            alpha = wiring.owner("alpha")
            ref = alpha.blob(size)
            sent = alpha.post(SERVER, kind=ANSWER, blobs=[ref])
            root = tmp_path / "killed"
            killed = await self.peer(root, wiring)
            proxy.target, proxy.rate = killed.port, 100 * MIB
            async with running(wiring, alpha, port=proxy.port) as silo:
                await proxy.passed(up=size // 2)
                os.kill(killed.process.pid, signal.SIGKILL)
                await asyncio.to_thread(killed.process.wait)
                await alpha.until(lambda: not alpha.is_up)
                back = await self.peer(root, wiring)
                proxy.target, proxy.rate = back.port, 0
                try:
                    await alpha.until(lambda: alpha.open_count() == 0)
                    assert silo.end.state.bytes_resumed > size // 8
                finally:
                    back.process.kill()
                    await asyncio.to_thread(back.process.wait)
            stored = Owner(root, SERVER, wiring.keys)
            assert [e.id for _, e in stored.box("run-a").inbox()] == [sent.id]
            assert stored.store.size(ref.digest) == size

    async def peer(self, root: Path, wiring: Any) -> PeerProcess:
        return await PeerProcess.start(self.peer_module, root, wiring.keys)

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

    async def test_a_dead_line_is_noticed_by_both_sides(self, tmp_path: Path) -> None:
        soon = {"heartbeat_s": 0.2, "silence_s": 1.0}
        async with self.wiring(tmp_path, **soon) as wiring, running(wiring, **soon) as silo:
            wiring.proxy.frozen = True
            await silo.owner.until(lambda: silo.end.state.phase is not LinkPhase.UP)
            await wiring.server.until(lambda: not wiring.server.is_up)
            wiring.proxy.cut()
            wiring.proxy.frozen = False
            sent = silo.owner.post(SERVER, kind=ANSWER)
            await wiring.server.until(lambda: wiring.server.accepted == [sent.id])

    async def test_a_large_blob_on_a_slow_line_does_not_delay_another_run(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            wiring.proxy.rate = 8 * MIB
            wiring.server.post("alpha", run="run-big", blobs=[wiring.server.blob(32 * MIB)])
            silo.owner.post(SERVER, run="run-big", kind=ANSWER, blobs=[silo.owner.blob(32 * MIB)])
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await wiring.proxy.passed(up=4 * MIB, down=4 * MIB)
            down = wiring.server.post("alpha", run="run-small")
            up = silo.owner.post(SERVER, run="run-small", kind=ANSWER)
            wiring.server_end.outbox_changed("alpha")
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.accepted == [down.id])
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])
            # and the large ones are still on their way
            wiring.proxy.rate = 0

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

    async def test_a_server_of_another_federation_is_refused(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            foreign = wiring.keys.silo("alpha", root=Keys().authority.ca_pem)
            async with running(wiring, alpha, credentials=foreign, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None and silo.end.state.fault.code == "OCT-LINK-TLS"

    async def test_a_silo_of_another_federation_is_refused(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            foreign = Keys().silo("alpha", root=wiring.keys.authority.ca_pem)
            async with running(wiring, alpha, credentials=foreign, wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                assert silo.end.state.fault is not None
                assert silo.end.state.fault.code in ("OCT-LINK-TLS", "OCT-LINK-DOWN")
                assert wiring.server.greeted == []

    async def test_a_revoked_certificate_is_turned_away_at_the_door(self, tmp_path: Path) -> None:
        async with self.wiring(tmp_path) as wiring:
            wiring.revoked.add("alpha")
            alpha = wiring.owner("alpha")
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


class PeerProcess:
    """A server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process, self.port = process, port

    @classmethod
    async def start(cls, module: str, root: Path, keys: Keys) -> PeerProcess:
        root.mkdir(exist_ok=True)
        keys.save(root / "keys")
        return await asyncio.to_thread(cls._start, module, root)

    @classmethod
    def _start(cls, module: str, root: Path) -> PeerProcess:
        process = subprocess.Popen([sys.executable, "-m", module, str(root)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        return cls(process, int(process.stdout.readline()))


class SlowStore(BlobStore):
    """A receiver's slow disk: about 100 MiB/s."""

    def writer(self, digest: str, size: int) -> BlobWriter:
        import time

        writer = super().writer(digest, size)
        write = writer.write

        def slowly(data: bytes | memoryview) -> None:
            time.sleep(len(data) / (100 * MIB))
            write(data)

        writer.write = slowly  # type: ignore[method-assign]
        return writer


class CuttingStore(BlobStore):
    """Cuts the wire once, when so many bytes of one blob have come."""

    def __init__(self, root: Path, at: int, wiring: Wiring) -> None:
        super().__init__(root)
        self.at, self.wiring, self.loop = at, wiring, asyncio.get_running_loop()

    def writer(self, digest: str, size: int) -> BlobWriter:
        writer = super().writer(digest, size)
        write = writer.write

        def cutting(data: bytes | memoryview) -> None:
            write(data)
            if self.at and writer.offset >= self.at:
                self.at = 0
                self.loop.call_soon_threadsafe(self.wiring.cut)

        writer.write = cutting  # type: ignore[method-assign]
        return writer


class FullStore(BlobStore):
    """No room for blobs that arrive, until ``full`` is cleared."""

    full = True
    refused = 0

    def writer(self, digest: str, size: int) -> BlobWriter:
        if self.full:
            self.refused += 1
            with disk_errors(self.root):
                raise OSError(28, "No space left on device")
        return super().writer(digest, size)


def revoked() -> UserError:
    return UserError("OCT-CERT-REVOKED", "The certificate was revoked.", "By the coordinator.", "Enrol anew.")
