"""A rank with handles for tests: ``python -m tests.communication.mpi_rank TABLE``, in place of ``mpi_endpoint``.

SIGUSR2 cuts its connection to its own end, with all that is under way. OCTOPUS_TEST_MPI, JSON, per silo or "server":
``version``: what it claims to be; ``machine``: where it claims to run; ``dead_s``: see ``mpi_endpoint``; ``die``: at
which moment it kills itself ("start").
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.communication import mpi_endpoint
from octopus_desktop.communication.mpi_table import RankTable


class TestRank(mpi_endpoint.Rank):
    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        told = json.loads(os.environ.get("OCTOPUS_TEST_MPI", "{}")).get(self.name, {})
        octopus_desktop.__version__ = told.get("version", octopus_desktop.__version__)
        self._dead_s = told.get("dead_s", self._dead_s)
        if "machine" in told:
            mpi_endpoint.machine = lambda: told["machine"]
        if told.get("die") == "start":
            os.kill(os.getpid(), signal.SIGKILL)
        self.cut = False
        signal.signal(signal.SIGUSR2, self._cut)

    def _cut(self, *_: object) -> None:
        self.cut = True

    def _turn(self) -> bool:
        if self.cut:
            self.cut = False
            if self._connection is not None:
                self._connection.inbox.clear()
                self._connection.let_go()
        return super()._turn()


if __name__ == "__main__":
    mpi_endpoint.Rank = TestRank  # type: ignore[misc]
    assert RankTable.load(Path(sys.argv[1]))
    code = mpi_endpoint.main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
