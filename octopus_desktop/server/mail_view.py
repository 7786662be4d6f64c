"""One carrier's part of the server's mail: what goes by this carrier, and who is connected by it. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from octopus_desktop.communication.contract import SERVER, LinkState
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope

if TYPE_CHECKING:
    from octopus_desktop.server.mail import ServerMail


class MailView:
    """Implements ``communication.contract.MailOwner`` for one carrier's end. What comes is taken from any carrier."""

    name = SERVER

    def __init__(self, mail: ServerMail, carrier: str) -> None:
        self._mail, self._carrier = mail, carrier

    def pending(self, peer: str) -> Sequence[Envelope]:
        return self._mail.pending(peer, self._carrier)

    def delivered(self, envelope: Envelope) -> None:
        self._mail.delivered(envelope)

    def accept(self, envelope: Envelope) -> bool:
        return self._mail.accept(envelope)

    def live(self, envelope: Envelope) -> None:
        self._mail.live(envelope)

    def blobs(self) -> BlobStore:
        return self._mail.blobs()

    def may_read(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return self._mail.may_read(peer, run_id, blob)

    def may_write(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return self._mail.may_write(peer, run_id, blob)

    def open_runs(self) -> Sequence[str]:
        return self._mail.open_runs()

    def link_changed(self, state: LinkState) -> None:
        self._mail.link_changed(self._carrier, state)

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        self._mail.peer_greeted(self._carrier, peer, runs)
