"""MPI: the carrier of a cluster job. The ends of daemon and server, which listen for their rank of the world.

Here are keys, mail and blobs; the ranks (``mpi_endpoint``) carry sealed bytes. A world is started by whoever runs the
cluster job (``octopus federation run --mpi``), and daemon and server wait for it. Never imports mpi4py.

Blob bytes pass sealed, unless the offer says ``sealed = false`` *and* the silo consents (``accept_unsealed``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import MailOwner
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.mpi_table import endpoint_socket
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.relay import RelayWire
from octopus_desktop.communication.relay_sources import Attached
from octopus_desktop.communication.settings import MpiOffer, OwnSide
from octopus_desktop.wire.errors import UserError

__all__ = ["MpiServerEnd", "MpiSiloEnd", "endpoint_socket"]

WAIT_S = 60.0  # for a rank to come, before the link shows as down; it is awaited all the same
FAULTS = frozenset({"OCT-MPI-RANK", "OCT-MPI-VERSION", "OCT-LINK-REPLACED", "OCT-LINK-DOWN"})


class MpiSiloEnd(MessageSiloEnd):
    """Implements ``SiloEnd``.

    Arguments:
        offer, own: the federation's offer, and this silo's side of it (``accept_unsealed``).
        run_dir: the private directory of the daemon's socket (``SiloHome.runtime``).
        options: see ``MessageSiloEnd``.
    """

    def __init__(
        self, *, offer: MpiOffer, own: OwnSide, party: SiloParty, owner: MailOwner, run_dir: Path, **options: Any
    ) -> None:
        super().__init__(
            wire=_wire(run_dir),
            party=party,
            owner=owner,
            accept_unsealed=own.accept_unsealed and not offer.sealed,
            **options,
        )


class MpiServerEnd(MessageServerEnd):
    """Implements ``ServerEnd``. ``run_dir``: of the server's operator socket (``FederationHome.runtime``)."""

    def __init__(self, *, offer: MpiOffer, party: ServerParty, owner: MailOwner, run_dir: Path, **options: Any) -> None:
        super().__init__(wire=_wire(run_dir), party=party, owner=owner, sealed=offer.sealed, **options)


def _wire(run_dir: Path) -> RelayWire:
    return RelayWire(Attached(endpoint_socket(run_dir)), fault=no_rank, faults=FAULTS, start_s=WAIT_S)


def no_rank(why: str) -> UserError:
    return UserError(
        "OCT-MPI-RANK",
        "No rank of an MPI world is attached.",
        why,
        "It is awaited. Start a world, or start it again, with 'octopus federation run --mpi' in the cluster job.",
    )
