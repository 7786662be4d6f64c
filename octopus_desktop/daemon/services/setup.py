"""Who this silo is: organisation, administrator, approvers. Knows public keys only; an approver's key stays with its
owner's window or command line."""

from __future__ import annotations

import time

from octopus_desktop.daemon.core import Silo
from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

KEY_BYTES = 32


class Setup:
    def __init__(self, silo: Silo) -> None:
        self._silo = silo

    def configure(self, organisation: str, administrator: str, approver_key: bytes) -> pb.DaemonStatus:
        """Name the silo and its first approver. Later: names may change, the approver may not be joined by another,
        since who can open the socket is not yet who may approve."""
        organisation, administrator = organisation.strip(), administrator.strip()
        if not organisation or not administrator:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The silo needs the names of its organisation and its administrator.",
                "One of them is empty.",
                "Give both.",
            )
        if len(approver_key) not in (0, KEY_BYTES):
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The approver's key is not an Ed25519 public key.",
                f"It has {len(approver_key)} bytes instead of {KEY_BYTES}.",
                "Send the raw public key.",
            )
        persons = [a for a in self._silo.status.approvers if a.kind == "person"]
        if persons and approver_key and approver_key not in [a.key for a in persons]:
            raise UserError(
                "OCT-STATE-EXISTS",
                "This silo has an approver already.",
                f"{persons[0].name}'s key has the fingerprint {persons[0].fingerprint}.",
                "Decide with that key; it lies in the store of secrets of the person who set the silo up.",
            )
        if not persons and not approver_key:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "The silo needs an approver.",
                "No public key of an approver was sent.",
                "Make the approver's key with 'octopus setup' or in the window's first-run wizard.",
            )
        with self._silo.change():
            status = self._silo.status
            status.organisation, status.administrator, status.configured = organisation, administrator, True
            if approver_key and not persons:
                self.add_approver(administrator, approver_key, "person")
            self._silo.put_status()
            self._silo.record(
                administrator,
                "silo.configured",
                "silo",
                {"organisation": organisation, "approvers": [a.fingerprint for a in status.approvers]},
            )
            self._silo.answer(status)
        return self._silo.status

    def add_approver(self, name: str, key: bytes, kind: str) -> None:
        """Inside ``change``."""
        if key in [a.key for a in self._silo.status.approvers]:
            return
        self._silo.status.approvers.append(
            pb.Approver(name=name, fingerprint=fingerprint(key), key=key, added_at=round(time.time(), 3), kind=kind)
        )
        self._silo.put_status()

    def approver(self, key: bytes) -> pb.Approver | None:
        return next((a for a in self._silo.status.approvers if a.key == key), None)
