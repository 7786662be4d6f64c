"""The worker processes of one machine: their socket, their sandbox, their environment, their output, their end.

One worker is started directly: torchrun would cost a process and a second import of torch for nothing. Several are
torchrun's, which ends the whole group when one of them dies; a group over several machines has a torchrun on each, by
its static rendezvous, for that gives the ranks in the machines' order whatever their numbers of workers. No torch here.
The environment that the workers get is made new: nothing of the parent's secrets is in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import octopus_desktop
from octopus_desktop.system.interpreters import own_code
from octopus_desktop.system.processes import adopt_orphans, kill_descendants, kill_group, leashed
from octopus_desktop.system.sandbox import Network
from octopus_desktop.training import frames
from octopus_desktop.training.sandbox import Confinement, obstacle
from octopus_desktop.training.spec import GIVEN, RunnerSpec
from octopus_desktop.wire.errors import UserError

PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NCCL_SOCKET_IFNAME", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
    "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
LINE_BYTES = 2000
LINES_A_SECOND = 100


class Listener(Protocol):
    """What hears of the workers' live words."""

    def heard(self, frame: frames.Frame) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Group:
    """One group of workers over machines, and this machine's place in it. ``address``: where rank 0 listens, an IP
    address of the first machine; ``own``: this machine's own, towards it; ``port`` 0: a free one."""

    machines: int = 1
    machine: int = 0
    address: str = "127.0.0.1"
    own: str = "127.0.0.1"
    port: int = 0


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Bench:
    """The workers of one machine; one group of them at a time.

    Args:
        run_dir: ``runner.json`` lies there, and ``work/``, the one place where workers write: the update's file too.
        confine: this process exists for these workers alone: sandbox them, and end all that they leave behind.

    Attributes:
        sandbox: "bubblewrap" or "none", known once ``open`` returned; ``obstacle`` says why it is none.
    """

    def __init__(self, run_dir: Path, spec: RunnerSpec, listener: Listener, *, confine: bool = False) -> None:
        self._run_dir, self._spec, self._listener, self._confine = run_dir, spec, listener, confine
        self._size = max(1, spec.workers)
        self._folder = tempfile.mkdtemp(prefix="octopus-w")  # short: a socket's path is limited; 0700
        self._path = f"{self._folder}/s"
        self._process: asyncio.subprocess.Process | None = None
        self._server: asyncio.Server | None = None
        self._given = run_dir / GIVEN  # the task's files, and no other, where confined workers can read them
        self.sandbox, self.obstacle = "none", ""

    async def open(self, serve: Serve) -> None:
        for folder in (self._run_dir / "work", self._given):
            folder.mkdir(exist_ok=True)
        if self._confine:
            self.obstacle = await self._find_obstacle()
            self.sandbox = "none" if self.obstacle else "bubblewrap"
            if self.obstacle:
                adopt_orphans()
        self._server = await asyncio.start_unix_server(serve, self._path)

    async def close(self) -> None:
        """End the workers and whatever they started."""
        self.kill()
        if self._process:
            await self._process.wait()
        if self._server:
            self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def work(self, group: Group) -> int:
        """Start this machine's workers and wait for their end; returns its exit code."""
        self._process = await asyncio.create_subprocess_exec(
            *self._command(group),
            env=self._environment(group),
            cwd=self._run_dir / "work",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        listening = asyncio.create_task(self._listen(self._process.stdout))
        code = await self._process.wait()
        self.kill()  # what a worker forked holds its pipes and socket open
        await listening
        return code

    async def _find_obstacle(self) -> str:
        if self._spec.devices:
            return "Workers with GPUs are not confined yet."
        return await obstacle(self._confinement(), self._environment(Group()), self._spec.python)

    def _confinement(self) -> Confinement:
        data = tuple(Path(source.path) for source in self._spec.sources.values())
        return Confinement(
            readable=(self._run_dir / "runner.json", Path(self._spec.package), *data, self._given, *self._other()),
            writable=(self._run_dir / "work", Path(self._folder)),
            home=self._run_dir / "work",
            network=Network.SHARED if self._spec.spans else Network.NONE,
        )

    def _other(self) -> list[Path]:
        """What another interpreter than this one reads: its environment, and where it finds this package."""
        if not self._spec.python:
            return []
        return [*map(Path, self._spec.python_paths), Path(own_code(self._run_dir))]

    def give(self, files: Sequence[str]) -> dict[str, str]:
        return give(self._given, files)

    def want(self) -> None:
        """A task is there. These workers are warm already."""

    def idle(self) -> None:
        """The task is done."""

    def rest(self) -> None:
        """Nothing is to be done for a while. These workers cost nothing meanwhile."""

    def obstructed(self) -> UserError | None:
        """Why there are no workers yet, where something else than their start is waited for."""
        return None

    def ended(self) -> UserError | None:
        """Why workers ended of late, where more is known than their exit code."""
        return None

    def _command(self, group: Group) -> list[str]:
        module, arguments = self._module(group)
        if self.sandbox == "none":
            return list(leashed(module, *arguments, python=self._spec.python))
        python = self._spec.python or sys.executable
        return self._confinement().command([python, "-m", module, *arguments], self._environment(group))

    def _module(self, group: Group) -> tuple[str, list[str]]:
        if self._size == 1 and group.machines == 1:
            return "octopus_desktop.training.worker", [str(self._run_dir)]
        return "torch.distributed.run", [
            "--nnodes", str(group.machines), "--node-rank", str(group.machine), "--local-addr", group.own,
            "--master-addr", group.address, "--master-port", str(group.port or free_port(group.address)),
            "--nproc-per-node", str(self._size), "--max-restarts", "0",
            "-m", "octopus_desktop.training.worker", str(self._run_dir),
        ]  # fmt: skip

    def _environment(self, group: Group) -> dict[str, str]:
        passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        threads = str(self._spec.threads)
        root = str(Path(octopus_desktop.__file__).resolve().parents[1])  # not installed: found by the caller's folder
        if self._spec.python:
            for name in ("PYTHONHOME", "VIRTUAL_ENV"):
                passed.pop(name, None)
            passed["PYTHONPATH"] = own_code(self._run_dir)
        elif "-packages" not in root:
            passed["PYTHONPATH"] = os.pathsep.join(filter(None, (root, passed.get("PYTHONPATH"))))
        return {
            **passed,
            "HOME": str(self._run_dir / "work"),
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "GLOO_SOCKET_IFNAME": interface_of(group.own),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            frames.SOCKET_VARIABLE: self._path,
        }

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Pass the workers' own output on as log lines: cut, and no more than so many a second."""
        limit = Limit(lambda left: self._log(f"… {left} lines left out"))
        rest = b""
        while chunk := await stream.read(1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            rest = rest[-LINE_BYTES:]
            for line in lines:
                if limit.allows():
                    self._log(line[:LINE_BYTES].decode(errors="replace"))
        if rest:
            self._log(rest[:LINE_BYTES].decode(errors="replace"))

    def _log(self, text: str) -> None:
        if text.strip():
            self._listener.heard({"word": "log", "level": "info", "text": text})

    def kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                kill_group(self._process.pid)
        if self._confine and self.sandbox == "none":  # a sandbox ends as a whole
            kill_descendants(self._process.pid if self._process else 0)  # what left the group by its own session


def give(folder: Path, files: Sequence[str]) -> dict[str, str]:
    """Show the workers these files only: each to its place in ``folder``. A link costs nothing, and the folder is
    read-only on their side."""
    places = {file: folder / Path(file).name for file in files}
    for old in folder.iterdir():
        if old not in places.values():
            old.unlink()
    for file, place in places.items():
        if not place.exists():
            try:
                os.link(file, place)
            except OSError:  # another file system, or one without links
                shutil.copyfile(file, place)
    return {file: str(place) for file, place in places.items()}


class Limit:
    """So many a second; tells how many were left out when a new second begins."""

    def __init__(self, left_out: Callable[[int], None]) -> None:
        self._left_out, self._second, self._count = left_out, 0, 0

    def allows(self) -> bool:
        second = int(time.monotonic())
        if second != self._second:
            if self._count > LINES_A_SECOND:
                self._left_out(self._count - LINES_A_SECOND)
            self._second, self._count = second, 0
        self._count += 1
        return self._count <= LINES_A_SECOND


def interface_of(address: str) -> str:
    """The network interface that has this address: gloo asks for its name. Raises OCT-NODE-FURTHER."""
    if address == "127.0.0.1":
        return "lo"
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(one.address.split("%")[0] == address for one in addresses):
            return name
    if ipaddress.ip_address(address).is_loopback:  # the whole of 127/8 is the loopback's
        return "lo"
    raise UserError(
        "OCT-NODE-FURTHER",
        f"No network interface of this machine has the address {address}.",
        "The workers of a run over several machines speak to one another directly, without anything between.",
        "Let the nodes reach one another by addresses of their own ('octopus node invite NAME --address').",
    )


def own_address(towards: str) -> str:
    """This machine's IP address as a peer at that address sees it; nothing is sent."""
    family = socket.AF_INET6 if ":" in towards else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((towards, 9))
        return str(probe.getsockname()[0])


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
