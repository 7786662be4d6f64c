"""One process per state directory, by an advisory file lock that dies with its holder. Knows not what it guards."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from octopus_desktop.wire.errors import UserError

PROBES, PROBE_S = 4, 0.05


class InstanceLock:
    """Holds ``path`` locked as long as the object, or the process, lives. The file names the holder's process id.

    Raises OCT-STATE-LOCKED when another process holds it.
    """

    def __init__(self, path: Path, what: str) -> None:
        import fcntl

        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for _ in range(PROBES):  # ``lock_holder`` of another process holds it for an instant
                try:
                    return self._take(fcntl)
                except BlockingIOError:
                    time.sleep(PROBE_S)
            self._take(fcntl)
        except OSError as error:
            holder = os.pread(self._file, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._file)
            raise UserError(
                "OCT-STATE-LOCKED",
                f"Another {what} works on {path.parent}.",
                f"Process {holder} holds {path.name}.",
                "Use the one that runs, or stop it first.",
            ) from error

    def _take(self, fcntl: Any) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._file)


def lock_holder(path: Path) -> int | None:
    """The process that holds the lock now; None when nobody does."""
    import fcntl

    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except OSError:
        text = os.pread(file, 32, 0).decode(errors="replace").strip()
        return int(text) if text.isdigit() else 0
    finally:
        os.close(file)
