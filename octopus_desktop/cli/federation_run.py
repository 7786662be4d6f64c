"""``octopus federation run --mpi``: an MPI world of the server and its silos, for as long as runs need it.

Started by whoever runs the cluster job, outside of any world: then it calls mpiexec, whose ranks are this same command
with ``--as-rank`` (``federation_rank``). Under Slurm's srun the ranks are there already: ``srun … --as-rank``.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import emit, json_option, say, size, table
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.communication.mpi_table import RankTable

LOST = "OCT-MPI-RANK"


@click.command("run")
@click.argument("runs", nargs=-1)
@click.option("--mpi", is_flag=True, help="Over MPI (the only carrier whose ends are started so).")
@click.option("--all", "every", is_flag=True, help="All open runs whose data goes by MPI, in place of RUNS.")
@click.option("--server-home", metavar="DIR", help="The federation's directory, as rank 0 sees it.")
@click.option("--silo-home", "silo_homes", multiple=True, metavar="NAME=DIR", help="A silo's; ranks in this order.")
@click.option(
    "--homes",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help='A TOML file with all homes: server = "DIR", and NAME = "DIR" below [silos].',
)
@click.option("--mpiexec", default="", help="The launcher (default: OCTOPUS_MPIEXEC, this Python's own, or PATH's).")
@click.option("--hosts", default="", metavar="FILE", help="A host file; else the batch system or this machine.")
@click.option("--as-rank", is_flag=True, help="This process is a rank already, as under srun.")
@click.option("--lines", is_flag=True, hidden=True)
@json_option
def run(
    runs: tuple[str, ...],
    mpi: bool,
    every: bool,
    server_home: str | None,
    silo_homes: tuple[str, ...],
    homes: Path | None,
    mpiexec: str,
    hosts: str,
    as_rank: bool,
    lines: bool,
) -> None:  # fmt: skip
    """Carry the data of RUNS by MPI until they end: one rank for the server, one for each silo.

    Server and daemons are started where they do not run, and stay. A silo trains only what its administrator has
    approved, here as everywhere. Exits with 0 when all runs completed.
    """
    _check_words(runs, mpi, every)
    places = _table(server_home, silo_homes, homes)
    if as_rank:
        from octopus_desktop.cli.federation_rank import be_rank

        sys.exit(be_rank(places, runs, None if lines else Shown(places)))
    _start(places, runs, every, mpiexec, hosts)


def _check_words(runs: tuple[str, ...], mpi: bool, every: bool) -> None:
    if not mpi:
        raise _usage(
            "Only MPI needs such a command.", "Every other carrier is carried by server and daemons themselves."
        )
    if bool(runs) == every:
        raise _usage("It is not clear which runs are meant.", "Runs are named, or --all is given.")


def _table(server_home: str | None, silo_homes: tuple[str, ...], homes: Path | None) -> RankTable:
    from octopus_desktop.communication.mpi_table import RankTable

    server, silos = "", {}
    if homes is not None:
        try:
            given = tomllib.loads(homes.read_text())
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise _usage(f"{homes} cannot be used.", f"{error}.") from error
        server, silos = given.get("server", ""), given.get("silos", {})
        if not isinstance(server, str) or not isinstance(silos, dict):
            raise _usage(f"{homes} cannot be used.", 'It wants server = "DIR" and a table [silos].')
    for word in silo_homes:
        name, sign, place = word.partition("=")
        if not (name and sign and place):
            raise _usage(f"{word!r} is no silo's home.", "NAME=DIR is wanted.")
        silos[name] = place
    server = server_home or server
    return RankTable.of(
        str(Path(server).expanduser().absolute()) if server else "",
        {name: str(Path(str(place)).expanduser().absolute()) for name, place in silos.items()},
    )


def _start(places: RankTable, runs: tuple[str, ...], every: bool, mpiexec: str, hosts: str) -> None:
    from octopus_desktop.communication.mpi_world import World, find_launcher, is_root

    launcher = find_launcher(mpiexec)
    count = len(places.ranks)
    say(f"{launcher.title}: {count} ranks, started by {launcher.path}.")
    if launcher.kind == "openmpi" and is_root():
        say("As you are root, Open MPI gets --allow-run-as-root and --oversubscribe.")
    words = [sys.executable, "-m", "octopus_desktop.cli.main", "federation", "run", "--mpi", "--as-rank", "--lines"]
    words += ["--server-home", places.ranks[0].home]
    words += [word for place in places.ranks[1:] for word in ("--silo-home", f"{place.name}={place.home}")]
    words += ["--all"] if every else list(runs)
    shown = Shown(places)
    world = World(launcher, count, words, hosts=hosts)
    try:
        for event in world.events():
            shown.tell(event)
    except KeyboardInterrupt:
        say("The world ends; the runs wait, and go on in the next one.")
        raise
    finally:
        world.kill()
    sys.exit(shown.finish())


class Shown:
    """What a world tells, for people: lines as it goes, and a table in the end.

    Attributes:
        runs: the newest of each run that is carried.
    """

    def __init__(self, places: RankTable) -> None:
        self._places = places
        self.runs: dict[str, dict[str, Any]] = {}
        self._peers: dict[str, dict[str, Any]] = {}
        self._said: set[str] = set()
        self._fault: UserError | None = None
        self._ended = False

    def tell(self, event: dict[str, Any]) -> None:
        kind, name = event.get("event"), event.get("name", "")
        if kind == "world":
            say(f"The world stands: {event['mpi']}, {len(event['ranks'])} ranks.")
        elif kind in ("attached", "started"):
            self._once(f"{name}: {event.get('text') or 'attached to its rank'}")
        elif kind in ("away", "gone"):
            self._once(f"{name}: {event['what']} {event['why']} [{event['code']}]\n  Next: {event['next_step']}")
        elif kind == "fault":
            self._fault = self._fault or UserError(event["code"], event["what"], event["why"], event["next_step"])
        elif kind == "run":
            self._show_run(event)
        elif kind == "ended":
            self._ended = True
            self._peers = {peer["name"]: peer for peer in event["peers"]}

    def _once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            say(text)

    def _show_run(self, run: dict[str, Any]) -> None:
        self.runs[run["id"]] = run
        for silo, state in run["silos"].items():
            if state == "offered":
                self._once(f"{silo}: has not approved {run['id']}, and does not train without that.")
            else:
                self._once(f"{silo}: {state} ({run['id']})")
        self._once(f"{run['id']}: {run['state']}, round {run['round']} of {run['rounds']}")

    def finish(self) -> int:
        """Print the table; returns the exit code. Raises what ended the world before its time."""
        if self._fault is None and not self._ended:
            self._fault = UserError(
                LOST,
                "The MPI world ended before its runs did.",
                "Rank 0 or mpiexec was ended.",
                "Start it again: the runs go on from their journal.",
            )
        if self._fault is not None:
            raise self._fault
        completed = all(run["state"] == "completed" for run in self.runs.values())
        emit({"runs": list(self.runs.values()), "silos": list(self._peers.values())}, self._tables)
        return 0 if completed else 1

    def _tables(self) -> None:
        table(
            "\nRuns",
            ["run", "state", "round", "reason"],
            [(r["id"], r["state"], f"{r['round']}/{r['rounds']}", r["reason"]) for r in self.runs.values()],
            right=["round"],
        )
        rows = []
        for rank, place in enumerate(self._places.ranks[1:], 1):
            peer = self._peers.get(place.name, {})
            states = ", ".join(run["silos"].get(place.name, "not asked") for run in self.runs.values())
            lost = "lost" if peer.get("dead") else "whole"
            rows.append((place.name, rank, lost, states, size(peer.get("bytes_out", 0)), size(peer.get("bytes_in", 0))))
        columns = ["silo", "rank", "end", "state", "bytes to it", "bytes from it"]
        table("\nSilos", columns, rows, right=["rank", "bytes to it", "bytes from it"])


def _usage(what: str, why: str) -> UserError:
    return UserError("OCT-CLI-USAGE", what, why, "See 'octopus federation run --help'.")
