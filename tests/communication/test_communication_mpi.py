"""The MPI carrier against the contract, in real worlds of real ranks under mpiexec."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import message_silo, mpi
from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.mpi import MpiServerEnd, MpiSiloEnd
from octopus_desktop.communication.mpi_table import RankTable
from octopus_desktop.communication.mpi_world import (
    Launcher,
    World,
    compose,
    environment,
    find_launcher,
    is_root,
    rank_of,
)
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.settings import MpiOffer, OwnSide
from octopus_desktop.communication.wires import CREDIT_BYTES, Lane
from octopus_desktop.system.processes import alive
from octopus_desktop.wire.errors import UserError
from tests.communication.conformance import BIG, Silo, running
from tests.communication.mpi_worlds import RunningWorld, cpu_seconds, wait_until
from tests.communication.parts import ANSWER, MIB, Keys, Owner
from tests.communication.peers import PeerProcess
from tests.communication.remote import RemoteConformance
from tests.communication.stores import CuttingStore
from tests.communication.unruly import MessageWiring


class MpiWiring(MessageWiring):
    """The ends of one test in a world that lasts longer."""

    offer, own = MpiOffer(), OwnSide()

    def __init__(self, root: Path, world: RunningWorld) -> None:
        super().__init__(root)
        self.world = world

    def make_server_end(self, party: ServerParty, owner: Owner, **options: Any) -> MessageServerEnd:
        run_dir = self.world.place(SERVER).parent
        return MpiServerEnd(offer=self.offer, run_dir=run_dir, party=party, owner=owner, **options)

    def make_silo_end(self, party: SiloParty, owner: Owner, **options: Any) -> MessageSiloEnd:
        run_dir = self.world.place(owner.name).parent
        return MpiSiloEnd(offer=self.offer, own=self.own, run_dir=run_dir, party=party, owner=owner, **options)

    async def peer(self, root: Path) -> PeerProcess:
        root.mkdir(exist_ok=True)
        (root / "place").write_text(str(self.world.place(SERVER).parent))
        return await PeerProcess.start("tests.communication.mpi_peer", root, self.keys)

    def cut(self) -> None:
        self.world.cut()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningWorld]:
    """One world for all tests of the contract: ends come to its ranks and go, as daemons do."""
    world = RunningWorld(tmp_path_factory.mktemp("w"))
    try:
        world.until("world")
        yield world
        world.end()
    finally:
        world.stop()


class TestMpich(RemoteConformance):
    @pytest.fixture(autouse=True)
    def in_one_world(self, world: RunningWorld, monkeypatch: pytest.MonkeyPatch) -> None:
        self.world = world
        monkeypatch.setattr(message_silo, "DIAL_S", 3.0)

    @asynccontextmanager
    async def wiring(self, tmp_path: Path, **options: Any) -> AsyncIterator[MpiWiring]:
        async with served(MpiWiring(tmp_path, self.world), **options) as wiring:
            yield wiring


# one world, one fate


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("w")


async def started(place: Path, **options: Any) -> RunningWorld:
    return await asyncio.to_thread(RunningWorld, place, **options)


@asynccontextmanager
async def served(wiring: MpiWiring, **options: Any) -> AsyncIterator[MpiWiring]:
    await wiring.start(**options)
    try:
        yield wiring
    finally:
        await wiring.stop()


async def test_a_rank_killed_in_the_middle_of_a_blob_takes_no_other_down_and_the_next_world_brings_the_rest(
    tmp_path: Path, place: Path
) -> None:
    await killed_and_started_again(tmp_path, place, find_launcher())


async def killed_and_started_again(tmp_path: Path, place: Path, launcher: Launcher) -> None:
    size = 48 * MIB
    world = await started(place, launcher=launcher)
    try:
        await asyncio.to_thread(world.until, "world")
        wiring = MpiWiring(tmp_path, world)
        wiring.server.store = CuttingStore(
            wiring.server.root / "blobs", [size // 2], lambda: os.kill(world.pids["alpha"], signal.SIGKILL)
        )
        async with served(wiring), running(wiring, "alpha") as a, running(wiring, "beta") as b:
            ref = a.owner.blob(size)
            cut_off = a.owner.post(SERVER, kind=ANSWER, blobs=[ref])
            a.end.outbox_changed()
            gone = await asyncio.to_thread(world.until, "gone")
            assert (gone["name"], gone["code"]) == ("alpha", "OCT-MPI-RANK")
            assert "start it again" in gone["next_step"] and "alpha" in gone["why"]
            await a.owner.until(lambda: not a.owner.is_up)
            fault = next(s.fault for s in a.owner.states if s.fault)
            assert fault.code == "OCT-MPI-RANK" and "federation run --mpi" in fault.next_step

            down, up = wiring.server.post("beta"), b.owner.post(SERVER, kind=ANSWER, blobs=[b.owner.blob(MIB)])
            wiring.server_end.outbox_changed("beta")
            b.end.outbox_changed()
            await b.owner.until(lambda: b.owner.accepted == [down.id])
            await wiring.server.until(lambda: wiring.server.accepted == [up.id])

            await asyncio.to_thread(world.end)
            assert world.fault is None, "the others ended in peace"
            world = await started(place, launcher=launcher)
            await wiring.server.until(lambda: wiring.server.accepted == [up.id, cut_off.id])
            assert a.end.state.bytes_resumed > size // 2 - CREDIT_BYTES, "the blob went on where it broke off"
            assert a.owner.accepted == [] and wiring.server.duplicates == [] and b.owner.duplicates == []
    finally:
        await asyncio.to_thread(world.stop)


async def test_without_rank_0_the_world_is_over_and_each_silo_is_told_what_to_do(tmp_path: Path, place: Path) -> None:
    world = await started(place)
    try:
        await asyncio.to_thread(world.until, "world")
        async with served(MpiWiring(tmp_path, world)) as wiring, running(wiring, "alpha") as a:
            os.kill(world.pids[SERVER], signal.SIGKILL)
            await asyncio.to_thread(world.until, "exit")
            await a.owner.until(lambda: not a.owner.is_up)
            fault = next(s.fault for s in a.owner.states if s.fault)
            assert fault.code == "OCT-MPI-RANK" and "Rank 0 (server) died" in fault.why
            assert not any(alive(pid) for pid in world.pids.values())
    finally:
        await asyncio.to_thread(world.stop)


def test_a_rank_on_another_machine_that_falls_silent_counts_as_dead_and_learns_of_it(place: Path) -> None:
    traits = {"server": {"dead_s": 1.5, "machine": "here"}, "alpha": {"machine": "there"}}
    world = RunningWorld(place, traits=traits)
    try:
        world.until("world")
        os.kill(world.pids["alpha"], signal.SIGSTOP)
        gone = world.until("gone")
        assert gone["name"] == "alpha" and "Nothing came from it" in gone["why"]
        os.kill(world.pids["alpha"], signal.SIGCONT)
        wait_until(lambda: not alive(world.pids["alpha"]))
        assert alive(world.pids["beta"])
        world.end()
    finally:
        world.stop()


def test_ranks_of_different_versions_do_not_work_together_and_are_named(place: Path) -> None:
    world = RunningWorld(place, traits={"beta": {"version": "9.9.9"}})
    try:
        world.until("exit")
        assert world.fault is not None and world.fault.code == "OCT-MPI-VERSION"
        assert "rank 2 (beta) is 9.9.9" in world.fault.why and "alpha" not in world.fault.why
    finally:
        world.stop()


async def test_a_daemon_learns_that_the_ranks_are_of_different_versions(tmp_path: Path, place: Path) -> None:
    silo = lone_silo(tmp_path, place / "alpha")
    world = await started(place, traits={"beta": {"version": "9.9.9"}})
    try:
        await silo.owner.until(lambda: any(s.fault and s.fault.code == "OCT-MPI-VERSION" for s in silo.owner.states))
    finally:
        await left(silo)
        await asyncio.to_thread(world.stop)


def lone_silo(root: Path, run_dir: Path) -> Silo:
    """A daemon's end, before there is any world."""
    keys = Keys()
    owner = Owner(root / "alpha", "alpha", keys)
    party = keys.silo_party("alpha")
    offer, own = MpiOffer(), OwnSide()
    return Silo(
        owner,
        MpiSiloEnd(offer=offer, own=own, run_dir=run_dir, party=party, owner=owner, version="1", boot_id="c"),
    )


