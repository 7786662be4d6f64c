"""Invitations as text that survives e-mail: one line, an ``octopus://enrol/…`` link, or a small file.

Form: ``OCTOPUS1.`` and url-safe base64 of: length of the body (4 bytes, big-endian), the protobuf ``Invitation``,
and the first 8 bytes of the SHA-256 over both. Knows no network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
import time

from google.protobuf.message import DecodeError

from octopus_desktop.identity import certificates
from octopus_desktop.identity.authority import INVITED_ROLES, NODE, check_address
from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import Invitation

PREFIX = "OCTOPUS1."
LINK = "octopus://enrol/"
BEGIN, END = "-----BEGIN OCTOPUS INVITATION-----", "-----END OCTOPUS INVITATION-----"
MOST_CHARACTERS = 64 << 10
_CHECK_BYTES = 8
_WRAP = 64
_FOREIGN = re.compile(r"[^A-Za-z0-9_-]")
_VERSION = re.compile(r"OCTOPUS(\d+)\.", re.IGNORECASE)
_INVISIBLE = "\u200b\u200c\u200d\u2060\ufeff\u00ad"


def encode(invitation: Invitation) -> str:
    """One line of text. It holds a secret: who has it can enrol once."""
    body = invitation.SerializeToString(deterministic=True)
    framed = struct.pack(">I", len(body)) + body
    return PREFIX + base64.urlsafe_b64encode(framed + _checksum(framed)).decode().rstrip("=")


def to_link(invitation: Invitation) -> str:
    return LINK + encode(invitation)


def to_file_text(invitation: Invitation) -> str:
    """The content of an invitation file (``.octoinvite``): a few words for people, then the text in short lines."""
    text = encode(invitation)
    lines = [text[i : i + _WRAP] for i in range(0, len(text), _WRAP)]
    expires = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(invitation.expires_at))
    words = [
        f"Invitation to the federation {invitation.federation} at {invitation.server}, for one {invitation.role}.",
        f"Good once, until {expires}. Keep it secret.",
        f"CA fingerprint: {fingerprint(invitation.ca_der)}",
    ]
    return "\n".join([*words, "", BEGIN, *lines, END, ""])


def decode(text: str, roles: tuple[str, ...] = INVITED_ROLES) -> Invitation:
    """Read a bare text, a link, or a file's content; line breaks, quotes and ``>`` of e-mails do not matter.
    ``roles``: what it may invite to.

    Raises UserError OCT-ENROL-INVALID with the reason: empty, not an invitation, cut off, damaged, too new.
    Whether it is expired is ``check_current``'s question.
    """
    if len(text) > MOST_CHARACTERS:
        raise _invalid("it is far too long")
    raw = _unframe(_payload(text))
    try:
        invitation = Invitation.FromString(raw)
    except DecodeError as error:
        raise _invalid("its content is not an invitation") from error
    _check_fields(invitation, roles)
    return invitation


def check_current(invitation: Invitation, now: float | None = None) -> None:
    """Raises UserError OCT-ENROL-EXPIRED when the invitation is past its time."""
    if invitation.expires_at < (time.time() if now is None else now):
        raise UserError(
            "OCT-ENROL-EXPIRED",
            f"The invitation to {invitation.federation} has expired",
            time.strftime("it was good until %Y-%m-%d %H:%M UTC", time.gmtime(invitation.expires_at)),
            "Check this machine's clock; otherwise ask the coordinator for a new invitation",
        )


def tls_identity(invitation: Invitation) -> tuple[bytes, bytes]:
    """The key and certificate (PEM) with which the invited dials the server for enrolment."""
    key = certificates.key_from_scalar(invitation.key_seed)
    return certificates.key_to_pem(key), certificates.to_pem(invitation.certificate_der)


def _payload(text: str) -> str:
    """The base64 characters after the prefix, freed of what mail programs add."""
    if BEGIN in text:
        text = text.split(BEGIN, 1)[1]
        if END not in text:
            raise _invalid("the file is cut off: its END line is missing")
        text = text.split(END, 1)[0]
    text = re.sub(r"^[ \t]*(?:>[ \t]*)+", "", text, flags=re.MULTILINE)
    text = "".join(c for c in text if not c.isspace() and c not in _INVISIBLE).strip("\"'`<>“”‘’")
    if not text:
        raise _invalid("there is no text")
    if text.lower().startswith(LINK):
        text = text[len(LINK) :].rstrip("/")
    found = _VERSION.match(text)
    if not found:
        raise _invalid(f"it does not begin with {PREFIX!r}" + _guess(text))
    if found[1] != "1":
        raise _invalid(f"it is of format {found[1]}, and this version reads format 1: update Octopus Desktop")
    return text[found.end() :].rstrip("=.,;")


def _unframe(payload: str) -> bytes:
    foreign = _FOREIGN.search(payload)
    if foreign:
        raise _invalid(f"it is damaged: {foreign[0]!r} stands at character {foreign.start() + len(PREFIX) + 1}")
    try:
        framed = base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))
    except (binascii.Error, ValueError) as error:
        raise _invalid("it is cut off or damaged") from error
    if len(framed) < 4:
        raise _invalid("it is cut off")
    whole = 4 + int.from_bytes(framed[:4], "big") + _CHECK_BYTES
    if whole > MOST_CHARACTERS:
        raise _invalid("it is damaged: its first characters are wrong")
    if len(framed) < whole:
        missing = -(-(whole - len(framed)) * 4 // 3)
        raise _invalid(f"it is cut off: about {missing} characters are missing at the end")
    if len(framed) > whole:
        raise _invalid("something follows its end")
    if _checksum(framed[:-_CHECK_BYTES]) != framed[-_CHECK_BYTES:]:
        raise _invalid("it is damaged: its checksum does not fit, so a character was changed")
    return framed[4:-_CHECK_BYTES]


def _check_fields(invitation: Invitation, roles: tuple[str, ...]) -> None:
    try:
        if invitation.role not in roles and invitation.role == NODE:
            raise ValueError("it lets a machine join a silo: use it there, with 'octopus node join'")
        if invitation.role not in roles and invitation.role in INVITED_ROLES:
            raise ValueError("it is an invitation to a federation: use it with 'octopus federation enrol'")
        if invitation.role not in roles or not invitation.id or not invitation.federation:
            raise ValueError("a field is missing")
        check_address(invitation.server)
        key = certificates.key_from_scalar(invitation.key_seed)
        peer = certificates.verify_issued(invitation.certificate_der, invitation.ca_der)
        if (peer.name, peer.role) != (invitation.id, "invitation"):
            raise ValueError("its certificate is for something else")
        if certificates.load(invitation.certificate_der).public_key() != key.public_key():
            raise ValueError("its key does not fit its certificate")
    except ValueError as error:
        raise _invalid(str(error)) from error
    except UserError as error:
        raise _invalid(error.what) from error


def _guess(text: str) -> str:
    if text.startswith("-----BEGINCERT"):
        return "; this is a certificate"
    if "PRIVATEKEY" in text:
        return "; this is a private key, which nobody else should see"
    if text.lower().startswith(("http://", "https://")):
        return "; this is a web address"
    return ", so its first characters are missing or it is something else"


def _checksum(framed: bytes) -> bytes:
    return hashlib.sha256(b"octopus-desktop/invitation/1" + framed).digest()[:_CHECK_BYTES]


def _invalid(why: str) -> UserError:
    return UserError(
        "OCT-ENROL-INVALID",
        "This is not a usable invitation",
        why,
        "Copy the whole invitation again, or ask the federation's coordinator for the invitation file",
    )
