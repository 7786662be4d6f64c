"""PyTorch RPC's endpoints as they are really started, and what a hostile machine in the network can do to one.

Each endpoint here is a process of its own in bubblewrap's sandbox; where that cannot be had, the carrier refuses to
start, which is tested too.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.communication import torch_rpc, torch_rpc_endpoint
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.relay_sources import Spawned
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer
from octopus_desktop.communication.torch_rpc import RpcEndpoint, TorchRpcServerEnd, TorchRpcSiloEnd, own_place
from octopus_desktop.communication.torch_rpc_plan import Plan, inside
from octopus_desktop.system.processes import kill_group
from octopus_desktop.wire.errors import UserError
from tests.communication.conformance import eventually, running
from tests.communication.parts import ANSWER, MIB, Owner
from tests.communication.peers import PeerProcess
from tests.communication.unruly import MessageWiring

LOOPBACK = ("127.0.0.0/8",)


def confined() -> bool:
    return (
        sys.platform.startswith("linux") and shutil.which("bwrap") is not None and not torch_rpc.sandbox.switched_off()
    )


needs_bubblewrap = pytest.mark.skipif(not confined(), reason="bubblewrap is not installed, or switched off")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class FencedWiring(MessageWiring):
    """Both ends with endpoints as daemon and server start them."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.offer = TorchRpcOffer(host="127.0.0.1", port=free_port(), networks=LOOPBACK)
        self.sources: list[Spawned] = []

    def _launch(self, plan: Plan) -> Spawned:
        source = torch_rpc.spawn(plan)
        assert isinstance(source, Spawned)
        self.sources.append(source)
        return source

    def make_server_end(self, party: Any, owner: Owner, **options: Any) -> TorchRpcServerEnd:
        return TorchRpcServerEnd(offer=self.offer, party=party, owner=owner, launch=self._launch, **options)

    def make_silo_end(self, party: Any, owner: Owner, **options: Any) -> TorchRpcSiloEnd:
        return TorchRpcSiloEnd(
            offer=self.offer, own=OwnSide(), party=party, owner=owner, launch=self._launch, **options
        )

    async def peer(self, root: Path) -> PeerProcess:
        raise AssertionError("not used here")

    def inner_pids(self) -> list[int]:
        """The interpreters inside the sandboxes, as seen from outside."""
        found = []
        for source in self.sources:
            if source.pid is not None:
                with_below = psutil.Process(source.pid).children(recursive=True)
                found += [p.pid for p in with_below if p.name().startswith("python")]
        return found


@asynccontextmanager
async def fenced(root: Path) -> AsyncIterator[FencedWiring]:
    wiring = FencedWiring(root)
    await wiring.start()
    try:
        yield wiring
    finally:
        await wiring.stop()


class Hostile:
    """The machine of ``rpc_hostile``."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def order(self, **order: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps(order).encode() + b"\n")
        return json.loads(await asyncio.wait_for(self.process.stdout.readline(), 60))

    async def join(self, name: str = "mallory") -> None:
        assert await self.order(join=name) == "joined"


@asynccontextmanager
async def hostile(port: int) -> AsyncIterator[Hostile]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.communication.rpc_hostile", "127.0.0.1", str(port),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 22, start_new_session=True,
    )  # fmt: skip
    try:
        yield Hostile(process)
    finally:
        kill_group(process.pid)
        await process.wait()


ATTACK = """
import os, socket, subprocess
result = {}
def attempt(name, deed):
    try:
        result[name] = str(deed())
    except BaseException as error:
        result[name] = "refused: " + type(error).__name__
