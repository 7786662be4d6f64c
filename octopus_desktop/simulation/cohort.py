"""The virtual silos of one run, and who does their tasks: this process alone, or with helpers beside it.

A silo belongs to the process that did its first task, for the whole run, so each process opens only its own silos'
data: silo i to process i mod W. The others are started once this process has done its first share, and only where it
sees that the rest takes longer than their start; else it does their share too. All of them read one global model and
write into one block of memory (``memory``). Which process did a task changes no bit of it, and sums run in the silos'
order afterwards. Needs torch.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.garbage import settle
from octopus_desktop.simulation.memory import Models, Places
from octopus_desktop.simulation.silos import VirtualSilo, make_silo
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

ENDING_S = 10.0
SETTLED_AFTER = 100  # silos that were opened
WORTH_STARTING_S = 5.0  # CPU-seconds of work that are left: another process takes two to start


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of one task: facts, or the silo's error. ``place``: where in memory its update lies; -1: in a file.
    ``simulated``: the error is one that was asked for."""

    order: ev.Dispatch
    facts: AnswerFacts
    error: UserError | None = None
    place: int = -1
    simulated: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tasks:
    """Tasks that can be done side by side. ``places``: one for each order, -1 for none."""

    orders: Sequence[ev.Dispatch]
    places: Sequence[int]
    words: Mapping[str, Any]
    shared: Mapping[str, Path]


Done = Callable[[Outcome], None]


class Silos(Protocol):
    """All silos of a run."""

    def use(self, places: Places | None, model: Path) -> None:
        """Where updates go from now on; ``model`` has their layout."""
        ...

    def run(self, tasks: Tasks, done: Done) -> None:
        """Do them all and tell of each; what fails one silo alone is in its outcome."""
        ...

    def close(self) -> None: ...


class Here:
    """Silos of this process, one after the other."""

    def __init__(
        self,
        package: Path,
        trainer: str,
        config: RunConfig,
        data: Mapping[str, Mapping[str, DataSource]],
        work: Path,
        runtime: Interpreter | None = None,
    ) -> None:
        self._runtime = runtime
        self._package, self._trainer, self._config, self._data, self._work = package, trainer, config, data, work
        self._silos: dict[str, VirtualSilo] = {}
        self._opened = 0
        self._models = Models()
        self.places: Places | None = None

    def use(self, places: Places | None, model: Path) -> None:
        """Where updates go from now on; ``model`` has their layout."""
        self.places = places

    def run(self, tasks: Tasks, done: Done) -> None:
        for order, place in zip(tasks.orders, tasks.places, strict=True):
            done(self.one(order, place, tasks.words, tasks.shared))

    def one(self, order: ev.Dispatch, place: int, words: Mapping[str, Any], shared: Mapping[str, Path]) -> Outcome:
        name = order.silo
        try:
            if name not in self._silos:
                self._opened += 1
                if self._opened % SETTLED_AFTER == 0:
                    settle()
                self._silos[name] = make_silo(
                    name,
                    self._package,
                    self._trainer,
                    self._config,
                    self._data[name],
                    self._work,
                    self._models,
                    self._runtime,
                )
            out = self.places.held(place) if self.places and place >= 0 and order.task == "train" else None
            return Outcome(order=order, facts=self._silos[name].run(order, words, shared, out), place=place)
        except UserError as error:
            return Outcome(order=order, facts=AnswerFacts(silo=name), error=error, place=place)

    def close(self) -> None:
        for silo in self._silos.values():
            silo.close()


Parts = tuple[Path, str, RunConfig, Mapping[str, Mapping[str, DataSource]], Path]


def local_silos(parts: Parts, batched: bool, runtime: Interpreter | None = None) -> Silos:
    """All silos in this process: one after the other, or those of a round in one go."""
    if batched:
        from octopus_desktop.simulation.batched import Batched

        return Batched(*parts)
    return Here(*parts, runtime)


