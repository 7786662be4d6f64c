"""X.509 for the federation: ECDSA P-256 keys and certificates, read and written. Knows no database and no network.

P-256 because BoringSSL, inside gRPC, verifies no Ed25519 certificates.
"""

from __future__ import annotations

import datetime
import functools
import ipaddress
import re
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError

ROLES = ("server", "silo", "author", "node", "invitation")
SCALAR_BYTES = 32
CLOCK_SKEW = datetime.timedelta(minutes=10)  # members' clocks may lag behind ours
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a certificate says of its holder. ``serial`` in lower-case hex; ``not_after`` in Unix seconds;
    ``fingerprint`` of the DER bytes, as people compare it."""

    name: str
    role: str
    serial: str
    not_after: float
    fingerprint: str


def check_name(name: str) -> str:
    """A member's name: 1 to 63 lower-case letters, digits and inner hyphens. Raises OCT-ENROL-NAME, else returns it."""
    if _NAME.fullmatch(name) and name not in ("server", "coordinator"):
        return name
    raise UserError(
        "OCT-ENROL-NAME",
        f"The name {name!r} is not allowed",
        "a name has 1 to 63 lower-case letters, digits and inner hyphens, and is not 'server' or 'coordinator'",
        "Choose another name, for example 'st-mary-hospital'",
    )


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_from_scalar(scalar: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises ValueError when the 32 bytes are no P-256 private scalar."""
    if len(scalar) != SCALAR_BYTES:
        raise ValueError("a P-256 scalar has 32 bytes")
    return ec.derive_private_key(int.from_bytes(scalar, "big"), ec.SECP256R1())


def scalar_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_numbers().private_value.to_bytes(SCALAR_BYTES, "big")


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Unencrypted PKCS#8 PEM: a secret, for stores and for gRPC's credentials."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """Raises ValueError for anything but an unencrypted P-256 private key."""
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not a P-256 private key")
    return key


def public_der(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo: what a key's fingerprint is made of."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load(certificate: bytes) -> x509.Certificate:
    """From DER or PEM. Raises ValueError."""
    if certificate.lstrip().startswith(b"-----BEGIN"):
        return x509.load_pem_x509_certificate(certificate)
    return x509.load_der_x509_certificate(certificate)


def to_der(certificate: bytes | x509.Certificate) -> bytes:
    value = load(certificate) if isinstance(certificate, bytes) else certificate
    return value.public_bytes(serialization.Encoding.DER)


def to_pem(certificate: bytes | x509.Certificate) -> bytes:
    value = load(certificate) if isinstance(certificate, bytes) else certificate
    return value.public_bytes(serialization.Encoding.PEM)


@functools.lru_cache(maxsize=256)  # a server asks with each call, and most calls are of few peers
def read_peer(certificate: bytes | str) -> Peer:
    """Who a certificate (DER or PEM) is for. Trust in it is TLS's business, or ``verify_issued``'s.

    Raises ValueError when it is no certificate of a federation.
    """
    value = load(certificate.encode() if isinstance(certificate, str) else certificate)
    return Peer(
        name=_attribute(value.subject, NameOID.COMMON_NAME),
        role=_attribute(value.subject, NameOID.ORGANIZATIONAL_UNIT_NAME),
        serial=f"{value.serial_number:x}",
        not_after=value.not_valid_after_utc.timestamp(),
        fingerprint=fingerprint(to_der(value)),
    )


def verify_issued(certificate: bytes, ca: bytes) -> Peer:
    """The peer, after checking that the certificate bears the CA's signature. Raises ValueError when it does not."""
    value, issuer = load(certificate), load(ca)
    try:
        value.verify_directly_issued_by(issuer)
    except Exception as error:  # InvalidSignature has no message, and a foreign key type raises TypeError
        raise ValueError("not signed by this authority") from error
    return read_peer(to_der(value))


def subject(name: str, role: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if role:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, role))
    return x509.Name(parts)


def make_csr(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A certificate request, DER. The authority takes the key from it and nothing else.

    The same key and name give the same bytes (RFC 6979), so that a repeated enrolment is known as the same one.
    """
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject(name))
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return request.public_bytes(serialization.Encoding.DER)


def read_csr(csr_der: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a request whose own signature holds. Raises OCT-SIGN-BAD."""
    why = "it is damaged"
    try:
        request = x509.load_der_x509_csr(csr_der)
        public = request.public_key()
        if not request.is_signature_valid:
            why = "its signature does not fit its key"
        elif not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
            why = "its key is not ECDSA P-256"
        else:
            return public
    except ValueError:
        pass
    raise UserError("OCT-SIGN-BAD", "The certificate request was refused", why, "Enrol again with a fresh request")


def build(
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    who: x509.Name,
    public: ec.EllipticCurvePublicKey,
    valid_s: float,
    ca: bool = False,
    server_hosts: list[str] | None = None,
    now: datetime.datetime | None = None,
) -> x509.Certificate:
    """One certificate. With ``server_hosts`` for TLS servers, with ``ca`` an authority, else for TLS clients."""
    now = now or datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(who)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + datetime.timedelta(seconds=valid_s))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=0 if ca else None), critical=True)
        .add_extension(_usage(ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if server_hosts is not None:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(host) for host in server_hosts]), critical=False
        )
    if not ca:
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if server_hosts is None else ExtendedKeyUsageOID.SERVER_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        pass
    try:
        return x509.DNSName(host.encode("idna").decode() if not host.isascii() else host)
    except (UnicodeError, ValueError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"{host!r} is neither a host name nor an IP address",
            str(error),
            "Give names and addresses by which silos reach the server, such as fl.example.org or 192.0.2.7",
        ) from error


def _attribute(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    values = name.get_attributes_for_oid(oid)
    if len(values) != 1 or not isinstance(values[0].value, str):
        raise ValueError("not a certificate of a federation")
    return values[0].value