attempt("read key", lambda: open(KEY).read())
attempt("list state", lambda: os.listdir(STATE))
attempt("list home", lambda: os.listdir(HOME))
attempt("write marker", lambda: open(MARKER, "w").write("x"))
attempt("write marker through proc", lambda: open("/proc/1/root" + MARKER, "w").write("x"))
attempt("write package", lambda: open(PACKAGE, "a").write("x"))
attempt("kill parent", lambda: os.kill(PARENT, 9))
attempt("parent's memory", lambda: open(f"/proc/{PARENT}/mem", "rb").read(1))
attempt("environment", lambda: open("/proc/self/environ").read() + str(dict(os.environ)))
attempt("processes", lambda: sorted(p for p in os.listdir("/proc") if p.isdigit()))
attempt("descriptors", lambda: [os.readlink(p) for n in os.listdir("/proc/self/fd")
                                 if os.path.lexists(p := f"/proc/self/fd/{n}")])
attempt("abstract socket", lambda: socket.socket(socket.AF_UNIX).connect("\\0" + ABSTRACT))
attempt("memory", lambda: len(bytearray(64 << 30)))
attempt("mount", lambda: subprocess.run(["mount", "-t", "tmpfs", "x", "/tmp"], check=True))
attempt("passwords", lambda: open("/etc/shadow").read() + open("/etc/passwd").read())
"""

HOP = """
from torch.distributed import rpc
from octopus_desktop.communication import torch_rpc_endpoint
result = {}
for peer, lives in torch_rpc_endpoint._endpoint.lives.items():
    if peer == "alpha":
        result = rpc.rpc_sync(lives[-1], eval, args=(CODE,), timeout=20)
