"""The check of a link, each failure with a real part: ports, proxies, certificates, clocks."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.settings import GrpcOffer, MpiOffer, Offer, OwnSide, Secrets, TorchRpcOffer
from octopus_desktop.daemon.services import link_steps
from octopus_desktop.daemon.services.link_check import CarrierCase, Case, examine
from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.certificates import to_der, to_pem
from octopus_desktop.identity.member import make_request
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import CheckStep
from tests.communication.connect_proxy import ConnectProxy
from tests.communication.parts import Keys, Owner
from tests.communication.peers import PeerProcess

DAY_S = 86_400.0


class Site:
    """A federation's CA and one silo of it."""

    def __init__(self) -> None:
        self.authority = Authority.create("Test Federation")
        self.key, self.certificate = self.silo()

    def silo(self, valid_s: float = 90 * DAY_S) -> tuple[bytes, bytes]:
        key, request = make_request("mayo")
        return key, self.authority.issue(request, "mayo", "silo", valid_s)

    def case(
        self, port: int, *, offer: Offer | None = None, own: OwnSide | None = None, secrets: Secrets | None = None,
        state: LinkState | None = None, host: str = "127.0.0.1", ours: tuple[bytes, bytes] | None = None,
    ) -> Case:  # fmt: skip
        key, certificate = ours or (self.key, self.certificate)
        carrier = CarrierCase(
            offer=offer or GrpcOffer(), own=own or OwnSide(), secrets=secrets or Secrets(), state=state
        )  # fmt: skip
        return Case(
            server=f"{host}:{port}", silo="mayo", ca_fingerprint=self.authority.fingerprint,
            certificate_der=certificate, ca_der=self.authority.ca_der, key_pem=key, carriers=[carrier],
        )  # fmt: skip

    def server_pems(self, *, hosts: tuple[str, ...] = ("127.0.0.1",), valid_s: float = 90 * DAY_S) -> bytes:
        """Key and certificate of a server, as one PEM."""
        key = certificates.new_key()
        issuer = certificates.load(self.authority.ca_der).subject
        made = certificates.build(
            issuer=issuer, issuer_key=certificates.key_from_pem(self.authority.key_pem),
            who=certificates.subject("server", "server"), public=key.public_key(), valid_s=valid_s,
            server_hosts=list(hosts), now=datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=2),
        )  # fmt: skip
        return certificates.key_to_pem(key) + to_pem(made)


