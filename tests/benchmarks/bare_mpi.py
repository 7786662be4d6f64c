"""Bare ``MPI.Send`` and ``Recv`` of buffers, by all ranks of one world: ``python -m tests.benchmarks.bare_mpi`` under
mpiexec. Rank 0 is the server, and speaks with the parent for all.
"""

from __future__ import annotations

import sys

from mpi4py import MPI

from tests.benchmarks.words import MIB, PIECE, obey, say

GO, TENSOR = 1, 16 * MIB


class Ranks:
    def __init__(self) -> None:
        self.world = MPI.COMM_WORLD
        self.buffer, self.size = bytearray(PIECE * 16), 0

    def prepare(self, size: int, silos: int) -> None:
        self.size = size

    def go(self) -> None:
        """The server's part: piece by piece to all, then from all as they come."""
        ranks = range(1, self.world.Get_size())
        for rank in ranks:
            self.world.Send(self.size.to_bytes(8, "big"), dest=rank, tag=GO)
        for at in range(0, self.size, TENSOR):
            part = memoryview(self.buffer)[: min(TENSOR, self.size - at)]
            for rank in ranks:
                self.world.Send([part, MPI.BYTE], dest=rank)
        for _ in range(-(-self.size // TENSOR) * len(ranks)):
            self.world.Recv([self.buffer, MPI.BYTE], source=MPI.ANY_SOURCE)

    def serve(self) -> None:
        """A silo's part."""
        while True:
            told = bytearray(8)
            self.world.Recv(told, source=0, tag=GO)
            size = int.from_bytes(told, "big")
            if not size:
                return
            for at in range(0, size, TENSOR):
                self.world.Recv([memoryview(self.buffer)[: min(TENSOR, size - at)], MPI.BYTE], source=0)
            for at in range(0, size, TENSOR):
                self.world.Send([memoryview(self.buffer)[: min(TENSOR, size - at)], MPI.BYTE], dest=0)


if __name__ == "__main__":
    ranks = Ranks()
    if ranks.world.Get_rank() == 0:
        say(port=0)
        obey(ranks)
    else:
        ranks.serve()
    sys.exit(0)
