"""What goes wrong with a broker, with a real one wherever it errs so: a typed error that names the cause, and the next
step."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.communication import mqtt_connection
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.mqtt_tls import BrokerAddress
from octopus_desktop.communication.mqtt_wire import MqttWire
from octopus_desktop.communication.wires import Lane
from octopus_desktop.wire.errors import UserError
from tests.communication.brokers import USERS, Mosquitto, free_port
from tests.communication.connect_proxy import ConnectProxy
from tests.communication.parts import MIB
from tests.communication.proxy import Proxy

ROOT = "octopus/c0ffee00/"


class Heard:
    """What a wire told: messages, and who is gone. ``until`` waits for a condition on either."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, Lane, bytes]] = []
        self.gone: list[str] = []
        self._changed = asyncio.Event()

    def receive(self, peer: str, lane: Lane, message: bytes) -> None:
        self.messages.append((peer, lane, message))
        self._changed.set()

    def left(self, peer: str) -> None:
        self.gone.append(peer)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def opened(*wires: MqttWire) -> AsyncIterator[list[Heard]]:
    heard = [Heard() for _ in wires]
    try:
        for wire, ears in zip(wires, heard, strict=True):
            await wire.open(ears.receive, ears.left)
        yield heard
    finally:
        for wire in reversed(wires):
            await wire.close()


async def refusal(wire: MqttWire) -> UserError:
    with pytest.raises(UserError) as caught:
        async with asyncio.timeout(20):
            await wire.open(lambda *_: None, lambda _: None)
    assert caught.value.next_step
    return caught.value


async def broken(wire: MqttWire) -> UserError:
    async with asyncio.timeout(20):
        error = await wire.broken()
    assert isinstance(error, UserError)
    return error


def address(port: int, **changes: Any) -> BrokerAddress:
    return BrokerAddress(**{"host": "127.0.0.1", "port": port, "tls": False, **changes})


def lone(broker: BrokerAddress, name: str = SERVER) -> MqttWire:
    return MqttWire(broker, topics="octopus", federation="c0ffee00", name=name, packet_bytes=MIB)


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[int]:
    """A broker that answers the n-th packet with the n-th of these bytes, and then closes: for what mosquitto cannot be
    made to say. Yields its port."""

    async def serve(near: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        for answer in answers:
            if not await near.read(1 << 16):
                break
            back.write(answer)
            await back.drain()
        back.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


# reaching it


async def test_a_broker_that_does_not_listen_is_down() -> None:
    error = await refusal(lone(address(free_port())))
    assert error.code == "OCT-BROKER-DOWN" and "nothing listens" in error.why


async def test_a_broker_whose_name_nobody_knows_is_down() -> None:
    error = await refusal(lone(address(8883, host="broker.invalid")))
    assert error.code == "OCT-BROKER-DOWN" and "name is not known" in error.why


async def test_a_broker_with_an_impossible_name_is_down() -> None:
    error = await refusal(lone(address(8883, host="a" * 70 + ".invalid")))
    assert error.code == "OCT-BROKER-DOWN"


async def test_a_broker_that_says_nothing_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_connection, "ANSWER_S", 0.3)
    async with Mosquitto(tmp_path, tls=False) as mosquitto, Proxy(mosquitto.port) as proxy:
        proxy.frozen = True
        error = await refusal(mosquitto.wire(SERVER, port=proxy.port))
    assert error.code == "OCT-BROKER-DOWN" and "not answer" in error.why


async def test_a_handshake_that_is_cut_off_counts_as_down(tmp_path: Path) -> None:
    async with scripted(b"") as port:
        error = await refusal(lone(address(port, tls=True)))
    assert error.code == "OCT-BROKER-DOWN"


@pytest.mark.parametrize("answer", [b"\x20\x02\x00\x01", b"\x20\x03\x00\x84\x00"])
async def test_a_broker_of_an_older_mqtt_is_refused(answer: bytes) -> None:
    async with scripted(answer) as port:
        error = await refusal(lone(address(port)))
    assert error.code == "OCT-LINK-PROTOCOL" and "MQTT 5" in error.what