"""


@needs_bubblewrap
async def test_a_hostile_peer_harms_the_endpoint_alone_and_mail_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTOPUS_TEST_SECRET", "the-secret-of-the-daemon")
    abstract = f"octopus-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as desktop:
        desktop.bind(f"\0{abstract}")
        desktop.listen()
        async with fenced(tmp_path) as wiring, running(wiring) as silo, hostile(wiring.offer.port) as machine:
            wiring.keys.save(tmp_path / "keys")
            key, marker = tmp_path / "keys" / "server.seed", tmp_path / "marker"
            package = Path(torch_rpc.__file__)
            before = package.read_bytes()
            names = {
                "KEY": str(key), "STATE": str(tmp_path), "HOME": str(Path.home()), "MARKER": str(marker),
                "PACKAGE": str(package), "PARENT": os.getpid(), "ABSTRACT": abstract,
            }  # fmt: skip
            attack = "\n".join(f"{name} = {value!r}" for name, value in names.items()) + ATTACK
            await machine.join()
            at_server = await machine.order(run=attack)
            code = f"(lambda names: (exec({attack!r}, names), names['result'])[1])({{}})"
            at_silo = await machine.order(run=f"CODE = {code!r}\n{HOP}")
            for said in (at_server, at_silo):
                got = eval(said, {"__builtins__": {}})  # a repr of texts, made by this test's own source
                for deed in (
                    "read key", "list state", "write marker", "write marker through proc", "write package",
                    "kill parent", "parent's memory", "memory", "mount", "passwords",
                ):  # fmt: skip
                    assert got[deed].startswith("refused"), (deed, got[deed])
                assert got["list home"].startswith("refused") or ".ssh" not in got["list home"]
                assert "the-secret-of-the-daemon" not in got["environment"]
                assert len(eval(got["processes"])) <= 3, "it sees the sandbox's processes alone"
                assert all(
                    place.startswith(("socket:", "pipe:", "anon_inode:", "/dev/null", "/proc/")) or "TCP" in place
                    for place in eval(got["descriptors"])
                ), got["descriptors"]
                if landlock():
                    assert got["abstract socket"].startswith("refused")
            assert not marker.exists() and package.read_bytes() == before and key.read_bytes()

            for number, last_deed in enumerate(LAST_DEEDS):
                if number:  # the attack's own process is still there for the first
                    await machine.join(f"oscar-{number}")
                ups = len(silo.owner.greeted)
                down = [wiring.server.post("alpha", blobs=[wiring.server.blob(3 * MIB)]) for _ in range(3)]
                up = [silo.owner.post(SERVER, kind=ANSWER, blobs=[silo.owner.blob(3 * MIB)]) for _ in range(3)]
                wiring.server_end.outbox_changed("alpha")
                silo.end.outbox_changed()
                assert "failed" in await machine.order(run=last_deed)
                await silo.owner.until(lambda ups=ups: len(silo.owner.greeted) > ups)
                await silo.owner.until(lambda: silo.owner.open_count() == 0)
                await wiring.server.until(lambda: wiring.server.open_count() == 0)
                assert silo.owner.accepted[-3:] == [e.id for e in down]
                assert wiring.server.accepted[-3:] == [e.id for e in up]
            assert len(set(silo.owner.accepted)) == len(silo.owner.accepted) == 9, "nothing lost, nothing doubled"
            assert len(set(wiring.server.accepted)) == len(wiring.server.accepted) == 9


LAST_DEEDS = (
    "import os; os._exit(7)",
    "import os; os.kill(os.getpid(), 9)",
    # the socket to its end is all that an endpoint has: what is written there is not believed
    "import os, time\n"
    "from octopus_desktop.communication import torch_rpc_endpoint\n"
    "torch_rpc_endpoint._endpoint.client._line.sendall(b'\\xff' * 4096)\n"
    "time.sleep(20)",
)


def landlock() -> bool:
    """Whether this kernel can scope sockets; asked in a child, for the scope stays."""
    code = "import sys; from octopus_desktop.system.sandbox import scope_itself; sys.exit(not scope_itself())"
    return subprocess.run([sys.executable, "-c", code]).returncode == 0


@needs_bubblewrap
async def test_a_flood_of_garbage_even_under_a_silos_name_changes_nothing(tmp_path: Path) -> None:
    async with fenced(tmp_path) as wiring, running(wiring) as silo:
        port = wiring.offer.port
        async with hostile(port) as machine, hostile(port) as impostor, asyncio.timeout(90):
            await asyncio.gather(machine.join(), impostor.join("alpha"))
            floods = [asyncio.create_task(machine.order(flood=400)), asyncio.create_task(impostor.order(flood=400))]
            down, up = [], []
            while not all(flood.done() for flood in floods):
                down.append(wiring.server.post("alpha", blobs=[wiring.server.blob(MIB)]).id)
                up.append(silo.owner.post(SERVER, kind=ANSWER).id)
                wiring.server_end.outbox_changed("alpha")
                silo.end.outbox_changed()
                await asyncio.wait(floods, timeout=0.05)
            assert {flood.result() for flood in floods} == {"flooded"}
            await silo.owner.until(lambda: silo.owner.open_count() == 0)
            await wiring.server.until(lambda: wiring.server.open_count() == 0)
            assert sorted(silo.owner.accepted) == sorted(down) and sorted(wiring.server.accepted) == sorted(up)


@needs_bubblewrap
async def test_no_endpoint_outlives_its_end(tmp_path: Path) -> None:
    async with fenced(tmp_path) as wiring, running(wiring):
        pids = wiring.inner_pids()
        assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids)


@needs_bubblewrap
async def test_a_side_that_is_killed_takes_its_endpoint_with_it(tmp_path: Path) -> None:
    wiring = FencedWiring(tmp_path)
    (tmp_path / "rpc.json").write_text(wiring.offer.to_json())
    peer = await PeerProcess.start("tests.communication.rpc_peer", tmp_path, wiring.keys)
    below = psutil.Process(peer.process.pid).children(recursive=True)
    assert below
    await peer.kill()
    await eventually(lambda: not any(p.is_running() and p.status() != "zombie" for p in below))


async def test_without_bubblewrap_it_refuses_to_start_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_rpc, "_fenced", False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("OCTOPUS_SANDBOX", raising=False)
    wiring = FencedWiring(tmp_path)
    await wiring.start()
    faults = [state.fault for state in wiring.server_end.states()]
    await wiring.stop()
    assert [fault.code for fault in faults if fault] == ["OCT-RPC-ENDPOINT"]
    assert faults[0] and "bubblewrap" in faults[0].why and "OCTOPUS_SANDBOX" in faults[0].next_step
    assert not wiring.sources


async def test_the_administrator_may_do_without_the_sandbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_rpc, "_fenced", False)
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")
    async with fenced(tmp_path) as wiring:
        assert all(state.fault is None for state in wiring.server_end.states())


def endpoint(offer: TorchRpcOffer, name: str = SERVER, interface: str = "") -> RpcEndpoint:
    def launch(plan: Plan) -> Spawned:
        raise AssertionError("it was started")

    return RpcEndpoint(offer, name, interface, launch)


@pytest.mark.parametrize("name", [SERVER, "alpha"])
@pytest.mark.parametrize(
    "host, interface",
    [
        ("127.0.0.1", ""),  # a loopback counts only where it is listed
        ("127.0.0.1", "lo"),
    ],
)
async def test_outside_the_named_networks_neither_side_starts(name: str, host: str, interface: str) -> None:
    offer = TorchRpcOffer(host=host, port=free_port(), networks=("10.20.0.0/16", "fd00::/8"))
    with pytest.raises(UserError) as caught:
        await endpoint(offer, name, interface).begin()
    assert caught.value.code == "OCT-RPC-NETWORK"
    assert "127.0.0.1" in caught.value.why and "10.20.0.0/16" in caught.value.why


def test_the_own_address_must_lie_in_the_networks_too() -> None:
    assert own_place("127.0.0.1", "", LOOPBACK) == ("lo", "127.0.0.1")
    assert own_place("127.0.0.1", "lo", LOOPBACK) == ("lo", "127.0.0.1")
    for address, interface, networks in (
        ("10.1.1.1", "", LOOPBACK),
        ("127.0.0.1", "no-such-interface", LOOPBACK),
        ("10.20.3.4", "", ("10.20.0.0/16",)),  # inside, and not this machine's
    ):
        with pytest.raises(UserError) as caught:
            own_place(address, interface, networks)
        assert caught.value.code == "OCT-RPC-NETWORK"
    assert inside("10.20.3.4", ("10.20.0.0/16",)) and not inside("10.21.0.1", ("10.20.0.0/16",))
    assert inside("fd00::1", ("10.0.0.0/8", "fd00::/8")) and not inside("::1", ("127.0.0.0/8",))


async def test_an_endpoint_that_finds_itself_outside_closes_again(tmp_path: Path) -> None:
    """TensorPipe binds to the interface's first address, whichever was meant."""
    plan = Plan(
        name=SERVER, host="127.0.0.1", port=free_port(), address="127.0.0.1", interface="lo", networks=("127.0.0.9/32",)
    )
    wiring = FencedWiring(tmp_path)
    end = TorchRpcServerEnd(
        offer=wiring.offer, party=wiring.keys.server_party(), owner=wiring.server, version="1", boot_id="s",
        launch=lambda _: torch_rpc.spawn(plan),
    )  # fmt: skip
    await end.start()
    faults = [state.fault for state in end.states()]
    await end.stop(1)
    assert [fault.code for fault in faults if fault] == ["OCT-RPC-NETWORK"]


