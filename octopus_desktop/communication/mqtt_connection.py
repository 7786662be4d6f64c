"""One MQTT 5 connection on the event loop: paho speaks the protocol, this drives its socket and bounds what waits.

paho runs without a thread of its own: the loop tells it when its socket can be read or written, so that a message costs
no change of thread. Only dialling (name, TCP, TLS) blocks and is done in a thread. A connection is used once; it never
connects again by itself. Knows topics as texts, and neither silos nor sealing.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from octopus_desktop.communication import mqtt_faults as faults
from octopus_desktop.communication.mqtt_tls import DIAL_S, BrokerAddress
from octopus_desktop.wire.errors import UserError

KEEPALIVE_S = 20
ANSWER_S = 15.0  # within which a broker answers CONNECT, SUBSCRIBE, and the first PUBLISH
CLOSE_S = 2.0  # for what is still on its way when the connection is closed
IN_FLIGHT = 64  # messages that the broker has not acknowledged; its own Receive Maximum may be lower
IN_FLIGHT_BYTES = 4 << 20  # 40 MB/s at a round trip of 100 ms
EXPIRY_S = 600  # what a receiver has not taken after that is of no use to it: its session is over
OVERHEAD_BYTES = 512  # of a PUBLISH beyond its payload: topic, packet id, properties
_LARGE_BYTES = 64 << 10
_TICK_S = 5.0
_READS = 4  # before other tasks get their turn
_WILL = ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message")

_log = logging.getLogger(__name__)

Receive = Callable[[str, bytes, bool], None]  # (topic, payload, whether the broker kept it from earlier)


class Connection:
    """Connected once by ``open``; ``publish`` until it is broken.

    Arguments:
        receive: gets what comes, on the loop; quick.
        unheard: told of a topic of ``publish`` to which nobody is subscribed, or whose queue is full: it is lost.
        broke: told once, what ended the connection, and whether it ended without the broker's word; never after
            ``close``.
        will: a topic on which the broker publishes an empty retained message when this connection ends in any way.
        receive_most: messages that the broker may send without this side's acknowledgement.

    Attributes:
        packet_bytes: the broker's limit of one packet, once it is open; 0 for none.
    """

    def __init__(
        self,
        broker: BrokerAddress,
        client_id: str,
        *,
        receive: Receive,
        unheard: Callable[[str], None],
        broke: Callable[[UserError, bool], None],
        receive_most: int,
        will: str = "",
    ) -> None:
        self._broker, self._client_id, self._will = broker, client_id, will
        self._receive, self._unheard, self._broke = receive, unheard, broke
        self._receive_most = receive_most
        self.packet_bytes = 0
        self._client: paho.Client | None = None
        self._error: UserError | None = None
        self._loop = asyncio.get_running_loop()
        self._answers: dict[int, asyncio.Future[None]] = {}  # by packet id; 0 is CONNECT's
        self._topics: list[str] = []
        self._expiry = Properties(PacketTypes.PUBLISH)
        self._expiry.MessageExpiryInterval = EXPIRY_S
        self._flying: dict[int, tuple[str, int]] = {}
        self._flying_bytes = 0
        self._most = IN_FLIGHT
        self._turn = asyncio.Lock()  # its waiters are served in order
        self._room = asyncio.Event()
        self._ended = asyncio.Event()
        self._tick: asyncio.TimerHandle | None = None

    async def open(self, topics: Sequence[str]) -> None:
        """Connect and subscribe.

        Raises:
            UserError: OCT-BROKER-DOWN, -TLS, -LOGIN, -TOPIC, -PACKET; OCT-LINK-PROTOCOL; OCT-CONFIG-INVALID.
        """
        self._client = await self._dial()
        connected = self._expect(0)
        self._attach(self._client)
        await self._answer(connected)
        self._topics = list(topics)
        if topics:
            mid = self._client.subscribe([(topic, SubscribeOptions(qos=1)) for topic in topics])[1]
            if mid is None:
                raise self._fault()
            await self._answer(self._expect(mid))

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False, settled: bool = False) -> None:
        """Hand a message over, QoS 1; waits while too much is on its way.

        ``settled``: return when the broker has it. Raises what broke the connection.
        """
        size = len(payload)
        async with self._turn:
            while len(self._flying) >= self._most or (self._flying and self._flying_bytes + size > IN_FLIGHT_BYTES):
                self._room.clear()
                if self._error:
                    raise self._error
                await self._room.wait()
            if self._error or self._client is None:
                raise self._fault()
            properties = None if retain else self._expiry
            info = self._client.publish(topic, payload, qos=1, retain=retain, properties=properties)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                raise self._fault()
            self._flying[info.mid] = (topic, size)
            self._flying_bytes += size
        if settled:
            await self._answer(self._expect(info.mid))

    async def close(self) -> None:
        """End the connection; the will is published. Never raises."""
        self._broke = lambda error, mute: None
        client = self._client
        if client is None:
            return
        try:
            if self._error is None:
                self._guard(lambda: client.disconnect(reasoncode=_WILL))
                async with asyncio.timeout(CLOSE_S):
                    await self._ended.wait()
        except TimeoutError:
            pass  # the line is slow or dead; the broker finds out by itself
        finally:
            self._client = None
            self._detach(client)
            self._fail(faults.down(str(self._broker), "The connection was closed by this side."))

    # connecting

    async def _dial(self) -> paho.Client:
        broker = self._broker
        host, port = broker.dialled()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, self._client_id, protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )  # fmt: skip
        client.connect_timeout = DIAL_S
        client.on_socket_register_write = lambda *_: (
            None
        )  # CONNECT waits until the loop has the socket: a dialling that
        # was given up must not log in later and take the place of the next one
        client.max_inflight_messages_set(2 * IN_FLIGHT)  # never reached: publish counts itself
        client.max_queued_messages_set(2 * IN_FLIGHT)
        if broker.username or broker.password:
            client.username_pw_set(broker.username, broker.password)
        if self._will:
            client.will_set(self._will, b"", qos=1, retain=True)
        properties = Properties(PacketTypes.CONNECT)
        # A new session each time, and none that outlives its connection. Each wire's opening is also a new sealed
        # session, and rows in the mailboxes are the truth: what the broker had kept would be useless to its receiver.
        properties.SessionExpiryInterval = 0
        properties.ReceiveMaximum = self._receive_most

        def dial() -> paho.Client:
            if broker.tls:
                client.tls_set_context(broker.context())
            client.connect(host, port, keepalive=KEEPALIVE_S, clean_start=True, properties=properties)
            return client

        try:
            return await self._in_thread(dial)
        except OSError as error:
            raise faults.unreachable(str(broker), error) from error
        except UnicodeError as error:
            raise faults.down(str(broker), "Its name is none.", "Correct the broker's name.") from error

    async def _in_thread(self, dial: Callable[[], paho.Client]) -> paho.Client:
        """In a thread for which nobody waits when this process ends: a name or a host may take long to answer."""
        dialled: asyncio.Future[paho.Client] = self._loop.create_future()

        def settle(client: paho.Client | None, error: BaseException | None) -> None:
            if client is not None and not dialled.done():
                dialled.set_result(client)
            elif error is not None and not dialled.done():
                dialled.set_exception(error)
            elif client is not None:
                _drop(client)

        def work() -> None:
            client, error = None, None
            try:
                client = dial()
            except BaseException as raised:
                error = raised
            try:
                self._loop.call_soon_threadsafe(settle, client, error)
            except RuntimeError:  # the loop is closed
                if client is not None:
                    _drop(client)

        threading.Thread(target=work, name="octopus-mqtt-dial", daemon=True).start()
        return await dialled

    def _attach(self, client: paho.Client) -> None:
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        client.on_socket_register_write = lambda _, __, sock: self._loop.add_writer(sock, self._writable)
        client.on_socket_unregister_write = lambda _, __, sock: self._unwatch(sock)
        client.on_socket_close = lambda _, __, sock: self._forget(sock)
        sock: Any = client.socket()
        if sock is None:
            raise self._fault()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else small messages wait for acknowledgements
        self._loop.add_reader(sock, self._readable)
        if client.want_write():
            self._loop.add_writer(sock, self._writable)
        self._tick = self._loop.call_later(_TICK_S, self._keep)

    def _detach(self, client: paho.Client) -> None:
        if self._tick:
            self._tick.cancel()
        sock: Any = client.socket()
        client.on_socket_register_write = client.on_socket_unregister_write = client.on_socket_close = None
        if sock is not None:
            self._forget(sock)
            sock.close()

    def _forget(self, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)

    def _unwatch(self, sock: Any) -> None:
        self._loop.remove_writer(sock)

    # the loop's side

    def _readable(self) -> None:
        for _ in range(_READS):
            client = self._client
            sock: Any = client.socket() if client else None
            if client is None or sock is None:
                return
            self._guard(client.loop_read)
            if not getattr(sock, "pending", int)():  # TLS has nothing more in its own buffer, where no loop looks
                return
        self._loop.call_soon(self._readable)

    def _writable(self) -> None:
        if self._client:
            self._guard(self._client.loop_write)

    def _keep(self) -> None:
        if self._client and self._error is None:
            self._guard(self._client.loop_misc)
            self._tick = self._loop.call_later(_TICK_S, self._keep)

    def _guard(self, work: Callable[[], object]) -> None:
        try:
            work()
        except Exception as error:  # of paho on foreign bytes, or a bug behind ``receive``: told, and not ignored
            _log.exception("the connection to the MQTT broker %s broke", self._broker)
            self._fail(faults.down(str(self._broker), f"An internal error ended the connection: {error!r}"))

    # what paho tells

    def _on_connect(self, _: Any, __: Any, flags: Any, code: ReasonCode, properties: Properties | None) -> None:
        if code.is_failure:
            self._fail(faults.refused(str(self._broker), self._broker.username, code.value, str(code)))
            return
        self._most = min(IN_FLIGHT, getattr(properties, "ReceiveMaximum", IN_FLIGHT))
        self.packet_bytes = getattr(properties, "MaximumPacketSize", 0)
        if not getattr(properties, "RetainAvailable", 1) or not getattr(properties, "MaximumQoS", 1):
            self._fail(faults.not_mqtt5(str(self._broker), "It does not offer QoS 1 and retained messages."))
        self._told(0)

    def _on_subscribe(self, _: Any, __: Any, mid: int, codes: list[ReasonCode], ___: Any) -> None:
        address, user = str(self._broker), self._broker.username
        for topic, code in zip(self._topics, codes, strict=False):
            if code.is_failure:
                self._fail(faults.topic(address, user, "subscribe to", topic, str(code)))
        self._told(mid)

    def _on_publish(self, _: Any, __: Any, mid: int, code: ReasonCode, ___: Any) -> None:
        topic, size = self._flying.pop(mid, ("", 0))
        self._flying_bytes -= size
        self._room.set()
        if code.value == faults.NOT_AUTHORISED:
            self._fail(faults.topic(str(self._broker), self._broker.username, "publish to", topic, str(code)))
        elif code.is_failure or code.value == faults.NO_SUBSCRIBERS:
            self._unheard(topic)
        self._told(mid)

    def _on_message(self, _: Any, __: Any, message: paho.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return
        if self._error is None:
            self._receive(topic, bytes(message.payload), message.retain)

    def _on_disconnect(self, _: Any, __: Any, flags: Any, code: ReasonCode, ___: Any) -> None:
        self._ended.set()
        address = str(self._broker)
        if flags.is_disconnect_packet_from_server:
            self._fail(faults.ended(address, self._client_id, code.value, str(code)))
        elif 0 in self._answers:
            why = "It closed the connection without a word. It may speak TLS on this port, or no MQTT 5 at all."
            self._fail(faults.down(address, why))
        else:
            self._fail(faults.down(address, f"The connection was lost.{self._large()}"), mute=True)

    def _large(self) -> str:
        """A hint where the broker did not name its limit, and may close because of it before its word can be read."""
        largest = max((size for _, size in self._flying.values()), default=0)
        if self.packet_bytes or largest < _LARGE_BYTES:
            return ""
        return f" Packets of {largest} bytes were on their way; if it repeats, they may be too large for the broker."

    # waiting

    def _expect(self, mid: int) -> asyncio.Future[None]:
        answer: asyncio.Future[None] = self._loop.create_future()
        if self._error:
            answer.set_exception(self._error)
        else:
            self._answers[mid] = answer
        return answer

    async def _answer(self, answer: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await answer
        except TimeoutError:
            raise faults.down(str(self._broker), f"It does not answer within {ANSWER_S:.0f} s.") from None

    def _told(self, mid: int) -> None:
        answer = self._answers.pop(mid, None)
        if answer and not answer.done():
            answer.set_result(None)

    def _fail(self, error: UserError, *, mute: bool = False) -> None:
        if self._error:
            return
        self._error = error
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(error)
        self._answers.clear()
        self._flying.clear()
        self._room.set()
        self._broke(error, mute)

    def _fault(self) -> UserError:
        return self._error or faults.down(str(self._broker), "This side is not connected.")


def _drop(client: paho.Client) -> None:
    """A connection for which nobody waits any more."""
    sock: Any = client.socket()
    if sock is not None:
        sock.close()
