"""``python -m octopus_desktop.daemon.main --home DIR``: wires the daemon and runs it until it is told to end.

Crash-only: start-up brings rows, mail and processes together; the end just ends. Signals only set an event.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.lock import InstanceLock
from octopus_desktop.system.paths import SiloHome, private_dir, silo_home
from octopus_desktop.system.service import announce_fault, announce_ready
from octopus_desktop.wire.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="octopus-daemon", description="The silo's background process.")
    parser.add_argument("--home", type=Path, default=None, help="The silo's directory (default: OCTOPUS_HOME).")
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children are started by vfork and exec
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        asyncio.run(_run(silo_home(options.home), options.ready_fd))
    except UserError as error:
        announce_fault(options.ready_fd, error)
        print(error, file=sys.stderr)
        return 1
    return 0


async def _run(home: SiloHome, ready_fd: int) -> None:
    try:
        private_dir(home.root)
    except OSError as error:
        raise UserError(
            "OCT-CONFIG-INVALID", f"{home.root} cannot be this silo's home.", str(error), "Give another --home."
        ) from error
    from octopus_desktop.daemon.app import App  # brings grpc, which reads its environment when it is imported

    lock = InstanceLock(home.lock, "daemon")
    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    app = App(home, SiloDb(home.database), end.set)
    await app.start()
    announce_ready(ready_fd)
    await end.wait()
    await app.stop()
    del lock  # held until here; the process's end releases it


if __name__ == "__main__":
    sys.exit(main())
