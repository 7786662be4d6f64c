"""The timeline's data: spans by lane, found and drawn in time that grows with the pixels, not with the spans. No Qt.

A lane keeps its spans in rows of spans that do not overlap, so that starts and ends both rise along a row and bisection
finds whatever a pixel shows.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bar:
    """One step of work: ``start`` and ``end`` in Unix seconds, ``round`` 1-based (0: none)."""

    lane: str
    step: str
    round: int
    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(slots=True)
class _Row:
    bars: list[Bar] = field(default_factory=list)
    starts: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)

    def fits(self, bar: Bar) -> int:
        """Where ``bar`` would stand in this row, -1 where it would overlap."""
        place = bisect_left(self.starts, bar.start)
        slack = 1e-6
        if place > 0 and self.ends[place - 1] > bar.start + slack:
            return -1
        if place < len(self.starts) and self.starts[place] < bar.end - slack:
            return -1
        return place

    def put(self, place: int, bar: Bar) -> None:
        self.bars.insert(place, bar)
        self.starts.insert(place, bar.start)
        self.ends.insert(place, bar.end)


class Spans:
    """All bars of a run.

    Attributes:
        lanes: the lanes' names in the order in which they are shown: workers, silos, then the server.
        first, last: the earliest start and the latest end, in Unix seconds; 0 while there is none.
        rounds: a round's number to its earliest start.
        totals: seconds by step, over all lanes.
    """

    def __init__(self) -> None:
        self._rows: dict[str, list[_Row]] = {}
        self._seen: set[tuple[str, str, float]] = set()
        self.lanes: list[str] = []
        self.rounds: dict[int, float] = {}
        self.first = self.last = 0.0
        self.totals: dict[str, float] = {}
        self.count = 0

    def add(self, bar: Bar) -> bool:
        """Take a bar in; False when it was there already, or is no bar at all (ends before it starts, not finite)."""
        if not (math.isfinite(bar.start) and math.isfinite(bar.end)) or bar.end < bar.start or bar.start <= 0:
            return False
        key = (bar.lane, bar.step, bar.start)
        if key in self._seen:
            return False
        self._seen.add(key)
        if bar.lane not in self._rows:
            self._rows[bar.lane] = []
            self.lanes = sorted(self._rows, key=_lane_order)
        rows = self._rows[bar.lane]
        for row in rows:
            place = row.fits(bar)
            if place >= 0:
                row.put(place, bar)
                break
        else:
            rows.append(_Row([bar], [bar.start], [bar.end]))
        self.first = min(self.first, bar.start) if self.count else bar.start
        self.last = max(self.last, bar.end)
        if bar.round:
            self.rounds[bar.round] = min(self.rounds.get(bar.round, bar.start), bar.start)
        self.totals[bar.step] = self.totals.get(bar.step, 0.0) + bar.seconds
        self.count += 1
        return True

    def rows(self, lane: str) -> int:
        return len(self._rows.get(lane, ()))

    def visible(self, lane: str, start: float, end: float, pixel_s: float) -> Iterator[tuple[int, Bar]]:
        """(row, bar) for what shows between ``start`` and ``end``; of bars narrower than a pixel (``pixel_s`` seconds
        wide), one a pixel."""
        for number, row in enumerate(self._rows.get(lane, ())):
            place, until = bisect_right(row.ends, start), bisect_left(row.starts, end)
            while place < until:
                bar = row.bars[place]
                yield number, bar
                if bar.seconds >= pixel_s:
                    place += 1
                else:
                    place = max(place + 1, bisect_right(row.ends, bar.start + pixel_s))

    def at(self, lane: str, row: int, moment: float, tolerance_s: float = 0.0) -> Bar | None:
        """The bar of that lane and row at ``moment``, or the nearest within ``tolerance_s``."""
        rows = self._rows.get(lane, ())
        if not 0 <= row < len(rows):
            return None
        found = rows[row]
        place = bisect_right(found.starts, moment) - 1
        near = [found.bars[n] for n in (place, place + 1) if 0 <= n < len(found.bars)]
        best = min(near, key=lambda bar: max(bar.start - moment, moment - bar.end, 0.0), default=None)
        if best is None or max(best.start - moment, moment - best.end, 0.0) > tolerance_s:
            return None
        return best

    def neighbour(self, bar: Bar, step: int) -> Bar | None:
        """The next (1) or previous (-1) bar of the same lane, in the order of their starts."""
        every = sorted((b for row in self._rows.get(bar.lane, ()) for b in row.bars), key=lambda b: b.start)
        place = every.index(bar) + step
        return every[place] if 0 <= place < len(every) else None

    def any_in(self, lane: str, start: float, end: float) -> Bar | None:
        return next((bar for _row, bar in self.visible(lane, start, end, 0.0)), None)


def ticks(start: float, end: float, most: int) -> list[float]:
    """At most ``most`` round moments between ``start`` and ``end``, in seconds."""
    width = end - start
    if width <= 0 or most < 1:
        return []
    for step in _STEPS:
        if width / step <= most:
            break
    else:
        step = 86400.0 * math.ceil(width / most / 86400)
    first = math.ceil(start / step - 1e-9) * step
    return [first + n * step for n in range(math.floor((end - first) / step + 1e-9) + 1)]


_STEPS = (
    *(b * 10**e for e in range(-4, 1) for b in (1, 2, 5)),
    *(10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0, 43200.0, 86400.0),
)


def _lane_order(lane: str) -> tuple[int, int, str]:
    word, _space, number = lane.partition(" ")
    kind = {"worker": 0, "silo": 1, "server": 3}.get(word, 2)
    return kind, int(number) if number.isdecimal() else 0, lane