async def left(silo: Silo) -> None:
    silo.task.cancel()
    await asyncio.wait([silo.task])


def test_a_rank_that_dies_before_it_said_who_it_is_ends_the_start(place: Path) -> None:
    world = RunningWorld(place, traits={"alpha": {"die": "start"}}, form_s=4.0)
    try:
        world.until("exit")
        assert world.fault is not None and world.fault.code == "OCT-MPI-RANK"
        assert "within 4 s" in world.fault.why
    finally:
        world.stop()


def test_a_table_that_names_more_silos_than_there_are_ranks_is_refused(place: Path) -> None:
    world = RunningWorld(place, ranks=2)
    try:
        world.until("exit")
        assert world.fault is not None and world.fault.code == "OCT-CONFIG-INVALID"
        assert "3 ranks (server, alpha, beta), and the world has 2" in world.fault.why
    finally:
        world.stop()


def test_a_rank_tells_that_nobody_listens_for_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = RunningWorld(place)
    try:
        away = world.until("away", lambda e: e["name"] == "alpha")
        assert away["code"] == "OCT-DAEMON-AWAY" and str(world.place("alpha")) in away["why"]
        used = {name: cpu_seconds(pid) for name, pid in world.pids.items()}
        time.sleep(2)
        for name, pid in world.pids.items():
            assert cpu_seconds(pid) - used[name] < 0.12, "an idle rank costs nothing worth naming"
        world.end()
        assert world.until("ended")["peers"][0]["dead"] is False
    finally:
        world.stop()