async def test_a_name_that_cannot_be_resolved_is_named() -> None:
    offer = TorchRpcOffer(host="no-such-host.invalid", port=1, networks=LOOPBACK)
    with pytest.raises(UserError) as caught:
        await endpoint(offer, "alpha").begin()
    assert caught.value.code == "OCT-RPC-PEER" and "no-such-host.invalid" in caught.value.what


async def test_versions_of_pytorch_that_differ_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with fenced(tmp_path) as wiring:
        ours = torch_rpc_endpoint

        def older(plan: Plan) -> Spawned:
            def command(descriptor: int) -> Sequence[str]:
                told = replace(plan, descriptor=descriptor).to_json()
                code = f"import {ours.__name__} as e; e._torch_version = lambda: '2.1.0'"
                return [sys.executable, "-c", f"{code}; e.main(e.Plan.from_json({told!r}))"]

            return Spawned(command, torch_rpc._environment())

        alpha = wiring.owner("alpha")
        end = TorchRpcSiloEnd(
            offer=wiring.offer, own=OwnSide(), party=wiring.keys.silo_party("alpha"), owner=alpha, version="1",
            boot_id="c", launch=older,
        )  # fmt: skip
        task = asyncio.create_task(end.run())
        await alpha.until(lambda: alpha.is_up)
        assert any("2.1.0" in record.getMessage() for record in caplog.records)
        task.cancel()
        await asyncio.wait([task])


