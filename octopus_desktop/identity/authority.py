"""The federation's certificate authority: it says who is a member. Knows no database: who may have what is the
server's decision, and so is revocation (by serial)."""

from __future__ import annotations

import ipaddress
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from octopus_desktop.identity import certificates
from octopus_desktop.identity.certificates import Peer, check_name, read_peer
from octopus_desktop.wire.canonical import fingerprint, new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import Invitation

__all__ = ["Authority", "Peer", "check_name", "read_peer"]

DAY_S = 86_400.0
CA_VALID_S = 3650 * DAY_S
SERVER_VALID_S = 825 * DAY_S
MEMBER_VALID_S = 365 * DAY_S
INVITATION_GRACE_S = 30 * DAY_S  # so that the server, not a failed handshake, says that an invitation is expired
INVITED_ROLES = ("silo", "author")
NODE = "node"  # the role that a silo's own CA gives to its further machines, and no federation's does


class Authority:
    """One federation's CA, or a silo's own for its machines: ``roles`` are those it invites.

    Attributes: ``federation`` the name it was made for; ``ca_der`` and ``ca_pem`` its certificate (public);
    ``key_pem`` its private key (secret); ``fingerprint`` of the certificate, as people compare it by telephone.
    """

    def __init__(
        self,
        certificate: x509.Certificate,
        key: ec.EllipticCurvePrivateKey,
        roles: tuple[str, ...] = INVITED_ROLES,
    ) -> None:
        self._certificate, self._key, self._roles = certificate, key, roles
        self.ca_der = certificates.to_der(certificate)
        self.ca_pem = certificates.to_pem(certificate)
        peer = read_peer(self.ca_der)
        self.federation, self.fingerprint = peer.name, peer.fingerprint

    @property
    def key_pem(self) -> bytes:
        return certificates.key_to_pem(self._key)

    @classmethod
    def create(cls, federation: str, roles: tuple[str, ...] = INVITED_ROLES) -> Authority:
        """A new CA. Raises OCT-CONFIG-INVALID when the name is empty, has control characters or over 64 letters."""
        if not federation.strip() or len(federation) > 64 or not federation.isprintable():
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"The federation's name {federation!r} is not allowed",
                "it has 1 to 64 printable characters",
                "Choose another name",
            )
        key = certificates.new_key()
        who = certificates.subject(federation, "authority")
        certificate = certificates.build(
            issuer=who, issuer_key=key, who=who, public=key.public_key(), valid_s=CA_VALID_S, ca=True
        )
        return cls(certificate, key, roles)

    @classmethod
    def load(cls, certificate_pem: bytes, key_pem: bytes, roles: tuple[str, ...] = INVITED_ROLES) -> Authority:
        """Raises ValueError when the two do not belong together."""
        certificate, key = certificates.load(certificate_pem), certificates.key_from_pem(key_pem)
        if certificate.public_key() != key.public_key():
            raise ValueError("the authority's key does not fit its certificate")
        return cls(certificate, key, roles)

    def issue(self, csr_der: bytes, name: str, role: str, valid_s: float = MEMBER_VALID_S) -> bytes:
        """A member's certificate (DER) for the key in the request; name and role are ours, not the request's.

        Raises: UserError OCT-SIGN-BAD for a bad request, OCT-ENROL-NAME for a bad name; ValueError for a bad role.
        """
        if role not in self._roles:
            raise ValueError(f"no member has the role {role!r}")
        return self._issue_client(certificates.read_csr(csr_der), check_name(name), role, valid_s)

    def issue_server(self, hosts: list[str] | tuple[str, ...]) -> tuple[bytes, bytes]:
        """A fresh key and certificate, PEM, for the server: good for ``hosts``, localhost and 127.0.0.1."""
        key = certificates.new_key()
        names = list(dict.fromkeys([*hosts, "localhost", "127.0.0.1"]))
        certificate = certificates.build(
            issuer=self._certificate.subject,
            issuer_key=self._key,
            who=certificates.subject("server", "server"),
            public=key.public_key(),
            valid_s=SERVER_VALID_S,
            server_hosts=names,
        )
        return certificates.key_to_pem(key), certificates.to_pem(certificate)

    def invite(self, address: str, role: str = "silo", valid_s: float = 7 * DAY_S) -> Invitation:
        """A one-time invitation with a key and certificate of its own, so that enrolment runs over the same mTLS port.

        ``address``: host:port. The server keeps ``id``, ``role`` and ``expires_at``, and never the key. The
        certificate outlives the invitation by INVITATION_GRACE_S.
        """
        check_address(address)
        if role not in self._roles:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"Nobody can be invited as {role!r}",
                "",
                f"Choose one of: {', '.join(self._roles)}",
            )
        key, invitation_id = certificates.new_key(), new_id("inv-")
        valid_s = max(valid_s, 0.0)
        return Invitation(
            federation=self.federation,
            server=address,
            ca_der=self.ca_der,
            id=invitation_id,
            key_seed=certificates.scalar_of(key),
            certificate_der=self._issue_client(
                key.public_key(), invitation_id, "invitation", valid_s + INVITATION_GRACE_S
            ),
            expires_at=time.time() + valid_s,
            role=role,
        )

    def sign(self, content: bytes) -> bytes:
        """ECDSA P-256 SHA-256 by the CA's key; the content begins with words that say what it is."""
        return self._key.sign(content, ec.ECDSA(hashes.SHA256()))

    def _issue_client(self, public: ec.EllipticCurvePublicKey, name: str, role: str, valid_s: float) -> bytes:
        certificate = certificates.build(
            issuer=self._certificate.subject,
            issuer_key=self._key,
            who=certificates.subject(name, role),
            public=public,
            valid_s=valid_s,
        )
        return certificates.to_der(certificate)


def check_address(address: str) -> tuple[str, int]:
    """``host:port`` or ``[v6]:port``, taken apart. Raises OCT-CONFIG-INVALID."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    bracketed = bare != host
    good = port.isascii() and port.isdigit() and 0 < int(port) < 65536 and bare and not any(c.isspace() for c in bare)
    if good and (":" in bare or bracketed):
        try:
            good = bracketed and bool(ipaddress.IPv6Address(bare).packed)
        except ValueError:
            good = False
    if not good:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"{address!r} is not an address",
            "an address is host:port with a port from 1 to 65535",
            "Write it like fl.example.org:7450",
        )
    return bare, int(port)


def ca_fingerprint(ca_der: bytes) -> str:
    """The CA's fingerprint as people compare it by telephone."""
    return fingerprint(ca_der)