async def test_a_broker_without_retained_messages_is_refused() -> None:
    async with scripted(b"\x20\x05\x00\x00\x02\x25\x00", b"") as port:
        error = await refusal(lone(address(port)))
    assert error.code == "OCT-LINK-PROTOCOL" and "retained" in error.why


async def test_a_broker_that_closes_at_once_may_speak_something_else() -> None:
    async with scripted(b"") as port:
        error = await refusal(lone(address(port)))
    assert error.code == "OCT-BROKER-DOWN" and "no MQTT 5" in error.why


async def test_foreign_bytes_break_the_connection_and_nothing_else() -> None:
    async with scripted(b"\xff" * 64) as port:
        assert (await refusal(lone(address(port)))).code == "OCT-BROKER-DOWN"


@pytest.mark.parametrize(
    ("reason", "code"),
    [(0x85, "OCT-BROKER-DOWN"), (0x88, "OCT-BROKER-DOWN"), (0x95, "OCT-BROKER-PACKET"), (0x9B, "OCT-LINK-PROTOCOL")],
)
async def test_each_refusal_has_its_code(reason: int, code: str) -> None:
    async with scripted(bytes((0x20, 3, 0, reason, 0))) as port:
        assert (await refusal(lone(address(port)))).code == code


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        (0x8E, "OCT-LINK-REPLACED"),
        (0x87, "OCT-BROKER-LOGIN"),
        (0x8B, "OCT-BROKER-DOWN"),
        (0x95, "OCT-BROKER-PACKET"),
    ],
)
async def test_the_brokers_last_word_is_understood(reason: int, code: str) -> None:
    async with scripted(bytes((0x20, 3, 0, 0, 0)), bytes((0xE0, 2, reason, 0))) as port:
        assert (await refusal(lone(address(port)))).code == code


# login


@pytest.mark.parametrize("login", [("alpha", "guessed"), ("nobody", "guessed"), ("", "")])
async def test_a_wrong_password_or_user_is_refused(tmp_path: Path, login: tuple[str, str]) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        error = await refusal(mosquitto.wire("alpha", user=login[0], password=login[1]))
    assert error.code == "OCT-BROKER-LOGIN"
    assert login[0] in error.why and (not login[1] or login[1] not in str(error)), "it names the user and no password"


def test_no_password_is_shown() -> None:
    shown = repr(address(1, username="alpha", password="s3cret", proxy="http://u:hidden@proxy:1"))
    assert "s3cret" not in shown and "hidden" not in shown


# TLS


async def test_a_certificate_of_an_unknown_ca_is_refused(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER, ca_pem=""))
    assert error.code == "OCT-BROKER-TLS" and "CA" in error.why


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_certificate_for_another_name_is_refused(tmp_path: Path, host: str) -> None:
    async with Mosquitto(tmp_path, hosts=["broker.example"]) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER, host=host))
    assert error.code == "OCT-BROKER-TLS" and "another name" in error.why


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path, valid_s=-1) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER))
    assert error.code == "OCT-BROKER-TLS" and "expired" in error.why and "clock" in error.next_step


async def test_tls_to_a_port_without_it_says_so(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path, tls=False) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER, tls=True))
        assert error.code == "OCT-BROKER-DOWN" and "no TLS" in error.why
    async with scripted(b"\x20\x03\x00\x81\x00") as port:
        error = await refusal(lone(address(port, tls=True)))
    assert error.code == "OCT-BROKER-TLS" and "does not speak TLS" in error.why


async def test_no_tls_to_a_port_with_it_says_so(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER, tls=False))
    assert error.code == "OCT-BROKER-DOWN" and "TLS" in error.why


async def test_a_ca_of_the_site_is_believed_beside_the_offered_one(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path / "broker") as mosquitto:
        file = tmp_path / "site.pem"
        file.write_bytes(mosquitto.authority.ca_pem)
        async with opened(mosquitto.wire(SERVER, ca_pem="", ca_file=str(file))):
            pass


@pytest.mark.parametrize("setting", [{"ca_pem": "no certificate"}, {"ca_file": "/nowhere/ca.pem"}])
async def test_a_ca_that_cannot_be_read_is_named(setting: dict[str, str]) -> None:
    error = await refusal(lone(address(free_port(), tls=True, **setting)))
    assert error.code == "OCT-CONFIG-INVALID" and next(iter(setting)) in error.why


