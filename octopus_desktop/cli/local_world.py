"""``python -m octopus_desktop.cli.local_world TABLE``: the MPI world of a federation on this machine, kept by a process
of its own, so that it outlives the command that asked for it. SIGTERM ends it. Knows no run; never imports mpi4py.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from octopus_desktop.communication.mpi_table import RankTable
from octopus_desktop.communication.mpi_world import World, find_launcher
from octopus_desktop.system.service import announce_fault, announce_ready
from octopus_desktop.wire.errors import UserError

KEEPER = "octopus_desktop.communication.mpi_keeper"
END_S = 5.0  # for a world to end in peace


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="octopus-local-world")
    parser.add_argument("table", type=Path)
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        table = RankTable.load(options.table)
        world = World(find_launcher(), len(table.ranks), [sys.executable, "-m", KEEPER, str(options.table)])
        options.table.with_suffix(".pid").write_text(str(os.getpid()))

        def end(number: int, frame: FrameType | None) -> None:
            world.end()
            late = threading.Timer(END_S, world.kill)
            late.daemon = True
            late.start()

        signal.signal(signal.SIGTERM, end)
        for event in world.events():
            if event.get("event") == "world":
                announce_ready(options.ready_fd)
            print(event, flush=True)
    except UserError as error:
        announce_fault(options.ready_fd, error)
        print(error, file=sys.stderr)
        return 1
    finally:
        options.table.with_suffix(".pid").unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
