"""Who belongs to the federation: invitations, enrolment, renewal, revocation, and who a caller is.

Decides on certificates that TLS has verified already. Knows no gRPC and no runs.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence

from octopus_desktop.identity import enrol_files
from octopus_desktop.identity.authority import MEMBER_VALID_S, Authority, Peer, check_name, read_peer
from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.storage.federation_db import AuthorRow, FederationDb, InvitationRow, MemberRow
from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer, EnrolReply, EnrolRequest, Invitation, RenewRequest

SILO, AUTHOR, INVITATION = "silo", "author", "invitation"
TEXT_LIMIT = 200


class Members:
    """The federation's members. ``on_revoked`` is told the name of each silo whose links must be cut; ``offers`` gives
    the carriers that a new member is told of."""

    def __init__(self, db: FederationDb, authority: Authority, signing: SigningKey, address: str) -> None:
        self._db, self._authority, self._signing, self._address = db, authority, signing, address
        self.on_revoked: Callable[[str, str], None] = lambda name, reason: None
        self.offers: Callable[[], Sequence[CarrierOffer]] = tuple

    # who is calling

    def peer(self, auth: Mapping[str, Sequence[bytes]]) -> Peer:
        """The caller by its TLS certificate. Raises OCT-ENROL-CA when there is none of ours."""
        try:
            return read_peer(auth["x509_pem_cert"][0])
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                "OCT-ENROL-CA",
                "The caller showed no certificate of this federation.",
                "Every call needs one.",
                "Enrol with an invitation.",
            ) from error

    def authenticate(self, auth: Mapping[str, Sequence[bytes]], roles: Sequence[str] = (SILO,)) -> str:
        """The calling member's name. Raises OCT-ENROL-ROLE, OCT-CERT-REVOKED or OCT-CERT-EXPIRED."""
        peer = self.peer(auth)
        if peer.role not in roles:
            raise UserError(
                "OCT-ENROL-ROLE",
                f"A certificate of the role {peer.role!r} does not open this door.",
                f"It is for: {', '.join(roles)}.",
                "Use the certificate that enrolment gave for this purpose.",
            )
        member = self._db.member(peer.name)
        if member is None or member.state != "active" or self._db.holder(peer.serial) != peer.name:
            raise self.revoked(peer.name, member.reason if member else "")
        if peer.not_after < time.time():
            raise UserError(
                "OCT-CERT-EXPIRED",
                f"The certificate of {peer.name} is past its validity.",
                "It was not renewed in time.",
                "Ask the federation's coordinator for a new invitation.",
            )
        return peer.name

    def member_key(self, name: str) -> bytes:
        """A silo's raw Ed25519 key, for sealed links. Raises OCT-CERT-REVOKED or OCT-ENROL-ROLE."""
        member = self._db.member(name)
        if member is None or member.state != "active":
            raise self.revoked(name, member.reason if member else "")
        if member.role != SILO:
            raise UserError(
                "OCT-ENROL-ROLE",
                f"{name} may not open a silo's link.",
                f"Its role in the federation is {member.role!r}.",
                "Enrol the silo with an invitation for a silo.",
            )
        return member.signing_key

    def revoked(self, name: str, reason: str) -> UserError:
        return UserError(
            "OCT-CERT-REVOKED",
            f"The federation has revoked the certificate of {name}.",
            f"Reason: {reason}." if reason else "The certificate is not, or no longer, on the federation's list.",
            "Talk to the federation's coordinator.",
        )

    # invitations

    def invite(self, role: str, name: str, valid_s: float) -> Invitation:
        """A one-time invitation; its text is secret and kept nowhere. ``name`` "" lets the invited choose."""
        if name:
            check_name(name)
            if self._db.member(name):
                raise _taken(name)
        invitation = self._authority.invite(self._address, role, valid_s)
        self._db.add_invitation(
            InvitationRow(
                id=invitation.id,
                role=role,
                name=name,
                serial=read_peer(invitation.certificate_der).serial,
                created_at=time.time(),
                expires_at=invitation.expires_at,
            )
        )
        return invitation

    # enrolment

    def enrol(self, peer: Peer, request: EnrolRequest) -> EnrolReply:
        """Use the invitation whose certificate the caller showed. The same request again gives a certificate again,
        so that a crash between use and answer locks nobody out.

        Raises OCT-ENROL-ROLE, -UNKNOWN, -EXPIRED, -USED, -NAME, or OCT-SIGN-BAD.
        """
        invitation = self._db.invitation(peer.name) if peer.role == INVITATION else None
        if peer.role != INVITATION:
            raise UserError(
                "OCT-ENROL-ROLE",
                "Enrolment needs an invitation's certificate.",
                f"The caller showed one of the role {peer.role!r}.",
                "Renew a certificate with Renew; enrol with a fresh invitation.",
            )
        if invitation is None or invitation.serial != peer.serial:
            raise UserError(
                "OCT-ENROL-UNKNOWN",
                "The federation does not know this invitation.",
                "It was made by another server, or its record is gone.",
                "Ask the federation's coordinator for a new one.",
            )
        name = request.name or invitation.name
        digest = hashlib.sha256(request.csr_der + request.signing_key + name.encode()).hexdigest()
        if invitation.used_at:
            if invitation.request_digest == digest and (member := self._db.member(invitation.used_by)):
                return self._again(member, request.csr_der)
            raise _used(invitation)
        if invitation.expires_at < time.time():
            raise UserError(
                "OCT-ENROL-EXPIRED",
                "The invitation is past its expiry.",
                f"It was valid until {_when(invitation.expires_at)}.",
                "Ask the federation's coordinator for a new one.",
            )
        self._check_request(invitation, name, request)
        certificate = self._authority.issue(request.csr_der, name, invitation.role)
        issued = read_peer(certificate)
        member = MemberRow(
            name=name,
            role=invitation.role,
            organisation=request.organisation[:TEXT_LIMIT],
            contact=request.contact[:TEXT_LIMIT],
            signing_key=request.signing_key,
            fingerprint=issued.fingerprint,
            certificate_expires=issued.not_after,
            enrolled_at=time.time(),
        )
        if not self._db.enrol(invitation.id, digest, member, issued.serial):
            raise _used(self._db.invitation(invitation.id) or invitation)
        if invitation.role == AUTHOR:
            self.add_author(name, request.signing_key)
        return self._reply(certificate, name)

    def enrol_file(self, content: bytes) -> tuple[str, bytes]:
        """Enrolment by files: the silo's name, and the answer for it. Raises what ``enrol`` raises, OCT-ENROL-INVALID
        or OCT-SIGN-BAD."""
        peer, request = enrol_files.read_request(content, self._authority.ca_der)
        reply = self.enrol(peer, request)
        return reply.name, enrol_files.write_reply(reply, self._authority)

    def renew(self, name: str, request: RenewRequest) -> EnrolReply:
        """A further certificate for an active member."""
        member = self._db.member(name)
        if member is None or member.state != "active":
            raise self.revoked(name, member.reason if member else "")
        return self._again(member, request.csr_der)

    def _again(self, member: MemberRow, csr_der: bytes) -> EnrolReply:
        if member.state != "active":
            raise self.revoked(member.name, member.reason)
        certificate = self._authority.issue(csr_der, member.name, member.role, MEMBER_VALID_S)
        issued = read_peer(certificate)
        newer = MemberRow(
            name=member.name,
            role=member.role,
            signing_key=member.signing_key,
            fingerprint=issued.fingerprint,
            certificate_expires=issued.not_after,
            enrolled_at=member.enrolled_at,
        )
        self._db.certify(newer, issued.serial)
        return self._reply(certificate, member.name)

    def _check_request(self, invitation: InvitationRow, name: str, request: EnrolRequest) -> None:
        check_name(name)
        if invitation.name and name != invitation.name:
            raise UserError(
                "OCT-ENROL-NAME",
                f"This invitation is not for the name {name!r}.",
                f"The coordinator issued it for {invitation.name!r}.",
                f"Enrol as {invitation.name!r}, or ask for an invitation for another name.",
            )
        if self._db.member(name):
            raise _taken(name)
        if not verify(request.signing_key, request.csr_der, request.proof):
            raise UserError(
                "OCT-SIGN-BAD",
                "The enrolment's proof of the signing key does not fit.",
                "The signature over the certificate request is not by the given key.",
                "Enrol again; if this repeats, the silo's key store is damaged.",
            )

    def _reply(self, certificate: bytes, name: str) -> EnrolReply:
        return EnrolReply(
            certificate_der=certificate,
            ca_der=self._authority.ca_der,
            name=name,
            federation=self._authority.federation,
            server_signing_key=self._signing.public,
            expires_at=read_peer(certificate).not_after,
            carriers=self.offers(),
        )

    # revocation and authors

    def revoke(self, name: str, reason: str) -> MemberRow:
        """For good: the member's certificates are refused from now on, and its links are cut. Raises OCT-ENROL-NAME."""
        member = self._db.member(name)
        if member is None:
            raise UserError(
                "OCT-ENROL-NAME",
                f"The federation has no member {name!r}.",
                f"Members: {', '.join(m.name for m in self._db.members()) or 'none'}.",
                "Give the name as 'octopus server silos' shows it.",
            )
        if member.state != "revoked":
            self._db.update_member(name, state="revoked", revoked_at=time.time(), reason=reason[:TEXT_LIMIT])
            if member.role == AUTHOR:
                self._db.revoke_authors(name)
        self.on_revoked(name, reason)
        return self._db.member(name) or member

    def add_author(self, name: str, key: bytes) -> AuthorRow:
        """Trust packages that are signed by this key. Raises OCT-CONFIG-INVALID for what is no Ed25519 key."""
        if len(key) != 32:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "This is no author's public key.",
                f"An Ed25519 key has 32 bytes, this has {len(key)}.",
                "Give the key that 'octopus jobs key' prints.",
            )
        row = AuthorRow(fingerprint=fingerprint(key), name=name, key=key, added_at=time.time())
        known = {author.fingerprint: author for author in self._db.authors()}.get(row.fingerprint)
        if known and known.state == "active" and known.name == name:
            return known
        self._db.add_author(row)
        return row


def _taken(name: str) -> UserError:
    return UserError(
        "OCT-ENROL-NAME",
        f"The name {name!r} is taken.",
        "A member of the federation bears it, or bore it before it was revoked.",
        "Choose another name.",
    )


def _used(invitation: InvitationRow) -> UserError:
    return UserError(
        "OCT-ENROL-USED",
        "The invitation was used before.",
        f"{invitation.used_by!r} enrolled with it at {_when(invitation.used_at)}.",
        "If that was not you, tell the federation's coordinator at once; else ask for a new invitation.",
    )


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