class Together:
    """This process and ``helpers`` more, each with silos of its own. ``total``: tasks of the whole run, about.

    Raises (``run``):
        UserError: OCT-RUN-WORKERS, when a helper died.
    """

    def __init__(
        self,
        helpers: int,
        package: Path,
        trainer: str,
        config: RunConfig,
        data: Mapping[str, Mapping[str, DataSource]],
        work: Path,
        *,
        total: int,
    ) -> None:
        self._count = helpers + 1
        self._left, self._done, self._seconds = total, 0, 0.0
        self._home = {name: number % self._count for number, name in enumerate(data)}
        self._owner: dict[str, int] = {}
        self._parts: Parts = (package, trainer, config, data, work)
        self._helpers: list[Helper] = []
        self._place: dict[str, Any] = {"places": None}
        self._here = Here(*self._parts)

    def use(self, places: Places | None, model: Path) -> None:
        self._here.use(places, model)
        self._place = {"places": [places.shared_as(), places.count, str(model)] if places else None}

    def _start(self) -> None:
        for number in range(1, self._count):
            self._helpers.append(Helper(number, *self._parts))
            self._helpers[-1].say(self._place)

    def run(self, tasks: Tasks, done: Done) -> None:
        shares = self._shares(tasks)
        coming = {n: share for n, share in shares.items() if n and share.orders}
        begun: dict[int, Tasks] = {}

        def begin_ready() -> None:
            for number in [n for n in coming if self._helpers and self._helpers[n - 1].ready()]:
                begun[number] = coming.pop(number)
                self._owner.update(dict.fromkeys((o.silo for o in begun[number].orders), number))
                self._helpers[number - 1].begin(begun[number])

        begin_ready()
        self._do(shares[0], done, begin_ready)
        while coming:
            if self._helpers or self._left * self._seconds / max(1, self._done) > WORTH_STARTING_S:
                if not self._helpers:
                    self._start()
                self._helpers[next(iter(coming)) - 1].wait()
                begin_ready()
                continue
            number, share = coming.popitem()
            left, coming[number] = _cut(share)
            if not coming[number].orders:
                del coming[number]
            self._do(left, done, begin_ready)
        for number, share in begun.items():
            self._helpers[number - 1].finish(share, done)
        self._left -= len(tasks.orders)

    def _do(self, tasks: Tasks, done: Done, between: Callable[[], None]) -> None:
        for order, place in zip(tasks.orders, tasks.places, strict=True):
            self._owner[order.silo] = 0
            began = time.process_time()
            done(self._here.one(order, place, tasks.words, tasks.shared))
            self._seconds, self._done = self._seconds + time.process_time() - began, self._done + 1
            between()

    def _shares(self, tasks: Tasks) -> dict[int, Tasks]:
        """Number of a process to what it should do."""
        of: dict[int, list[tuple[ev.Dispatch, int]]] = {number: [] for number in range(self._count)}
        for order, place in zip(tasks.orders, tasks.places, strict=True):
            of[self._owner.get(order.silo, self._home[order.silo])].append((order, place))
        return {number: _of(tasks, some) for number, some in of.items()}

    def close(self) -> None:
        self._here.close()
        for helper in self._helpers:
            helper.close()


def _of(tasks: Tasks, some: Sequence[tuple[ev.Dispatch, int]]) -> Tasks:
    return Tasks(orders=[o for o, _ in some], places=[p for _, p in some], words=tasks.words, shared=tasks.shared)


def _cut(tasks: Tasks) -> tuple[Tasks, Tasks]:
    """The first of the tasks, and the rest."""
    pairs = list(zip(tasks.orders, tasks.places, strict=True))
    return _of(tasks, pairs[:1]), _of(tasks, pairs[1:])


class Helper:
    """One more process (``simulation.helper``). It ends when its stdin does, so it never outlives this one."""

    def __init__(
        self,
        number: int,
        package: Path,
        trainer: str,
        config: RunConfig,
        data: Mapping[str, Mapping[str, DataSource]],
        work: Path,
    ) -> None:
        threads = str(max(1, config.resources.threads_per_worker))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "octopus_desktop.simulation.helper"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
        )
        self._started = False
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._reader = threading.Thread(target=self._read, name=f"helper {number}", daemon=True)
        self._reader.start()
        self.say(
            {
                "package": str(package),
                "trainer": trainer,
                "config": config.to_dict(),
                "work": str(work),
                "data": {name: [asdict(source) for source in sources.values()] for name, sources in data.items()},
            }
        )

    def ready(self) -> bool:
        """Whether it has started up; also when it died over that, which ``hear`` tells."""
        if not self._started and not self._lines.empty():
            self.wait()
        return self._started

    def wait(self) -> None:
        if not self._started:
            self.hear()
            self._started = True

    def begin(self, tasks: Tasks) -> None:
        self.say(plain_tasks(tasks))

    def finish(self, tasks: Tasks, done: Done) -> None:
        for order in tasks.orders:
            done(outcome_of(order, self.hear()))

    def say(self, value: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(value).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone() from error

    def hear(self) -> dict[str, Any]:
        if not (line := self._lines.get()):
            raise self._gone()
        value: dict[str, Any] = json.loads(line)
        return value

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass
        try:
            self._process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(b"")

    def _gone(self) -> UserError:
        return UserError(
            "OCT-RUN-WORKERS",
            "A worker process of the simulation died.",
            f"It ended with code {self._process.wait()}; what it said stands above.",
            "Look for code that ends its process or takes all memory; --workers 1 does without such processes.",
        )


def plain_tasks(tasks: Tasks) -> dict[str, Any]:
    return {
        "orders": [{**asdict(order), "place": p} for order, p in zip(tasks.orders, tasks.places, strict=True)],
        "words": dict(tasks.words),
        "shared": {name: str(path) for name, path in tasks.shared.items()},
    }


def read_tasks(value: Mapping[str, Any]) -> Tasks:
    orders = [{key: item for key, item in order.items() if key != "place"} for order in value["orders"]]
    return Tasks(
        orders=[ev.Dispatch(**{**order, "model": Blob(**order["model"])}) for order in orders],
        places=[order["place"] for order in value["orders"]],
        words=value["words"],
        shared={name: Path(path) for name, path in value["shared"].items()},
    )


def plain_outcome(outcome: Outcome) -> dict[str, Any]:
    value: dict[str, Any] = {"facts": outcome.facts.to_dict(), "place": outcome.place}
    if error := outcome.error:
        value["error"] = [error.code, error.what, error.why, error.next_step]
    return value


def outcome_of(order: ev.Dispatch, value: Mapping[str, Any]) -> Outcome:
    error = UserError(*value["error"]) if "error" in value else None
    return Outcome(order=order, facts=AnswerFacts.from_dict(value["facts"]), error=error, place=value["place"])
