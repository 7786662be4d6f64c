"""The contract of every carrier, as tests, and how a carrier plugs in.

A carrier's test file has one test class, which subclasses

- ``CarrierConformance`` (here): what holds over every carrier, in one process too;
- ``remote.RemoteConformance``: what holds between sides that trust nothing between them (all but loopback);
- ``remote.NetworkConformance``: in addition, what holds over one TCP port that the silo dials (gRPC),

and supplies ``wiring``: an async context manager that gives a ``Wiring``, its server end started. Carriers on the
message link get theirs from ``unruly.MessageWiring``, which says what is left to write; ``Wiring`` is all that the
tests use. What is big stays small unless OCTOPUS_BIG_TESTS is set.

Constraints tested: see ``octopus_desktop.communication.contract``.
"""

from __future__ import annotations

import asyncio
import os
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import pytest

from octopus_desktop.communication import message_lanes
from octopus_desktop.communication.contract import SERVER, LinkPhase, LinkState, ServerEnd, SiloEnd
from octopus_desktop.communication.wires import CREDIT_BYTES
from octopus_desktop.wire.errors import UserError
from tests.communication.mischief import KINDS, Mischief
from tests.communication.parts import ANSWER, MIB, PATIENCE_S, PROGRESS, Keys, Owner
from tests.communication.peers import PeerProcess
from tests.communication.stores import CuttingStore, FullStore, SlowStore

BIG = bool(os.environ.get("OCTOPUS_BIG_TESTS"))


class Wiring(Protocol):
    """One server, its wire, and a way to reach it. The first six are for every carrier, the rest for remote ones.

    Attributes:
        keys: the federation's; ``keys.revoked`` holds names that the server turns away.
        server, server_end: the server's mail, and its end, started.
    """

    keys: Keys
    server: Owner
    server_end: ServerEnd

    def owner(self, name: str) -> Owner:
        """An enrolled silo's mail, below a directory of its own."""
        ...

    def silo_end(self, owner: Owner, **options: Any) -> SiloEnd:
        """An end that is not yet running. ``options`` are those of every end (heartbeat_s, silence_s, protocol), and
        for remote carriers ``keys``: those that this silo uses in place of the federation's."""
        ...

    def cut(self) -> None:
        """Break every connection now."""
        ...

    def disturb(self, mischief: Mischief | None) -> None:
        """Let this befall messages in both directions from now on; the wiring counts in ``mischief.done``."""
        ...

    def freeze(self, frozen: bool) -> None:
        """While frozen nothing passes, and nobody is told."""
        ...

    def slow(self, rate: int) -> None:
        """Blob bytes a second and direction at most; 0 for no bound."""
        ...

    async def peer(self, root: Path) -> PeerProcess:
        """A server in a process of its own (see ``peers``), in the place of ``server_end``, which was stopped; the same
        root may be used again after it was killed. Ends that run find it by themselves."""
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


async def eventually(condition: Callable[[], bool], patience_s: float = 40.0) -> None:
    """Wait for what nobody is told of, such as a count of bytes."""
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def peak_rss_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def reset_peak_rss() -> None:
    Path("/proc/self/clear_refs").write_text("5")