async def test_an_end_without_a_world_says_how_to_start_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mpi, "WAIT_S", 0.3)
    silo = lone_silo(tmp_path, tmp_path / "run")
    await silo.owner.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
    fault = silo.end.state.fault
    assert fault is not None and fault.code == "OCT-MPI-RANK" and "octopus federation run --mpi" in fault.next_step
    await left(silo)


@pytest.mark.parametrize(("offered", "consents", "in_the_clear"), [(False, True, True), (False, False, False),
                                                                   (True, True, False)])  # fmt: skip
async def test_blob_bytes_pass_in_the_clear_only_where_both_sides_said_so(
    tmp_path: Path, world: RunningWorld, offered: bool, consents: bool, in_the_clear: bool
) -> None:
    class Open(MpiWiring):
        offer, own = MpiOffer(sealed=offered), OwnSide(accept_unsealed=consents)

    async with served(Open(tmp_path, world)) as wiring, running(wiring) as silo:
        seen: list[bytes] = []
        for unruly in wiring.unruly:
            send = unruly.send

            async def spying(peer: str, lane: Lane, message: bytes, send: Any = send) -> None:
                seen.append(bytes(message))
                await send(peer, lane, message)

            unruly.send = spying  # type: ignore[method-assign]
        ref = silo.owner.blob(MIB)
        silo.owner.post(SERVER, kind=ANSWER, blobs=[ref])
        silo.end.outbox_changed()
        await wiring.server.until(lambda: len(wiring.server.accepted) == 1)
        content = silo.owner.store.path(ref.digest).read_bytes()
        assert any(content[1000:1064] in message for message in seen) is in_the_clear


