"""One batch over all workers, split by their shares: who gets which examples. Knows no gradients and no processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from octopus_desktop.wire.errors import UserError

Plan = Callable[[int], tuple[int, int]]  # the n-th batch of a pass, from 1 -> (examples here, over all workers)


def split(count: int, shares: Sequence[float]) -> list[int]:
    """``count`` examples by shares, in whole numbers that sum to it: largest remainders first, then lower ranks."""
    total = sum(shares)
    exact = [count * share / total for share in shares]
    parts = [math.floor(part) for part in exact]
    order = sorted(range(len(shares)), key=lambda rank: (parts[rank] - exact[rank], rank))
    for rank in order[: count - sum(parts)]:
        parts[rank] += 1
    return parts


def checked(shares: Sequence[float], world_size: int) -> tuple[float, ...]:
    """Shares as the loaders use them; () when all are equal.

    Raises UserError OCT-CONFIG-INVALID.
    """
    good = all(isinstance(s, int | float) and math.isfinite(s) and s > 0 for s in shares)
    if len(shares) != world_size or not good:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The workers' shares {list(shares)!r} cannot be used.",
            f"There are {world_size} workers, and each needs a share above nought.",
            "Give one positive number for each worker, such as 3 and 1.",
        )
    return () if len(set(shares)) == 1 else tuple(float(s) for s in shares)


def by_speed(speeds: Sequence[float]) -> tuple[float, ...]:
    """Shares for the next round by examples a second, rounded to 64ths of the whole so that noise moves little; equal
    when a speed is not known."""
    if not all(math.isfinite(speed) and speed > 0 for speed in speeds):
        return tuple(1.0 for _ in speeds)
    total = sum(speeds)
    return tuple(float(max(1, round(64 * speed / total))) for speed in speeds)


class SharedBatches(Sampler[list[int]]):
    """This rank's indices of each batch over all workers, in the order in which one worker alone would have them.

    Args:
        count: rows of the dataset. batch: examples of one batch over all workers.
        seed: of the order; each pass has the next one. The order is that of torch's DistributedSampler with one
            replica, so one worker with one big batch sees the same batches.

    Attributes:
        examples: how many of one pass are this rank's own.
    """

    def __init__(
        self, count: int, batch: int, shares: Sequence[float], rank: int, shuffle: bool, seed: int, drop_last: bool
    ) -> None:
        self._count, self._batch, self._rank = count, batch, rank
        self._shuffle, self._seed, self._pass = shuffle, seed, 0
        self._steps = count // batch if drop_last else math.ceil(count / batch)
        self._parts = {size: split(size, shares) for size in {batch, count % batch}}
        self.examples = sum(self.plan(number)[0] for number in range(1, self._steps + 1))

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.arange(self._count)
        if self._shuffle:
            generator = torch.Generator()
            generator.manual_seed(self._seed + self._pass)
            order = torch.randperm(self._count, generator=generator)
        self._pass += 1
        for number in range(1, self._steps + 1):
            start = (number - 1) * self._batch
            parts = self._parts[self._size(number)]
            before = start + sum(parts[: self._rank])
            own = order[before : before + parts[self._rank]].tolist()
            yield own or order[start : start + 1].tolist()  # a stand-in, whose gradient will count nought

    def plan(self, number: int) -> tuple[int, int]:
        """Examples of the n-th batch, from 1: this rank's own, and everybody's."""
        size = self._size(number)
        return self._parts[size][self._rank], size

    def _size(self, number: int) -> int:
        return min(self._batch, self._count - (number - 1) * self._batch)