class CarrierConformance:
    """What holds over every carrier.

    Attributes:
        lost_bytes: of one blob and direction that a cut may cost: what was on the way, or not yet written.
    """

    lost_bytes = CREDIT_BYTES + 10 * MIB

    @abstractmethod
    def wiring(self, tmp_path: Path, **options: Any) -> AbstractAsyncContextManager[Wiring]:
        """``options`` are the server end's."""
        ...

    @pytest.fixture(autouse=True)
    def gaps_show_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(message_lanes, "GAP_S", 0.5)

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

    @pytest.mark.parametrize("kind", KINDS)
    async def test_nothing_is_lost_or_doubled_by_a_network_that_does_not_behave(
        self, tmp_path: Path, kind: str
    ) -> None:
        soon = {"heartbeat_s": 0.3, "silence_s": 2.0}
        async with self.wiring(tmp_path, **soon) as wiring, running(wiring, **soon) as silo:
            mischief = Mischief(kind)
            wiring.disturb(mischief)
            down, up = [], []
            for i in range(60):
                run, big = f"run-{i % 2}", i % 20 == 7
                blobs = [wiring.server.blob(3 * MIB)] if big else []
                down.append(wiring.server.post("alpha", run=run, body=os.urandom(3000), blobs=blobs))
                blobs = [silo.owner.blob(3 * MIB)] if big else []
                up.append(silo.owner.post(SERVER, run=run, kind=ANSWER, body=os.urandom(3000), blobs=blobs))
            silo.end.outbox_changed()
            wiring.server_end.outbox_changed("alpha")
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            await wiring.server.until(lambda: wiring.server.open_count() == 0)
            assert mischief.done > 0
            for owner, sent in ((silo.owner, down), (wiring.server, up)):
                assert sorted(owner.accepted) == sorted(e.id for e in sent), "each exactly once"
                stored = [e for run in ("run-0", "run-1") for _, e in owner.box(run).inbox()]
                assert sorted(stored, key=lambda e: e.id) == sorted(sent, key=lambda e: e.id), "as it was posted"

    async def test_a_blob_goes_on_where_it_broke_off(self, tmp_path: Path) -> None:
        size = 512 * MIB if BIG else 64 * MIB
        async with self.wiring(tmp_path) as wiring:
            alpha = wiring.owner("alpha")
            cuts = [size // 3, size * 3 // 4]
            wiring.server.store = CuttingStore(wiring.server.root / "blobs", cuts, wiring.cut)
            alpha.store = CuttingStore(alpha.root / "blobs", cuts, wiring.cut)
            async with running(wiring, alpha) as silo:
                wiring.server.post("alpha", blobs=[wiring.server.blob(size)])
                wiring.server_end.outbox_changed("alpha")
                await alpha.until(lambda: len(alpha.accepted) == 1)
                down = silo.end.state
                alpha.post(SERVER, kind=ANSWER, blobs=[alpha.blob(size)])
                silo.end.outbox_changed()
                await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
                up = silo.end.state
                resent_down = self.sent_down(wiring, down) - size
                resent_up = up.bytes_out - down.bytes_out - size
                assert resent_down < len(cuts) * self.lost_bytes, f"{resent_down / MIB:.1f} MiB were sent twice"
                assert resent_up < len(cuts) * self.lost_bytes, f"{resent_up / MIB:.1f} MiB were sent twice"
                for resumed in (down.bytes_resumed, up.bytes_resumed - down.bytes_resumed):
                    assert resumed > sum(cuts) - len(cuts) * self.lost_bytes, "a good part was there already, each time"

    def sent_down(self, wiring: Wiring, silo: LinkState) -> int:
        """Bytes that the server has sent to the silo, whose own state this is."""
        return next(state.bytes_out for state in wiring.server_end.states() if state.peer == "alpha")

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
                flip_first_byte(owner.store.path(bad.digest))
                owner.post(other, run="run-bad", kind=ANSWER, blobs=[bad])
                owner.post(other, run="run-good", kind=ANSWER)
            async with running(wiring, alpha):
                for owner in (wiring.server, alpha):
                    await owner.until(lambda owner=owner: len(owner.accepted) == 1)
                    await owner.until(
                        lambda owner=owner: any(s.fault and s.fault.code == "OCT-BLOB-CORRUPT" for s in owner.states)
                    )
                    peer = "alpha" if owner is wiring.server else SERVER
                    await owner.until(
                        lambda owner=owner, peer=peer: [e.run_id for e in owner.pending(peer)] == ["run-bad"]
                    )

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
        count = 100_000 if BIG else 2_000
        async with self.wiring(tmp_path) as wiring, running(wiring) as silo:
            for owner in (silo.owner, wiring.server):
                owner.hasty("run-a")
            with silo.owner.box("run-a").transaction():
                sent = [silo.owner.post(SERVER, kind=ANSWER).id for _ in range(count)]
            silo.end.outbox_changed()
            await silo.owner.until(lambda: silo.owner.delivered_count == count, max(PATIENCE_S, 120.0))
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


def revoked() -> UserError:
    return UserError("OCT-CERT-REVOKED", "The certificate was revoked.", "By the coordinator.", "Enrol anew.")


def flip_first_byte(path: Path) -> None:
    """Damage a file for certain: a byte that is merely set may have had that value before."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)


def fail_once(owner: Owner) -> Callable[[object], None]:
    def failing(_: object) -> None:
        owner.before_accept = lambda envelope: None
        raise RuntimeError("a bug")

    return failing
