"""Words between runner and workers, on a Unix socket (``wire.frames``).

Worker to runner: ``hello`` {rank, pid, restart}, ``ready``, ``failed`` {fault}, ``metrics``, ``progress``, ``log``,
``span``, ``trained`` {number, passes}, ``place`` {passes}, ``result`` {number, …} and ``error`` {number, fault}.
Runner to worker: ``task`` {number, …}, ``where``, which ``place`` answers at once.
"""

from __future__ import annotations

from octopus_desktop.wire.frames import MOST_BYTES, Frame, pack, read, receive

SOCKET_VARIABLE = "OCTOPUS_WORKER_SOCKET"

__all__ = ["MOST_BYTES", "SOCKET_VARIABLE", "Frame", "pack", "read", "receive"]
