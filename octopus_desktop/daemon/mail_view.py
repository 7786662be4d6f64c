"""One carrier's part of a silo's mail with a federation: what goes by this carrier. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from octopus_desktop.communication.contract import LinkState
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef, Envelope

if TYPE_CHECKING:
    from octopus_desktop.daemon.mail import SiloMail


class MailView:
    """Implements ``communication.contract.MailOwner`` for one carrier's end. What comes is taken from any carrier.

    ``changed`` is told of the link's state.
    """

    def __init__(self, mail: SiloMail, carrier: str, changed: Callable[[LinkState], None]) -> None:
        self.name = mail.name
        self._mail, self._carrier, self._changed = mail, carrier, changed

    def pending(self, peer: str) -> Sequence[Envelope]:
        return self._mail.pending(self._carrier)

    def delivered(self, envelope: Envelope) -> None:
        self._mail.delivered(envelope)

    def accept(self, envelope: Envelope) -> bool:
        return self._mail.accept(envelope)

    def live(self, envelope: Envelope) -> None:
        return None  # a server sends no PROGRESS

    def blobs(self) -> BlobStore:
        return self._mail.blobs()

    def may_read(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return self._mail.may_read(run_id, blob)

    def may_write(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return self._mail.may_write(run_id)

    def open_runs(self) -> Sequence[str]:
        return self._mail.open_runs()

    def link_changed(self, state: LinkState) -> None:
        self._changed(state)

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        return None  # both sides send what is undelivered anew; nothing else differs
