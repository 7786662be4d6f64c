"""The steps of a check for the carriers of trusted networks, PyTorch RPC and MPI: what they need on this machine, and
whether its address lies where the federation's policy wants it. Imports neither torch nor mpi4py."""

from __future__ import annotations

import importlib.util
import ipaddress
import shutil
import socket

from octopus_desktop.communication.settings import MpiOffer, Offer, OwnSide, TorchRpcOffer
from octopus_desktop.daemon.services.link_steps import Chain, Dial, Failed, Untested
from octopus_desktop.wire.errors import UserError


async def look(chain: Chain, offer: Offer, own: OwnSide) -> None:
    if isinstance(offer, TorchRpcOffer):
        await _torch_rpc(chain, offer, own)
    elif isinstance(offer, MpiOffer):
        await _mpi(chain, offer, own)


async def _torch_rpc(chain: Chain, offer: TorchRpcOffer, own: OwnSide) -> None:
    dial = Dial("the server's endpoint", offer.host, offer.port)
    await chain.step("sealing", lambda: _sealing(offer.sealed, own), apart=True)
    await chain.step("torch", _torch)
    await chain.step("name", dial.name)
    await chain.step("own network", lambda: _own_network(offer, own))
    await chain.step("their network", lambda: _their_network(offer))
    await chain.step("port", lambda: _port(dial))


async def _mpi(chain: Chain, offer: MpiOffer, own: OwnSide) -> None:
    await chain.step("sealing", lambda: _sealing(offer.sealed, own), apart=True)
    await chain.step("mpi4py", _mpi4py)
    await chain.step("mpiexec", _mpiexec)


def _sealing(sealed: bool, own: OwnSide) -> str:
    if sealed:
        return "Everything is sealed end to end."
    if own.accept_unsealed:
        return "Blob bytes travel unsealed, as both sides have chosen: who owns the network can read models."
    return "Everything is sealed end to end: the federation would go without for blobs, this silo has not consented."


def _torch() -> str:
    if importlib.util.find_spec("torch") is None:
        raise Failed("torch is not installed here.", "Install torch into this environment.")
    return "torch is installed."


def _own_network(offer: TorchRpcOffer, own: OwnSide) -> str:
    """The address that this machine shows there, or that the chosen interface has."""
    family = socket.getaddrinfo(offer.host, offer.port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family[0], socket.SOCK_DGRAM) as probe:
        try:
            if own.interface and hasattr(socket, "SO_BINDTODEVICE"):
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, own.interface.encode() + b"\0")
            probe.connect(family[4])  # sends nothing: it only picks a route
        except OSError as error:
            raise Failed(
                f"There is no way to {offer.host}{f' by {own.interface}' if own.interface else ''}: {error.strerror}.",
                "Check the interface's name ('ip address' lists them) and the routes.",
            ) from error
        ours = probe.getsockname()[0]
    return _inside(ours, offer, f"This machine's address {ours}")


def _their_network(offer: TorchRpcOffer) -> str:
    theirs = str(socket.getaddrinfo(offer.host, offer.port, type=socket.SOCK_STREAM)[0][4][0])
    return _inside(theirs, offer, f"The server's address {theirs}")


def _inside(address: str, offer: TorchRpcOffer, what: str) -> str:
    where = ", ".join(offer.networks)
    bare = ipaddress.ip_address(address.partition("%")[0])
    if any(bare in ipaddress.ip_network(block, strict=False) for block in offer.networks):
        return f"{what} lies inside {where}."
    raise Failed(
        f"{what} lies outside of the networks that the federation trusts: {where}.",
        "Choose another interface ('octopus federation carrier set … --interface'), or ask the coordinator.",
    )


def _port(dial: Dial) -> str:
    try:
        return dial.route()
    except Failed as failed:
        if "refuses" in str(failed):
            raise Untested(
                f"{dial.host}:{dial.port} is reached, and nothing listens: the endpoint is up only while a run uses it."
            ) from failed
        raise
    finally:
        dial.close()


def _mpi4py() -> str:
    if importlib.util.find_spec("mpi4py") is None:
        raise Failed("mpi4py is not installed here.", "Install it: pip install 'octopus-desktop[mpi]'.")
    return "mpi4py is installed."


def _mpiexec() -> str:
    """Raises OCT-MPI-MISSING; under Slurm, srun starts the ranks."""
    from octopus_desktop.communication.mpi_world import find_launcher

    try:
        launcher = find_launcher()
    except UserError:
        if srun := shutil.which("srun"):
            return f"{srun} starts the ranks here."
        raise
    return f"{launcher.title}: {launcher.path}."
