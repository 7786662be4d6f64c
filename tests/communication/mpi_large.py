"""One message from rank 1 to rank 0: ``mpiexec -n 2 python -m tests.communication.mpi_large SIZE [MOST]``.

MOST: the largest count; with it, the large-count calls of MPI 4 are not used either.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from octopus_desktop.communication import mpi_lines
from octopus_desktop.communication.mpi_lines import Lines, Stream, Tag
from octopus_desktop.communication.mpi_start import start_mpi


class OldMpi:
    """The module, as if it were of MPI 3."""

    def __init__(self, mpi: Any) -> None:
        self._mpi = mpi

    def __getattr__(self, name: str) -> Any:
        return (lambda: (3, 1)) if name == "Get_version" else getattr(self._mpi, name)


def main(size: int, most: int) -> None:
    real = start_mpi()
    mpi = OldMpi(real) if most else real
    mpi_lines.MOST_COUNT = most or mpi_lines.MOST_COUNT
    got: list[bytearray] = []

    def receive(rank: int, stream: Stream, tag: Tag, payload: bytearray) -> None:
        got.append(payload)

    lines = Lines(mpi, real.COMM_WORLD, receive)
    if real.COMM_WORLD.Get_rank() == 1:
        payload = bytearray(size)
        payload[:4], payload[size // 2 : size // 2 + 4], payload[-4:] = b"head", b"half", b"tail"
        lines.put(0, Stream.BULK, payload)
        lines.put(0, Stream.BULK, b"after it")
        while not lines.idle:
            lines.turn(Stream)
    else:
        while len(got) < 2:
            if not lines.turn(Stream):
                time.sleep(0.001)
        large = got[0]
        assert (large[:4], large[size // 2 : size // 2 + 4], large[-4:]) == (b"head", b"half", b"tail")
        assert got[1] == b"after it"
        print("whole", len(large), flush=True)
    real.Finalize()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
