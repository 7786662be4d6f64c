"""A rank of ``octopus federation run --mpi``: sees that its server or daemon runs, keeps the process that speaks MPI
(``communication.mpi_keeper``), and at rank 0 watches the runs, so that the world ends with them.

Speaks to server and daemon through their APIs alone. What it tells goes through rank 0.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.cli.federation_run import Shown
    from octopus_desktop.communication.mpi_keeper import Keeper
    from octopus_desktop.communication.mpi_table import RankPlace, RankTable

ENDED = ("completed", "stopped", "failed")
LOOK_S = 1.0  # between two tries to reach a server that is away, and two looks for new runs
SERVER_MODULE = "octopus_desktop.server.main"


def be_rank(places: RankTable, runs: tuple[str, ...], shown: Shown | None) -> int:
    """Be this process's rank until the world ends; returns the exit code.

    Args:
        runs: ids; empty for all open runs whose data goes by MPI.
        shown: shows people what rank 0 hears; None writes it as lines of JSON for whoever called mpiexec.
    """
    from octopus_desktop.communication.mpi_world import rank_of

    rank = rank_of()
    if rank is None:
        raise UserError(
            "OCT-MPI-RANK",
            "This process is no rank of an MPI world.",
            "Neither mpiexec nor srun has started it: PMI_RANK, OMPI_COMM_WORLD_RANK and SLURM_PROCID are not set.",
            "Leave --as-rank away, or start it by 'srun -n N' or mpiexec.",
        )
    try:
        if rank >= len(places.ranks):
            places.fits(rank + 1)
        return _Rank(rank, places, runs, shown).run()
    except UserError as error:
        if shown is not None:
            raise
        _print_line({"event": "fault", "name": "", **_fields(error)})
        return 1


class _Rank:
    def __init__(self, rank: int, places: RankTable, runs: tuple[str, ...], shown: Shown | None) -> None:
        self._rank, self._places, self._runs, self._shown = rank, places, runs, shown
        self._place = places.ranks[rank]
        self._formed = False

    def run(self) -> int:
        from octopus_desktop.communication.mpi_keeper import Keeper

        news = [_see_that_it_runs(self._place)]
        carried = self._carried() if self._rank == 0 else []
        file, path = tempfile.mkstemp(prefix="octopus-ranks-", suffix=".json")
        try:
            with os.fdopen(file, "w") as out:
                out.write(self._places.to_json())
            keeper = Keeper(path, self._tell)
            for event in news:
                keeper.report(event)
            if self._rank == 0:
                threading.Thread(target=self._watch, args=(keeper, carried), daemon=True).start()
            code = keeper.watch()
        finally:
            Path(path).unlink(missing_ok=True)
        if code and self._rank == 0 and self._formed:
            self._tell({"event": "fault", "name": "server", **_fields(_lost(code))})
        if self._shown is not None and self._rank == 0:
            return self._shown.finish()
        return 1 if code and not self._formed and self._rank == 0 else 0

    def _tell(self, event: dict[str, Any]) -> None:
        self._formed |= event.get("event") == "world"
        if self._shown is None:
            _print_line(event)
        elif self._rank == 0:
            self._shown.tell(event)
        elif event.get("event") == "fault":
            raise UserError(event["code"], event["what"], event["why"], event["next_step"])

    # the runs

    def _carried(self) -> list[str]:
        """The runs to carry. Raises UserError when there is none, or one whose data does not go by MPI."""
        from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

        if not self._runs:
            found = self._open_runs()
            if not found:
                raise UserError(
                    "OCT-RUN-UNKNOWN",
                    "There is no run to carry.",
                    "No open run's data goes by MPI.",
                    "Start one: 'octopus server runs start JOB --set communication.carrier=mpi'.",
                )
            return found
        carried = []
        for word in self._runs:
            one = self._api().call("Operator.GetRun", GetRunRequest(id=word))
            if one.carrier != "mpi":
                raise UserError(
                    "OCT-CARRIER-REFUSED",
                    f"The data of run {one.id} does not go by MPI.",
                    f"Its carrier is {one.carrier or 'auto'}.",
                    "Start it anew with --set communication.carrier=mpi, or let it go by its own carrier.",
                )
            if one.state in ENDED:
                raise UserError(
                    "OCT-RUN-STATE", f"Run {one.id} is {one.state}.", "There is nothing to carry.", "Start a new run."
                )
            carried.append(str(one.id))
        return carried

    def _open_runs(self) -> list[str]:
        from octopus_desktop.wire.pb.operator_pb2 import ListRunsRequest

        rows = self._api().call("Operator.ListRuns", ListRunsRequest()).runs
        return [str(one.id) for one in rows if one.carrier == "mpi" and one.state not in ENDED]

    def _api(self) -> Any:
        from octopus_desktop.cli.common import server_api

        return server_api(self._place.home)

    def _watch(self, keeper: Keeper, carried: list[str]) -> None:
        """Report the runs until all have ended, however often the server is away in between; then end the world."""
        done: set[str] = set()
        while open_ := [one for one in carried if one not in done]:
            self._follow(keeper, open_[0])
            done.add(open_[0])
            if not self._runs:
                carried += [one for one in self._patiently(self._open_runs) if one not in carried]
        keeper.end_world()

    def _follow(self, keeper: Keeper, run_id: str) -> None:
        from octopus_desktop.wire.pb.operator_pb2 import GetRunRequest

        def follow() -> bool:
            state = ""
            for one in self._api().stream("Operator.WatchRun", GetRunRequest(id=run_id)):
                keeper.report(_event_of(one))
                state = one.state
            return state in ENDED

        while not self._patiently(follow):
            time.sleep(LOOK_S)

    def _patiently(self, work: Any) -> Any:
        while True:
            try:
                return work()
            except UserError as error:
                if error.code != "OCT-SERVER-AWAY":
                    raise
                time.sleep(LOOK_S)


def _event_of(run: Any) -> dict[str, Any]:
    return {
        "event": "run",
        "id": run.id,
        "state": run.state,
        "reason": run.reason,
        "round": run.round,
        "rounds": run.rounds,
        "silos": {silo.silo: silo.state for silo in run.silos},
    }


# server and daemon


def _see_that_it_runs(place: RankPlace) -> dict[str, Any]:
    """Start the server or daemon unless it runs; returns what is to be reported.

    Raises:
        UserError: the server cannot run. Of a daemon it is reported alone: the others can do without.
    """
    if place.is_server:
        return _started("server", _start_server(place.home))
    from octopus_desktop.cli.common import daemon_api, snapshot
    from octopus_desktop.communication.mpi_world import without_rank
    from octopus_desktop.system.paths import silo_home
    from octopus_desktop.system.service import daemon_pid, start_daemon

    home = silo_home(place.home)
    try:
        if not home.database.exists():
            raise UserError(
                "OCT-STATE-MISSING", f"There is no silo in {home.root}.", f"{home.database.name} is not there.",
                "Give the home in which this silo was set up and enrolled.",
            )  # fmt: skip
        running = daemon_pid(home)
        if not running:
            start_daemon(home, environment=without_rank(os.environ))
        names = [one.silo_name for one in snapshot(daemon_api(home)).federations if one.link != "left"]
        if place.name not in names:
            raise UserError(
                "OCT-FEDERATION-UNKNOWN", f"The silo in {home.root} is not enrolled as {place.name}.",
                f"It is enrolled as {', '.join(names) or 'nobody'}.", "Name each home as its silo is enrolled.",
            )  # fmt: skip
    except UserError as error:
        return {"event": "away", "name": place.name, **_fields(error)}
    return _started(place.name, not running)


def _start_server(root: str) -> bool:
    from octopus_desktop.communication.mpi_world import without_rank
    from octopus_desktop.system.lock import lock_holder
    from octopus_desktop.system.paths import federation_home
    from octopus_desktop.system.service import start_detached

    home = federation_home(root)
    if not home.config.exists():
        raise UserError(
            "OCT-STATE-MISSING", f"There is no federation in {home.root}.", f"{home.config.name} is not there.",
            "Give the federation's own directory as --server-home.",
        )  # fmt: skip
    if lock_holder(home.lock):
        return False
    words = ["--home", str(home.root)]
    environment = without_rank(os.environ)
    start_detached(
        SERVER_MODULE, words, home.logs / "server.log", what="federation server", environment=environment
    )  # fmt: skip
    return True


def _started(name: str, new: bool) -> dict[str, Any]:
    what = "the federation server" if name == "server" else "the daemon"
    return {"event": "started", "name": name, "text": f"{what} {'was started, and stays' if new else 'runs'}"}


def _lost(code: int) -> UserError:
    why = f"It was killed by signal {-code}." if code < 0 else "All other ranks are lost, or it failed."
    return UserError(
        "OCT-MPI-RANK",
        "Rank 0 (server) of the MPI world has ended, and the world with it.",
        why,
        "Start it again with 'octopus federation run --mpi': the runs go on from their journal, and nothing is lost.",
    )


def _fields(error: UserError) -> dict[str, str]:
    return {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}


def _print_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")  # at once, that no other rank's comes between
    sys.stdout.flush()
