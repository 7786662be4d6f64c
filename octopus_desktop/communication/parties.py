"""Who the two sides of a sealed link are, and what a session gives to the part that moves its blobs. Data and protocols
only: sealing is ``sealing``, sessions are ``message_link``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Protocol

from octopus_desktop.communication.contract import MailOwner
from octopus_desktop.communication.memory import blob_threads
from octopus_desktop.communication.transfer import BlobLocks
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Envelope
from octopus_desktop.wire.pb.sealed_pb2 import Inner


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloParty:
    """A silo as one federation knows it. ``federation``: fingerprint of its CA; ``server_key``: the server's raw
    Ed25519 key, from enrolment."""

    name: str
    federation: str
    signing: SigningKey
    server_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerParty:
    """The federation server. ``member_key``: an enrolled silo's raw Ed25519 key, now; raises UserError for who may not
    pass (OCT-CERT-REVOKED, OCT-ENROL-ROLE)."""

    federation: str
    signing: SigningKey
    member_key: Callable[[str], bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a ``BlobWay`` works with, for as long as one session lasts.

    Attributes:
        owner, peer: whose mail it is, and the other side's name.
        say: sends one message of the mail lane, sealed.
        bulk: sends one message of the bulk lane (sealed, unless both sides agreed otherwise); waits while the wire is
            full. At most ``bulk_bytes`` long.
        moved: told of bytes that came in, went out, and need not be sent again: ``moved(incoming, outgoing, resumed)``.
        alive: told that something came from the other side.
        unsealed: blob bytes go in the clear, as both sides agreed.
        faulty: told of an error that keeps a blob from being taken for now (a full disk).
        threads: for work on disk; shared by all sessions of one end.
        locks: one writer a digest, over all sessions of one end.
    """

    owner: MailOwner
    peer: str
    say: Callable[[Inner], Awaitable[None]]
    bulk: Callable[[bytes], Awaitable[None]]
    bulk_bytes: int
    moved: Callable[[int, int, int], None]
    alive: Callable[[], None]
    unsealed: bool = False
    faulty: Callable[[UserError], None] = lambda fault: None
    threads: Executor = field(default_factory=lambda: blob_threads(4))
    locks: BlobLocks = field(default_factory=BlobLocks)


class BlobWay(Protocol):
    """How blobs go over one session. Both sides push: the sender of an envelope makes its blobs whole at the receiver
    before the envelope goes out; the receiver asks ``owner.may_write`` before it takes anything.

    Made anew for each session by ``Callable[[Session], BlobWay]``; what is lost with a session is asked for again.
    """

    async def bring(self, envelope: Envelope) -> None:
        """Make all of the envelope's blobs whole at the other side. Raises UserError (see ``lanes.Outlet``)."""
        ...

    def heard(self, inner: Inner) -> None:
        """A message that concerns blobs (anything but ``frame``). Quick; never raises for what the peer sent."""
        ...

    def heard_bulk(self, message: bytes | memoryview) -> None:
        """A message of the bulk lane, opened. Quick."""
        ...

    async def run(self) -> None:
        """The way's own work, until cancelled. An exception ends the session."""
        ...
