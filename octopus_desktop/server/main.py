"""``python -m octopus_desktop.server.main --home DIR``: the federation server's process.

``--init`` makes the federation instead and ends; a failure is then one JSON line on stdout for the command line, which
must not import this room. Crash-only: start-up does all the repairing; signals only set an event.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path

from octopus_desktop.system.lock import InstanceLock
from octopus_desktop.system.paths import FederationHome, federation_home, private_dir
from octopus_desktop.system.service import announce_fault, announce_ready
from octopus_desktop.wire.errors import UserError


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="octopus-server", description="The federation server.")
    parser.add_argument("--home", type=Path, default=None, help="The federation's directory (OCTOPUS_SERVER_HOME).")
    parser.add_argument("--init", action="store_true", help="Make the federation, and end.")
    parser.add_argument("--name", default="")
    parser.add_argument("--host", default="")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--bind", default="")
    parser.add_argument("--ready-fd", type=int, default=-1, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    home = federation_home(options.home)
    if options.init:
        return _init(home, options)
    least_tls()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(home, options.ready_fd))
    except UserError as error:
        announce_fault(options.ready_fd, error)
        print(error, file=sys.stderr)
        return 1
    return 0


def least_tls() -> None:
    """Let gRPC speak nothing below TLS 1.3. To be called before gRPC is imported, which is when it reads this.

    Python's gRPC has no switch for it. The suite below is for TLS 1.2 alone and needs an RSA certificate, which a
    federation never has: a 1.2 handshake finds no common suite, and 1.3 has suites of its own.
    """
    if "grpc" in sys.modules:
        raise RuntimeError("gRPC was imported before the least TLS version was set")
    os.environ["GRPC_SSL_CIPHER_SUITES"] = "ECDHE-RSA-AES256-GCM-SHA384"
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # children are started by exec alone


def _init(home: FederationHome, options: argparse.Namespace) -> int:
    from octopus_desktop.server.home import create, load_identity

    try:
        config = create(home, options.name, options.host, options.port, options.bind)
        authority = load_identity(home).authority
    except UserError as error:
        print(json.dumps({"error": [error.code, error.what, error.why, error.next_step]}))
        return 1
    print(json.dumps({"name": config.name, "address": config.address, "ca_fingerprint": authority.fingerprint}))
    return 0


async def _run(home: FederationHome, ready_fd: int) -> None:
    from octopus_desktop.server.home import load

    config = load(home)
    private_dir(home.root)
    lock = InstanceLock(home.lock, "federation server")

    from octopus_desktop.server.app import Federation

    end = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end.set)
    federation = Federation(home, config)
    await federation.start()
    announce_ready(ready_fd)
    await end.wait()
    await federation.stop()
    lock.release()


if __name__ == "__main__":
    sys.exit(main())