# proxy


async def test_a_broker_is_reached_through_an_http_proxy_that_alone_knows_its_name(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path, hosts=["broker.example"])
    async with mosquitto, ConnectProxy(login="site:p w", reach={"broker.example": mosquitto.port}) as proxy:
        url = proxy.url.replace("//", "//site:p%20w@")
        async with opened(mosquitto.wire(SERVER, host="broker.example", proxy=url)):
            assert proxy.tunnels == 2
            assert set(proxy.asked) == {f"broker.example:{mosquitto.port}"}


async def test_a_proxy_that_refuses_is_named_with_its_answer(tmp_path: Path) -> None:
    async with ConnectProxy(refuse="403 Forbidden") as proxy:
        error = await refusal(lone(address(8883, tls=True, host="broker.example", proxy=proxy.url)))
    assert error.code == "OCT-BROKER-DOWN" and "403 Forbidden" in error.why and str(proxy.port) in error.why


async def test_a_proxy_that_closes_is_named() -> None:
    async with scripted(b"") as port:
        error = await refusal(lone(address(8883, tls=True, host="b.example", proxy=f"http://127.0.0.1:{port}")))
    assert error.code == "OCT-BROKER-DOWN" and "proxy" in error.why


@pytest.mark.parametrize(("proxy", "tls"), [("http://", True), ("http://p:99999", True), ("http://p:1", False)])
async def test_a_proxy_that_cannot_be_used_is_not_ignored(proxy: str, tls: bool) -> None:
    error = await refusal(lone(address(free_port(), tls=tls, proxy=proxy)))
    assert error.code == "OCT-CONFIG-INVALID" and "proxy" in error.why


# rights


