"""What mpiexec starts in a rank's place: the parent of the rank (``mpi_endpoint``).

A launcher takes the death of a process that it started itself for the death of the job: MPICH's kills all others when
one was killed by a signal, ``-disable-auto-cleanup`` or not. So the process that speaks MPI is a child of this one,
which outlives it and always ends in peace; only before the world stands does a failure end the job. Never calls MPI.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from octopus_desktop.system.processes import leashed

MODULE = "octopus_desktop.communication.mpi_endpoint"
Tell = Callable[[dict[str, Any]], None]


class Keeper:
    """One rank's process, from its start to its end.

    Arguments:
        table: path of the rank table.
        tell: takes what the rank reports.
    """

    def __init__(self, table: str, tell: Tell, *, module: str = MODULE, words: Sequence[str] = ()) -> None:
        if hasattr(signal, "SIGUSR1"):
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # MPICH's launcher sends it to all when one died
        self._tell, self._lock = tell, threading.Lock()
        self.child = subprocess.Popen(
            leashed(module, table, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            close_fds=False,  # the launcher's own line to the rank is among them
            text=True,
        )

    def watch(self) -> int:
        """Pass on what the rank reports, until it ends; returns its exit code (below 0: killed by that signal)."""
        assert self.child.stdout is not None
        for line in self.child.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                sys.stderr.write(line)  # an MPI library that has something to say
                continue
            if isinstance(event, dict):
                self._tell(event)
        code = self.child.wait()
        return 0 if code == -signal.SIGALRM else code  # it took leave, and another rank did not come to do so

    def report(self, event: dict[str, Any]) -> None:
        """Let the rank pass this on to rank 0's ``tell``. Callable from any thread."""
        with self._lock, contextlib.suppress(OSError, ValueError):
            assert self.child.stdin is not None
            self.child.stdin.write(json.dumps(event) + "\n")
            self.child.stdin.flush()

    def end_world(self) -> None:
        """At rank 0: end the world once it is quiet. Callable from any thread, and again."""
        with self._lock, contextlib.suppress(OSError):
            assert self.child.stdin is not None
            self.child.stdin.close()


def main(arguments: list[str]) -> int:
    """``mpi_keeper TABLE [MODULE]``: keep a rank until standard input ends. Reports go to standard output as lines."""

    def tell(event: dict[str, Any]) -> None:
        sys.stdout.write(json.dumps(event) + "\n")  # at once, that no other rank's comes between
        sys.stdout.flush()

    keeper = Keeper(arguments[0], tell, module=(arguments[1:] or [MODULE])[0])

    def await_end() -> None:
        sys.stdin.readline()
        keeper.end_world()

    threading.Thread(target=await_end, daemon=True).start()
    keeper.watch()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
