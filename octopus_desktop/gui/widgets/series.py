"""A chart over rounds, as numbers: this silo, the federation, each silo, live points, the best round. No Qt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MOST_LIVE_POINTS = 200_000
LIVE_ROUNDS = 3  # of which live points are shown


@dataclass(frozen=True, slots=True)
class LivePoint:
    """One value reported within a round: ``step`` counts from the round's start, ``source`` is "silo" or "worker N"."""

    source: str
    round: int
    step: int
    value: float


class Series:
    """Keeps rounds by number and live points by place, and turns them into x and y.

    The x axis counts rounds: the value of round k stands at k, a live point of round k between k - 1 and k, by its step
    and the most steps that any round had. ``silos``: the other silos' rounds, by name, where they are told.
    """

    def __init__(self) -> None:
        self.local: dict[int, float] = {}
        self.federation: dict[int, float] = {}
        self.silos: dict[str, dict[int, float]] = {}
        self.live: dict[tuple[str, int, int], float] = {}
        self.steps = 1

    def set_round(
        self, number: int, local: float | None, federation: float | None, silos: Mapping[str, float] | None = None
    ) -> bool:
        """True when something changed."""
        changed = False
        told = [(self.local, local), (self.federation, federation)]
        told += [(self.silos.setdefault(name, {}), value) for name, value in (silos or {}).items()]
        for kept, value in told:
            if value is not None and value == value and kept.get(number) != value:
                kept[number] = value
                changed = True
        return changed

    def add_live(self, point: LivePoint) -> bool:
        if point.value != point.value or len(self.live) >= MOST_LIVE_POINTS:
            return False
        key = (point.source, point.round, point.step)
        if key in self.live:
            return False
        self.live[key] = point.value
        self.steps = max(self.steps, point.step)
        return True

    def line(self, which: dict[int, float]) -> tuple[list[float], list[float]]:
        rounds = sorted(which)
        return [float(r) for r in rounds], [which[r] for r in rounds]

    def live_line(self) -> tuple[list[float], list[float]]:
        """The newest rounds' live points in order; of several workers' points at one step, the mean. Older rounds have
        their own values, which say more than their steps."""
        sums: dict[tuple[int, int], list[float]] = {}
        newest = max((number for _source, number, _step in self.live), default=0)
        for (_source, number, step), value in self.live.items():
            if number <= newest - LIVE_ROUNDS:
                continue
            sums.setdefault((number, step), []).append(value)
        places = sorted(sums)
        xs = [number - 1 + min(step / self.steps, 1.0) for number, step in places]
        return xs, [sum(sums[p]) / len(sums[p]) for p in places]

    def last(self) -> tuple[float | None, float | None]:
        """The newest value of this silo and of the federation."""
        return newest(self.local), newest(self.federation)

    def last_round(self) -> int:
        """The newest round of which anything but live points is known, 0 for none."""
        return max((max(kept) for kept in (self.local, self.federation, *self.silos.values()) if kept), default=0)

    def near(self, x: float, y: float, reach: tuple[float, float]) -> tuple[str, int] | None:
        """The point nearest to a place, as (whose, round): "local", "federation" or a silo's name. ``reach``: how far
        in each direction still counts, in the axes' units."""
        best: tuple[float, str, int] | None = None
        whose: list[tuple[str, dict[int, float]]] = [("local", self.local), ("federation", self.federation)]
        for name, kept in [*whose, *self.silos.items()]:
            for number in (int(x), int(x) + 1):
                if number not in kept:
                    continue
                distance = ((number - x) / reach[0]) ** 2 + ((kept[number] - y) / reach[1]) ** 2
                if distance <= 1 and (best is None or distance < best[0]):
                    best = (distance, name, number)
        return best[1:] if best else None


def newest(values: Mapping[int, float]) -> float | None:
    return values[max(values)] if values else None
