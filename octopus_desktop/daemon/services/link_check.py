"""Looks at a federation's links step by step and says what is wrong: name, route, proxy, TLS, certificates, logins,
rights, clock. Changes nothing; what it puts at a broker or store is a few bytes, gone at once.

Checked are the carrier that control goes by, those that are in use, and those that this silo has set up.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.grpc_wire import Proxy
from octopus_desktop.communication.settings import MqttOffer, Offer, OwnSide, Secrets, own_ca
from octopus_desktop.daemon.services import link_check_broker as broker
from octopus_desktop.daemon.services import link_check_cluster as cluster
from octopus_desktop.daemon.services.link_steps import SOON_DAYS, Chain, Dial, Failed, Untested, clock_words, own_pem
from octopus_desktop.identity.authority import check_address
from octopus_desktop.identity.certificates import load, read_peer, to_pem
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierCase:
    """One carrier as this silo has it. ``state``: of its link, None where none is kept now."""

    offer: Offer
    own: OwnSide = field(default_factory=OwnSide)
    secrets: Secrets = field(default_factory=Secrets)
    state: LinkState | None = None
    wanted: bool = True  # it carries control, or is in use

    @property
    def is_looked_at(self) -> bool:
        return self.wanted or self.own != OwnSide() or bool(self.secrets.password)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What is checked. ``server``: host:port of gRPC; ``silo``: our name there; ``ca_fingerprint``: of its CA."""

    server: str
    silo: str
    ca_fingerprint: str
    certificate_der: bytes
    ca_der: bytes
    key_pem: bytes = field(repr=False)
    carriers: Sequence[CarrierCase] = ()


async def examine(case: Case) -> pb.CheckReply:
    """All steps, carrier by carrier and in order, then what concerns the federation as a whole. The carriers are looked
    at side by side."""
    looked_at = [carrier for carrier in case.carriers if carrier.is_looked_at]
    chains = await asyncio.gather(*(_carrier(case, carrier) for carrier in looked_at))
    whole = Chain("")
    await whole.step("our certificate", lambda: _our_certificate(case.certificate_der), apart=True)
    await whole.step("clock", lambda: _clock(case, looked_at), apart=True)
    return pb.CheckReply(steps=[step for chain in (*chains, whole) for step in chain.steps])


async def _carrier(case: Case, carrier: CarrierCase) -> Chain:
    chain, offer = Chain(carrier.offer.name), carrier.offer
    if offer.name == "grpc":
        await _grpc(chain, case, carrier)
    elif isinstance(offer, MqttOffer):
        await broker.look(chain, offer, carrier.own, carrier.secrets, case.silo, case.ca_fingerprint)
    else:
        await cluster.look(chain, offer, carrier.own)
    if carrier.state is not None or carrier.wanted:
        await chain.step("link", lambda: _link(carrier.state), apart=True)
    return chain


async def _grpc(chain: Chain, case: Case, carrier: CarrierCase) -> None:
    host, port = check_address(case.server)
    dial = Dial(
        "the federation server",
        host,
        port,
        proxy=Proxy.of(carrier.own, carrier.secrets),
        ours=own_pem(case.key_pem, case.certificate_der),
        alpn=("h2",),
        least=ssl.TLSVersion.TLSv1_3,
    )
    await dial.reach(chain)

    def handshake() -> str:
        dial.believed = (to_pem(case.ca_der) + own_ca(carrier.own)).decode()
        return dial.handshake()

    await chain.step("TLS", handshake)
    await chain.step("their certificate", dial.their_certificate)


def _our_certificate(certificate_der: bytes) -> str:
    peer, now = read_peer(certificate_der), time.time()
    days = (peer.not_after - now) / 86400
    if days <= 0:
        raise Failed(
            f"Ours ended on {time.strftime('%Y-%m-%d %H:%M', time.gmtime(peer.not_after))} UTC.",
            "Check this machine's clock; if it is right, ask the coordinator for a new invitation and enrol again.",
        )
    if now < load(certificate_der).not_valid_before_utc.timestamp():
        raise Failed("This machine's clock stands before our certificate begins.", "Set the clock, best by NTP.")
    text = f"Ours is {peer.name}, valid for {days:.0f} more days."
    return text + (" It is renewed by itself while the link is up." if days < SOON_DAYS else "")


def _clock(case: Case, carriers: Sequence[CarrierCase]) -> str:
    for carrier in carriers:
        state = carrier.state
        if state is not None and state.clock_s is not None and state.phase is LinkPhase.UP:
            return clock_words(state.clock_s, "the federation server")
        if state is not None and state.fault is not None and state.fault.code == "OCT-CLOCK-OFF":
            raise Failed.of(state.fault)
    raise Untested("No link is up that would tell the server's time.")


def _link(state: LinkState | None) -> str:
    if state is None:
        raise Untested("None is kept now: it comes up when a run uses this carrier.")
    if state.phase is LinkPhase.UP:
        trip = f", {state.latency_ms:.1f} ms round trip" if state.latency_ms else ""
        return f"It is up{trip}."
    fault = state.fault or UserError("OCT-LINK-DOWN", f"It is {state.phase.value}.")
    raise Failed.of(fault)
