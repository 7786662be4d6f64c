"""Real MPI worlds for tests: started by mpiexec, watched by a thread, ended by force where need be."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mpi_table import RankPlace, RankTable, endpoint_socket
from octopus_desktop.communication.mpi_world import Launcher, World, find_launcher
from octopus_desktop.wire.errors import UserError

PATIENCE_S = 40.0
KEEPER = [sys.executable, "-m", "octopus_desktop.communication.mpi_keeper"]


class RunningWorld:
    """A world with sockets in ``root``: ``root/NAME/mpi.sock``. Attributes: ``told``, all events; ``fault``."""

    def __init__(
        self,
        root: Path,
        silos: tuple[str, ...] = ("alpha", "beta"),
        *,
        launcher: Launcher | None = None,
        ranks: int = 0,
        traits: Mapping[str, Mapping[str, Any]] | None = None,
        form_s: float = PATIENCE_S,
    ) -> None:
        self.root = root
        names = (SERVER, *silos)
        table = RankTable(ranks=tuple(RankPlace(name=n, socket=str(self.place(n))) for n in names))
        path = root / "ranks.json"
        path.write_text(table.to_json())
        self.told: list[dict[str, Any]] = []
        self.fault: UserError | None = None
        self.pids: dict[str, int] = {}
        self._news = threading.Condition()
        os.environ["OCTOPUS_TEST_MPI"] = json.dumps(traits or {})
        self.world = World(
            launcher or find_launcher(),
            ranks or len(names),
            [*KEEPER, str(path), "tests.communication.mpi_rank"],
            form_s=form_s,
        )
        self._watcher = threading.Thread(target=self._watch)
        self._watcher.start()

    def place(self, name: str) -> Path:
        return endpoint_socket(self.root / name)

    def _watch(self) -> None:
        try:
            for event in self.world.events():
                with self._news:
                    self.told.append(event)
                    if event["event"] == "world":
                        self.pids = {rank["name"]: rank["pid"] for rank in event["ranks"]}
                    self._news.notify_all()
        except UserError as error:
            self.fault = error
        with self._news:
            self.told.append({"event": "exit"})
            self._news.notify_all()

    def until(self, kind: str, condition: Callable[[dict[str, Any]], bool] = lambda e: True) -> dict[str, Any]:
        """The first event of this kind that fits; waits for it."""
        found: list[dict[str, Any]] = []

        def there() -> bool:
            found.extend(e for e in self.told if e["event"] == kind and condition(e))
            return bool(found)

        with self._news:
            assert self._news.wait_for(there, PATIENCE_S), f"no {kind}: {self.told}"
        return found[0]

    def cut(self) -> None:
        for pid in self.pids.values():
            os.kill(pid, signal.SIGUSR2)

    def end(self) -> None:
        """In peace."""
        self.world.end()
        self._watcher.join(PATIENCE_S)
        assert not self._watcher.is_alive()

    def stop(self) -> None:
        self.world.kill()
        self._watcher.join(PATIENCE_S)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)
