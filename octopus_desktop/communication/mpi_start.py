"""How a rank of an MPI world begins: MPI itself, who is on which machine, and whether all are of one version.

mpi4py is imported in ``start_mpi`` alone.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from octopus_desktop.communication.mpi_table import RankTable
from octopus_desktop.wire.errors import UserError


def differing(cards: Mapping[int, Mapping[str, Any]], table: RankTable) -> UserError | None:
    """OCT-MPI-VERSION, naming the ranks, unless all are of one version."""
    ours = cards[0]
    keys = ("version", "protocol", "relay")
    others = [rank for rank in sorted(cards) if any(cards[rank].get(key) != ours[key] for key in keys)]
    if not others:
        return None
    told = "; ".join(
        f"rank {rank} ({table.ranks[rank].name}) is {card.get('version')}, protocol {card.get('protocol')}"
        for rank, card in sorted(cards.items())
        if rank in others
    )
    return UserError(
        "OCT-MPI-VERSION",
        "The ranks of this MPI world are of different versions of Octopus Desktop.",
        f"Rank 0 is {ours['version']}, protocol {ours['protocol']}; {told}.",
        "Install the same version for all ranks, and start the world again.",
    )


def rank_lost(why: str) -> UserError:
    return UserError(
        "OCT-MPI-RANK",
        "A rank of the MPI world is lost.",
        why,
        "A rank cannot come back into its world: start it again with 'octopus federation run --mpi'. The run goes on "
        "from its journal, and nothing is lost or counted twice.",
    )


def machine() -> str:
    """The same for two processes that can see each other by their ids."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return socket.gethostname()


def start_mpi() -> Any:
    """Initialise MPI for this thread; returns the module. Raises OCT-MPI-MISSING."""
    try:
        import mpi4py

        mpi4py.rc.threads = True
        mpi4py.rc.thread_level = "funneled"
        mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise UserError(
            "OCT-MPI-MISSING",
            "MPI cannot be used from Python here.",
            f"mpi4py or its MPI library does not load: {str(error).splitlines()[0][:200]}",
            "Install both: pip install 'octopus-desktop[mpi]' (mpi4py and mpich), or mpi4py for this site's own MPI.",
        ) from error
    MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # MPICH's launcher sends it to all when one died
    return MPI


def fields(error: UserError) -> dict[str, Any]:
    """An error inside an event."""
    return {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step}
