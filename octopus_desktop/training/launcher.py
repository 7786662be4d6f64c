"""Starts the workers of one node, keeps them warm, and gives them tasks; starts them again when they die.

One worker is started directly: torchrun would cost a process and a second import of torch for nothing. Several are
torchrun's, which ends the whole group when one of them dies. Either is then started again from here, with a fresh port:
on one node, torchrun's own restart meets the addresses of the group that died. No torch here.
The environment that the workers get is made new: nothing of the daemon's secrets is in it. ``confine`` puts them into
``sandbox``'s confinement where that works.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import octopus_desktop
from octopus_desktop.system.interpreters import own_code
from octopus_desktop.system.processes import adopt_orphans, kill_descendants, kill_group, leashed
from octopus_desktop.training import frames
from octopus_desktop.training.sandbox import Confinement, obstacle
from octopus_desktop.training.spec import RunnerSpec
from octopus_desktop.training.watch import UNEVEN_S, Patience, as_fault, uneven
from octopus_desktop.wire.errors import UserError

PASSED_ON = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NCCL_SOCKET_IFNAME", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE",
    "PYTHONDONTWRITEBYTECODE",
)  # fmt: skip
LINE_BYTES = 2000
LINES_A_SECOND = 100
RESTART_PAUSE_S = (0.0, 0.2, 1.0)
_T = TypeVar("_T")


class Listener(Protocol):
    """What hears of the workers' live words."""

    def heard(self, frame: frames.Frame) -> None: ...


class TaskFailed(Exception):
    """The job's code or data failed; ``fault`` has code, what, why, next and public."""

    def __init__(self, fault: dict[str, str]) -> None:
        super().__init__(fault["what"])
        self.fault = fault


@dataclass(slots=True)
class _Group:
    """The workers that are connected now, by rank. ``fault``: why this group can never work."""

    writers: dict[int, asyncio.StreamWriter] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    fault: dict[str, str] | None = None
    trained: dict[int, int] = field(default_factory=dict)  # rank -> passes through the model, when it had finished


