"""The ``Wire`` over an MQTT 5 broker.

Topics, below ``{topics}/{federation}/``, ``{federation}`` being a short form of the federation's CA's fingerprint:

    down/{silo}/mail    server to silo: sessions, envelopes, receipts; sealed
    down/{silo}/bulk    server to silo: chunks of blobs; sealed
    up/{silo}/mail      silo to server
    up/{silo}/bulk      silo to server
    alive/{silo}        "here {instance}", retained, while the silo is connected; empty by its last will
    alive/server        likewise for the server

A silo's user needs to publish to ``up/{silo}/#``, to read ``down/{silo}/#`` and ``alive/server``, and to do both with
``alive/{silo}``; nothing else. The server's user needs all of it. Each lane has a connection of its own, so that a blob
never delays mail: neither in a socket nor in the broker's queue for a receiver.

All messages are QoS 1 and expire. The broker keeps no session beyond its connection: a wire that broke is opened anew
with a new sealed session, to which old messages mean nothing, and the mailboxes hold what is not acknowledged. So the
broker keeps at most what a connected and slow receiver has not taken, which the message link's credit bounds. A last
will is a hint, and so is the broker's word that nobody is subscribed: both lead to ``gone``.

Knows neither envelopes nor keys. What comes may have been sent by anybody whom the broker lets publish.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

from octopus_desktop.communication import mqtt_faults as faults
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.communication.links import link_down
from octopus_desktop.communication.mqtt_connection import OVERHEAD_BYTES, Connection
from octopus_desktop.communication.mqtt_tls import BrokerAddress
from octopus_desktop.communication.wires import CREDIT_BYTES, Gone, Lane, Receive
from octopus_desktop.wire.errors import UserError

LEAST_BYTES = 64 << 10  # of a message
PRESENCE_S = 10.0  # for which a silo's opening waits for the server to be there
LOOK_S = 3.0  # within which a silo learns whether another process took its place
HERE = b"here "
_MAIL_RECEIVE_MOST = 256
_NAME_LETTERS = 63
_LANES = {"mail": Lane.MAIL, "bulk": Lane.BULK}


def federation_level(fingerprint: str) -> str:
    """The federation's topic level: the first 16 letters and digits of its CA's fingerprint."""
    return "".join(sign for sign in fingerprint.lower() if sign.isascii() and sign.isalnum())[:16]


class MqttWire:
    """One party's two connections to a broker. See ``Wire``.

    Arguments:
        topics, federation: of the topics' first levels; ``federation`` is the CA's fingerprint.
        name: "server" or the silo's enrolled name.
        packet_bytes: largest PUBLISH, unless the broker sets a lower limit.

    Attributes:
        presence_s: for how long a silo waits for the server to be at the broker.
    """

    def __init__(self, broker: BrokerAddress, *, topics: str, federation: str, name: str, packet_bytes: int) -> None:
        self._broker, self._name = broker, name
        self._federation = federation_level(federation)
        self._root = f"{topics}/{self._federation}/"
        self._packet_bytes, self.presence_s = packet_bytes, PRESENCE_S
        self.message_bytes = max(LEAST_BYTES, packet_bytes - OVERHEAD_BYTES)
        self._here = HERE + secrets.token_hex(8).encode()
        self._lanes: list[Connection] = []
        self._looking: asyncio.Task[None] | None = None
        self._saying: asyncio.Task[None] | None = None
        self._broken: asyncio.Future[Exception] | None = None
        self._receive: Receive = lambda peer, lane, message: None
        self._gone: Gone = lambda peer: None
        self._server_here = asyncio.Event()

    @property
    def address(self) -> str:
        return str(self._broker)

    async def open(self, receive: Receive, gone: Gone) -> None:
        """See ``Wire``. A silo's opening, and its ``send``, wait for the server to be at the broker: they are woken by
        its coming, and give up with OCT-LINK-DOWN after ``presence_s``."""
        await self.close()
        self._receive, self._gone = receive, gone
        self._server_here.clear()
        self._broken = asyncio.get_running_loop().create_future()
        mail = self._connection(Lane.MAIL)
        bulk = self._connection(Lane.BULK)
        self._lanes = [mail, bulk]
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._open_mail(mail))
                group.create_task(bulk.open(self._topics_of(Lane.BULK)))
            self.message_bytes = self._agreed_bytes()
            if self._name != SERVER:
                await self._server_comes()
        except BaseException as error:
            await self.close()
            if isinstance(error, BaseExceptionGroup):
                raise error.exceptions[0] from None
            raise

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        if len(message) > self.message_bytes:
            raise ValueError(f"a message of {len(message)} bytes is longer than {self.message_bytes}")
        if not self._lanes:
            raise faults.down(self.address, "This side is not connected.")
        if self._name != SERVER and not self._server_here.is_set():
            await self._server_comes()  # it would be lost; and so the server's return is noticed at once
        try:
            await self._lanes[lane].publish(self._topic(peer, lane), message)
        except UserError as error:
            looking = self._looking
            if looking is None:
                raise
            await asyncio.wait((looking,))  # what broke it is not known yet
            raise self._broken.result() if self._broken and self._broken.done() else error from None

    async def broken(self) -> Exception:
        if self._broken is None:
            self._broken = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._broken)

    async def close(self) -> None:
        lanes, self._lanes = self._lanes, []
        if self._looking:
            self._looking.cancel()
            await asyncio.wait((self._looking,))
            self._looking = None
        await asyncio.gather(*(lane.close() for lane in lanes))

    # topics

    def _topic(self, peer: str, lane: Lane) -> str:
        way = f"down/{peer}" if self._name == SERVER else f"up/{self._name}"
        return f"{self._root}{way}/{lane.name.lower()}"

    def _topics_of(self, lane: Lane) -> list[str]:
        way = "up/+" if self._name == SERVER else f"down/{self._name}"
        return [f"{self._root}{way}/{lane.name.lower()}"]

    def _alive_topic(self) -> str:
        return f"{self._root}alive/{'+' if self._name == SERVER else SERVER}"

    # connections

    def _connection(self, lane: Lane) -> Connection:
        mail = lane is Lane.MAIL
        return Connection(
            self._broker,
            f"octopus-{self._federation}-{self._name}-{lane.name.lower()}",
            receive=self._came,
            unheard=self._unheard,
            broke=self._broke,
            receive_most=_MAIL_RECEIVE_MOST if mail else max(4, CREDIT_BYTES // 4 // self._packet_bytes),
            will=f"{self._root}alive/{self._name}" if mail else "",
        )

    async def _open_mail(self, mail: Connection) -> None:
        """The server says that it is here when it can hear; a silo at once, for its older self to see."""
        alive = f"{self._root}alive/{self._name}"
        await mail.open([*self._topics_of(Lane.MAIL), self._alive_topic()])
        await mail.publish(alive, self._here, retain=True, settled=True)

    def _agreed_bytes(self) -> int:
        limits = [lane.packet_bytes for lane in self._lanes if lane.packet_bytes]
        if limits and min(limits) < LEAST_BYTES + OVERHEAD_BYTES:
            raise faults.packet(
                self.address,
                f"It takes packets of at most {min(limits)} bytes; at least {LEAST_BYTES + OVERHEAD_BYTES} are needed.",
            )
        return max(LEAST_BYTES, min([self._packet_bytes, *limits]) - OVERHEAD_BYTES)

    async def _server_comes(self) -> None:
        """Raises UserError: OCT-LINK-DOWN when the server does not come, or what breaks the wire meanwhile."""
        assert self._broken is not None
        here: asyncio.Future[Any] = asyncio.ensure_future(self._server_here.wait())
        both: set[asyncio.Future[Any]] = {here, self._broken}
        try:
            await asyncio.wait(both, timeout=self.presence_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            here.cancel()
        if self._broken.done():
            raise self._broken.result()
        if not self._server_here.is_set():
            raise link_down(
                "The federation server",
                f"The MQTT broker {self.address} is reached, but the server is not connected to it, or "
                f"user {self._broker.username!r} may not read {self._root}alive/{SERVER}.",
            )

    def _came(self, topic: str, payload: bytes, kept: bool) -> None:
        if not topic.startswith(self._root):
            return
        match topic[len(self._root) :].split("/"):
            case ["alive", who] if len(who) <= _NAME_LETTERS:
                self._presence(who, payload, kept)
            case [_, who, lane] if lane in _LANES and len(who) <= _NAME_LETTERS and not kept:  # ours are never kept
                self._receive(who if self._name == SERVER else SERVER, _LANES[lane], payload)

    def _presence(self, who: str, payload: bytes, kept: bool) -> None:
        here = payload.startswith(HERE)
        if who == self._name:
            said = self._saying is None or self._saying.done()
            if payload != self._here and not kept and said:  # an older self's last will, or a stranger's word
                self._saying = asyncio.get_running_loop().create_task(self._say_here())
        elif who == SERVER and here:
            self._server_here.set()
        elif not here and not kept:
            self._server_here.clear()
            self._gone(who)

    async def _say_here(self) -> None:
        try:
            await self._lanes[Lane.MAIL].publish(f"{self._root}alive/{self._name}", self._here, retain=True)
        except (UserError, IndexError):
            pass  # the wire is broken or closed

    def _unheard(self, topic: str) -> None:
        """Of the mail's connection alone: there the word is older than any session that begins after it."""
        if topic.endswith("/mail"):
            self._gone(topic.split("/")[-2] if self._name == SERVER else SERVER)

    def _broke(self, error: UserError, mute: bool) -> None:
        if self._broken is None or self._broken.done() or self._looking:
            return
        if mute and self._name != SERVER:
            self._looking = asyncio.get_running_loop().create_task(self._look(error))
        else:
            self._broken.set_result(error)

    async def _look(self, lost: UserError) -> None:
        """Find out whether another process with this silo's name took this one's place: there are brokers that close
        the older connection without a word (mosquitto 2.0.11). If so, that process is "here" now."""
        alive, server = f"{self._root}alive/{self._name}", f"{self._root}alive/{SERVER}"
        seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def came(topic: str, payload: bytes, kept: bool) -> None:
            # what the broker keeps comes in the order of the topics: after the server's there is nothing to wait for
            if not seen.done():
                seen.set_result(payload if topic == alive else b"")

        client_id = f"octopus-{self._federation}-{self._name}-look"
        eyes = Connection(
            self._broker, client_id, receive=came, unheard=lambda topic: None, broke=lambda *_: None, receive_most=8
        )
        error = lost
        try:
            async with asyncio.timeout(LOOK_S):
                await eyes.open([alive, server])
                other = await seen
            if other.startswith(HERE) and other != self._here:
                error = faults.ended(str(self._broker), self._name, faults.TAKEN_OVER, "")
        except (UserError, TimeoutError):
            pass  # then it stays at what is known
        finally:
            if self._broken and not self._broken.done():
                self._broken.set_result(error)
            await eyes.close()
