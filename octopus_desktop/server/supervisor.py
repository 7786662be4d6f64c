"""Coordinators as child processes: one a run, started again when they die, ended with the server. Knows no run's state.

A coordinator speaks ``wire.child`` on stdin and stdout; its stderr goes to ``coordinator.log`` in the run's directory.
It is its own process group and dies with the server (its stdin ends; on Linux the kernel kills it as well).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from octopus_desktop.system.processes import kill_group, leashed
from octopus_desktop.wire.child import decode, encode

log = logging.getLogger(__name__)

BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 10.0
DEATHS_MOST = 5
GRACE_S = 5.0
LINE_LIMIT_BYTES = 8 << 20
LOG_TAIL_BYTES = 4096
PROGRESS = ("round", "outbox")  # words that show that the coordinator gets on

Word = dict[str, Any]


def coordinator_command(run_dir: Path) -> Sequence[str]:
    return leashed("octopus_desktop.server.coordinator", str(run_dir))


class Supervisor:
    """Keeps one child per run alive until it says ``ended`` or is stopped.

    Arguments:
        on_word: told of each word of a run's child, in order.
        on_lost: told of a run whose child died ``deaths_most`` times in a row without progress, and why.
        greeting: the words that a fresh child is told first.
        command: what to run for a run's directory.
    """

    def __init__(
        self,
        *,
        on_word: Callable[[str, Word], None],
        on_lost: Callable[[str, str], None],
        greeting: Callable[[str], Sequence[Word]] = lambda run_id: (),
        command: Callable[[Path], Sequence[str]] = coordinator_command,
        deaths_most: int = DEATHS_MOST,
        backoff_s: float = BACKOFF_FIRST_S,
    ) -> None:
        self._on_word, self._on_lost, self._greeting, self._command = on_word, on_lost, greeting, command
        self._deaths_most, self._backoff_s = deaths_most, backoff_s
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._children: dict[str, asyncio.subprocess.Process] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def running(self, run_id: str) -> bool:
        return run_id in self._tasks

    def pid(self, run_id: str) -> int | None:
        child = self._children.get(run_id)
        return child.pid if child else None

    def start(self, run_id: str, run_dir: Path) -> None:
        """Nothing happens when it runs already."""
        if run_id not in self._tasks:
            self._tasks[run_id] = asyncio.create_task(self._keep(run_id, run_dir), name=f"coordinator {run_id}")

    def say(self, run_id: str, word: str, **fields: Any) -> None:
        """A hint for the child; lost when there is none, for it looks at the rows when it starts."""
        child = self._children.get(run_id)
        if child and child.stdin and not child.stdin.is_closing():
            child.stdin.write(encode(word, **fields).encode())

    def stop(self, run_id: str, reason: str) -> None:
        """Tell the child to end, and see to it that it does."""
        task, child = self._tasks.pop(run_id, None), self._children.pop(run_id, None)
        if task is None or task is asyncio.current_task():
            return
        ending = asyncio.create_task(self._stop(task, child, reason))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """End all children; their runs go on when the server starts again."""
        children = list(self._children.values())
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, *self._ending, return_exceptions=True)
        for child in children:
            await _end(child)

    async def _stop(self, task: asyncio.Task[None], child: asyncio.subprocess.Process | None, reason: str) -> None:
        if child and child.stdin:
            with contextlib.suppress(OSError, RuntimeError):
                child.stdin.write(encode("stop", reason=reason).encode())
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if child:
            await _end(child)

    async def _keep(self, run_id: str, run_dir: Path) -> None:
        deaths = 0
        while True:
            child, ended, progress = None, False, False
            try:
                child = await self._spawn(run_id, run_dir)
                ended, progress = await self._listen(run_id, child)
                status = await child.wait()
            except OSError as error:
                status, why = -1, str(error)
                log.warning("the coordinator of %s could not be started: %s", run_id, error)
            else:
                why = f"it ended with status {status}. {_tail(run_dir / 'coordinator.log')}".strip()
            self._children.pop(run_id, None)
            if ended:
                self._tasks.pop(run_id, None)
                return
            deaths = 1 if progress else deaths + 1
            log.warning("the coordinator of %s died (%d in a row): %s", run_id, deaths, why)
            if deaths >= self._deaths_most:
                self._tasks.pop(run_id, None)
                self._on_lost(run_id, f"The coordinator process died {deaths} times in a row: {why}")
                return
            most = min(self._backoff_s * 2 ** (deaths - 1), BACKOFF_MOST_S)
            await asyncio.sleep(random.uniform(most / 2, most))

    async def _spawn(self, run_id: str, run_dir: Path) -> asyncio.subprocess.Process:
        with open(run_dir / "coordinator.log", "ab") as errors:
            child = await asyncio.create_subprocess_exec(
                *self._command(run_dir),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                limit=LINE_LIMIT_BYTES,
            )
        threading.Thread(target=_bury, args=(child.pid,), name=f"exit of {child.pid}", daemon=True).start()
        self._children[run_id] = child
        for word in self._greeting(run_id):
            self.say(run_id, **word)
        return child

    async def _listen(self, run_id: str, child: asyncio.subprocess.Process) -> tuple[bool, bool]:
        """Until the child's stdout ends; (it said ``ended``, it got on)."""
        assert child.stdout is not None
        progress = False
        try:
            while line := await child.stdout.readline():
                word = decode(line)
                if word is None:
                    log.warning("the coordinator of %s wrote a line that is no word: %.200r", run_id, line)
                    continue
                progress = progress or word["word"] in PROGRESS
                self._on_word(run_id, word)
                if word["word"] == "ended":
                    await _end(child)
                    return True, progress
        except ValueError:  # a line over the limit
            log.exception("the coordinator of %s wrote a line that is too long", run_id)
            await _end(child)
        return False, progress


def _bury(leader: int) -> None:
    """Wait for the child's end without reaping it, and kill what it started: an heir that holds its stdout would
    keep us listening for ever."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    kill_group(leader)


async def _end(child: asyncio.subprocess.Process) -> None:
    """Close its stdin, wait a little, kill its group."""
    if child.returncode is None:
        if child.stdin:
            with contextlib.suppress(OSError, RuntimeError):
                child.stdin.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await _drain(child)
    kill_group(child.pid)
    await child.wait()


async def _drain(child: asyncio.subprocess.Process) -> None:
    """Read away what it still says, so that a full pipe cannot keep it from ending."""
    if child.stdout:
        with contextlib.suppress(ValueError):
            while await child.stdout.read(1 << 16):
                pass
    await child.wait()


def _tail(path: Path) -> str:
    """The last line of a log, for a person's eyes."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""