class Workers:
    """The warm workers of one run on this node.

    Args:
        run_dir: ``runner.json`` lies there, and ``work/``, the one place where workers write: the update's file too.
        confine: this process exists for these workers alone: sandbox them, and end all that they leave behind.

    Attributes:
        sandbox: "bubblewrap" or "none", known once ``start`` returned; ``obstacle`` says why it is none.
    """

    def __init__(self, run_dir: Path, spec: RunnerSpec, listener: Listener, *, confine: bool = False) -> None:
        self._run_dir, self._spec, self._listener = run_dir, spec, listener
        self._size = max(1, spec.workers)
        self._folder = tempfile.mkdtemp(prefix="octopus-w")  # short: a socket's path is limited; 0700
        self._path = f"{self._folder}/s"
        self._group = _Group()
        self._changed = asyncio.Condition()
        self._patience = Patience(math.inf, 0)
        self._limit = _Limit(lambda left: self._log(f"… {left} lines left out"))
        self._answers: asyncio.Queue[frames.Frame | None] = asyncio.Queue()
        self._process: asyncio.subprocess.Process | None = None
        self._deaths, self._number = 0, 0
        self._tasks: list[asyncio.Task[None]] = []
        self._comparing: asyncio.Task[None] | None = None
        self._server: asyncio.Server | None = None
        self._confine = confine
        self._given = run_dir / "given"  # the task's files, and no other, where confined workers can read them
        self.sandbox, self.obstacle = "none", ""

    async def start(self) -> None:
        for folder in (self._run_dir / "work", self._given):
            folder.mkdir(exist_ok=True)
        if self._confine:
            self.obstacle = await self._find_obstacle()
            self.sandbox = "none" if self.obstacle else "bubblewrap"
            if self.obstacle:
                adopt_orphans()
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        self._tasks.append(asyncio.create_task(self._supervise(), name="workers"))

    async def stop(self) -> None:
        """End the workers and whatever they started."""
        for task in (*self._tasks, *filter(None, (self._comparing,))):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._kill()
        for writer in self._group.writers.values():
            writer.close()  # torchrun's workers lead groups of their own: the end of their link ends them
        if self._process:
            await self._process.wait()
        if self._server:
            self._server.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def run(self, words: dict[str, Any]) -> frames.Frame:
        """Do one task; after a death it is done again from its beginning by fresh workers.

        Raises:
            TaskFailed: the job's code or data failed, the workers died too often (OCT-RUN-WORKERS), did not go on
                (OCT-RUN-STALLED), or took unequal numbers of steps (OCT-RUN-UNEVEN). After the last two, the workers
                are ended, and new ones start.
        """
        self._deaths = 0
        config = self._spec.run_config
        self._patience = Patience(config.round_deadline_s, config.training.stall_s)
        await self._notify()
        if self.sandbox != "none":
            given = self._give([words["model"], *words.get("shared", {}).values()])
            shared = {name: given[place] for name, place in words.get("shared", {}).items()}
            words = {**words, "model": given[words["model"]], "shared": shared}
        while True:
            await self._all_ready()
            if self._group.fault:
                raise TaskFailed(self._group.fault)
            self._number += 1
            while not self._answers.empty():
                self._answers.get_nowait()
            self._group.trained.clear()
            self._patience.moved()
            packed = frames.pack("task", number=self._number, **words)
            for writer in list(self._group.writers.values()):
                writer.write(packed)
            answer = await self._answer()
            if self._comparing:
                self._comparing.cancel()
            if answer is not None:
                if answer["word"] == "error":
                    raise TaskFailed(answer["fault"])
                return answer
            if self._deaths > self._spec.max_restarts:
                raise TaskFailed(_died(self._deaths))

    async def _answer(self) -> frames.Frame | None:
        """The frame that answers the current task; None when the group died before it."""
        while True:
            frame = await self._patiently(self._answers.get)
            if frame is None or frame.get("number") == self._number:
                return frame

    async def _patiently(self, wait: Callable[[], Coroutine[Any, Any, _T]], beginning: bool = False) -> _T:
        """What ``wait`` gives, unless the task's time ends before."""
        while (left := self._patience.left(beginning)) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if left < math.inf else None):
                    return await wait()
        self._end_group()
        raise TaskFailed(self._patience.fault())

    def _end_group(self) -> None:
        """End these workers; others start. It counts as no death."""
        group, self._group = self._group, _Group()
        self._kill()
        for writer in group.writers.values():
            writer.close()

    async def _compare(self, group: _Group, number: int) -> None:
        """A worker has finished. Tell when another is in a step that can never end."""
        while True:
            await asyncio.sleep(UNEVEN_S)
            if group is not self._group or number != self._number or len(group.trained) == self._size:
                return
            for rank, writer in group.writers.items():
                if rank not in group.trained:
                    writer.write(frames.pack("where"))

    def _placed(self, group: _Group, rank: int, passes: int) -> None:
        first = min(group.trained, key=lambda r: group.trained[r], default=None)
        if group is not self._group or first is None or rank in group.trained or passes <= group.trained[first]:
            return
        fault = uneven(first, group.trained[first], rank, passes)
        self._end_group()
        self._answers.put_nowait({"word": "error", "number": self._number, "fault": fault})

    async def _all_ready(self) -> None:
        async def ready() -> None:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: (
                        len(self._group.ready) == self._size
                        or self._group.fault is not None
                        or self._deaths > self._spec.max_restarts
                    )
                )

        await self._patiently(ready, beginning=True)
        if self._deaths > self._spec.max_restarts and len(self._group.ready) < self._size:
            raise TaskFailed(_died(self._deaths))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await frames.read(reader)
        if hello is None or hello["word"] != "hello":
            writer.close()
            return
        rank, group = int(hello["rank"]), self._group
        group.writers[rank] = writer
        while frame := await frames.read(reader):
            word = frame["word"]
            if word == "ready":
                group.ready.add(rank)
                await self._notify()
            elif word == "failed":
                group.fault = frame["fault"]
                await self._notify()
            elif word in ("result", "error"):
                if rank == 0 or word == "error":
                    self._answers.put_nowait(frame)
            elif word == "trained":
                if rank in group.trained:  # a task may train twice: to try the model out, and for its answer
                    group.trained.clear()
                if not group.trained and frame["number"] == self._number:
                    if self._comparing:
                        self._comparing.cancel()
                    self._comparing = asyncio.create_task(self._compare(group, self._number), name="compare")
                group.trained[rank] = int(frame["passes"])
            elif word == "place":
                self._placed(group, rank, int(frame["passes"]))
            elif word == "log":
                if self._limit.allows():
                    self._listener.heard({**frame, "text": str(frame["text"])[:LINE_BYTES]})
            else:
                self._patience.moved()
                self._listener.heard(frame)
        writer.close()
        if group is self._group and not group.fault:
            self._group = _Group()  # torchrun ends the other ranks
            self._deaths += 1
            self._answers.put_nowait(None)
            await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _supervise(self) -> None:
        while True:
            deaths = self._deaths
            if deaths:
                await asyncio.sleep(RESTART_PAUSE_S[min(deaths, len(RESTART_PAUSE_S)) - 1])
            self._process = await asyncio.create_subprocess_exec(
                *self._command(),
                env=self._environment(),
                cwd=self._run_dir / "work",
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            connected = self._group
            assert self._process.stdout is not None
            listening = asyncio.create_task(self._listen(self._process.stdout))
            code = await self._process.wait()
            self._kill()  # what a worker forked holds its pipes and socket open
            await listening
            self._listener.heard({"word": "log", "level": "warning", "text": f"The workers ended with code {code}."})
            if self._group is connected and not self._group.writers:  # died before it could say hello
                self._deaths += 1
                await self._notify()
            async with self._changed:
                await self._changed.wait_for(lambda: self._deaths <= self._spec.max_restarts)

    async def _find_obstacle(self) -> str:
        if self._spec.devices:
            return "Workers with GPUs are not confined yet."
        return await obstacle(self._confinement(), self._environment(), self._spec.python)

    def _confinement(self) -> Confinement:
        data = tuple(Path(source.path) for source in self._spec.sources.values())
        return Confinement(
            readable=(self._run_dir / "runner.json", Path(self._spec.package), *data, self._given, *self._other()),
            writable=(self._run_dir / "work", Path(self._folder)),
            home=self._run_dir / "work",
        )

    def _other(self) -> list[Path]:
        """What another interpreter than this one reads: its environment, and where it finds this package."""
        if not self._spec.python:
            return []
        return [*map(Path, self._spec.python_paths), Path(own_code(self._run_dir))]

    def _give(self, files: Sequence[str]) -> dict[str, str]:
        """Show the workers these files only: each to its place. A link costs nothing, and the folder is read-only on
        their side."""
        places = {file: self._given / Path(file).name for file in files}
        for old in self._given.iterdir():
            if old not in places.values():
                old.unlink()
        for file, place in places.items():
            if not place.exists():
                try:
                    os.link(file, place)
                except OSError:  # another file system, or one without links
                    shutil.copyfile(file, place)
        return {file: str(place) for file, place in places.items()}

    def _command(self) -> list[str]:
        module, arguments = self._module()
        if self.sandbox == "none":
            return list(leashed(module, *arguments, python=self._spec.python))
        python = self._spec.python or sys.executable
        return self._confinement().command([python, "-m", module, *arguments], self._environment())

    def _module(self) -> tuple[str, list[str]]:
        if self._size == 1:
            return "octopus_desktop.training.worker", [str(self._run_dir)]
        return "torch.distributed.run", [
            "--nnodes", "1", "--node-rank", "0", "--master-addr", "127.0.0.1", "--master-port", str(_free_port()),
            "--nproc-per-node", str(self._size), "--max-restarts", "0",
            "-m", "octopus_desktop.training.worker", str(self._run_dir),
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
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
            "GLOO_SOCKET_IFNAME": "lo",
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            frames.SOCKET_VARIABLE: self._path,
        }

    async def _listen(self, stream: asyncio.StreamReader) -> None:
        """Pass the workers' own output on as log lines: cut, and no more than so many a second."""
        limit = _Limit(lambda left: self._log(f"… {left} lines left out"))
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

    def _kill(self) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                kill_group(self._process.pid)
        if self._confine and self.sandbox == "none":  # a sandbox ends as a whole
            kill_descendants(self._process.pid if self._process else 0)  # what left the group by its own session


class _Limit:
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


def _died(times: int) -> dict[str, str]:
    error = UserError(
        "OCT-RUN-WORKERS",
        f"The training workers died {times} times in one task.",
        "They were killed or crashed; the run's log has their last words.",
        "Look for too little memory or a crash in native code, then resume or stop the run.",
    )
    return {**as_fault(error), "public": error.what}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
