"""Enrolment without a route, as two files: what each is signed over, and the checks on either side. Knows no disk.

The request is signed by the invitation's key, so that it proves what a call over mutual TLS proves; the answer by the
federation's CA, so that nobody on the way can give the silo another server's key.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message import DecodeError

from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.certificates import Peer
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import (
    EnrolReply,
    EnrolReplyFile,
    EnrolRequest,
    EnrolRequestFile,
    Invitation,
)

MOST_BYTES = 1 << 20
_REQUEST, _REPLY = b"octopus-desktop/enrol-request/1\0", b"octopus-desktop/enrol-reply/1\0"


def request_bytes(request: EnrolRequest) -> bytes:
    return _REQUEST + request.SerializeToString(deterministic=True)


def reply_bytes(reply: bytes) -> bytes:
    return _REPLY + reply


def write_request(request: EnrolRequest, invitation: Invitation) -> bytes:
    """The silo's file for the coordinator; holds no secret."""
    key = certificates.key_from_scalar(invitation.key_seed)
    return EnrolRequestFile(
        request=request,
        invitation_id=invitation.id,
        invitation_certificate_der=invitation.certificate_der,
        invitation_signature=key.sign(request_bytes(request), ec.ECDSA(hashes.SHA256())),
    ).SerializeToString(deterministic=True)


def read_request(content: bytes, ca_der: bytes) -> tuple[Peer, EnrolRequest]:
    """Who asks (the invitation, as its certificate names it), and for what. Raises OCT-ENROL-INVALID, OCT-SIGN-BAD."""
    file = EnrolRequestFile()
    try:
        if len(content) > MOST_BYTES:
            raise ValueError("it is far too large")
        file.ParseFromString(content)
        peer = certificates.verify_issued(file.invitation_certificate_der, ca_der)
        if peer.name != file.invitation_id:
            raise ValueError("its certificate is not that of the invitation it names")
    except (DecodeError, ValueError) as error:
        raise UserError(
            "OCT-ENROL-INVALID",
            "This is no enrolment request for this federation.",
            f"Of the file, {error}.",
            "Let the silo write it anew from the invitation ('octopus federation request').",
        ) from error
    if not _signed(file.invitation_certificate_der, file.invitation_signature, request_bytes(file.request)):
        raise _bad("the enrolment request", "the invitation's key", "Let the silo write it anew from the invitation.")
    return peer, file.request


def write_reply(reply: EnrolReply, authority: Authority) -> bytes:
    """The coordinator's answer; holds no secret."""
    content = reply.SerializeToString(deterministic=True)
    return EnrolReplyFile(reply=content, signature=authority.sign(reply_bytes(content))).SerializeToString()


def read_reply(content: bytes, ca_der: bytes) -> EnrolReply:
    """``ca_der``: the invitation's CA. Raises OCT-ENROL-INVALID when it is no such file, OCT-SIGN-BAD when another
    than the federation signed it."""
    file, reply = EnrolReplyFile(), EnrolReply()
    try:
        if len(content) > MOST_BYTES:
            raise DecodeError("it is far too large")
        file.ParseFromString(content)
        reply.ParseFromString(file.reply)
        certificates.load(reply.certificate_der)
        if not file.signature:
            raise DecodeError("it bears no signature")
    except (DecodeError, ValueError) as error:
        raise UserError(
            "OCT-ENROL-INVALID",
            "This is no answer to an enrolment request.",
            f"The file cannot be read as one: {error}.",
            "Take the file that 'octopus server enrol-file' wrote for this silo.",
        ) from error
    if not _signed(ca_der, file.signature, reply_bytes(file.reply)):
        raise _bad("the answer", "the federation's CA", "Get the file from the coordinator anew, by a way you trust.")
    return reply


def _signed(certificate: bytes, signature: bytes, content: bytes) -> bool:
    public = certificates.load(certificate).public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey)
    try:
        public.verify(signature, content, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _bad(what: str, key: str, next_step: str) -> UserError:
    return UserError(
        "OCT-SIGN-BAD", f"The signature of {what} does not hold.", f"It is not by {key}, or the file was changed.",
        next_step,
    )  # fmt: skip
