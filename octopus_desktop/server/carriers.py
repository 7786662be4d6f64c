"""The carriers that the federation offers: their ends are started, kept, changed and shown here. Knows no envelope.

An end that cannot be started (its broker is down) is tried again by itself; neither server nor other carriers wait for
it. Carriers that move control run always; those for data alone run while an open run asks for them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from octopus_desktop import __version__
from octopus_desktop.communication import registry
from octopus_desktop.communication.contract import (
    BACKOFF_FIRST_S,
    BACKOFF_MOST_S,
    SERVER,
    LinkPhase,
    LinkState,
    MailOwner,
    ServerEnd,
)
from octopus_desktop.communication.parties import ServerParty
from octopus_desktop.communication.settings import CONTROL, MqttOffer, MqttS3Offer, Offer, offer
from octopus_desktop.server import carrier_files as files
from octopus_desktop.server.carrier_files import CarrierConfig
from octopus_desktop.system.paths import FederationHome, private_dir
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import operator_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer

log = logging.getLogger(__name__)

ANNOUNCE_S = 0.5  # what a fresh Hello gets to leave by an end that is about to be closed
STOP_GRACE_S = 1.0


@dataclass(slots=True)
class _Running:
    """One carrier's end, or the attempt to start it. ``fault``: why the last attempt failed."""

    end: ServerEnd | None = None
    task: asyncio.Task[None] | None = None
    fault: UserError | None = None


