"""The processes of one simulation on several machines, as ``torchrun`` started them, and the bytes between them.

Messages go from rank 0 to all (``tell``), and from each rank to rank 0 (``report``); tensors are summed by gloo's
all-reduce. JSON and raw bytes alone; nothing is unpickled. The job's code sees nothing of it: torch's default process
group is not made, and torchrun's variables are taken out of the environment, so a trainer that asks whether it is
alone gets the answer that it gets in a deployment.

A rank that dies ends all of them. Who waits for it sees its connection close; a machine that falls silent is noticed by
a watch that each rank keeps on the others through torchrun's store. Knows nothing of rounds and silos. Needs torch.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from octopus_desktop.wire.errors import UserError

_NAMES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_PREFIXES = ("TORCHELASTIC_", "LOCAL_", "GROUP_", "ROLE_")
JOINING_S = 300.0
BEAT_S = 5.0
SILENT_S = 60.0
FOR_EVER = timedelta(days=365)  # a rank may train for long; the watch, not a timeout, notices one that is gone
CHUNK_BYTES = 16 << 20


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


class Group:
    """This process among the others.

    Attributes:
        rank, size: 0 drives the simulation, the others follow.
        broken: nothing more can be said; who waits for a word sees this process end.

    Raises (all methods):
        UserError: OCT-RUN-WORKERS, when another process is gone.
    """

    def __init__(self) -> None:
        told, self.broken = dict(os.environ), False
        self.rank, self.size = int(told["RANK"]), int(told["WORLD_SIZE"])
        for name in [n for n in told if n in _NAMES or n.startswith(_PREFIXES)]:
            del os.environ[name]
        address, port = told["MASTER_ADDR"], int(told["MASTER_PORT"])
        prefix = f"octopus/{told.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        serves = self.rank == 0 and told.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        try:
            self._store = _store(address, port, serves)
            mine = dist.PrefixStore(prefix, self._store)
            self._gloo: Any = dist.ProcessGroupGloo(mine, self.rank, self.size, timedelta(seconds=JOINING_S))
            self._watch = _Watch(dist.PrefixStore(prefix, _store(address, port, False)), self.rank, self.size)
            self._wait(lambda: self._gloo.barrier())
        except RuntimeError as error:
            raise _gone(f"They did not all come together within {JOINING_S:.0f} s: {_first_line(error)}") from error
        self._gloo._set_default_timeout(FOR_EVER)

    # from rank 0 to all

    def tell(self, value: Any) -> None:
        raw = _bytes(json.dumps(value).encode())
        self._broadcast(torch.tensor([raw.numel()]))
        self._broadcast(raw)

    def hear(self) -> Any:
        length = torch.zeros(1, dtype=torch.int64)
        self._broadcast(length)
        raw = torch.empty(int(length), dtype=torch.uint8)
        self._broadcast(raw)
        return json.loads(bytes(raw.numpy()))

    def spread(self, block: torch.Tensor) -> None:
        """Rank 0's bytes become everybody's."""
        for piece in block.split(CHUNK_BYTES):
            self._broadcast(piece)

    # from one rank to rank 0

    def report(self, value: Any) -> None:
        raw = _bytes(json.dumps(value).encode())
        self._send(torch.tensor([raw.numel()]))
        self._send(raw)

    def reported(self, rank: int) -> Any:
        length = torch.zeros(1, dtype=torch.int64)
        self._receive(length, rank)
        raw = torch.empty(int(length), dtype=torch.uint8)
        self._receive(raw, rank)
        return json.loads(bytes(raw.numpy()))

    def give(self, block: torch.Tensor) -> None:
        """Bytes to rank 0."""
        for piece in block.split(CHUNK_BYTES):
            self._send(piece)

    def take(self, block: torch.Tensor, rank: int) -> None:
        """Fill ``block`` with bytes that ``rank`` gives."""
        for piece in block.split(CHUNK_BYTES):
            self._receive(piece, rank)

    # all together

    def add(self, values: torch.Tensor) -> None:
        """Each rank's values become the sum over all."""
        self._wait(lambda: self._gloo.allreduce([values], dist.ReduceOp.SUM))

    def largest(self, values: torch.Tensor) -> None:
        self._wait(lambda: self._gloo.allreduce([values], dist.ReduceOp.MAX))

    def leave(self, failed: bool = False) -> None:
        """The simulation is over: rank 0 tells the others, and nobody is missed from now on."""
        if self.rank == 0 and not self.broken:
            self.tell({"do": "over", "failed": failed})
            for rank in range(1, self.size):
                self.reported(rank)
        self._watch.close()
        if self.rank:
            self.report({})

    def _broadcast(self, block: torch.Tensor) -> None:
        self._wait(lambda: self._gloo.broadcast(block, 0))

    def _send(self, block: torch.Tensor) -> None:
        self._wait(lambda: self._gloo.send([block], 0, 0))

    def _receive(self, block: torch.Tensor, rank: int) -> None:
        self._wait(lambda: self._gloo.recv([block], rank, 0))

    def _wait(self, begin: Callable[[], Any]) -> None:
        try:
            begin().wait()
        except RuntimeError as error:
            self.broken = True
            raise _gone(_first_line(error)) from error


class _Watch:
    """Each rank shows that it lives, and looks whether the others do. Its thread ends the process when one does not:
    who waits in a collective call cannot be woken otherwise."""

    def __init__(self, store: dist.Store, rank: int, size: int) -> None:
        self._store, self._rank, self._size = store, rank, size
        self._over = threading.Event()
        self._beat(0)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._over.set()

    def _beat(self, count: int) -> None:
        self._store.set(f"alive/{self._rank}", str(count))

    def _run(self) -> None:
        seen: dict[int, tuple[bytes, float]] = {}
        count = 0
        while not self._over.wait(BEAT_S):
            count += 1
            try:
                self._beat(count)
                for rank in range(self._size):
                    value = self._store.get(f"alive/{rank}") if self._store.check([f"alive/{rank}"]) else b""
                    if rank not in seen or seen[rank][0] != value:
                        seen[rank] = value, time.monotonic()
                    elif time.monotonic() - seen[rank][1] > SILENT_S:
                        self._end(f"Rank {rank} has not been heard of for {SILENT_S:.0f} s.")
            except RuntimeError as error:
                self._end(f"torchrun's store is gone: {_first_line(error)}")

    def _end(self, why: str) -> None:
        if self._over.is_set():
            return
        error = _gone(why)
        print(f"{error.what} {error.why} {error.next_step} [{error.code}]", file=sys.stderr, flush=True)
        os._exit(1)


def _store(address: str, port: int, serves: bool) -> dist.TCPStore:
    return dist.TCPStore(address, port, None, serves, timedelta(seconds=JOINING_S), wait_for_workers=False)


def _bytes(raw: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__


def _gone(why: str) -> UserError:
    return UserError(
        "OCT-RUN-WORKERS",
        "A process of the simulation is gone, so it ends everywhere.",
        why,
        "Look at what that process said, and start torchrun again; the machines must reach each other.",
    )
