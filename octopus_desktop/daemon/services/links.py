"""The links of each federation: one end for each carrier that is needed now, kept up, and shown. Knows no message.

Needed are the control carrier always, and a further one while an approved, open run moves its data by it. Ends are made
from rows alone, so that a restart finds everything again; a carrier's modules are imported only when its end is made.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from octopus_desktop import __version__
from octopus_desktop.communication import registry
from octopus_desktop.communication.contract import SERVER, LinkPhase, LinkState, MailOwner, SiloEnd
from octopus_desktop.communication.parties import SiloParty
from octopus_desktop.communication.settings import GrpcOffer, MqttOffer
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.mail import SiloMail
from octopus_desktop.daemon.services import carrier_views as views
from octopus_desktop.daemon.services.credentials import Credentials, Enrolled
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity.certificates import to_pem
from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer

log = logging.getLogger(__name__)

DOWN_LONG_S = 300.0
GONE = ("left", "revoked")


@dataclass(slots=True)
class _Kept:
    """One carrier's end. ``made_of``: the settings it was made of; ``last``: its counters when they were last added."""

    made_of: tuple[str, str, str]
    task: asyncio.Task[None] | None = None
    end: SiloEnd | None = None
    last: LinkState = field(default_factory=lambda: LinkState(peer=SERVER, phase=LinkPhase.DOWN, since=0.0))


