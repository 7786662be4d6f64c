"""The member's side of enrolment: the key that never leaves, the request, and the look at what came back."""

from __future__ import annotations

import time

from octopus_desktop.identity import certificates
from octopus_desktop.identity.certificates import Peer, check_name
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import EnrolRequest


def make_request(name: str) -> tuple[bytes, bytes]:
    """A fresh P-256 key (PEM, secret) and a certificate request for it (DER). Raises OCT-ENROL-NAME."""
    key = certificates.new_key()
    return certificates.key_to_pem(key), certificates.make_csr(key, check_name(name))


def renew_request(key_pem: bytes, name: str) -> bytes:
    """A certificate request (DER) for a key that the member has already."""
    return certificates.make_csr(certificates.key_from_pem(key_pem), check_name(name))


def enrol_request(csr_der: bytes, name: str, signing: SigningKey, organisation: str, contact: str) -> EnrolRequest:
    """The whole enrolment message; ``proof`` shows that the sender holds the signing key."""
    return EnrolRequest(
        csr_der=csr_der,
        name=name,
        organisation=organisation,
        contact=contact,
        signing_key=signing.public,
        proof=signing.sign(csr_der),
    )


def accept_certificate(certificate_der: bytes, ca_der: bytes, key_pem: bytes, now: float | None = None) -> Peer:
    """Check the certificate that enrolment or renewal gave: from our CA, for our key, and still valid.

    Raises UserError OCT-ENROL-CA or OCT-CERT-EXPIRED.
    """
    try:
        peer = certificates.verify_issued(certificate_der, ca_der)
        if certificates.load(certificate_der).public_key() != certificates.key_from_pem(key_pem).public_key():
            raise ValueError("it is for another key")
    except ValueError as error:
        raise UserError(
            "OCT-ENROL-CA",
            "The certificate that the server sent was refused",
            str(error),
            "Compare the CA fingerprint with the federation's coordinator, and ask for a new invitation",
        ) from error
    if peer.not_after < (time.time() if now is None else now):
        raise UserError(
            "OCT-CERT-EXPIRED",
            f"The certificate of {peer.name} is past its validity",
            "it was not renewed in time, or this machine's clock is wrong",
            "Check the clock; otherwise ask the coordinator for a new invitation",
        )
    return peer
