"""The check of a broker's and a store's side, against a real mosquitto and a real SeaweedFS."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from octopus_desktop.communication import broker
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.seaweed import Seaweed
from octopus_desktop.communication.settings import MqttOffer, MqttS3Offer, OwnSide, Secrets
from octopus_desktop.daemon.services import link_check_broker
from octopus_desktop.daemon.services.link_check import CarrierCase, Case, examine
from octopus_desktop.wire.pb.local_pb2 import CheckStep
from tests.communication.brokers import USERS, Mosquitto
from tests.communication.connect_proxy import ConnectProxy
from tests.communication.parts import Keys
from tests.daemon.test_daemon_link_check import Site, closed_port


@pytest.fixture(autouse=True)
def brokers_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept for a subscriber comes at once here."""
    monkeypatch.setattr(link_check_broker, "LISTEN_S", 0.3)


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as store:
        yield store


@asynccontextmanager
async def server_at(mosquitto: Mosquitto) -> AsyncIterator[None]:
    """The federation's server is connected to the broker."""
    wire = mosquitto.wire(SERVER)
    await wire.open(lambda peer, lane, message: None, lambda peer: None)
    try:
        yield
    finally:
        await wire.close()


async def check(offer: MqttOffer, own: OwnSide | None = None, secrets: Secrets | None = None) -> dict[str, CheckStep]:
    site = Site()
    carrier = CarrierCase(
        offer=offer,
        own=own or OwnSide(username="alpha"),
        secrets=secrets or Secrets(password=USERS["alpha"]),
    )
    case = Case(
        server="127.0.0.1:1", silo="alpha", ca_fingerprint="c0ff ee00", certificate_der=site.certificate,
        ca_der=site.authority.ca_der, key_pem=site.key, carriers=[carrier],
    )  # fmt: skip
    return {step.name: step for step in (await examine(case)).steps if step.carrier == offer.name}


def s3(seaweed: Seaweed, mosquitto: Mosquitto, **changes: object) -> MqttS3Offer:
    plain = mosquitto.offer()
    settings = {
        "host": plain.host, "port": plain.port, "ca_pem": plain.ca_pem, "endpoint": seaweed.endpoint,
        "bucket": seaweed.bucket, **changes,
    }  # fmt: skip
    return MqttS3Offer(**settings)  # type: ignore[arg-type]


