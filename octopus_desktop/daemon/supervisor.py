"""A runner's process: started on a leash, spoken to in words, ended as a group. Knows no state of any run."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from octopus_desktop.system.processes import kill_group, leashed
from octopus_desktop.wire.child import decode, encode

GRACE_S = 5.0
LINE_BYTES = 8 << 20


class Runner:
    """One child process in a session of its own; ends with the daemon.

    Arguments:
        heard: told of each word of the child, as its dict.
        wrote: told of each line of its standard error.
        gone: told once of its end, with what the operating system says of it ("exit status 1", "signal 9").
    """

    def __init__(
        self,
        heard: Callable[[dict[str, Any]], None],
        wrote: Callable[[str], None],
        gone: Callable[[str], None],
    ) -> None:
        self._heard, self._wrote, self._gone = heard, wrote, gone
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self._unwanted = ""  # why it was to end before it had begun

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    async def start(self, module: str, *arguments: str, cwd: Path) -> None:
        """Begin. Who was told to end meanwhile ends at once."""
        self._process = await asyncio.create_subprocess_exec(
            *leashed(module, *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            start_new_session=True,
            cwd=cwd,
            env=_environment(),
        )
        self._watch = asyncio.create_task(self._until_gone(self._process))
        if self._unwanted:
            await self.end(self._unwanted)

    def say(self, word: str, **fields: Any) -> None:
        """A word to the child; lost when it is gone, since rows are the truth."""
        if self._process and self._process.stdin and self._process.returncode is None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
                self._process.stdin.write(encode(word, **fields).encode())

    async def end(self, reason: str) -> None:
        """Ask it to stop, and kill its group when it has not ended after GRACE_S."""
        process = self._process
        if process is None:
            self._unwanted = reason or "It is not needed."
            return
        self.say("stop", reason=reason)
        if process.stdin:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), GRACE_S)
        except TimeoutError:
            pass
        kill_group(process.pid)
        if self._watch:
            await asyncio.wait([self._watch])

    def kill(self) -> None:
        """At once, with everything it started."""
        if self._process and self._process.returncode is None:
            kill_group(self._process.pid)

    async def _until_gone(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout and process.stderr
        await asyncio.gather(self._words(process.stdout), self._lines(process.stderr), process.wait())
        kill_group(process.pid)  # what it started and left behind
        code = process.returncode or 0
        self._gone(f"signal {-code}" if code < 0 else f"exit status {code}")

    async def _words(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines_of(stream):
            word = decode(line)
            if word is not None:
                self._heard(word)

    async def _lines(self, stream: asyncio.StreamReader) -> None:
        async for line in _lines_of(stream):
            text = line.decode(errors="replace").rstrip()
            if text:
                self._wrote(text)


async def _lines_of(stream: asyncio.StreamReader) -> Any:
    """Lines; one that is longer than the limit is dropped, not fatal."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line


def _environment() -> dict[str, str]:
    """What a runner inherits: nothing that opens the silo's secrets."""
    hidden = ("OCTOPUS_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY", "DBUS_SESSION_BUS_ADDRESS")
    return {name: value for name, value in os.environ.items() if name not in hidden}
