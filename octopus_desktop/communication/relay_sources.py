"""How a relay's endpoint process comes to be: as this process's child, or by itself. Knows neither torch nor MPI."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from octopus_desktop.communication.relay_frames import Kind, head, readable
from octopus_desktop.system.endpoint import create_token, token_path

LEAVE_S = 1.0  # for an endpoint to hand on what it still holds, once its end closes
_HELLO_S = 5.0

_log = logging.getLogger(__name__)


class Source(Protocol):
    """Where an endpoint process comes from."""

    async def begin(self) -> socket.socket:
        """A non-blocking socket to a new endpoint; cancelled when that takes too long. Raises UserError or OSError."""
        ...

    async def epitaph(self, greeted: bool) -> str:
        """What is known of the end of an endpoint whose socket is closed, as a sentence. Quick.

        ``greeted``: it had spoken with peers by then; what it wrote may be theirs, and is not shown as ours.
        """
        ...

    async def end(self) -> None:
        """Free everything, by force where needed; never raises."""
        ...


class Spawned:
    """An endpoint that is this process's child, with one half of a socket pair as an inherited descriptor.

    Arguments:
        command: the words for a given descriptor. The child must end when this process does (a sandbox's
            ``--die-with-parent``, ``processes.leashed``) and when the socket ends. Raises UserError.
        environment: all that the child gets.
    """

    def __init__(self, command: Callable[[int], Sequence[str]], environment: Mapping[str, str]) -> None:
        self._command, self._environment = command, environment
        self._process: asyncio.subprocess.Process | None = None
        self._reader: asyncio.Task[None] | None = None
        self._said: deque[str] = deque(maxlen=20)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    async def begin(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command(theirs.fileno()),
                    env=dict(self._environment),
                    pass_fds=(theirs.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True,
                )
        except BaseException:
            ours.close()
            raise
        self._said.clear()
        self._reader = asyncio.create_task(self._listen(self._process))
        ours.setblocking(False)
        return ours

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        """Keep the newest lines that it wrote. Read always, so that it never waits for us, but no faster than it has
        reason to write."""
        assert process.stderr is not None
        rest = b""
        while part := await process.stderr.read(16 << 10):
            *lines, rest = (rest + part).split(b"\n")
            rest = rest[-4096:]
            self._said.extend(readable(line.decode(errors="replace"), 300) for line in lines[-20:])
            await asyncio.sleep(0.05)
        self._said.append(readable(rest.decode(errors="replace"), 300))

    async def epitaph(self, greeted: bool) -> str:
        if (process := self._process) is None:
            return "It was not started."
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), 2.0)
        if self._reader is not None:
            await asyncio.wait([self._reader], timeout=0.5)
        how, last = _ended_how(process.returncode), next((line for line in reversed(self._said) if line), "")
        _log.info("endpoint process %d is gone: %s Its last words: %r", process.pid, how, last)
        return f"{how} Its last words: {last}" if last and not greeted else how

    async def end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), LEAVE_S)
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.wait([self._reader])
            self._reader = None


def _ended_how(code: int | None) -> str:
    if code is None:
        return "It closed its connection."
    if code < 0 or code > 128:  # bubblewrap tells a signal as 128 + its number
        number = -code if code < 0 else code - 128
        with contextlib.suppress(ValueError):
            return f"It was killed by {signal.Signals(number).name}."
    return f"It ended with exit code {code}."


class Attached:
    """An endpoint that comes by itself to a Unix socket, as a rank of an MPI world does.

    Directory 0700, socket 0600, and beside it a token file 0600 that is new each time. A connection without the token
    is closed and the next one awaited.

    Arguments:
        path: of the socket; short enough, see ``system.paths.runtime_dir``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening: socket.socket | None = None

    async def begin(self) -> socket.socket:
        await self.end()
        token = create_token(self.path)
        self.path.unlink(missing_ok=True)
        listening = self._listening = socket.socket(socket.AF_UNIX)
        listening.setblocking(False)
        mask = os.umask(0o177)
        try:
            listening.bind(str(self.path))
        finally:
            os.umask(mask)
        listening.listen(4)
        loop = asyncio.get_running_loop()
        while True:
            line, _ = await loop.sock_accept(listening)
            try:
                if await asyncio.wait_for(_greeted(line, token), _HELLO_S):
                    self._stop_listening()
                    return line
            except (OSError, TimeoutError):
                pass
            except BaseException:
                line.close()
                raise
            line.close()

    async def epitaph(self, greeted: bool) -> str:
        return "It closed its connection."

    async def end(self) -> None:
        self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listening is not None:
            self._listening.close()
            self._listening = None
            self.path.unlink(missing_ok=True)
            token_path(self.path).unlink(missing_ok=True)


async def _greeted(line: socket.socket, token: str) -> bool:
    """Whether the first frame is a HELLO with this token."""
    wanted = head(Kind.HELLO, payload_bytes=len(token)) + token.encode()
    loop, got = asyncio.get_running_loop(), b""
    while len(got) < len(wanted):
        part = await loop.sock_recv(line, len(wanted) - len(got))
        if not part:
            return False
        got += part
    return hmac.compare_digest(got, wanted)
