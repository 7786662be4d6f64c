"""Children that cannot outlive their parent, and whole groups that end together. Knows nothing of what they run."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_parent() -> Callable[[], None] | None:
    """A ``preexec_fn`` after which the kernel kills the child when its parent dies; None where there is no such thing.

    A child that starts after its parent's death notices by its parent's id.
    """
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


def kill_group(leader: int, how: int = signal.SIGKILL) -> None:
    """Signal the process group that ``leader`` leads; nothing happens when it is gone."""
    try:
        os.killpg(leader, how)
    except (ProcessLookupError, PermissionError):
        pass


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