class Links:
    """The ends of all federations.

    Attributes:
        make_mail: (federation) -> its mail, set by ``app``.
        offered: told what a federation's server offers, at each greeting.
    """

    def __init__(self, silo: Silo, keys: SiloKeys, credentials: Credentials, lives: Lives) -> None:
        self._silo, self._keys, self._credentials, self._lives = silo, keys, credentials, lives
        self._kept: dict[tuple[str, str], _Kept] = {}  # (federation, carrier)
        self._locks: dict[str, asyncio.Lock] = {}
        self._arranging: set[asyncio.Task[None]] = set()
        self._alarms: dict[str, asyncio.TimerHandle] = {}
        self.make_mail: Callable[[pb.Federation], SiloMail]
        self.offered: Callable[[str, Sequence[CarrierOffer]], None] = lambda federation_id, offers: None

    def connect_all(self) -> None:
        for federation in self._silo.all("federation"):
            if federation.link not in GONE:
                self.settle(federation.id)

    def settle(self, federation_id: str) -> None:
        """See that those ends run which are needed, each as its settings are now. Never blocks."""
        task = asyncio.create_task(self.arrange(federation_id))
        self._arranging.add(task)
        task.add_done_callback(self._arranging.discard)
        task.add_done_callback(_tell_bug)

    async def arrange(self, federation_id: str, *, anew: Sequence[str] = ()) -> None:
        """``settle``, to the end. ``anew``: carriers whose end is to be made anew in any case."""
        async with self._locks.setdefault(federation_id, asyncio.Lock()):
            federation = self._silo.get("federation", federation_id)
            wanted = self._wanted(federation) if federation and federation.link not in GONE else set()
            needed = self._needed(federation) if wanted else {}
            for (fid, name), kept in list(self._kept.items()):
                if fid == federation_id and (needed.get(name) != kept.made_of or name in anew):
                    await self._close(federation_id, name)
            for name, made_of in needed.items():
                if (federation_id, name) not in self._kept:
                    kept = self._kept[federation_id, name] = _Kept(made_of)
                    kept.task = asyncio.create_task(self._keep(federation_id, name, kept), name=f"link by {name}")
                    kept.task.add_done_callback(_tell_bug)
            if wanted:
                self._show_others(federation_id, wanted, set(needed))

    async def disconnect(self, federation_id: str) -> None:
        """End all of a federation's links."""
        async with self._locks.setdefault(federation_id, asyncio.Lock()):
            for fid, name in list(self._kept):
                if fid == federation_id:
                    await self._close(fid, name)
        if alarm := self._alarms.pop(federation_id, None):
            alarm.cancel()

    def outbox_changed(self, federation_id: str) -> None:
        for (fid, _), kept in self._kept.items():
            if fid == federation_id and kept.end:
                kept.end.outbox_changed()

    def send_live(self, federation_id: str, envelope: Any) -> None:
        federation = self._silo.get("federation", federation_id)
        kept = self._kept.get((federation_id, federation.carrier)) if federation else None
        if kept and kept.end:
            kept.end.send_live(envelope)

    def state(self, federation_id: str, name: str) -> LinkState | None:
        """Of the end; where there is none, what the row says of the last one."""
        kept = self._kept.get((federation_id, name))
        if kept and kept.end:
            return kept.end.state
        federation = self._silo.get("federation", federation_id)
        carrier = views.view(federation, name) if federation else None
        if carrier is None or not carrier.error_code:
            return None
        phase = LinkPhase.REVOKED if carrier.link == "revoked" else LinkPhase.DOWN
        fault = UserError(carrier.error_code, carrier.error)
        return LinkState(peer=SERVER, phase=phase, since=carrier.link_since, fault=fault)

    # which ends

    def _wanted(self, federation: pb.Federation) -> set[str]:
        return {federation.carrier} | {run.carrier for run in self._runs_of(federation.id) if run.carrier}

    def _needed(self, federation: pb.Federation) -> dict[str, tuple[str, str, str]]:
        """Carriers that are wanted and ready, with what an end of each is made of."""
        wanted, found = self._wanted(federation), {}
        for carrier in federation.carriers:
            if carrier.name in wanted and not views.reason_not_ready(carrier):
                certificate = federation.certificate_fingerprint if carrier.name == "grpc" else ""
                found[carrier.name] = (carrier.settings_json, carrier.own_json, certificate)
        return found

    def _runs_of(self, federation_id: str) -> list[pb.Run]:
        """Runs that were approved and have not ended."""
        ids = [life.run_id for life in self._lives.active() if life.federation_id == federation_id]
        return [run for run in (self._silo.get("run", run_id) for run_id in ids) if run is not None]

    async def _keep(self, federation_id: str, name: str, kept: _Kept) -> None:
        federation = self._silo.get("federation", federation_id)
        try:
            row = self._credentials.row(federation_id)
            enrolled = await asyncio.to_thread(self._credentials.open, row)
            secrets = await asyncio.to_thread(self._credentials.secrets, federation_id, name)
            await asyncio.to_thread(lambda: self._keys.silo)
            owner = self.make_mail(federation).view(name, lambda state: self._changed(federation_id, name, kept, state))
            kept.end = self._make(federation, name, enrolled, secrets, owner)
        except UserError as error:
            self._fails(federation_id, name, error)
            return
        except ImportError as error:
            what = f"The carrier {name} cannot be used here."
            fault = UserError("OCT-PACKAGE-MISSING", what, str(error), "Install the missing package and start again.")
            self._fails(federation_id, name, fault)
            return
        await kept.end.run()

    def _make(
        self, federation: pb.Federation, name: str, enrolled: Enrolled, secrets: Any, owner: MailOwner
    ) -> SiloEnd:
        carrier = views.view(federation, name)
        assert carrier is not None
        offered, own = views.offer_of(carrier), views.own_side(carrier)
        options: dict[str, Any] = {
            "own": own,
            "owner": owner,
            "version": __version__,
            "boot_id": self._silo.boot_id,
            "on_carriers": lambda offers: self.offered(federation.id, offers),
        }
        if isinstance(offered, GrpcOffer | MqttOffer):
            options["secrets"] = secrets
        else:
            options["run_dir"] = private_dir(self._silo.home.runtime)
        if isinstance(offered, GrpcOffer):
            options |= _grpc(federation, offered, enrolled)
        else:
            options["offer"] = offered
            options["party"] = SiloParty(
                name=federation.silo_name,
                federation=federation.ca_fingerprint,
                signing=self._keys.silo,
                server_key=enrolled.server_key,
            )
        end: SiloEnd = registry.carrier(name).silo_end()(**options)
        return end

    def _fails(self, federation_id: str, name: str, error: UserError) -> None:
        federation = self._silo.get("federation", federation_id)
        self._set(federation_id, name, "down", error)
        text = f"{federation.name}: {error.what} {error.why}".strip()
        self._silo.notify("error", error.code, text, "federation", federation_id)

    async def _close(self, federation_id: str, name: str) -> None:
        kept = self._kept.pop((federation_id, name), None)
        if kept and kept.task:
            kept.task.cancel()
            await asyncio.wait([kept.task])
            self._set(federation_id, name, "idle", None)

    def _show_others(self, federation_id: str, wanted: set[str], needed: set[str]) -> None:
        """Carriers without an end: idle, or wanted and refused, with the reason. And each run's link as it is."""
        federation = self._silo.get("federation", federation_id)
        for carrier in federation.carriers:
            fault = None
            if carrier.name in wanted - needed:
                what = "control" if carrier.name == federation.carrier else "a run's data"
                fault = UserError(
                    "OCT-CARRIER-REFUSED",
                    f"There is no link to {federation.name} by {carrier.name}, by which {what} is to go.",
                    f"Of this carrier: {views.reason_not_ready(carrier)}.",
                    f"Set it up with 'octopus federation carrier set FEDERATION {carrier.name}', or in the window.",
                )
            if carrier.name not in needed:
                self._set(federation_id, carrier.name, "refused" if fault else "idle", fault)
        links = {carrier.name: carrier.link for carrier in self._silo.get("federation", federation_id).carriers}
        for run in self._runs_of(federation_id):
            if run.link != (link := links.get(run.carrier, "refused")):
                run.link = link
                self._silo.hub.soon("run", run)

    # what the ends tell

    def _changed(self, federation_id: str, name: str, kept: _Kept, state: LinkState) -> None:
        """Stored when a phase moves, shown at once."""
        federation = self._silo.get("federation", federation_id)
        carrier = views.view(federation, name) if federation else None
        if carrier is None or federation.link == "left" or self._kept.get((federation_id, name)) is not kept:
            return
        before, kept.last = kept.last, state
        for count in ("bytes_in", "bytes_out", "bytes_resumed"):
            more = max(0, getattr(state, count) - getattr(before, count))
            for row in (carrier, federation):
                setattr(row, count, getattr(row, count) + more)
        carrier.latency_ms = state.latency_ms
        if name == federation.carrier:
            federation.latency_ms = state.latency_ms
        self._show_runs(federation_id, name, before, state)
        fault, link = state.fault, state.phase.value
        code = fault.code if fault else ""
        if code == "OCT-DISK-FULL" and carrier.error_code != code and fault:
            text = f"{fault.what} {fault.why} {federation.name} waits and goes on by itself."
            self._silo.notify("error", code, text, "federation", federation_id)
        if carrier.link != link or carrier.error_code != code or (link == "revoked" and federation.link != link):
            self._set(federation_id, name, link, fault)
        else:
            self._silo.hub.soon("federation", federation)

    def _show_runs(self, federation_id: str, name: str, before: LinkState, state: LinkState) -> None:
        for run in self._runs_of(federation_id):
            if run.carrier == name:
                run.link, run.latency_ms = state.phase.value, state.latency_ms
                run.bytes_resumed += max(0, state.bytes_resumed - before.bytes_resumed)
                self._silo.hub.soon("run", run)

    def _set(self, federation_id: str, name: str, link: str, fault: UserError | None) -> None:
        """Store a carrier's link, and the federation's where control goes by it or the silo is revoked."""
        before = self._silo.get("federation", federation_id)
        carrier = views.view(before, name) if before else None
        if carrier is None or before.link in GONE:
            return
        code, text = (fault.code, f"{fault.what} {fault.why}".strip()) if fault else ("", "")
        whole = name == before.carrier or link == LinkPhase.REVOKED
        told = {"idle": "connecting", "refused": "down"}.get(link, link)  # idle: between two ends
        same = (carrier.link, carrier.error_code, carrier.error) == (link, code, text)
        if same and (not whole or (before.link, before.error_code) == (told, code)):
            return
        was_up = before.link == "up"
        try:
            with self._silo.change():
                self._store(federation_id, name, link, told, code, text, whole)
        except UserError as error:  # shown all the same; the next change stores it
            log.warning("the state of the link was not stored: %s", error.what)
            carrier.link, carrier.error_code, carrier.error = link, code or error.code, text or error.what
            if whole:
                before.link, before.error_code, before.error = told, code or error.code, text or error.what
            self._silo.hub.soon("federation", before)
        if whole:
            self._alarm(federation_id, told, was_up)
        if link == LinkPhase.REVOKED:
            self.settle(federation_id)  # no link of another carrier may stay

    def _store(self, federation_id: str, name: str, link: str, told: str, code: str, text: str, whole: bool) -> None:
        now = round(time.time(), 3)
        federation = self._silo.need("federation", federation_id)
        revoked_now = link == LinkPhase.REVOKED and federation.link != link
        carrier = views.view(federation, name)
        assert carrier is not None
        if carrier.link != link:
            carrier.link, carrier.link_since = link, now
        carrier.in_use = (federation_id, name) in self._kept
        carrier.error_code, carrier.error = code, text
        if link == LinkPhase.REVOKED:
            for other in federation.carriers:
                other.link, other.in_use = link, False
        if whole:
            if federation.link != told:
                federation.link, federation.link_since = told, now
            federation.error_code, federation.error = code, text
        self._silo.put("federation", federation)
        if revoked_now:
            self._silo.record("server", "federation.revoked", federation_id, {"why": text, "carrier": name})
            said = f"{federation.name} has revoked this silo's certificate."
            self._silo.notify("error", code, said, "federation", federation_id)

    def _alarm(self, federation_id: str, link: str, was_up: bool) -> None:
        if link == "up":
            if alarm := self._alarms.pop(federation_id, None):
                alarm.cancel()
        elif federation_id not in self._alarms and (was_up or link == "down"):
            loop = asyncio.get_running_loop()
            self._alarms[federation_id] = loop.call_later(DOWN_LONG_S, self._long_down, federation_id)

    def _long_down(self, federation_id: str) -> None:
        self._alarms.pop(federation_id, None)
        federation = self._silo.get("federation", federation_id)
        if federation and federation.link not in ("up", "left"):
            text = f"{federation.name} has been out of reach for {DOWN_LONG_S / 60:.0f} minutes. {federation.error}"
            self._silo.notify("warning", "OCT-LINK-DOWN", text, "federation", federation_id)


def _grpc(federation: pb.Federation, offered: GrpcOffer, enrolled: Enrolled) -> dict[str, Any]:
    from octopus_desktop.communication.grpc_wire import ClientCredentials

    root, chain = to_pem(enrolled.ca_der), to_pem(enrolled.certificate_der)
    return {
        "address": federation.server,
        "credentials": ClientCredentials(root=root, key=enrolled.key_pem, chain=chain),
        "chunk_bytes": offered.chunk_bytes,
    }


def _tell_bug(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception():
        log.error("a link ended by a bug", exc_info=task.exception())