async def test_without_pytorch_it_says_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('no torch on this machine')")
    wiring = FencedWiring(tmp_path)

    def launch(plan: Plan) -> Spawned:
        def command(descriptor: int) -> Sequence[str]:
            return [sys.executable, "-m", torch_rpc.MODULE, replace(plan, descriptor=descriptor).to_json()]

        environment = torch_rpc._environment()
        environment["PYTHONPATH"] = f"{tmp_path}:{environment.get('PYTHONPATH', '')}"
        return Spawned(command, environment)

    end = TorchRpcServerEnd(
        offer=wiring.offer, party=wiring.keys.server_party(), owner=wiring.server, version="1", boot_id="s",
        launch=launch,
    )  # fmt: skip
    await end.start()
    faults = [state.fault for state in end.states()]
    await end.stop(1)
    assert [fault.code for fault in faults if fault] == ["OCT-PACKAGE-MISSING"]
    assert faults[0] and "no torch on this machine" in faults[0].why


def test_the_ends_never_import_torch() -> None:
    code = f"import sys, {torch_rpc.__name__}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def may_make_networks() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "oct-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "del", "oct-probe"], capture_output=True)
    return made.returncode == 0


@contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """Two network namespaces with a cable between them: 10.77.7.1 and 10.77.7.2."""
    a, b = f"oct-a{os.getpid()}", f"oct-b{os.getpid()}"
    try:
        for words in (
            f"netns add {a}", f"netns add {b}", f"link add va netns {a} type veth peer name vb netns {b}",
            f"-n {a} addr add 10.77.7.1/24 dev va", f"-n {b} addr add 10.77.7.2/24 dev vb",
            f"-n {a} link set va up", f"-n {b} link set vb up", f"-n {a} link set lo up", f"-n {b} link set lo up",
        ):  # fmt: skip
            subprocess.run(["ip", *words.split()], check=True)
        yield a, b
    finally:
        for name in (a, b):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@needs_bubblewrap
@pytest.mark.skipif(not may_make_networks(), reason="network namespaces need root and iproute2")
async def test_it_works_across_two_machines(tmp_path: Path) -> None:
    wiring = FencedWiring(tmp_path)
    offer = TorchRpcOffer(host="10.77.7.1", port=29_500, networks=("10.77.7.0/24",))
    (tmp_path / "rpc.json").write_text(offer.to_json())
    server = Owner(tmp_path, SERVER, wiring.keys)
    wiring.owner("alpha")
    wiring.keys.save(tmp_path / "keys")
    sent = [server.post("alpha", blobs=[server.blob(8 * MIB)]).id for _ in range(2)]
    with two_machines() as (a, b):
        started = []
        try:
            for network, who in ((a, []), (b, ["alpha"])):
                process = await asyncio.create_subprocess_exec(
                    "ip", "netns", "exec", network, sys.executable, "-m", "tests.communication.rpc_peer",
                    str(tmp_path), *who, stdout=subprocess.PIPE,
                )  # fmt: skip
                started.append(process)
                assert process.stdout
                assert await asyncio.wait_for(process.stdout.readline(), 40) == b"ready\n"
            got = []
            while len(got) < len(sent):
                word, _, told = (await asyncio.wait_for(process.stdout.readline(), 40)).decode().strip().partition(" ")
                if word == "accepted":
                    got.append(told)
            assert got == sent
        finally:
            for process in started:
                process.kill()
                await process.wait()