class Carriers:
    """All carriers of one federation.

    Arguments:
        home, configs: where settings and secrets lie, and what was read of them.
        party: the server's side of sealed links.
        view: the mail of one carrier, by its name.
        wanted: the carriers that open runs ask for by name, each with one such run.
        boot_id: of this process.
    """

    def __init__(
        self,
        home: FederationHome,
        configs: Mapping[str, CarrierConfig],
        *,
        party: ServerParty,
        view: Callable[[str], MailOwner],
        wanted: Callable[[], Mapping[str, str]],
        boot_id: str,
    ) -> None:
        self._home, self._configs = home, dict(configs)
        self._party, self._view, self._wanted, self._boot_id = party, view, wanted, boot_id
        self._running: dict[str, _Running] = {}
        self._change = asyncio.Lock()
        self._arranging: set[asyncio.Task[None]] = set()

    # for the server

    def offers(self) -> list[CarrierOffer]:
        """For each Hello and each enrolment."""
        return [config.to_offer() for config in self._configs.values()]

    def offered(self) -> list[Offer]:
        return [config.offer for config in self._configs.values()]

    async def start(self, grpc: ServerEnd) -> None:
        """``grpc``: the end at the network port, which somebody else binds."""
        self._running["grpc"] = _Running(end=grpc)
        await grpc.start()
        self.settle()

    async def stop(self) -> None:
        for task in self._arranging:
            task.cancel()
        await asyncio.gather(*self._arranging, return_exceptions=True)
        await asyncio.gather(*(self._close(name) for name in list(self._running)))

    def settle(self) -> None:
        """See that those ends run which are to run."""
        task = asyncio.create_task(self._arrange())
        self._arranging.add(task)
        task.add_done_callback(self._arranging.discard)

    def outbox_changed(self, peer: str) -> None:
        for end in self._ends():
            end.outbox_changed(peer)

    def disconnect(self, peer: str, fault: UserError) -> None:
        for end in self._ends():
            end.disconnect(peer, fault)

    def _ends(self) -> list[ServerEnd]:
        return [running.end for running in self._running.values() if running.end is not None]

    # the operator's words

    def infos(self) -> list[pb.CarrierInfo]:
        return [self.info(name) for name in self._configs]

    def info(self, name: str) -> pb.CarrierInfo:
        config, running = self._configs[name], self._running.get(name)
        info = pb.CarrierInfo(
            name=name,
            settings_json=config.offer.to_json(),
            username=config.username,
            secret_kept=bool(files.secrets_of(self._home, name).password),
            state="idle",
        )
        if running is not None:
            fault = running.end.fault if running.end is not None else running.fault
            info.state = "down" if fault else "up" if running.end is not None else "connecting"
            if fault:
                info.error_code, info.error = fault.code, f"{fault.what} {fault.why}".strip()
            if running.end is not None:
                info.links.extend(_link(state) for state in running.end.states() if state.peer != SERVER)
        return info

    async def put(self, request: pb.PutCarrierRequest) -> pb.CarrierInfo:
        """Offer a carrier, or change it. What the request leaves empty stays. Raises OCT-CONFIG-INVALID."""
        async with self._change:
            name, known = request.name, self._configs.get(request.name)
            settings = request.settings_json or (known.offer.to_json() if known else "{}")
            config = CarrierConfig(
                offer=offer(name, settings),
                username=request.username or (known.username if known else ""),
                store_key_id=request.store_key_id or (known.store_key_id if known else ""),
            )
            files.check_together({**self._configs, name: config})
            before = files.secrets_of(self._home, name)
            try:
                for kind, secret in ((files.PASSWORD, request.secret), (files.STORE, request.store_secret)):
                    if secret:
                        files.keep_secret(self._home, name, kind, secret)
                files.check_complete(self._home, config)
                files.write_carrier(self._home, name, config)
            except UserError:
                files.restore_secrets(self._home, name, before)
                raise
            self._configs[name] = config
            log.info("the carrier %s is offered with %s", name, config.offer.to_json())
            await self._announce(leaving=name)
            if name != "grpc":
                await self._close(name)
        await self._arrange()
        return self.info(name)

    async def remove(self, name: str) -> None:
        """Offer it no longer. Raises OCT-CARRIER-REFUSED when it is not offered, is gRPC, or an open run needs it."""
        async with self._change:
            if name not in self._configs:
                raise not_offered(name, self._configs, f"The carrier {name} cannot be taken away.")
            if name == "grpc":
                raise UserError(
                    "OCT-CARRIER-REFUSED",
                    "gRPC cannot be taken away.",
                    "Silos enrol and renew their certificates at its port.",
                    "Close the port by a firewall if no silo is to use it.",
                )
            if run := self._wanted().get(name):
                raise UserError(
                    "OCT-CARRIER-REFUSED",
                    f"The carrier {name} cannot be taken away now.",
                    f"The run {run} moves its data by it.",
                    f"Wait until the run has ended, or stop it with 'octopus server runs stop {run}'.",
                )
            files.write_carrier(self._home, name, None)
            del self._configs[name]
            log.info("the carrier %s is offered no longer", name)
            await self._announce(leaving=name)
            await self._close(name)
            files.drop_secrets(self._home, name)

    async def _announce(self, leaving: str) -> None:
        """Tell all silos; those that are reached by the end which is about to close must hear it before."""
        for end in self._ends():
            end.announce()
        running = self._running.get(leaving)
        if leaving != "grpc" and running and running.end and any(_is_up(s) for s in running.end.states()):
            await asyncio.sleep(ANNOUNCE_S)

    # ends

    async def _arrange(self) -> None:
        async with self._change:
            wanted = self._wanted()
            for name in [n for n in self._running if n != "grpc"]:
                if name not in self._configs or (name not in CONTROL and name not in wanted):
                    await self._close(name)
            for name in self._configs:
                if name != "grpc" and (name in CONTROL or name in wanted) and name not in self._running:
                    running = self._running[name] = _Running()
                    running.task = asyncio.create_task(self._keep(name, running), name=f"carrier {name}")

    async def _keep(self, name: str, running: _Running) -> None:
        """Start the end; again and again while it cannot be started."""
        pause = BACKOFF_FIRST_S
        while True:
            end = None
            try:
                end = self._make(name)
                await end.start()
                running.end, running.fault = end, None
                log.info("the carrier %s is open", name)
                return
            except UserError as error:
                fault = error
            except ImportError as error:
                fault = UserError(
                    "OCT-PACKAGE-MISSING",
                    f"The carrier {name} cannot be used here.",
                    str(error),
                    "Install the missing package and start the server again.",
                )
            except Exception as error:  # a bug of one carrier must not take the others with it
                log.exception("the carrier %s could not be started", name)
                fault = UserError("OCT-LINK-DOWN", f"The carrier {name} could not be started.", repr(error))
            if end is not None:
                with contextlib.suppress(Exception):
                    await end.stop(0)
            if running.fault is None or running.fault.code != fault.code:
                log.warning("the carrier %s is not open: %s", name, fault)
            running.fault = fault
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, BACKOFF_MOST_S)

    def _make(self, name: str) -> ServerEnd:
        config = self._configs[name]
        options: dict[str, Any] = {}
        if isinstance(config.offer, MqttOffer):
            options |= {"username": config.username, "secrets": files.secrets_of(self._home, name)}
        else:
            options["run_dir"] = private_dir(self._home.runtime)
        if isinstance(config.offer, MqttS3Offer):
            options["store_key_id"] = config.store_key_id
        end: ServerEnd = registry.carrier(name).server_end()(
            offer=config.offer,
            party=self._party,
            owner=self._view(name),
            version=__version__,
            boot_id=self._boot_id,
            carriers=self.offers,
            **options,
        )
        return end

    async def _close(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is None:
            return
        if running.task is not None:
            running.task.cancel()
            await asyncio.gather(running.task, return_exceptions=True)
        if running.end is not None:
            await running.end.stop(STOP_GRACE_S)


def not_offered(name: str, offered: Iterable[str], what: str) -> UserError:
    return UserError(
        "OCT-CARRIER-REFUSED",
        what,
        f"The federation does not offer {name}; it offers {', '.join(sorted(offered))}.",
        f"Choose one of these (or \"auto\" in a job), or offer it first with 'octopus server carrier put {name}'.",
    )


def _is_up(state: LinkState) -> bool:
    return state.phase is LinkPhase.UP


def _link(state: LinkState) -> pb.LinkInfo:
    return pb.LinkInfo(
        silo=state.peer,
        phase=state.phase.value,
        since=state.since,
        latency_ms=state.latency_ms,
        bytes_in=state.bytes_in,
        bytes_out=state.bytes_out,
        bytes_resumed=state.bytes_resumed,
        error_code=state.fault.code if state.fault else "",
        error=f"{state.fault.what} {state.fault.why}".strip() if state.fault else "",
    )
