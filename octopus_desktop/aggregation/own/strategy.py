"""A job's own strategy as the fold sees it: each question goes to the strategy's process, tile by tile.

A tile is laid into shared memory with the first updates; a strategy that wants more of them has them fetched, so memory
does not grow with the silos. What comes back is copied before it is looked at: the process may write there any time.
The process is started when it is first needed, and again if it was ended in the middle of something; it holds no state.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.aggregation.own.host import GRACE_S, Host, Lane, Limits, Say
from octopus_desktop.aggregation.own.memory import Plan
from octopus_desktop.aggregation.own.told import facts_of, weights_of, words_of
from octopus_desktop.aggregation.strategies.base import Tile
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError

CELL_BYTES = 512 << 10  # no less than a fold's tile (``fold.TILE_BYTES``), in float64 also
WINDOW = 16  # updates
LANES = 5  # the fold's threads, and one for the rest
STACKS = 6  # copies of all silos' updates of one tile that a strategy may hold
BAD = (KeyError, TypeError, ValueError, RecursionError)


class OwnStrategy:
    """Implements ``strategies.base.Strategy``.

    Args:
        package: the unpacked package. silos: how many take part; what the process may use grows with them.
        say: told of (level, source, text): what the strategy prints, and when it cannot be confined.

    Raises:
        UserError: OCT-JOB-STRATEGY, when the class cannot be imported or is no strategy; OCT-STRATEGY-PARAMETER;
            OCT-RUN-STRATEGY for whatever else its code does, here and in every method.
    """

    def __init__(
        self,
        config: RunConfig,
        package: Path,
        silos: int,
        say: Say = lambda level, source, text: None,
        *,
        limits: Limits | None = None,
        window: int = WINDOW,
    ) -> None:
        self._config, self._code, self._silos, self._say = config, (package / "code").resolve(), silos, say
        self._limits, self._window = limits or Limits(), window
        self._words: dict[int, dict[str, Any]] = {}
        self._round = 0  # the newest that was configured
        self._lock = threading.Lock()
        self._host: Host | None = None
        self.cohort = silos
        self.returns: Sequence[str] = ()  # what silos send is the update alone: ``jobs.returned`` knows no such name
        said = self._start()
        assert self._host
        try:
            facts = facts_of(said)
        except BAD as error:
            raise self._host.lost(f"did not keep to the form of its words ({error})") from error
        self.name: str = facts.name
        self.update: str = facts.update
        self.modes: Sequence[str] = facts.modes
        self.shared: Sequence[str] = facts.shared
        self.pairwise: bool = facts.pairwise
        self.asynchronous: tuple[int, int] = facts.asynchronous
        self._slots: Mapping[str, float] = facts.slots
        try:
            self._share()
            self.configure(1)
        except BaseException:
            self.close()
            raise

    def configure(self, round: int) -> dict[str, Any]:
        with self._lock:
            known = self._words.get(round)
        if known is not None:
            return known
        with self._ready().lane() as lane:
            return self._keep(lane, round, lane.ask("configure", round=round))

    def slots(self) -> Mapping[str, float]:
        return self._slots

    def weights(self, answers: Sequence[AnswerFacts]) -> list[float]:
        with self._ready().lane() as lane:
            return self._weighed(lane, "begin", answers)

    def weigh(self, answers: Sequence[AnswerFacts], products: Array) -> list[float]:
        with self._ready().lane() as lane:
            np.copyto(lane.cells.products(len(answers)), products)
            return self._weighed(lane, "weigh", answers)

    def combine(self, tile: Tile) -> Array:
        with self._ready().lane() as lane:
            return self._combine(lane, tile)

    def close(self) -> None:
        """End the process."""
        with self._lock:
            if self._host:
                self._host.close()

    def _combine(self, lane: Lane, tile: Tile) -> Array:
        cells, kind, length, count = lane.cells, str(tile.current.dtype), len(tile.current), len(tile.weights)

        def fill(first: int) -> int:
            held = min(self._window, count - first)
            for i in range(held):
                np.copyto(cells.update(i, kind, length), tile.read(first + i))
            return held

        np.copyto(cells.current(kind, length), tile.current)
        for name, values in tile.slots.items():
            np.copyto(cells.slot(name, kind, length), values)
        deadline = time.monotonic() + lane.patience_s  # for the tile, however often it has updates fetched
        lane.send("combine", kind=kind, length=length, weights=tile.weights, round=tile.round, held=fill(0))
        while (answer := lane.hear(deadline))["word"] == "read":
            wanted = answer.get("update")
            if not isinstance(wanted, int) or not 0 <= wanted < count:
                raise lane.lost(f"asked for update {wanted!r:.20} of {count}")
            lane.send("held", first=wanted, count=fill(wanted))
        np.copyto(tile.out, cells.out(kind, length))
        for name, values in tile.slots.items():
            np.copyto(values, cells.slot(name, kind, length))
        return tile.out

    def _weighed(self, lane: Lane, word: str, answers: Sequence[AnswerFacts]) -> list[float]:
        """Asks for the words of the next round as well: the round loop, which needs them then, does not wait."""
        with self._lock:
            coming = self._round + 1 if self._round < self._config.rounds else 0
        answer = lane.ask(word, answers=_plain(answers), next=coming)
        try:
            found = weights_of(answer.get("weights"), len(answers))
        except BAD as error:
            raise lane.lost(f"did not keep to the form of its words ({error})") from error
        if coming:
            self._keep(lane, coming, answer)
        return found

    def _keep(self, lane: Lane, round_: int, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The words for a round's tasks, once for all silos."""
        try:
            words = words_of(answer.get("words"))
        except BAD as error:
            raise lane.lost(f"did not keep to the form of its words ({error})") from error
        with self._lock:
            self._words = {number: said for number, said in self._words.items() if number >= round_ - 2}
            self._words[round_] = words
            self._round = max(self._round, round_)
        return words

    def _ready(self) -> Host:
        with self._lock:
            host = self._host
            if host is None or host.closed:
                self._start()
                self._share()
            assert self._host
            return self._host

    def _start(self) -> Mapping[str, Any]:
        limits = self._limits
        patience_s = limits.answer_s * LANES + GRACE_S  # it does one word after the other
        host = Host(self._code, self._config.strategy, self._say, lanes=LANES, patience_s=patience_s)
        host.start()
        self._host = host
        with host.lane() as lane:
            try:
                return lane.ask(
                    "job",
                    code=str(self._code),
                    entry=self._config.strategy,
                    parameters=self._config.strategy_parameters,
                    update=self._config.update,
                    cohort=self._silos,
                    answer_s=limits.answer_s,
                    memory_bytes=limits.memory_bytes + STACKS * self._silos * CELL_BYTES,
                )
            except UserError:
                host.close()
                raise

    def _share(self) -> None:
        assert self._host
        window = max(self._window, -(-8 * self._silos * self._silos // CELL_BYTES) if self.pairwise else 0)
        self._host.share(Plan(lanes=LANES, slots=tuple(self._slots), window=window, cell_bytes=CELL_BYTES))


def _plain(answers: Sequence[AnswerFacts]) -> list[dict[str, Any]]:
    return [replace(answer, bars=()).to_dict() for answer in answers]
