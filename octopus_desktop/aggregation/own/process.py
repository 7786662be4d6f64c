"""The process that runs a job's own strategy: ``python -m octopus_desktop.aggregation.own.process FD…``.

It speaks on the sockets that it inherited, and ends with them. Before it imports anything of the package it gives up
files, network and other processes (``system.syscalls``). One thread does one word after the other, so a strategy needs
no locks. Whatever the strategy raises goes back as a fault that names the line.
"""

from __future__ import annotations

import importlib
import json
import math
import mmap
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.aggregation.own.memory import Cells, Plan
from octopus_desktop.aggregation.own.told import MOST_SLOTS, MOST_WORDS, NAME
from octopus_desktop.aggregation.strategies.base import MEMORY_WORDS, Common, Tile
from octopus_desktop.system.syscalls import limit_itself, stay_alone
from octopus_desktop.wire import frames
from octopus_desktop.wire.errors import UserError

MOST_BYTES = 1 << 30  # of a word to this process: all answers of a round
_REFUSED = (PermissionError, OSError, FileNotFoundError)  # and not their other kinds, such as what a strategy defines
ADVICE = "Correct the package's strategy (octopus jobs check), and build and submit it again."
CONFINED = "A strategy has no network, writes no files and starts no processes; do without. " + ADVICE


class Overdue(BaseException):
    """The strategy had its time. No Exception, so that a strategy's own ``except`` rarely takes it."""


