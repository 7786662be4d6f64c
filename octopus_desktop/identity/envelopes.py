"""Envelopes that prove who sent them. Knows no carrier and no mailbox."""

from __future__ import annotations

import hashlib
import os
import struct

from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Envelope

DOMAIN = b"octopus-desktop/envelope/1"
NONCE_BYTES = 16


def signing_bytes(envelope: Envelope) -> bytes:
    """What an envelope's signature is over: every field but the signature, each with its length before it.

    Protobuf promises no canonical bytes, so the fields are laid out here: the domain, then id, run, round, kind,
    sender, recipient, SHA-256 of the body, nonce, dedupe, and each blob's digest, size and encoding.
    """
    fields = [
        DOMAIN,
        envelope.id.encode(),
        envelope.run_id.encode(),
        struct.pack(">QQ", envelope.round, envelope.kind),
        envelope.sender.encode(),
        envelope.recipient.encode(),
        hashlib.sha256(envelope.body).digest(),
        envelope.nonce,
        envelope.dedupe.encode(),
    ]
    for blob in envelope.blobs:
        fields += [blob.digest.encode(), struct.pack(">Q", blob.size), blob.encoding.encode()]
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def sign(envelope: Envelope, key: SigningKey) -> None:
    """Fill in a fresh nonce and the signature, in place. Everything else must be set before."""
    envelope.nonce = os.urandom(NONCE_BYTES)
    envelope.signature = key.sign(signing_bytes(envelope))


def check(envelope: Envelope, public: bytes) -> None:
    """Raises UserError OCT-LINK-ENVELOPE when the envelope is not signed by ``public`` exactly as it is."""
    if len(envelope.nonce) != NONCE_BYTES or not verify(public, signing_bytes(envelope), envelope.signature):
        raise UserError(
            "OCT-LINK-ENVELOPE",
            f"A message that claims to come from {envelope.sender or 'nobody'} was refused",
            "its signature is not the one of that member's key",
            "Check with the federation's coordinator whether the member enrolled anew; nothing of it was used",
        )
