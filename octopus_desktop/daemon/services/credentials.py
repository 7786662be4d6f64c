"""What opens a federation's links: the certificate and keys of its enrolment, and this silo's secrets at each carrier.

Rows say where a secret lies; the secret itself is only in the store. Knows no link.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from octopus_desktop.communication.settings import Secrets
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import EnrolReply

PASSWORD, STORE = "password", "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """One enrolment's credentials. ``server_key``: the server's raw Ed25519 key."""

    key_pem: bytes = field(repr=False)
    certificate_der: bytes
    ca_der: bytes
    server_key: bytes


class Credentials:
    """All calls but ``row``'s may wait for the store of secrets: make them in a thread."""

    def __init__(self, silo: Silo, keys: SiloKeys) -> None:
        self._silo, self._keys = silo, keys

    def row(self, federation_id: str) -> Any:
        """(certificate, CA, the server's key, the name of our key). Raises OCT-FEDERATION-UNKNOWN."""
        row = self._silo.db.one(
            "SELECT certificate_der, ca_der, server_key, key_name FROM credentials WHERE federation_id=?",
            federation_id,
        )
        if row is None:
            raise UserError(
                "OCT-FEDERATION-UNKNOWN",
                "This silo has no certificate of that federation.",
                "It was left, or never joined.",
                "Enrol with a new invitation.",
            )
        return row

    def server_key(self, federation_id: str) -> bytes:
        return bytes(self.row(federation_id)[2])

    def open(self, row: Any) -> Enrolled:
        """``row``: as ``row`` gave it. Raises OCT-SECRET-STORE when the key is gone."""
        certificate_der, ca_der, server_key, key_name = row
        key = self._keys.store.get(key_name)
        if key is None:
            raise UserError(
                "OCT-SECRET-STORE",
                "The key of this federation is not in the store of secrets.",
                f"Nothing is kept there as {key_name!r}.",
                "Restore the store from a backup, or leave the federation and enrol anew.",
            )
        return Enrolled(
            key_pem=key, certificate_der=bytes(certificate_der), ca_der=bytes(ca_der), server_key=bytes(server_key)
        )

    def put_row(self, federation_id: str, reply: EnrolReply, key_name: str) -> None:
        """Inside ``change``."""
        self._silo.db.execute(
            "INSERT OR REPLACE INTO credentials VALUES(?,?,?,?,?,?)",
            federation_id, reply.certificate_der, reply.ca_der, reply.server_signing_key, key_name, time.time(),
        )  # fmt: skip

    # secrets at carriers

    def secrets(self, federation_id: str, carrier: str) -> Secrets:
        password, store = (self._keys.store.get(_place(federation_id, carrier, k)) or b"" for k in (PASSWORD, STORE))
        return Secrets(password=password.decode(), store_secret=store.decode())

    def keep_secret(self, federation_id: str, carrier: str, kind: str, value: bytes) -> None:
        """Raises OCT-CONFIG-INVALID when it is no text, OCT-SECRET-STORE when it cannot be kept."""
        try:
            value.decode()
        except UnicodeDecodeError as error:
            raise UserError(
                "OCT-CONFIG-INVALID", "The secret is no text.", str(error.reason), "Give it in UTF-8."
            ) from error
        self._keys.store.set(_place(federation_id, carrier, kind), value)

    def forget(self, federation_id: str, carriers: list[str], key_name: str) -> None:
        """All of this federation's secrets."""
        if key_name:
            self._keys.store.delete(key_name)
        for carrier in carriers:
            for kind in (PASSWORD, STORE):
                self._keys.store.delete(_place(federation_id, carrier, kind))


def _place(federation_id: str, carrier: str, kind: str) -> str:
    return f"federation/{federation_id}/{carrier}/{kind}"
