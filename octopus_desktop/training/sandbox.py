"""How the workers of one run are confined: what they may read, the one place they may write, and no network.

Linux with bubblewrap: all workers of a node share one sandbox with a loopback of its own, so that gloo finds them. They
see the interpreter, the installed packages, the job's package, the approved datasets and the model of the task, all
read-only; they write below one work folder; they reach the runner's socket and nothing else. When the sandbox's first
process ends, the kernel ends everything in it, whatever it forked. Knows nothing of tasks or torch.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import octopus_desktop

SWITCH = "OCTOPUS_SANDBOX"  # "off" runs the workers unconfined
PROBE_S = 20.0
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/etc/nsswitch.conf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What one run's workers get. ``readable``: files and folders, which may be missing; ``writable``: folders that
    are there; ``home``: the working directory, one of the writable ones. Everything lies at its own path."""

    readable: tuple[Path, ...]
    writable: tuple[Path, ...]
    home: Path

    def command(self, words: Sequence[str], environment: Mapping[str, str]) -> list[str]:
        """The bubblewrap command that runs ``words`` confined, with this environment and nothing else of ours."""
        return [
            "bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net",
            "--unshare-cgroup-try", "--die-with-parent", "--new-session", "--cap-drop", "ALL",
            *self._system(), "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--tmpfs", "/tmp",
            *(w for path in (*_runtime(), *self.readable) for w in ("--ro-bind-try", str(path), str(path))),
            *(w for path in self.writable for w in ("--bind", str(path), str(path))),
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


async def obstacle(confinement: Confinement, environment: Mapping[str, str]) -> str:
    """Why workers cannot be confined here; "" when they can: a confined interpreter was started and did run."""
    if os.environ.get(SWITCH, "").lower() == "off":
        return f"{SWITCH} is set to off."
    if not sys.platform.startswith("linux"):
        return "Confinement is built on bubblewrap, which is for Linux."
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed (Debian: apt install bubblewrap)."
    words = [sys.executable, "-c", "import numpy, octopus_desktop.training.frames"]
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


def _runtime() -> list[Path]:
    """Interpreter, virtual environment, this package, and what else of the import path is no system folder."""
    own = Path(octopus_desktop.__file__).resolve().parent
    places = [Path(sys.base_prefix), Path(sys.prefix), *(Path(p) for p in sys.path if "-packages" in p), own]
    found: list[Path] = []
    for place in places:
        if place.is_absolute() and not place.is_relative_to("/usr") and not any(place.is_relative_to(f) for f in found):
            found.append(place)
    return found
