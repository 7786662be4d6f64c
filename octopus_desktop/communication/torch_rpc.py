"""The PyTorch RPC carrier's two ends: inside a trusted network, for the data of runs.

Everything but the wire is the message link's. The wire is a process of its own (``torch_rpc_endpoint``), for RPC runs
whatever any peer sends it. Here that process is fenced in: started by bubblewrap with this machine's network and
nothing else of it: no home, no state, no secret in its environment, memory bounded; and only where both addresses lie
in the networks that the federation names (a loopback too only where it is listed). When it ends, the link's redial
starts a new one. Where it cannot be fenced in, the carrier does not start, unless OCTOPUS_SANDBOX=off says so.

Blob bytes pass sealed, unless the offer says ``sealed = false`` *and* the silo consents (``accept_unsealed``); where
either does not, they are sealed, and the link works all the same. Envelopes are always sealed. torch is not imported.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import random
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.communication.contract import SERVER, MailOwner
from octopus_desktop.communication.message_server import MessageServerEnd
from octopus_desktop.communication.message_silo import MessageSiloEnd
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.relay import RelayWire
from octopus_desktop.communication.relay_sources import Source, Spawned
from octopus_desktop.communication.settings import OwnSide, TorchRpcOffer
from octopus_desktop.communication.torch_rpc_plan import JOIN_S, Plan, inside, outside
from octopus_desktop.system import sandbox
from octopus_desktop.system.processes import leashed
from octopus_desktop.wire.errors import UserError

MODULE = "octopus_desktop.communication.torch_rpc_endpoint"
REACH_S = 6.0  # for the server to take a connection, before any process is started
REDIAL_S = 0.5
HUSH_S = 150.0  # an endpoint that brought messages and then not even heartbeats for so long is replaced
FAULTS = frozenset({"OCT-RPC-PEER", "OCT-RPC-NETWORK", "OCT-RPC-ENDPOINT", "OCT-PORT-USED", "OCT-PACKAGE-MISSING"})
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH")

_log = logging.getLogger(__name__)

Launch = Callable[[Plan], Source]


class TorchRpcSiloEnd(MessageSiloEnd):
    """Implements ``SiloEnd``.

    Arguments:
        offer, own: the federation's offer, and this silo's side of it (``interface``, ``accept_unsealed``).
        run_dir: where ends keep sockets; this one has none there.
        launch: starts an endpoint.
        join_s: for an endpoint to meet the server's.
        options: see ``MessageSiloEnd``.
    """

    def __init__(
        self,
        *,
        offer: TorchRpcOffer,
        own: OwnSide,
        party: SiloParty,
        owner: MailOwner,
        run_dir: Path | None = None,
        launch: Launch | None = None,
        join_s: float = JOIN_S,
        **options: Any,
    ) -> None:
        super().__init__(
            wire=_wire(offer, owner.name, own.interface, launch, join_s),
            party=party,
            owner=owner,
            accept_unsealed=own.accept_unsealed and not offer.sealed,
            **options,
        )


class TorchRpcServerEnd(MessageServerEnd):
    """Implements ``ServerEnd``; arguments as in ``TorchRpcSiloEnd``."""

    def __init__(
        self,
        *,
        offer: TorchRpcOffer,
        party: ServerParty,
        owner: MailOwner,
        run_dir: Path | None = None,
        launch: Launch | None = None,
        **options: Any,
    ) -> None:
        wire = _wire(offer, SERVER, "", launch)
        super().__init__(wire=wire, party=party, owner=owner, sealed=offer.sealed, **options)


def _wire(offer: TorchRpcOffer, name: str, interface: str, launch: Launch | None, join_s: float = JOIN_S) -> RelayWire:
    source = RpcEndpoint(offer, name, interface, launch or spawn, join_s)
    return RelayWire(source, fault=endpoint_ended, faults=FAULTS, told=_retold, hush_s=HUSH_S)


class RpcEndpoint:
    """The ``Source`` of endpoints for one end: looks at addresses and sandbox first, each time.

    Arguments:
        name: "server" or the silo's.
        interface: "" finds it by the route to the server.
    """

    def __init__(self, offer: TorchRpcOffer, name: str, interface: str, launch: Launch, join_s: float = JOIN_S) -> None:
        self._offer, self._name, self._interface = offer, name, interface
        self._launch, self._join_s = launch, join_s
        self._endpoint: Source | None = None

    async def begin(self) -> socket.socket:
        """Raises OCT-RPC-NETWORK, OCT-RPC-PEER, OCT-RPC-ENDPOINT."""
        offer = self._offer
        host = await _resolved(offer)
        if not inside(host, offer.networks):
            raise outside(host, offer.networks)
        if self._name != SERVER:
            await _reached(host, offer.port)
        address = host if self._name == SERVER else _route_from(host, offer.port)
        interface, address = own_place(address, self._interface, offer.networks)
        plan = Plan(
            name=self._name,
            host=host,
            port=offer.port,
            address=address,
            interface=interface,
            networks=offer.networks,
            join_s=self._join_s,
        )
        await _fence()
        self._endpoint = self._launch(plan)
        return await self._endpoint.begin()

    async def epitaph(self, greeted: bool) -> str:
        return await self._endpoint.epitaph(greeted) if self._endpoint else "It was not started."

    async def end(self) -> None:
        endpoint, self._endpoint = self._endpoint, None
        if endpoint is not None:
            await endpoint.end()


def own_place(address: str, interface: str, networks: Sequence[str]) -> tuple[str, str]:
    """The interface to bind to, and its address inside the networks.

    Args:
        address: the one that the route to the server gives, or the server's own.
        interface: the administrator's choice; "" for the one that has ``address``.

    Raises:
        UserError: OCT-RPC-NETWORK, naming what was found and the networks.
    """
    import psutil

    kinds = (socket.AF_INET, socket.AF_INET6)
    found = {
        name: [entry.address.partition("%")[0] for entry in entries if entry.family in kinds]
        for name, entries in psutil.net_if_addrs().items()
    }
    if interface:
        for candidate in found.get(interface, ()):
            if inside(candidate, networks):
                return interface, candidate
        raise outside(f"of {interface} ({', '.join(found.get(interface, ())) or 'it has none'})", networks)
    if not inside(address, networks):
        raise outside(address, networks)
    for name, addresses in found.items():
        if address in addresses:
            return name, address
        if name == "lo" and address.startswith("127."):  # all of the block is the loopback's
            return name, address
    raise UserError(
        "OCT-RPC-NETWORK",
        "PyTorch RPC is not started: its address is not one of this machine's.",
        f"No network interface here has {address}.",
        "Offer the address at which silos reach this machine inside the trusted network.",
    )


async def _resolved(offer: TorchRpcOffer) -> str:
    """The offered host as a numeric address: the first inside the networks, else the first."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(offer.host, offer.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UserError(
            "OCT-RPC-PEER",
            f"The PyTorch RPC server's name {offer.host} cannot be resolved.",
            f"{error.strerror or error}.",
            "It is tried again by itself. Check the name server, or offer a numeric address.",
        ) from error
    addresses = [str(entry[4][0]).partition("%")[0] for entry in found]
    return next((a for a in addresses if inside(a, offer.networks)), addresses[0])