# what is not there


def test_without_mpiexec_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError) as caught:
        find_launcher(str(tmp_path / "mpiexec"))
    assert caught.value.code == "OCT-MPI-MISSING"
    assert "octopus-desktop[mpi]" in caught.value.next_step and "openmpi-bin" in caught.value.next_step
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(UserError) as caught:
        find_launcher()
    assert caught.value.code == "OCT-MPI-MISSING"


def test_a_program_that_is_no_known_mpiexec_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "mpiexec"
    other.write_text("#!/bin/sh\necho Fake 1.0\n")
    other.chmod(0o755)
    with pytest.raises(UserError) as caught:
        find_launcher(str(other))
    assert caught.value.code == "OCT-MPI-MISSING" and "Fake 1.0" in caught.value.why


def test_a_world_whose_ranks_cannot_start_says_what_mpiexec_said(tmp_path: Path) -> None:
    world = World(find_launcher(), 2, [sys.executable, "-c", "raise SystemExit('no such luck')"])
    with pytest.raises(UserError) as caught:
        list(world.events())
    assert caught.value.code == "OCT-MPI-RANK" and "no such luck" in caught.value.why


@pytest.mark.parametrize("lacks", ["mpi4py", "library"])
def test_a_rank_without_mpi4py_or_its_library_says_what_to_install(tmp_path: Path, lacks: str) -> None:
    table = tmp_path / "ranks.json"
    table.write_text(RankTable.of("/a", {"alpha": "/b"}).to_json())
    hidden = tmp_path / "mpi4py"
    env = {**os.environ, "MPI4PY_LIBMPI": "/nonexistent/libmpi.so"}
    if lacks == "mpi4py":
        hidden.mkdir()
        (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'mpi4py'\")")
        env["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
    words = [sys.executable, "-m", "octopus_desktop.communication.mpi_endpoint", str(table)]
    done = subprocess.run(words, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["code"] == "OCT-MPI-MISSING" and "octopus-desktop[mpi]" in told["next_step"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "no JSON"),
        ("[]", "no list of ranks"),
        ('{"ranks": [{"name": "alpha", "home": "/x"}]}', "Rank 0"),
        ('{"ranks": [{"name": "server", "home": "/x"}]}', "no silo"),
        ('{"ranks": [{"name": "server", "home": "/x"}, {"name": "a"}]}', "no home for a"),
        ('{"ranks": [{"name": "server", "home": "/x"}, {"home": "/y"}]}', "no name"),
        ('{"ranks": [{"name": "server", "home": "/x"}, {"name": "a", "key": "k"}]}', "no rank"),
        (
            '{"ranks": [{"name": "server", "home": "/x"}, {"name": "a", "home": "b"}, {"name": "a", "home": "c"}]}',
            "once",
        ),
    ],
)
def test_a_rank_table_that_cannot_be_used_says_why(tmp_path: Path, text: str, why: str) -> None:
    table = tmp_path / "ranks.json"
    table.write_text(text)
    with pytest.raises(UserError) as caught:
        RankTable.load(table)
    assert caught.value.code == "OCT-CONFIG-INVALID" and why in caught.value.why


def test_a_rank_table_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        RankTable.load(tmp_path / "none.json")
    assert caught.value.code == "OCT-CONFIG-INVALID" and "cannot be read" in caught.value.why


# messages between ranks


@pytest.mark.parametrize("launcher", ["mpich", "openmpi"])
def test_a_message_beyond_two_gibibytes_arrives_whole(launcher: str) -> None:
    if not BIG:
        pytest.skip("moves 2 GiB and holds them twice: OCTOPUS_BIG_TESTS=1")
    assert between_two_ranks(by_name(launcher), (1 << 31) + 4097)