class _Broken(Exception):
    """What the strategy gave is not what its contract says; ``where`` names the method."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(why)
        self.where = where


class _Own:
    """The package's class, and the instance of the round."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.code = Path(job["code"])
        self.entry, self.answer_s = str(job["entry"]), float(job["answer_s"])
        self._given, self._update, self._cohort = dict(job["parameters"]), str(job["update"]), int(job["cohort"])
        self._cls: type[Common] | None = None
        self.instance: Common | None = None
        self._plan: Plan | None = None
        self._cells: list[Cells] = []
        self._scratch: dict[tuple[str, int], Array] = {}

    def facts(self) -> dict[str, Any]:
        """Import the class, make an instance, and see what it says of itself."""
        module, _, name = self.entry.partition(":")
        sys.path.insert(0, str(self.code))
        found = getattr(importlib.import_module(module), name, None)
        if not (isinstance(found, type) and issubclass(found, Common)):
            raise _Broken("", f"{name!r} is no class derived from Synchronous, Asynchronous or Pairwise.")
        if not getattr(found, "name", ""):
            found.name = name
        self._cls = found
        made = self.fresh()
        modes = [str(mode) for mode in made.modes]
        if not modes or not {*modes} <= {"sync", "async"}:
            raise _Broken("", f'modes is {made.modes!r}; "sync", "async" or both are wanted.')
        if not isinstance(made.name, str) or not NAME.fullmatch(made.name):
            raise _Broken("", f"name is {made.name!r}; up to 64 letters, digits, '-', '_' and '.' are wanted.")
        if made.update not in ("weights", "difference"):
            raise _Broken("", f'update is {made.update!r}; "weights" or "difference" is wanted.')
        slots = self._slots(made)
        if not {*made.shared} <= {*slots}:
            raise _Broken("", f"shared names {made.shared!r}; its slots are {', '.join(slots) or 'none'}.")
        if made.returns:
            why = f"returns is {made.returns!r}; having silos send more is for the built-in strategies alone."
            raise _Broken("", why)
        buffer, most = made.asynchronous if hasattr(made, "asynchronous") else (1, -1)
        if buffer < 1:
            raise _Broken("", f"asynchronous begins with {buffer!r}; a model is made of 1 answer at least.")
        return {
            "name": made.name,
            "update": made.update,
            "modes": modes,
            "shared": list(made.shared),
            "asynchronous": [int(buffer), int(most)],
            "pairwise": bool(made.pairwise),
            "slots": slots,
        }

    def fresh(self) -> Common:
        assert self._cls
        made = self._cls(dict(self._given), self._update)
        made.cohort = self._cohort
        return made

    def _slots(self, made: Common) -> dict[str, float]:
        said = made.slots()
        good = isinstance(said, Mapping) and all(
            isinstance(name, str) and NAME.fullmatch(name) and _number(value) for name, value in said.items()
        )
        if not good or len(said) > MOST_SLOTS:
            raise _Broken("slots", f"it gave {said!r:.200}; up to {MOST_SLOTS} names with a number each are wanted.")
        return {name: float(value) for name, value in said.items()}

    def configure(self, round_: int) -> dict[str, Any]:
        words = self.fresh().configure(round_)
        try:
            if not isinstance(words, dict):
                raise TypeError(f"it gave {type(words).__name__}")
            text = json.dumps(words, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise _Broken("configure", f"a dict of JSON values is wanted: {error}.") from error
        if memory := sorted(MEMORY_WORDS & words.keys()):
            why = f"{memory[0]!r} makes each silo keep a memory, which is for the built-in strategies alone."
            raise _Broken("configure", why)
        if len(text) > MOST_WORDS:
            raise _Broken("configure", f"its words have {len(text)} bytes; {MOST_WORDS} are allowed.")
        return words

    def begin(self, answers: Sequence[AnswerFacts]) -> list[float]:
        self.instance = self.fresh()
        return _factors("weights", self.instance.weights(answers), len(answers))

    def weigh(self, lane: int, answers: Sequence[AnswerFacts]) -> list[float]:
        self.instance = self.fresh()
        products = self._cells[lane].products(len(answers)).copy()
        return _factors("weigh", self.instance.weigh(answers, products), len(answers))

    def share(self, plan: Plan, memory: mmap.mmap) -> None:
        self._plan, self._cells = plan, [Cells(plan, lane, memory) for lane in range(plan.lanes)]

    def combine(self, lane: int, word: Mapping[str, Any], fetch: Callable[[int], tuple[int, int]]) -> None:
        assert self._plan
        cells, kind, length = self._cells[lane], str(word["kind"]), int(word["length"])
        made = self.instance or self.fresh()
        count, first, held = len(word["weights"]), 0, int(word["held"])

        def read(i: int) -> Array:
            nonlocal first, held
            if not 0 <= i < count:
                raise IndexError(f"there is no update {i}; {count} silos answered")
            if not first <= i < first + held:
                first, held = fetch(int(i))
            found = cells.update(i - first, kind, length)
            found.flags.writeable = False
            return found

        out = cells.out(kind, length)
        tile = Tile(
            current=cells.current(kind, length),
            read=read,
            weights=tuple(word["weights"]),
            slots={name: cells.slot(name, kind, length) for name in self._plan.slots},
            round=int(word["round"]),
            out=out,
            scratch=self._buffer(kind, length),
        )
        result = made.combine(tile)  # type: ignore[attr-defined]
        if not isinstance(result, np.ndarray) or result.shape != (length,) or result.dtype != out.dtype:
            got = f"{result.dtype} of shape {result.shape}" if isinstance(result, np.ndarray) else f"{type(result)}"
            raise _Broken("combine", f"it gave {got}; {kind} of shape ({length},) is wanted.")
        if result is not out:
            np.copyto(out, result)

    def _buffer(self, kind: str, length: int) -> Array:
        if (kind, length) not in self._scratch:
            if len(self._scratch) > 8:
                self._scratch.clear()
            self._scratch[kind, length] = np.empty(length, kind)
        return self._scratch[kind, length]

    @contextmanager
    def timed(self) -> Iterator[None]:
        """The strategy's own code runs inside: so long, and no longer."""
        signal.setitimer(signal.ITIMER_REAL, self.answer_s)
        try:
            with np.errstate(all="ignore"):
                yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def fault(self, error: BaseException, *, importing: bool) -> dict[str, str]:
        """What the person is told, with the line of the package."""
        code = "OCT-JOB-STRATEGY" if importing else "OCT-RUN-STRATEGY"
        if isinstance(error, UserError):
            return {"code": error.code, "what": error.what, "why": error.why, "next": error.next_step}
        lines = [
            f"{Path(f.filename).relative_to(self.code)}, line {f.lineno}, in {f.name}"
            for f in traceback.extract_tb(error.__traceback__)
            if Path(f.filename).is_relative_to(self.code)
        ]
        place = f"code/{lines[-1]}: " if lines else ""
        if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_relative_to(self.code):
            place = f"code/{Path(error.filename).relative_to(self.code)}, line {error.lineno}: "
        if isinstance(error, Overdue):
            why = f"{place}it had not answered after {self.answer_s:g} s."
        elif isinstance(error, _Broken):
            why = f"{self._place_of(error.where)}{error}"
        else:
            why = f"{place}{type(error).__name__}: {str(error)[:1000] or 'no message'}"
        what, advice = f"The job's own strategy {self.entry} failed.", CONFINED if type(error) in _REFUSED else ADVICE
        return {"code": code, "what": what, "why": why, "next": advice}

    def _place_of(self, method: str) -> str:
        found = getattr(getattr(self._cls, method, None), "__code__", None)
        if found is None or not Path(found.co_filename).is_relative_to(self.code):
            return ""
        return f"code/{Path(found.co_filename).relative_to(self.code)}, line {found.co_firstlineno}, {method}: "


def _factors(where: str, given: Any, count: int) -> list[float]:
    try:
        found = [float(value) for value in given]
    except (TypeError, ValueError) as error:
        raise _Broken(where, f"it gave {given!r:.200}; a list of numbers is wanted.") from error
    if len(found) != count or not all(map(math.isfinite, found)):
        raise _Broken(where, f"it gave {given!r:.200}; {count} finite numbers are wanted, one for each answer.")
    return found


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Lanes:
    """Words in and out."""

    def __init__(self, lanes: Sequence[socket.socket]) -> None:
        self._lanes = lanes
        self.own: _Own | None = None

    def serve(self) -> None:
        """Until the other side closes."""
        while True:
            ready, _, _ = select.select(self._lanes, [], [])
            for lane in ready:
                word = frames.receive(lane, most=MOST_BYTES)
                if word is None:
                    return
                self._answer(self._lanes.index(lane), word)

    def _answer(self, number: int, word: frames.Frame) -> None:
        lane = self._lanes[number]
        try:
            said, more = self._do(number, word)
            lane.sendall(frames.pack(said, **more))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except BaseException as error:
            assert self.own
            lane.sendall(frames.pack("fault", **self.own.fault(error, importing=word["word"] == "job")))

    def _do(self, number: int, word: frames.Frame) -> tuple[str, dict[str, Any]]:
        if word["word"] == "job":
            self.own = _Own(word)
            limit_itself(int(word["memory_bytes"]))
            stay_alone()
            with self.own.timed():
                return "facts", self.own.facts()
        assert self.own
        match word["word"]:
            case "memory":
                self._map(number, word)
                return "done", {}
            case "configure":
                with self.own.timed():
                    return "words", {"words": self.own.configure(int(word["round"]))}
            case "begin" | "weigh" as name:
                answers = [AnswerFacts.from_dict(value) for value in word["answers"]]
                with self.own.timed():
                    weights = self.own.begin(answers) if name == "begin" else self.own.weigh(number, answers)
                    return "weights", {"weights": weights, "words": self._words(int(word["next"]))}
            case "combine":
                with self.own.timed():
                    self.own.combine(number, word, lambda i: self._fetch(number, i))
                return "done", {}
        raise ValueError(f"an unknown word {word['word']!r}")

    def _words(self, round_: int) -> dict[str, Any]:
        assert self.own
        return self.own.configure(round_) if round_ else {}

    def _map(self, number: int, word: frames.Frame) -> None:
        _, (fd,), _, _ = socket.recv_fds(self._lanes[number], 1, 1)
        plan = Plan(
            lanes=len(self._lanes),
            slots=tuple(word["slots"]),
            window=int(word["window"]),
            cell_bytes=int(word["cell_bytes"]),
        )
        assert self.own
        self.own.share(plan, mmap.mmap(fd, plan.size))
        os.close(fd)

    def _fetch(self, number: int, update: int) -> tuple[int, int]:
        """Have another part of the updates put into the window."""
        self._lanes[number].sendall(frames.pack("read", update=update))
        answer = frames.receive(self._lanes[number])
        if answer is None:
            os._exit(0)
        return int(answer["first"]), int(answer["count"])


def main(arguments: Sequence[str]) -> None:
    def overdue(number: int, frame: FrameType | None) -> None:
        raise Overdue

    sys.dont_write_bytecode = True
    signal.signal(signal.SIGALRM, overdue)
    lanes = [socket.socket(fileno=int(fd)) for fd in arguments]
    lanes[0].sendall(frames.pack("up"))
    _Lanes(lanes).serve()


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # threads of the strategy's own end with the process