@asynccontextmanager
async def tls_server(site: Site, pem: bytes, folder: Path) -> AsyncIterator[int]:
    """What answers TLS 1.3 with this key and certificate, and wants one of the federation; its port."""
    folder.mkdir(exist_ok=True)
    (folder / "server.pem").write_bytes(pem)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    context.load_verify_locations(cadata=site.authority.ca_der)
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextmanager
def blackhole():  # type: ignore[no-untyped-def]
    """A port that swallows each SYN: its queue of connections is full and nobody takes one."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
            waiting.append(one)
        try:
            yield listening.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def steps_of(case: Case) -> dict[str, CheckStep]:
    return {step.name: step for step in (await examine(case)).steps}


def states_of(steps: dict[str, CheckStep]) -> dict[str, str]:
    return {name: step.state for name, step in steps.items()}


def up(clock_s: float | None = 0.2) -> LinkState:
    return LinkState(peer="server", phase=LinkPhase.UP, since=time.time(), latency_ms=12.0, clock_s=clock_s)


async def test_all_is_well(tmp_path: Path) -> None:
    site = Site()
    async with tls_server(site, site.server_pems(), tmp_path) as port:
        steps = await steps_of(site.case(port, state=up()))
    assert set(states_of(steps).values()) == {"ok"}, steps
    assert "TLSv1.3" in steps["TLS"].detail and "12.0 ms" in steps["link"].detail
    assert "mayo" in steps["our certificate"].detail and steps["clock"].carrier == ""


async def test_a_closed_port_fails_the_route_and_what_comes_after_is_not_tried() -> None:
    site = Site()
    steps = await steps_of(site.case(closed_port()))
    assert states_of(steps) | {"route": "failed", "TLS": "untried", "their certificate": "untried"} == states_of(steps)
    assert "refuses" in steps["route"].detail and steps["route"].next_step
    assert "Not tried" in steps["TLS"].detail and steps["our certificate"].state == "ok"


async def test_a_firewall_that_drops_everything_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_steps, "STEP_S", 0.5)
    with blackhole() as port:
        steps = await steps_of(Site().case(port))
    assert steps["route"].state == "failed" and "dropped" in steps["route"].detail
    assert "let connections to 127.0.0.1" in steps["route"].next_step


async def test_a_name_that_nobody_knows() -> None:
    steps = await steps_of(Site().case(7450, host="fed.invalid"))
    assert steps["name"].state == "failed" and "cannot be resolved" in steps["name"].detail
    assert steps["route"].state == "untried"


async def test_another_ca(tmp_path: Path) -> None:
    site, stranger = Site(), Site()
    async with tls_server(site, stranger.server_pems(), tmp_path) as port:
        steps = await steps_of(site.case(port))
    assert steps["TLS"].state == "failed" and "not believed" in steps["TLS"].detail
    assert "fingerprint" in steps["TLS"].next_step


async def test_a_ca_of_the_sites_own_helps_where_it_reads_tls(tmp_path: Path) -> None:
    site, gateway = Site(), Site()
    (tmp_path / "gateway.pem").write_bytes(gateway.authority.ca_pem)
    async with tls_server(site, gateway.server_pems(), tmp_path) as port:
        steps = await steps_of(site.case(port, own=OwnSide(ca_file=str(tmp_path / "gateway.pem"))))
        assert steps["TLS"].state == "ok"
        steps = await steps_of(site.case(port, own=OwnSide(ca_file=str(tmp_path / "none.pem"))))
        assert steps["TLS"].state == "failed" and "none.pem cannot be read" in steps["TLS"].detail


async def test_their_certificate_has_ended(tmp_path: Path) -> None:
    site = Site()
    async with tls_server(site, site.server_pems(valid_s=DAY_S), tmp_path) as port:  # it began two days ago
        steps = await steps_of(site.case(port))
    assert steps["TLS"].state == "failed" and "past its validity" in steps["TLS"].detail
    assert "UTC" in steps["TLS"].detail and "clock" in steps["TLS"].next_step


async def test_their_certificate_is_for_another_name(tmp_path: Path) -> None:
    site = Site()
    pem = site.server_pems(hosts=("fed.example.org",))
    async with tls_server(site, pem, tmp_path) as port:
        steps = await steps_of(site.case(port))
    assert steps["TLS"].state == "failed" and "another name" in steps["TLS"].detail
    assert "fed.example.org" in steps["TLS"].detail


async def test_our_certificate_has_ended(tmp_path: Path) -> None:
    site = Site()
    steps = await steps_of(site.case(closed_port(), ours=site.silo(valid_s=-60)))
    assert steps["our certificate"].state == "failed" and "invitation" in steps["our certificate"].next_step


async def test_what_speaks_no_tls() -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        steps = await steps_of(Site().case(server.sockets[0].getsockname()[1]))
    assert steps["TLS"].state == "failed" and "handshake" in steps["TLS"].detail


async def test_through_a_proxy_with_a_login(tmp_path: Path) -> None:
    site = Site()
    pem = site.server_pems(hosts=("fed.example.org",))
    async with tls_server(site, pem, tmp_path) as port:
        async with ConnectProxy(login="nora:pw", reach={"fed.example.org": port}) as proxy:
            own = OwnSide(proxy=proxy.url, username="nora")

            async def check(password: str) -> dict[str, CheckStep]:
                case = site.case(7450, host="fed.example.org", own=own, secrets=Secrets(password=password))
                return await steps_of(case)

            good, bad = await check("pw"), await check("other")
            assert good["proxy"].state == good["TLS"].state == "ok" and "by the proxy" in good["name"].detail
            assert bad["proxy"].state == "failed" and "login" in bad["proxy"].detail
            assert bad["TLS"].state == "untried" and "other" not in str(bad)
        async with ConnectProxy(refuse="403 Forbidden") as proxy:
            steps = await steps_of(site.case(port, own=OwnSide(proxy=proxy.url)))
            assert "403" in steps["proxy"].detail and "CONNECT" in steps["proxy"].next_step
        async with tls_server(site, pem, tmp_path) as no_proxy:
            steps = await steps_of(site.case(port, own=OwnSide(proxy=f"http://127.0.0.1:{no_proxy}")))
            assert steps["proxy"].state == "failed"


async def test_a_clock_that_is_off_is_told_from_a_link_that_is_up_or_was_refused_for_it() -> None:
    site, port = Site(), closed_port()
    steps = await steps_of(site.case(port, state=up(clock_s=-301.0)))
    assert steps["clock"].state == "failed" and "5 minutes behind" in steps["clock"].detail
    assert "NTP" in steps["clock"].next_step
    fault = UserError("OCT-CLOCK-OFF", "The clocks differ.", "By 9 minutes.", "Set both clocks by NTP.")
    down = LinkState(peer="server", phase=LinkPhase.DOWN, since=0.0, fault=fault)
    steps = await steps_of(site.case(port, state=down))
    assert steps["clock"].state == "failed" and "9 minutes" in steps["clock"].detail
    steps = await steps_of(site.case(port))
    assert steps["clock"].state == "untried" and "No link" in steps["clock"].detail


async def test_a_link_tells_that_the_servers_clock_is_off(tmp_path: Path) -> None:
    keys = Keys()
    alpha = Owner(tmp_path / "alpha", "alpha", keys)
    credentials = keys.silo("alpha")
    peer = await PeerProcess.start("tests.communication.grpc_peer_late", tmp_path / "server", keys)
    end = GrpcSiloEnd(
        address=f"127.0.0.1:{peer.said}", credentials=credentials, owner=alpha, version="1", boot_id="c",
    )  # fmt: skip
    task = asyncio.create_task(end.run())
    try:
        await alpha.until(lambda: bool(end.state.latency_ms))
        steps = await steps_of(Site().case(int(peer.said), state=end.state))
        assert steps["clock"].state == "failed" and "5 minutes ahead of" in steps["clock"].detail
    finally:
        task.cancel()
        await asyncio.wait([task])
        await peer.kill()


async def test_pytorch_rpc_outside_of_the_networks() -> None:
    site = Site()
    offer = TorchRpcOffer(host="127.0.0.1", port=closed_port(), networks=("10.20.0.0/16",), sealed=False)
    steps = await steps_of(site.case(1, offer=offer))
    assert "has not consented" in steps["sealing"].detail
    steps = await steps_of(site.case(1, offer=offer, own=OwnSide(accept_unsealed=True)))
    assert "unsealed" in steps["sealing"].detail and "can read" in steps["sealing"].detail
    assert steps["own network"].state == "failed" and "10.20.0.0/16" in steps["own network"].detail
    assert steps["port"].state == "untried"
    inside = TorchRpcOffer(host="127.0.0.1", port=offer.port, networks=("127.0.0.0/8",))
    steps = await steps_of(site.case(1, offer=inside))
    assert states_of(steps)["own network"] == states_of(steps)["their network"] == "ok"
    assert steps["port"].state == "untried" and "only while a run uses it" in steps["port"].detail
    steps = await steps_of(site.case(1, offer=inside, own=OwnSide(interface="no-such0")))
    assert steps["own network"].state == "failed" and "no-such0" in steps["own network"].detail


async def test_mpi_names_what_it_found_or_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("OCTOPUS_MPIEXEC", "no-such-mpiexec")
    steps = await steps_of(site.case(1, offer=MpiOffer()))
    assert steps["mpiexec"].state == "failed" and "OCT-MPI-MISSING" in steps["mpiexec"].detail
    assert "openmpi-bin" in steps["mpiexec"].next_step
    (tmp_path / "mpiexec").write_text("#!/bin/sh\necho 'mpiexec (OpenRTE) 4.1.4'\n")
    (tmp_path / "mpiexec").chmod(0o755)
    monkeypatch.setenv("OCTOPUS_MPIEXEC", "mpiexec")
    steps = await steps_of(site.case(1, offer=MpiOffer()))
    assert steps["mpiexec"].state == "ok" and "OpenRTE" in steps["mpiexec"].detail


def test_nothing_of_a_case_shows_a_key() -> None:
    site = Site()
    assert "PRIVATE" not in repr(site.case(1)) and to_der(site.certificate)