@pytest.mark.parametrize("launcher", ["mpich", "openmpi"])
def test_a_message_beyond_the_counts_of_old_mpi_is_one_element_of_a_large_type(launcher: str) -> None:
    """The same path as for 2 GiB, with a smaller bound."""
    assert between_two_ranks(by_name(launcher), (5 << 20) + 4097, "1000000")


def between_two_ranks(launcher: Launcher, size: int, most: str = "") -> bool:
    words = [sys.executable, "-m", "tests.communication.mpi_large", str(size), *([most] if most else [])]
    done = subprocess.run(
        compose(launcher, 2, words), capture_output=True, text=True, timeout=110, env=environment(launcher)
    )
    assert done.returncode == 0, done.stderr
    return f"whole {size}" in done.stdout


def by_name(kind: str) -> Launcher:
    """Skips where the machine has no such MPI; Debian's Open MPI is not in the project's packages."""
    if kind == "mpich":
        return find_launcher()
    path = next((p for p in ("/usr/bin/mpiexec.openmpi", "/usr/bin/mpiexec") if Path(p).exists()), "")
    if not path or (found := find_launcher(path)).kind != "openmpi":
        pytest.skip("Open MPI is not installed here (Debian: openmpi-bin)")
    return found


class TestOpenMpi:
    """What may differ between the two: starting, carrying, a killed rank, ending."""

    async def test_mail_and_blobs_pass_both_ways_and_a_killed_rank_takes_no_other_down(
        self, tmp_path: Path, place: Path
    ) -> None:
        await killed_and_started_again(tmp_path, place, by_name("openmpi"))

    def test_ranks_of_different_versions_are_named(self, place: Path) -> None:
        world = RunningWorld(place, launcher=by_name("openmpi"), traits={"alpha": {"version": "9.9.9"}})
        try:
            world.until("exit")
            assert world.fault is not None and world.fault.code == "OCT-MPI-VERSION"
        finally:
            world.stop()

    def test_it_gets_the_words_that_keep_the_others_alive(self) -> None:
        launcher = Launcher(path="mpiexec", kind="openmpi", title="", library="libmpi.so.40")
        words = compose(launcher, 3, ["rank"], hosts="hosts.txt")
        assert "--enable-recovery" in words and words[-3:] == ["-n", "3", "rank"][-3:]
        assert ("--allow-run-as-root" in words) == ("--oversubscribe" in words) == is_root()
        assert environment(launcher, {"PMI_RANK": "1", "HOME": "/x"}) == {"HOME": "/x", "MPI4PY_LIBMPI": "libmpi.so.40"}


@pytest.mark.parametrize(
    ("given", "rank"),
    [
        ({}, None),
        ({"PMI_RANK": "2"}, 2),
        ({"OMPI_COMM_WORLD_RANK": "1"}, 1),
        ({"SLURM_PROCID": "3", "SLURM_STEP_ID": "0"}, 3),
        ({"SLURM_PROCID": "0"}, None),  # a batch script, before any srun
        ({"PMIX_RANK": "0"}, 0),
    ],
)
def test_a_process_knows_whether_a_launcher_made_it_a_rank(given: dict[str, str], rank: int | None) -> None:
    assert rank_of(given) == rank


def test_nothing_here_calls_the_pickling_side_of_mpi4py() -> None:
    """Its lowercase calls unpickle what a peer sends. Buffers alone pass between ranks."""
    lowercase = (
        "send|isend|ssend|issend|bsend|ibsend|recv|irecv|mrecv|sendrecv|probe|iprobe|mprobe|improbe|bcast|gather"
    )
    lowercase += "|scatter|allgather|alltoall|reduce|allreduce|scan|exscan"
    calls = re.compile(rf"(?:comm|COMM_WORLD|_comms\[\w+\]|message|world)\.(?:{lowercase})\(|import pickle|MPI\.pickle")
    folder = Path(mpi.__file__).parent
    for path in folder.glob("mpi*.py"):
        found = calls.search(path.read_text())
        assert found is None, f"{path.name}: {found and found.group()}"