def _route_from(host: str, port: int) -> str:
    """The own address from which packets to ``host`` go; sends nothing."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, port))
        return str(probe.getsockname()[0]).partition("%")[0]


async def _reached(host: str, port: int) -> None:
    """Return once somebody listens: starting an endpoint costs a second of work, and this does not. A server's endpoint
    that was killed is back within a few seconds, so dialling goes on for so long without the link's back-off."""
    why = ""
    try:
        async with asyncio.timeout(REACH_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()
                    return
                except OSError as error:
                    why = f"{error}."
                await asyncio.sleep(random.uniform(0, REDIAL_S))
    except TimeoutError:
        raise UserError(
            "OCT-RPC-PEER",
            f"The server's PyTorch RPC endpoint at {host}:{port} cannot be reached.",
            why or f"It did not answer within {REACH_S:.0f} s.",
            "It is tried again by itself. If it lasts, check the route and ask whether the server offers PyTorch RPC.",
        ) from None


CONFINEMENT = sandbox.Confinement(network=sandbox.Network.SHARED)
_fenced = False  # found to work once; the machine does not change its mind


async def _fence() -> None:
    """Raises OCT-RPC-ENDPOINT where an endpoint cannot be confined and nobody said that it need not be."""
    global _fenced
    if _fenced:
        return
    if sandbox.switched_off():
        _log.warning("PyTorch RPC's endpoint runs unconfined: %s is set to off", sandbox.SWITCH)
        return
    if why := await sandbox.obstacle(CONFINEMENT, _environment(), MODULE):
        raise UserError(
            "OCT-RPC-ENDPOINT",
            "PyTorch RPC is not started: its endpoint cannot be confined here.",
            why,
            f"Make bubblewrap work, use another carrier, or set {sandbox.SWITCH}=off and trust every machine that "
            "reaches the port: RPC runs what its peers send.",
        )
    _fenced = True


def spawn(plan: Plan) -> Source:
    """An endpoint as a child of this process, confined unless that is switched off. Call from the main thread."""

    def command(descriptor: int) -> Sequence[str]:
        told = dataclasses.replace(plan, descriptor=descriptor).to_json()
        if sandbox.switched_off():
            return leashed(MODULE, told)
        return CONFINEMENT.command([sys.executable, "-m", MODULE, told], _environment())

    return Spawned(command, _environment())


def _environment() -> dict[str, str]:
    """All that an endpoint gets: made new, so that nothing of this process's is in it."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    root = str(Path(octopus_desktop.__file__).resolve().parents[1])  # not installed: found by the caller's folder
    if "-packages" not in root:
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, (root, passed.get("PYTHONPATH"))))
    return {
        **passed,
        "HOME": "/tmp",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # each peer that leaves would be some lines of warnings
        "MALLOC_MMAP_THRESHOLD_": str(16 << 20),  # chunks of 1 MiB are used again, not mapped anew each time
        "MALLOC_TRIM_THRESHOLD_": str(64 << 20),
        "MALLOC_ARENA_MAX": "2",  # else each of RPC's threads keeps some
    }


def endpoint_ended(why: str) -> UserError:
    return UserError(
        "OCT-RPC-ENDPOINT",
        "The process that speaks PyTorch RPC is not there.",
        why,
        "A new one is started by itself, and nothing is lost. If it repeats, look for a foreign peer in the network.",
    )


def _retold(error: UserError) -> UserError:
    """A reason that an endpoint gave after it had met peers: its code counts, its words may be theirs."""
    if error.code == "OCT-RPC-PEER":
        return UserError(
            "OCT-RPC-PEER",
            "The server's PyTorch RPC endpoint is gone.",
            "The line to it was closed: it ended, or was made anew.",
            "It is tried again by itself, and nothing is lost.",
        )
    return endpoint_ended("It gave up by itself.")
