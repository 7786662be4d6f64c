"""Children that cannot outlive their parent, and whole groups that end together. Knows nothing of what they run.

``python -m octopus_desktop.system.processes PARENT MODULE ARGUMENT…`` runs a module on such a leash. The leash is taken
in the child itself: a ``preexec_fn`` would fork a process that has gRPC's threads, which crashes now and then.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys
from collections.abc import Sequence

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def leashed(module: str, *arguments: str, python: str = "") -> Sequence[str]:
    """The command that runs ``python -m module arguments`` as a child that the kernel kills when this process dies.
    ``python``: another interpreter than this one, which finds this package.

    It must be started by the main thread: the kernel takes the starting thread's end for the parent's.
    """
    return [python or sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]


def die_with(parent: int) -> None:
    """From now on the kernel kills this process when its parent dies; ends at once when that has happened already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def kill_group(leader: int, how: int = signal.SIGKILL) -> None:
    """Signal the process group that ``leader`` leads; nothing happens when it is gone."""
    try:
        os.killpg(leader, how)
    except (ProcessLookupError, PermissionError):
        pass


def adopt_orphans() -> None:
    """From now on, processes below this one that lose their parent become this one's children (Linux)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def kill_descendants(spare: int = 0) -> None:
    """Kill and reap every process below this one, in whatever session; with ``adopt_orphans``, none escapes.

    ``spare``: a child that somebody else waits for.
    """
    import psutil

    for _ in range(3):  # the dead hand their own children up to this process
        below = [p for p in psutil.Process().children(recursive=True) if p.pid != spare]
        if not below:
            return
        for process in below:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(below, timeout=1)


def alive(pid: int) -> bool:
    """Whether there is such a process; one that ended and waits to be reaped counts as gone."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return True


if __name__ == "__main__":
    die_with(int(sys.argv[1]))
    sys.argv = sys.argv[2:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