async def test_a_topic_to_which_this_user_may_not_publish_is_named_at_opening(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        error = await refusal(mosquitto.wire("beta", user="alpha", password=USERS["alpha"]))
    assert error.code == "OCT-BROKER-TOPIC"
    assert "'alpha' may not publish to" in error.why and f"{ROOT}alive/beta" in error.why


async def test_a_message_that_the_broker_denies_breaks_the_wire_and_names_its_topic(tmp_path: Path) -> None:
    mosquitto = Mosquitto(tmp_path)
    mosquitto.allow("user server", "topic readwrite octopus/#", "pattern readwrite octopus/+/alive/#")
    async with mosquitto:
        alpha = mosquitto.wire("alpha")
        async with opened(mosquitto.wire(SERVER), alpha):
            await alpha.send(SERVER, Lane.MAIL, b"hello")
            error = await broken(alpha)
            with pytest.raises(UserError):
                await alpha.send(SERVER, Lane.MAIL, b"hello")
    assert error.code == "OCT-BROKER-TOPIC" and f"{ROOT}up/alpha/mail" in error.why


async def test_a_topic_to_which_this_user_may_not_subscribe_is_named(tmp_path: Path) -> None:
    """mosquitto's acl_file lets everybody subscribe and then withholds; its dynamic security refuses."""
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    rights = tmp_path / "rights.json"
    salt = b"0123456789ab"
    role = {
        "rolename": "silo",
        "acls": [
            {"acltype": "publishClientSend", "topic": "octopus/#", "allow": True},
            {"acltype": "subscribePattern", "topic": "octopus/+/alive/#", "allow": True},
        ],
    }
    client = {
        "username": "alpha",
        "password": base64.b64encode(hashlib.pbkdf2_hmac("sha512", b"word", salt, 101, 64)).decode(),
        "salt": base64.b64encode(salt).decode(),
        "iterations": 101,
        "roles": [{"rolename": "silo"}],
    }
    rights.write_text(json.dumps({"clients": [client], "roles": [role]}))
    extra = [f"plugin {plugin}", f"plugin_opt_config_file {rights}"]
    mosquitto = Mosquitto(tmp_path / "broker", extra=extra)
    mosquitto.drop("acl_file")
    async with mosquitto:
        error = await refusal(mosquitto.wire("alpha", password="word"))
    assert error.code == "OCT-BROKER-TOPIC"
    assert "may not subscribe to" in error.why and f"{ROOT}down/alpha/" in error.why


async def test_a_silo_that_hears_nothing_of_the_server_says_what_may_be_the_reason(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        alpha = mosquitto.wire("alpha")
        alpha.presence_s = 0.3
        error = await refusal(alpha)
    assert error.code == "OCT-LINK-DOWN"
    assert "not connected" in error.why and f"may not read {ROOT}alive/server" in error.why


# sizes


async def test_messages_fit_a_broker_that_takes_less_than_is_offered(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path, extra=["max_packet_size 100000"]) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        async with opened(server, alpha) as (heard, _):
            assert 65536 <= alpha.message_bytes < 100_000
            whole = b"x" * alpha.message_bytes
            await alpha.send(SERVER, Lane.BULK, whole)
            await heard.until(lambda: heard.messages == [("alpha", Lane.BULK, whole)])
            with pytest.raises(ValueError):
                await alpha.send(SERVER, Lane.BULK, whole + b"x")


async def test_a_broker_that_takes_too_little_is_refused(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path, extra=["max_packet_size 32768"]) as mosquitto:
        error = await refusal(mosquitto.wire(SERVER))
    assert error.code == "OCT-BROKER-PACKET" and "32768" in error.why and "max_packet_size" in error.next_step


async def test_a_packet_that_the_broker_finds_too_large_is_told(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path, tls=False, extra=["max_packet_size 100000"]) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        async with opened(server, alpha):
            alpha.message_bytes = MIB  # as if the broker had not said its limit
            await alpha.send(SERVER, Lane.BULK, b"x" * 110_000)
            assert (await broken(alpha)).code == "OCT-BROKER-PACKET"


# who is there


async def test_a_silo_that_came_first_is_woken_by_the_servers_coming(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        opening = asyncio.create_task(alpha.open(lambda *_: None, lambda _: None))
        async with opened(server):
            await asyncio.wait_for(opening, 5)
        await alpha.close()


async def test_each_side_hears_that_the_other_left_and_a_silos_mail_waits_for_the_servers_return(
    tmp_path: Path,
) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        async with opened(server, alpha) as (at_server, at_alpha):
            await server.close()
            await at_alpha.until(lambda: at_alpha.gone == [SERVER])
            sending = asyncio.create_task(alpha.send(SERVER, Lane.MAIL, b"again"))
            await server.open(at_server.receive, at_server.left)
            await asyncio.wait_for(sending, 5)
            await at_server.until(lambda: at_server.messages == [("alpha", Lane.MAIL, b"again")])
            await alpha.close()
            await at_server.until(lambda: at_server.gone == ["alpha"])


async def test_a_message_to_somebody_who_is_not_there_says_so(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        server = mosquitto.wire(SERVER)
        async with opened(server) as (heard,):
            await server.send("alpha", Lane.MAIL, b"hello")
            await heard.until(lambda: heard.gone == ["alpha"])


async def test_what_strangers_publish_changes_nothing(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        async with opened(server, alpha) as (heard, _):
            spy = mqtt_connection.Connection(
                mosquitto.address("spy"), "spy", receive=lambda *_: None, unheard=lambda _: None, broke=print,
                receive_most=10,
            )  # fmt: skip
            await spy.open([])
            for topic in (
                "up",
                "up/alpha",
                "up/alpha/post",
                "up/alpha/mail/x",
                "alive",
                "alive/alpha/x",
                f"up/{'x' * 60_000}/mail",
                "alive/server",
            ):
                await spy.publish(ROOT + topic, b"", settled=True)
            await spy.publish(f"{ROOT}up/alpha/mail", b"kept by the broker", retain=True, settled=True)
            await alpha.send(SERVER, Lane.MAIL, b"good")
            await heard.until(lambda: ("alpha", Lane.MAIL, b"good") in heard.messages)
            await spy.publish(f"{ROOT}up/alpha/mail", b"", retain=True, settled=True)
            await spy.close()
            assert heard.gone == []


# flow


async def test_a_sender_waits_while_too_much_is_on_its_way(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto, Proxy(mosquitto.port) as proxy:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha", port=proxy.port)
        async with opened(server, alpha) as (heard, _):
            piece = b"x" * (alpha.message_bytes // 2)
            proxy.frozen = True
            sent = 0

            async def send_all() -> None:
                nonlocal sent
                for _ in range(64):
                    await alpha.send(SERVER, Lane.BULK, piece)
                    sent += 1

            sending = asyncio.create_task(send_all())
            done, _ = await asyncio.wait((sending,), timeout=0.5)
            assert not done and sent == mqtt_connection.IN_FLIGHT_BYTES // len(piece)
            await alpha.send(SERVER, Lane.MAIL, b"small")  # the other lane has room of its own
            proxy.frozen = False
            await sending
            await heard.until(lambda: len(heard.messages) == 65)


async def test_who_waits_to_send_is_told_when_the_wire_breaks(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto, Proxy(mosquitto.port) as proxy:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha", port=proxy.port)
        async with opened(server, alpha):
            proxy.frozen = True
            sends = [asyncio.create_task(alpha.send(SERVER, Lane.BULK, b"x" * 1_000_000)) for _ in range(12)]
            await asyncio.wait(sends, timeout=0.2)
            proxy.refuse = True
            proxy.cut()
            async with asyncio.timeout(10):
                await asyncio.wait(sends)
            told = [send.exception() for send in sends if send.exception()]
            assert len(told) >= 8 and all(isinstance(error, UserError) for error in told)
            assert (await broken(alpha)).code == "OCT-BROKER-DOWN"


async def test_closing_over_a_dead_line_takes_no_longer_than_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mqtt_connection, "CLOSE_S", 0.2)
    async with Mosquitto(tmp_path) as mosquitto, Proxy(mosquitto.port) as proxy:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha", port=proxy.port)
        async with opened(server, alpha):
            proxy.frozen = True
            sends = [asyncio.create_task(alpha.send(SERVER, Lane.BULK, b"x" * 1_000_000)) for _ in range(4)]
            await asyncio.wait(sends)
            await asyncio.wait_for(alpha.close(), 5)
            with pytest.raises(UserError):
                await alpha.send(SERVER, Lane.MAIL, b"late")


async def test_an_opening_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with Mosquitto(tmp_path) as mosquitto, Proxy(mosquitto.port) as proxy:
        proxy.frozen = True
        opening = asyncio.create_task(mosquitto.wire(SERVER, port=proxy.port).open(lambda *_: None, lambda _: None))
        await asyncio.wait((opening,), timeout=0.2)
        opening.cancel()
        async with asyncio.timeout(1):
            await asyncio.wait((opening,))
        assert opening.cancelled()
        proxy.frozen = False
        async with opened(mosquitto.wire(SERVER, port=proxy.port)):
            pass


async def test_a_bug_behind_the_wire_is_told_and_breaks_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with Mosquitto(tmp_path) as mosquitto:
        server, alpha = mosquitto.wire(SERVER), mosquitto.wire("alpha")
        async with opened(alpha_free := server):
            await alpha_free.close()
            await server.open(lambda *_: 1 / 0, lambda _: None)  # type: ignore[func-returns-value]
            async with opened(alpha):
                await alpha.send(SERVER, Lane.MAIL, b"hello")
                assert "ZeroDivisionError" in (await broken(server)).why
    assert "ZeroDivisionError" in caplog.text


async def test_a_broker_that_closes_without_a_word_under_a_large_packet_leaves_a_hint() -> None:
    connected, subscribed, alive = b"\x20\x03\x00\x00\x00", b"\x90\x04\x00\x01\x00\x01", b""
    told: list[UserError] = []
    async with scripted(connected, subscribed, alive) as port:
        connection = mqtt_connection.Connection(
            address(port),
            "octopus",
            receive=lambda *_: None,
            unheard=lambda _: None,
            broke=lambda error, mute: told.append(error),
            receive_most=1,
        )
        await connection.open(["topic"])
        with pytest.raises(UserError):
            await connection.publish("topic", b"x" * 200_000, settled=True)
        await connection.close()
    assert told[0].code == "OCT-BROKER-DOWN" and "200000 bytes" in told[0].why
