"""The virtual silos of one run, and who does their tasks: this process alone, or with helpers beside it.

Silo i belongs to process i mod W for the whole run, so each process opens only its own silos' data. All of them read
one global model and write into one block of memory (``memory``). Which process did a task changes no bit of it, and
sums run in the silos' order afterwards. Needs torch.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.memory import Models, Places
from octopus_desktop.simulation.silos import VirtualSilo, make_silo
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

ENDING_S = 10.0


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
        self._models = Models()
        self.places: Places | None = None

    def use(self, places: Places | None, model: Path) -> None:
        """Where updates go from now on; ``model`` has their layout."""
        self.places = places

    def run(self, tasks: Tasks, done: Done) -> None:
        for order, place in zip(tasks.orders, tasks.places, strict=True):
            done(self._one(order, place, tasks.words, tasks.shared))

    def _one(self, order: ev.Dispatch, place: int, words: Mapping[str, Any], shared: Mapping[str, Path]) -> Outcome:
        name = order.silo
        try:
            if name not in self._silos:
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


class Together:
    """This process and ``helpers`` more, each with silos of its own.

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
    ) -> None:
        count = helpers + 1
        self._owner = {name: number % count for number, name in enumerate(data)}
        self._helpers: list[Helper] = []
        for number in range(1, count):
            mine = {name: sources for name, sources in data.items() if self._owner[name] == number}
            self._helpers.append(Helper(number, package, trainer, config, mine, work))
        own = {name: sources for name, sources in data.items() if self._owner[name] == 0}
        self._here = Here(package, trainer, config, own, work)

    def use(self, places: Places | None, model: Path) -> None:
        self._here.use(places, model)
        for helper in self._helpers:
            helper.say({"places": [str(places.path), places.count, str(model)] if places else None})
        for helper in self._helpers:
            helper.hear()

    def run(self, tasks: Tasks, done: Done) -> None:
        shares = [_share(tasks, self._owner, number) for number in range(len(self._helpers) + 1)]
        for helper, share in zip(self._helpers, shares[1:], strict=True):
            helper.begin(share)
        self._here.run(shares[0], done)
        for helper, share in zip(self._helpers, shares[1:], strict=True):
            helper.finish(share, done)

    def close(self) -> None:
        self._here.close()
        for helper in self._helpers:
            helper.close()


def _share(tasks: Tasks, owner: Mapping[str, int], number: int) -> Tasks:
    mine = [(o, p) for o, p in zip(tasks.orders, tasks.places, strict=True) if owner[o.silo] == number]
    return Tasks(orders=[o for o, _ in mine], places=[p for _, p in mine], words=tasks.words, shared=tasks.shared)


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

    def begin(self, tasks: Tasks) -> None:
        if tasks.orders:
            self.say(plain_tasks(tasks))

    def finish(self, tasks: Tasks, done: Done) -> None:
        for order in tasks.orders:
            done(_outcome(order, self.hear()))

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


def _outcome(order: ev.Dispatch, value: Mapping[str, Any]) -> Outcome:
    error = UserError(*value["error"]) if "error" in value else None
    return Outcome(order=order, facts=AnswerFacts.from_dict(value["facts"]), error=error, place=value["place"])
