"""What a message carrier is built on: something that moves opaque messages between named addresses.

MQTT, PyTorch RPC and MPI are three such wires. A wire is not believed: it may lose, double, reorder, change or invent
messages, and the name it gives to a peer is an address, no identity. Sessions, sealing, order, blobs and back-pressure
are ``message_link``'s, once for all wires. A wire knows neither envelopes nor keys.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Protocol

CREDIT_BYTES = 16 << 20  # bulk bytes of one link and direction that may be on the way without the receiver's word


class Lane(IntEnum):
    """Two independent queues between two parties, so that a large blob never delays a heartbeat."""

    MAIL = 0
    BULK = 1


Receive = Callable[[str, Lane, bytes], None]  # (peer's address, lane, message)
Gone = Callable[[str], None]  # (address): the wire itself learnt that the peer is gone (a last will, a dead rank)


class Wire(Protocol):
    """One party's connection. All methods are called from one event loop, and all callbacks come on it.

    At the silo the only peer is "server"; at the server each silo is a peer by its enrolled name.

    Attributes:
        message_bytes: the largest message that ``send`` takes; at least 64 KiB.
    """

    message_bytes: int

    async def open(self, receive: Receive, gone: Gone) -> None:
        """Connect; messages can pass when it returns. May be called again after ``close`` or after the wire broke.

        Raises:
            UserError: naming the cause and the next step (OCT-BROKER-LOGIN, OCT-RPC-PEER, OCT-MPI-RANK, ...).
        """
        ...

    async def send(self, peer: str, lane: Lane, message: bytes) -> None:
        """Hand a message to the wire; waits while it is full. Order is kept within one lane, as far as the wire can.

        Raises:
            UserError: when the wire is broken; whether the message got through is unknown then.
        """
        ...

    async def broken(self) -> Exception:
        """Returns what broke the wire, when that happens; never before."""
        ...

    async def close(self) -> None:
        """Disconnect and free everything; never raises. The peer may be told (MQTT: by the last will)."""
        ...
