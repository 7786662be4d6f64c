"""MPI: the carrier of a cluster job. The ends of daemon and server, which listen for their rank of the world.

Here are keys, mail and blobs; the ranks (``mpi_endpoint``) carry sealed bytes. Never imports mpi4py.
"""

from __future__ import annotations

from pathlib import Path


def endpoint_socket(runtime: Path) -> Path:
    """Where daemon or server listens for its rank: in the private directory of its own socket."""
    return runtime / "mpi.sock"
