"""A process that may see little and touch less: bubblewrap on Linux. Training confines the job's workers with it,
PyTorch RPC its endpoint, and aggregation a job's own strategy.

It sees the interpreter, the installed packages and what it is given, read-only; it writes only where it is let; it has
either no network but a loopback of its own, or this machine's. When its first process ends, the kernel ends everything
in it, whatever it forked; it ends with the thread that started it. Knows nothing of what runs inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import octopus_desktop

SWITCH = "OCTOPUS_SANDBOX"  # "off" runs everything unconfined
PROBE_S = 20.0
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf")
# linux/landlock.h; these system calls have the same numbers on every architecture
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT_SELF, _LANDLOCK_VERSION = 444, 446, 1
_SCOPES_ABI, _SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 6, 1, 2
_PR_SET_NO_NEW_PRIVS = 38


class Network(StrEnum):
    NONE = "none"  # a loopback of its own
    SHARED = "shared"  # this machine's, so that it can reach whatever this user's processes can


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What a confined process gets. ``readable``: files and folders, which may be missing; ``writable``: folders that
    are there; ``home``: the working directory, one of the writable ones or /tmp, which is empty and in memory.
    Everything lies at its own path. ``still``: it writes nowhere, not even to /tmp."""

    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    home: Path = Path("/tmp")
    network: Network = Network.NONE
    still: bool = False

    def command(self, words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The bubblewrap command that runs ``words`` confined, with this environment and nothing else of ours."""
        return [
            "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try",
            *(["--unshare-net"] if self.network is Network.NONE else []),
            "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            *self._system(), "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--tmpfs", "/tmp",
            *(w for path in (*_runtime(), *self.readable) for w in ("--ro-bind-try", str(path), str(path))),
            *(w for path in self.writable for w in ("--bind", str(path), str(path))),
            *(w for place in ("/tmp", "/dev/shm", "/dev") if self.still for w in ("--remount-ro", place)),
            "--chdir", str(self.home), "--clearenv",
            *(w for name, value in environment.items() for w in ("--setenv", name, value)),
            *words,
        ]  # fmt: skip

    def _system(self) -> list[str]:
        words: list[str] = []
        for path in map(Path, _SYSTEM):
            if path.is_symlink():
                words += ["--symlink", str(path.readlink()), str(path)]
            elif path.is_dir():
                words += ["--ro-bind", str(path), str(path)]
        for file in _FILES:
            words += ["--ro-bind-try", file, file]
        return words


def switched_off() -> bool:
    """Whether the administrator chose to do without."""
    return os.environ.get(SWITCH, "").lower() == "off"


def plain_obstacle() -> str:
    """Why confining need not even be tried here; "" when it is worth a try."""
    if switched_off():
        return f"{SWITCH} is set to off."
    if not sys.platform.startswith("linux"):
        return "Confinement is built on bubblewrap, which is for Linux."
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (Debian: apt install bubblewrap)."
    return ""


async def obstacle(confinement: Confinement, environment: Mapping[str, str], imports: str, python: str = "") -> str:
    """Why nothing can be confined here; "" when it can: a confined interpreter (this one, or ``python``) started and
    imported ``imports``."""
    if why := plain_obstacle():
        return why
    words = [python or sys.executable, "-c", f"import {imports}"]
    process = await asyncio.create_subprocess_exec(
        *confinement.command(words, environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, told = await asyncio.wait_for(process.communicate(), PROBE_S)
    except TimeoutError:
        return f"bubblewrap did not start an interpreter within {PROBE_S:.0f} s."
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    if process.returncode == 0:
        return ""
    last = told.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
    return f"bubblewrap does not work here: {last[0][:300]}"


def scope_itself() -> bool:
    """For use inside a sandbox with a shared network: from now on this thread, and what it starts, reaches no abstract
    Unix socket outside and signals no process there. A view of files does not cover such sockets, and a desktop's X
    server has one. By landlock, from ABI 6 on (Linux 6.12); returns whether it is in force."""
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION) < _SCOPES_ABI:
        return False
    attributes = (ctypes.c_uint64 * 3)(0, 0, _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS)
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.sizeof(attributes), 0)
    if rules < 0:
        return False
    try:
        libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        return bool(libc.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) == 0)
    finally:
        os.close(rules)


def _runtime() -> list[Path]:
    """Interpreter, virtual environment, this package, and what else of the import path is no system folder."""
    own = Path(octopus_desktop.__file__).resolve().parent
    places = [Path(sys.base_prefix), Path(sys.prefix), *(Path(p) for p in sys.path if "-packages" in p), own]
    found: list[Path] = []
    for place in places:
        if place.is_absolute() and not place.is_relative_to("/usr") and not any(place.is_relative_to(f) for f in found):
            found.append(place)
    return found
