"""An endpoint process for the relay's tests: ``python -m tests.communication.echo_endpoint WHERE HOW``.

WHERE: an inherited descriptor's number, or the path of the end's socket. HOW: what it does with a message.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from octopus_desktop.communication.relay_client import RelayClient
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError


def main(where: str, how: str) -> None:
    client = RelayClient.inherited(int(where)) if where.isdigit() else RelayClient.attach(Path(where), 20)
    if how == "fault":
        client.fault(UserError("OCT-RPC-PEER", "The peer \x1b[31m did not come.", "It is away.", "Wait."))
    if how == "foreign fault":
        client.fault(UserError("OCT-DISK-FULL", "Nonsense.", "", ""))
    if how == "mute":
        time.sleep(60)
    client.ready()
    if how == "flood":
        while True:
            client.give("alpha", Lane.BULK, bytes(1 << 20))
    for n, (_, lane, peer, payload) in enumerate(client.messages()):
        if how == "die":
            print("a last word", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "hoard" and n > 0:
            continue  # never gives room
        if how == "garbage":
            client._line.sendall(b"\xff" * 64)
        if how == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if bytes(payload) == b"gone":
            client.gone(peer)
        client.give(peer, lane, payload)
        client.room(peer, lane, len(payload))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
