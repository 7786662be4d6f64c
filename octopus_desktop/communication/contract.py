"""What every carrier gives, and what it needs from its owner. Knows nothing of any one carrier, job or strategy.

A carrier moves envelopes and blobs between two mailboxes. Each gives the same:

- at-least-once delivery; the receiver drops duplicates by id, the sender keeps a row until its receipt came;
- an envelope is handed to the owner only when all its blobs are whole in the owner's store;
- blobs go in bounded chunks, and resume where they broke off (the have-set is asked first);
- back-pressure: a slow receiver never makes the sender's memory grow;
- liveness: heartbeats and bytes; ``LinkState`` tells what is known;
- typed errors: ``UserError`` with a code, what, why and next step.

The abstract conformance suite is ``tests/communication/conformance.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope

PROTOCOL = 1
SERVER = "server"
CHUNK_BYTES = 1 << 20
HEARTBEAT_S = 15.0
SILENCE_S = 45.0
BACKOFF_FIRST_S = 0.2
BACKOFF_MOST_S = 30.0


class LinkPhase(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    DOWN = "down"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkState:
    """What is known of one link. ``latency_ms`` is a heartbeat's round trip; bytes count blobs and envelopes;
    ``clock_s``: by how many seconds the other side's clock is ahead, where it was heard."""

    peer: str
    phase: LinkPhase
    since: float
    latency_ms: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    bytes_resumed: int = 0
    clock_s: float | None = field(default=None, compare=False)
    fault: UserError | None = field(default=None, compare=False)


class MailOwner(Protocol):
    """What a carrier's end is built on: the mail and blobs of one side. Calls come from the carrier's event loop; they
    are quick (one SQLite transaction at most) and may be called again after a crash at any point."""

    name: str

    def pending(self, peer: str) -> Sequence[Envelope]:
        """Everything that waits for this peer, oldest first."""
        ...

    def delivered(self, envelope: Envelope) -> None:
        """The peer has it durably."""
        ...

    def accept(self, envelope: Envelope) -> bool:
        """Store what arrived (its signature is checked here, its blobs are in the store); True when it is new.

        Raises UserError when the envelope must not be taken; the sender gets the fault and drops the row.
        """
        ...

    def live(self, envelope: Envelope) -> None:
        """A PROGRESS envelope: not stored, at most once."""
        ...

    def blobs(self) -> BlobStore: ...

    def may_read(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        """May this peer fetch this blob?"""
        ...

    def may_write(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        """May this peer send this blob?"""
        ...

    def open_runs(self) -> Sequence[str]:
        """Runs that this side holds as not ended, for the Hello."""
        ...

    def link_changed(self, state: LinkState) -> None: ...

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        """A link came up; the peer holds these runs as open. The owner closes the difference."""
        ...


class SiloEnd(Protocol):
    """The silo's end of a link; dials out only."""

    async def run(self) -> None:
        """Connect, keep connected with jittered back-off, carry mail both ways; returns only when cancelled or when
        the link is refused for good (revoked)."""
        ...

    def outbox_changed(self) -> None:
        """There are new rows for the peer. Callable from the loop's thread; never blocks."""
        ...

    def send_live(self, envelope: Envelope) -> None:
        """Send a PROGRESS envelope now or never; the newest replaces one that still waits for the same run."""
        ...

    @property
    def state(self) -> LinkState: ...


class ServerEnd(Protocol):
    """The server's end of all links of one carrier."""

    async def start(self) -> None: ...

    async def stop(self, grace_s: float) -> None: ...

    def outbox_changed(self, peer: str) -> None: ...

    def disconnect(self, peer: str, fault: UserError) -> None:
        """Cut a peer off (revocation)."""
        ...

    @property
    def fault(self) -> UserError | None:
        """What keeps this end from its broker, rendezvous or world now; None while it has it, or needs none."""
        ...

    def announce(self) -> None:
        """What the federation offers has changed: tell every peer that is connected by a fresh Hello."""
        ...

    def states(self) -> Sequence[LinkState]: ...
