"""The steps of a check for MQTT, alone or with an S3 store: broker, login, topics, packets; store and bucket.

It connects beside the link, under a client id of its own, so that the link stays up.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
from email.utils import parsedate_to_datetime
from time import time
from urllib.parse import urlsplit

from octopus_desktop.communication.grpc_wire import Proxy
from octopus_desktop.communication.settings import MqttOffer, MqttS3Offer, OwnSide, Secrets, own_ca
from octopus_desktop.daemon.services.link_steps import STEP_S, Chain, Dial, Failed, Untested, clock_words
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError

CHECK = b"check"
LISTEN_S = 1.0  # a kept message comes at once
STRANGER = "octopus-check-stranger"  # no silo has this name; its topics belong to nobody here


async def look(chain: Chain, offer: MqttOffer, own: OwnSide, secrets: Secrets, silo: str, ca_fingerprint: str) -> None:
    """``silo``: our name in the federation; ``ca_fingerprint``: which federation it is, in the topics."""
    proxy = Proxy(url=own.proxy)
    dial = Dial("the broker", offer.host, offer.port, proxy=proxy)
    await dial.reach(chain)
    if offer.tls:

        def handshake() -> str:
            dial.believed = offer.ca_pem + own_ca(own).decode()
            return dial.handshake()

        await chain.step("TLS", handshake)
        await chain.step("their certificate", dial.their_certificate)
    else:
        dial.close()
        await chain.step("TLS", _no_tls)
    await _broker(chain, offer, own, secrets, silo, ca_fingerprint)
    if isinstance(offer, MqttS3Offer):
        chain.broken = False  # the store is another place: what the broker says does not hold it up
        await _store(chain, offer, own, secrets)


def _no_tls() -> str:
    raise Untested(
        "The federation offers this broker without TLS. Mail is sealed, but the password passes in the clear."
    )


async def _broker(
    chain: Chain, offer: MqttOffer, own: OwnSide, secrets: Secrets, silo: str, ca_fingerprint: str
) -> None:
    from octopus_desktop.communication.mqtt_connection import OVERHEAD_BYTES, Connection
    from octopus_desktop.communication.mqtt_tls import BrokerAddress
    from octopus_desktop.communication.mqtt_wire import LEAST_BYTES, federation_level

    address = BrokerAddress(
        host=offer.host, port=offer.port, tls=offer.tls, ca_pem=offer.ca_pem, ca_file=own.ca_file, proxy=own.proxy,
        username=own.username, password=secrets.password,
    )  # fmt: skip
    root = f"{offer.topics}/{federation_level(ca_fingerprint)}/"
    heard: set[str] = set()
    limit = 0

    async def talk(topics: list[str], *publish: str, listen_s: float = 0.0, until: str = "") -> None:
        """One connection that does this and ends; listens for so long, or until it hears of the topic ``until``."""
        nonlocal limit
        broke: list[UserError] = []
        came = asyncio.Event()
        heard.clear()

        def receive(topic: str, *_: object) -> None:
            heard.add(topic)
            if topic == until:
                came.set()

        made = Connection(
            address, f"octopus-check-{new_id()[:12]}", receive=receive, unheard=lambda topic: None,
            broke=lambda error, *_: broke.append(error), receive_most=8,
        )  # fmt: skip
        try:
            async with asyncio.timeout(STEP_S):
                await made.open(topics)
                limit = made.packet_bytes
                for topic in publish:
                    await made.publish(topic, CHECK, settled=True)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(listen_s):
                    await came.wait()
        finally:
            await made.close()
        if broke:
            raise broke[0]

    async def login() -> str:
        await talk([])
        return f"The broker takes the user {own.username!r}." if own.username else "The broker wants no user."

    async def read() -> str:
        await talk([f"{root}down/{silo}/mail", f"{root}down/{silo}/bulk", f"{root}alive/server"])
        return f"It may subscribe to {root}down/{silo}/…"

    async def write() -> str:
        await talk([], f"{root}up/{silo}/check")
        return f"It may publish to {root}up/{silo}/…"

    async def server() -> str:
        """Some brokers, mosquitto among them, accept each subscription and only then deliver nothing."""
        await talk([f"{root}alive/server"], listen_s=LISTEN_S, until=f"{root}alive/server")
        if f"{root}alive/server" in heard:
            return "The server is connected to the broker, and this user hears of it."
        raise Failed(
            "Nothing says that the server is connected to this broker: it is not, or this user may not read "
            f"{root}alive/server.",
            "Ask the coordinator whether the server is connected ('octopus server carrier list'), and the broker's "
            f"administrator for read rights on it and on {root}down/{silo}/#.",
        )

    async def foreign() -> str:
        wide = []
        try:
            await talk([], f"{root}up/{STRANGER}/check")
            wide.append("publish to another silo's topics")
        except UserError as error:
            if error.code != "OCT-BROKER-TOPIC":
                raise
        try:
            said = f"{root}up/{STRANGER if wide else silo}/check"
            await talk([f"{root}#"], said, listen_s=LISTEN_S, until=f"{root}up/{STRANGER}/check")
            ours = (f"{root}alive/server", f"{root}alive/{silo}", f"{root}down/{silo}/", f"{root}up/{silo}/")
            strange = sorted(topic for topic in heard if not topic.startswith(ours))
            wide += [f"read what is not for it, such as {strange[0]}"] if strange else []
        except UserError as error:
            if error.code != "OCT-BROKER-TOPIC":
                raise
        if wide:
            raise Failed(
                f"This user may also {' and '.join(wide)}. Mail is sealed, so nothing can be opened or forged; but it "
                "can be counted and disturbed.",
                "Ask the broker's administrator for an access list by user (example: resources/brokers/mosquitto).",
            )
        return "What belongs to other silos is denied to it."

    async def packet() -> str:
        if limit and limit < LEAST_BYTES + OVERHEAD_BYTES:
            raise Failed(
                f"The broker takes packets of at most {limit} bytes; {LEAST_BYTES + OVERHEAD_BYTES} are the least.",
                "Ask its administrator for a larger limit (mosquitto: max_packet_size).",
            )
        if limit and limit < offer.packet_bytes:
            return (
                f"The broker takes {limit} bytes, fewer than the {offer.packet_bytes} of the offer: that many are used."
            )
        return f"The broker takes the {offer.packet_bytes} bytes of the offer."

    await chain.step("login", login)
    await chain.step("packet size", packet)
    for name, work in (("own topics: read", read), ("own topics: write", write), ("server at the broker", server)):
        await chain.step(name, work)
    await chain.step("foreign topics", foreign)


async def _store(chain: Chain, offer: MqttS3Offer, own: OwnSide, secrets: Secrets) -> None:
    parts = urlsplit(offer.endpoint)
    secure = parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    dial = Dial("the store", parts.hostname or "", port, proxy=Proxy(url=own.proxy), systems=True)
    await chain.step("store: name", dial.name)
    await chain.step("store: route", dial.route)
    if own.proxy:
        await chain.step("store: proxy", dial.tunnel)
    if secure:

        def handshake() -> str:
            dial.believed = offer.store_ca_pem + own_ca(own).decode()
            return dial.handshake()

        await chain.step("store: TLS", handshake)
        await chain.step("store: their certificate", dial.their_certificate)
    dial.close()
    await chain.step("store: clock", lambda: _store_clock(dial, offer, own))
    await chain.step("bucket", lambda: _bucket(offer, own, secrets))


def _store_clock(dial: Dial, offer: MqttS3Offer, own: OwnSide) -> str:
    """Signed URLs are good for minutes: the store's time counts."""
    dial.route()
    if own.proxy:
        dial.tunnel()
    assert dial.sock is not None
    try:
        sock = dial.sock
        if offer.endpoint.startswith("https"):
            sock = dial.context().wrap_socket(sock, server_hostname=dial.host)
        talk = http.client.HTTPConnection(dial.host, dial.port)
        talk.sock = sock
        talk.request("HEAD", "/", headers={"Host": f"{dial.host}:{dial.port}"})
        date = talk.getresponse().getheader("Date", "")
        off = parsedate_to_datetime(date).timestamp() + 0.5 - time()  # it is cut to whole seconds
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"It speaks no HTTP: {error}.", "Check the endpoint's host and port.") from error
    except (TypeError, ValueError):
        raise Untested("It does not tell its time.") from None
    finally:
        dial.close()
    return clock_words(off, "the store")


def _bucket(offer: MqttS3Offer, own: OwnSide, secrets: Secrets) -> str:
    """Put, read and remove a tiny object, with this silo's own credentials."""
    if not own.store_key_id:
        raise Untested(
            "This silo has no credentials of its own: the server signs each URL, and whether these are good shows at "
            "the first transfer."
        )
    from octopus_desktop.communication.object_store import Access, ObjectStore

    access = Access(
        endpoint=offer.endpoint, bucket=offer.bucket, region=offer.region, key_id=own.store_key_id,
        secret=secrets.store_secret, ca_pem=offer.store_ca_pem, ca_file=own.ca_file, proxy=own.proxy,
    )  # fmt: skip
    store = ObjectStore(access)
    name = f"{offer.prefix}check/{os.urandom(8).hex()}"
    try:
        store.put(name, CHECK)
        if store.size(name) != len(CHECK):
            raise Failed(f"{name} was put, and is not there.", "Ask the store's administrator.")
        store.remove(name)
    finally:
        store.close()
    return f"{own.store_key_id} may put, read and remove objects in {offer.bucket}."
