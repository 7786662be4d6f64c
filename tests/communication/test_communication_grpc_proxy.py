"""gRPC through a hospital's HTTP proxy, and with a CA of the site's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from octopus_desktop.communication.contract import SERVER, LinkPhase
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.grpc_wire import Proxy as HttpProxy
from octopus_desktop.communication.settings import OwnSide, Secrets
from octopus_desktop.wire.errors import UserError
from tests.communication.conformance import running
from tests.communication.connect_proxy import ConnectProxy
from tests.communication.parts import ANSWER, MIB, Keys
from tests.communication.proxy import Proxy
from tests.communication.test_communication_grpc import GrpcWiring

PASSWORD = "p@ss:w/ö%rd"


@asynccontextmanager
async def wiring(tmp_path: Path) -> AsyncIterator[GrpcWiring]:
    made = GrpcWiring(tmp_path, Proxy(0))
    await made.server_end.start()
    await made.grpc_server.start()
    try:
        yield made
    finally:
        await made.server_end.stop(1)
        await made.grpc_server.stop(0)


def refused_by(end: object) -> UserError:
    fault = end.state.fault  # type: ignore[attr-defined]
    assert isinstance(fault, UserError)
    return fault


async def test_mail_and_blobs_go_through_a_proxy_that_wants_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")  # says something else, and is ignored
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_grpc_proxy", "")
    async with wiring(tmp_path) as made, ConnectProxy(login=f"nora:{PASSWORD}") as proxy:
        own, secrets = OwnSide(proxy=proxy.url, username="nora"), Secrets(password=PASSWORD)
        async with running(made, port=made.port, own=own, secrets=secrets) as silo:
            up = silo.owner.post(SERVER, kind=ANSWER, blobs=[silo.owner.blob(2 * MIB)])
            silo.end.outbox_changed()
            await made.server.until(lambda: made.server.accepted == [up.id])
            assert proxy.tunnels == 2, "the link and the blobs"
            assert set(proxy.asked) == {f"127.0.0.1:{made.port}"}


async def test_the_environments_proxy_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with wiring(tmp_path) as made, ConnectProxy() as proxy:
        for name in ("https_proxy", "http_proxy", "grpc_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with running(made, port=made.port):
            assert proxy.asked == []


@pytest.mark.parametrize(
    ("answer", "word", "step"),
    [
        ("407 Proxy Authentication Required", "407", "--password"),
        ("403 Forbidden", "403", "let CONNECT to"),
        ("502 Bad Gateway", "502", "let CONNECT to"),
    ],
)
async def test_a_proxy_that_refuses_is_named(tmp_path: Path, answer: str, word: str, step: str) -> None:
    async with wiring(tmp_path) as made, ConnectProxy(refuse=answer) as proxy:
        alpha, own = made.owner("alpha"), OwnSide(proxy=proxy.url, username="nora")
        async with running(made, alpha, port=made.port, own=own, secrets=Secrets(password="x"), wait_up=False) as silo:
            await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
            fault = refused_by(silo.end)
            assert fault.code == "OCT-LINK-PROXY" and proxy.url in fault.what
            assert word in fault.why and step in fault.next_step


async def test_a_proxy_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with wiring(tmp_path) as made, ConnectProxy() as gone:
        pass
    async with wiring(tmp_path) as made:
        for url in (gone.url, "http://proxy.invalid:3128"):
            alpha = made.owner("alpha")
            async with running(made, alpha, port=made.port, own=OwnSide(proxy=url), wait_up=False) as silo:
                await alpha.until(lambda: silo.end.state.phase is LinkPhase.DOWN)
                fault = refused_by(silo.end)
                assert fault.code == "OCT-LINK-PROXY" and url in fault.what


async def test_what_is_wrong_beyond_the_proxy_is_not_the_proxys_fault(tmp_path: Path) -> None:
    async with wiring(tmp_path) as made, ConnectProxy(reach={"fed.example.org": made.port}) as proxy:
        right, stranger = made.keys.silo("alpha"), made.keys.silo("alpha", root=Keys().authority.ca_pem)
        for address, credentials in ((f"127.0.0.1:{made.port}", stranger), ("fed.example.org:7450", right)):
            alpha = made.owner("alpha")
            end = GrpcSiloEnd(
                address=address, credentials=credentials, owner=alpha, version="1", boot_id="c",
                own=OwnSide(proxy=proxy.url),
            )  # fmt: skip
            task = asyncio.create_task(end.run())
            await alpha.until(lambda end=end: end.state.phase is LinkPhase.DOWN)
            assert refused_by(end).code == "OCT-LINK-TLS"
            task.cancel()
            await asyncio.wait([task])
        assert "fed.example.org:7450" in proxy.asked, "the name is resolved by the proxy"


async def test_a_ca_of_the_sites_own_counts_beside_the_federations(tmp_path: Path) -> None:
    """As where a gateway of the site stands in for the server, with a certificate of the site's CA."""
    async with wiring(tmp_path) as made:
        credentials = made.keys.silo("alpha", root=Keys().authority.ca_pem)
        (tmp_path / "site-ca.pem").write_bytes(made.keys.authority.ca_pem)
        own = OwnSide(ca_file=str(tmp_path / "site-ca.pem"))
        async with running(made, port=made.port, credentials=credentials, own=own):
            pass
        (tmp_path / "no-ca.pem").write_text("nothing")
        for name, why in (("no-ca.pem", "holds no certificate"), ("missing.pem", "cannot be read")):
            with pytest.raises(UserError, match="own side") as caught:
                made.silo_end(made.owner("beta"), own=OwnSide(ca_file=str(tmp_path / name)))
            assert caught.value.code == "OCT-CONFIG-INVALID" and why in caught.value.why


def test_a_proxy_with_a_password_in_its_url_is_refused() -> None:
    for bad in ("http://nora:secret@proxy:3128", "https://proxy:3128", "http://proxy", "http://proxy:many"):
        with pytest.raises(UserError) as caught:
            OwnSide.from_dict({"proxy": bad})
        assert caught.value.code == "OCT-CONFIG-INVALID" and "secret" not in str(caught.value)


def test_a_proxys_password_is_not_shown() -> None:
    assert "x7" not in repr(HttpProxy(url="http://p:1", username="nora", password="x7"))