async def test_a_broker_that_is_set_up_well(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto, server_at(mosquitto):
        steps = await check(mosquitto.offer())
    assert [name for name, step in steps.items() if step.state != "ok"] == ["link"], steps
    assert list(steps) == [
        "name", "route", "TLS", "their certificate", "login", "packet size", "own topics: read",
        "own topics: write", "server at the broker", "foreign topics", "link",
    ]  # fmt: skip
    assert "denied" in steps["foreign topics"].detail


async def test_a_wrong_password_and_what_it_holds_up(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        steps = await check(mosquitto.offer(), secrets=Secrets(password="guess"))
    assert steps["login"].state == "failed" and "OCT-BROKER-LOGIN" in steps["login"].detail
    assert "guess" not in str(steps) and steps["own topics: read"].state == "untried"


async def test_a_topic_that_is_denied_and_one_that_should_be(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    rights = (tmp_path / "acl").read_text()
    (tmp_path / "acl").write_text("user alpha\ntopic read octopus/#\n")
    async with mosquitto:
        steps = await check(mosquitto.offer())
    assert steps["own topics: write"].state == "failed" and "OCT-BROKER-TOPIC" in steps["own topics: write"].detail
    assert "mosquitto" in steps["own topics: write"].next_step and steps["foreign topics"].state == "untried"
    (tmp_path / "acl").write_text(rights.replace("pattern read octopus/+/alive/server", ""))
    async with mosquitto, server_at(mosquitto):
        steps = await check(mosquitto.offer())
    assert steps["server at the broker"].state == "failed" and "alive/server" in steps["server at the broker"].detail
    (tmp_path / "acl").write_text(rights)
    async with mosquitto, server_at(mosquitto):
        steps = await check(mosquitto.offer(), OwnSide(username="spy"), Secrets(password=USERS["spy"]))
    assert steps["foreign topics"].state == "failed" and "access list" in steps["foreign topics"].next_step
    assert "publish to another silo's topics and read what" in steps["foreign topics"].detail


async def test_a_broker_that_the_server_has_not_come_to(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        steps = await check(mosquitto.offer())
    assert steps["server at the broker"].state == "failed" and "coordinator" in steps["server at the broker"].next_step


async def test_packets_too_small_for_any_and_smaller_than_offered(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(conf.read_text().replace(str(broker.MAX_PACKET_BYTES), "2000"))
    async with mosquitto:
        steps = await check(mosquitto.offer())
    assert steps["packet size"].state == "failed" and "2000" in steps["packet size"].detail
    conf.write_text(conf.read_text().replace("2000", "200000"))
    async with mosquitto:
        steps = await check(mosquitto.offer())
    assert steps["packet size"].state == "ok" and "200000" in steps["packet size"].detail


async def test_a_broker_of_another_ca_and_one_without_tls(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path / "tls") as mosquitto:
        stranger = Keys().authority.ca_pem.decode()
        steps = await check(mosquitto.offer(ca_pem=stranger))
        assert steps["TLS"].state == "failed" and "not believed" in steps["TLS"].detail
        assert steps["login"].state == "untried"
    async with Mosquitto(tmp_path / "plain", tls=False) as mosquitto:
        steps = await check(mosquitto.offer())
        assert steps["TLS"].state == "untried" and "in the clear" in steps["TLS"].detail
        assert steps["login"].state == steps["own topics: write"].state == "ok"


async def test_a_broker_that_is_down(tmp_path: Path) -> None:
    steps = await check(MqttOffer(host="127.0.0.1", port=closed_port()))
    assert steps["route"].state == "failed" and steps["login"].state == "untried"


async def test_a_broker_behind_a_proxy(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto, ConnectProxy() as proxy:
        steps = await check(mosquitto.offer(), OwnSide(username="alpha", proxy=proxy.url))
        assert steps["proxy"].state == steps["TLS"].state == steps["login"].state == "ok"
        assert all(target == f"127.0.0.1:{mosquitto.port}" for target in proxy.asked)


async def test_a_store_with_credentials_of_the_silos_own(tmp_path: Path, seaweed: Seaweed) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        own = OwnSide(username="alpha", store_key_id=seaweed.key_id)
        secrets = Secrets(password=USERS["alpha"], store_secret=seaweed.secret)
        steps = await check(s3(seaweed, mosquitto), own, secrets)
        assert steps["bucket"].state == "ok" and seaweed.bucket in steps["bucket"].detail
        assert "the store" in steps["store: clock"].detail
        bad = Secrets(password=USERS["alpha"], store_secret="guess")
        steps = await check(s3(seaweed, mosquitto), own, bad)
        assert steps["bucket"].state == "failed" and "OCT-STORE-DENIED" in steps["bucket"].detail
        steps = await check(s3(seaweed, mosquitto, bucket="no-such-bucket"), own, secrets)
        assert steps["bucket"].state == "failed" and "no-such-bucket" in steps["bucket"].detail


async def test_a_store_whose_urls_the_server_signs_and_one_that_is_down(tmp_path: Path, seaweed: Seaweed) -> None:
    offer = MqttS3Offer(
        host="127.0.0.1", port=closed_port(), endpoint=seaweed.endpoint, bucket=seaweed.bucket
    )  # the broker is down: that does not hold up the store
    steps = await check(offer)
    assert steps["route"].state == "failed" and steps["store: route"].state == "ok"
    assert steps["bucket"].state == "untried" and "server signs" in steps["bucket"].detail
    gone = MqttS3Offer(
        host="127.0.0.1", port=offer.port, endpoint=f"http://127.0.0.1:{closed_port()}", bucket="octopus"
    )
    steps = await check(gone)
    assert steps["store: route"].state == "failed" and steps["bucket"].state == "untried"


async def test_a_stores_clock_far_from_ours(seaweed: Seaweed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_check_broker, "time", lambda: time.time() + 600.0)
    offer = MqttS3Offer(host="127.0.0.1", port=closed_port(), endpoint=seaweed.endpoint, bucket=seaweed.bucket)
    steps = await check(offer)
    assert steps["store: clock"].state == "failed" and "10 minutes behind" in steps["store: clock"].detail
