"""Simulated time: how long each silo's tasks take, who is slow now and then, and which answer comes next.

A task takes its silo's seconds, times a factor when it is a straggler's (drawn anew for each task by the run's seed),
and what the bytes of model and update take on the silo's link. Knows no tensors.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from octopus_desktop.aggregation import events as ev
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError

MOST = 1e9  # simulated seconds, and megabits a second
_DRAWS: dict[str, Callable[[random.Random, float, float], float]] = {
    "lognormal": lambda drawn, median, sigma: median * math.exp(drawn.gauss(0.0, sigma)),
    "uniform": lambda drawn, least, most: drawn.uniform(least, most),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """``seconds``: of one task, by silo; 1 where none is given. ``mbit``: megabits a second of a silo's link; no time
    where none is given. ``straggling``: the probability that a task takes ``factor`` times as long."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    mbit: Mapping[str, float] = field(default_factory=dict)
    straggling: float = 0.0
    factor: float = 1.0

    def __post_init__(self) -> None:
        """Raises UserError OCT-CONFIG-INVALID."""
        numbers = [*self.seconds.values(), *self.mbit.values(), self.factor]
        if not all(0 < number < MOST for number in numbers) or not 0 <= self.straggling <= 1:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The simulated speeds cannot be had.",
                f"Seconds, Mbit/s and factors lie between 0 and {MOST:.0g}, probabilities in [0, 1].",
                "Correct them.",
            )

    @property
    def chosen(self) -> bool:
        return bool(self.seconds or self.mbit or self.straggling)

    def seconds_of(self, answer: ev.Answered, carried: int, seed: int) -> float:
        """``carried``: bytes of the model and of the update."""
        took = self.seconds.get(answer.silo, 1.0)
        if self.straggling:
            drawn = derive_seed(seed, "straggler", answer.round, answer.silo, answer.task, answer.epoch)
            took *= self.factor if drawn < self.straggling * (1 << 63) else 1.0
        if mbit := self.mbit.get(answer.silo):
            took += carried * 8 / (mbit * 1e6)
        return took


def by_silo(option: str, words: Sequence[str], silos: Collection[str], seed: int) -> dict[str, float]:
    """What a person says of the silos' speeds: ``X`` for all, ``NAME=X`` for one, or drawn by the seed for each:
    ``lognormal:MEDIAN:SIGMA`` or ``uniform:LEAST:MOST``. What is said of one silo counts, else what is said last.

    Raises:
        UserError: OCT-CLI-USAGE naming ``option``.
    """
    common: dict[str, float] = {}
    own: dict[str, float] = {}
    for word in words:
        name, one, number = word.partition("=")
        kind, *numbers = word.split(":")
        try:
            if one:
                own[name] = float(number)
            elif kind in _DRAWS:
                first, second = map(float, numbers)
                common = {s: _DRAWS[kind](random.Random(derive_seed(seed, option, s)), first, second) for s in silos}
            else:
                common = dict.fromkeys(silos, float(word))
        except ValueError:
            own[name] = math.nan
        found = {**common, **own}
        if not found.keys() <= set(silos) or not all(0 < value < MOST for value in found.values()):
            some = ", ".join(itertools.islice(silos, 5)) + (", …" if len(silos) > 5 else "")
            raise UserError(
                "OCT-CLI-USAGE",
                f"{option} {word} cannot be used.",
                "It is X for all silos, NAME=X for one, lognormal:MEDIAN:SIGMA or uniform:LEAST:MOST, all above 0; "
                f"the silos are {some}.",
                f"Correct it, for example {option} {next(iter(silos))}=30.",
            )
    return {**common, **own}


class Clock:
    """Which answer comes next. With ``virtual`` they come in the order of simulated time; else as they were asked for,
    and time is real."""

    def __init__(self, pace: Pace, seed: int, *, virtual: bool) -> None:
        self._pace, self._seed, self._virtual = pace, seed, virtual
        self._coming: list[tuple[float, int, ev.Answered]] = []
        self._count = itertools.count()
        self.elapsed = 0.0

    def now(self) -> float:
        return self.elapsed if self._virtual else time.time()

    def later(self, answer: ev.Answered, carried: int) -> None:
        """``carried``: bytes of the model and of the update."""
        took = self._pace.seconds_of(answer, carried, self._seed) if self._virtual else 0.0
        heapq.heappush(self._coming, (self.elapsed + took, next(self._count), answer))

    def next(self, next_timer: Callable[[], tuple[float, ev.Event] | None]) -> ev.Event | None:
        """The next answer, or the timer when that comes first in simulated time; None when there is neither."""
        timer = next_timer() if self._virtual else None
        if timer and (not self._coming or timer[0] < self._coming[0][0]):
            self.elapsed = max(self.elapsed, timer[0])
            return replace(timer[1], now=self.elapsed)
        if not self._coming:
            return None
        at, _, answer = heapq.heappop(self._coming)
        self.elapsed = max(self.elapsed, at)
        return replace(answer, now=self.now())
