"""Sessions that are sealed end to end over a wire that is not believed. Knows no wire, no mail and no owner.

**Agreement.** Silo and server know each other's Ed25519 keys from enrolment. Each makes an ephemeral X25519 key (RFC
7748), and each signs, as in SIGMA (H. Krawczyk, "SIGMA: the SIGn-and-MAc approach to authenticated Diffie-Hellman",
CRYPTO 2003). The silo's ``Opening`` is signed over the domain, protocol, federation, silo, session, its share, its
time, its consent and the server's key; the server's ``Accepting`` over the domain, the whole of the Opening with its
signature, and all fields of its own. Each field has its length before it, so that no two messages have the same bytes
to sign. The shared secret goes through HKDF-SHA256 (RFC 5869), salted by the SHA-256 of the whole transcript and both
Ed25519 keys, to one key for each direction and lane. SIGMA's MAC over the identities is the first sealed message: who
has other keys, or took part in another transcript, cannot write it, and only after it opened is the session used.

**Messages.** AES-256-GCM (NIST SP 800-38D) with the message's number as its nonce (deterministic construction, 8.2.1):
a key has one direction of one lane, and a number is used once. ``COUNTER_MOST`` messages of 1 MiB are 2^38 blocks: what
an attacker gains from the cipher's being a permutation stays below 2^-52 (reckoned as in RFC 8446, 5.5); then the
session is made anew with other keys. The header (version, type, session, lane, number) is in the clear and is the
associated data; the type says whether a message goes on in the next one. So a message that was changed, cut, repeated,
or moved to another session, lane or direction does not open, or is recognised by its number.

**What this gives.** Only the two holders of the enrolled keys read or write; each session has keys of its own, so keys
that are stolen later open nothing that was recorded before (forward secrecy); an old Opening, replayed, gets no session
that carries anything, and disturbs none.

**What it does not give.** The wire sees who talks to whom, when, and how much. It can lose and delay everything: there
is no defence against a carrier that does not carry, nor against one that lets others write Openings in a silo's name
without end. Names, times and faults of the agreement are in the clear. Whoever
steals an Ed25519 key can pass for its owner until it is revoked. Bulk messages that both sides agreed to leave unsealed
can be read by everyone and disturbed by everyone; a blob's digest, which travels sealed, protects its content alone.
"""

from __future__ import annotations

import hashlib
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from google.protobuf.message import DecodeError

from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.communication.wires import Lane
from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import Fault
from octopus_desktop.wire.pb.sealed_pb2 import Accepting, Opening

VERSION = 1
SESSION_BYTES = 16
SHARE_BYTES = 32
CLOCK_S = 120.0  # a clock that is off by more is refused
GREETING_BYTES = 8192  # an Opening or Accepting is smaller
COUNTER_MOST = 1 << 22  # messages of one key
TAG_BYTES = 16

_OPENING = b"octopus-desktop/opening/1"
_ACCEPTING = b"octopus-desktop/accepting/1"
_UNKNOWN = b"octopus-desktop/unknown-session/1"
_KEYS = b"octopus-desktop/lane-key/1"
_HEADER = struct.Struct(">BB16sBQ")
_Greeting = TypeVar("_Greeting", Opening, Accepting)
HEADER_BYTES = _HEADER.size
OVERHEAD_BYTES = HEADER_BYTES + TAG_BYTES


class Type(IntEnum):
    OPENING = 1
    ACCEPTING = 2
    SEALED = 3
    CLEAR = 4  # a bulk message that both sides agreed to leave open
    PART = 5  # sealed; the message goes on in the next one of its lane


class SealError(Exception):
    """A message that does not open: changed, cut, or not for these keys. Dropped; never a reason to end anything."""


@dataclass(frozen=True, slots=True)
class Header:
    """The clear head of a message of a session."""

    kind: Type
    session: bytes
    lane: Lane
    counter: int

    @classmethod
    def read(cls, message: bytes) -> Header:
        """Raises SealError for what is no message of a session."""
        try:
            version, kind, session, lane, counter = _HEADER.unpack_from(message)
            if version != VERSION or kind not in (Type.SEALED, Type.CLEAR, Type.PART) or counter >= COUNTER_MOST:
                raise SealError("not a message of this version")
            return cls(Type(kind), session, Lane(lane), counter)
        except (struct.error, ValueError) as error:
            raise SealError("not a message of a session") from error


class LaneSeal:
    """Seals one direction of one lane. ``clear``: its messages go in the open, with the same header."""

    __slots__ = ("_cipher", "_clear", "_lane", "_session")

    def __init__(self, key: bytes, session: bytes, lane: Lane, *, clear: bool = False) -> None:
        self._cipher, self._session, self._lane, self._clear = AESGCM(key), session, lane, clear

    def seal(self, counter: int, data: bytes | memoryview, *, part: bool = False) -> bytes:
        """The message with this number. The caller uses each number once. May be called in any thread.

        Args:
            part: the message goes on in the next one.

        Raises:
            UserError: OCT-LINK-DOWN, when the keys have sealed as much as they may.
        """
        if counter >= COUNTER_MOST:
            raise worn_out()
        kind = Type.CLEAR if self._clear else Type.PART if part else Type.SEALED
        header = _HEADER.pack(VERSION, kind, self._session, self._lane, counter)
        return b"".join((header, data if self._clear else self._cipher.encrypt(_nonce(counter), data, header)))

    def open(self, counter: int, message: bytes) -> bytes | memoryview:
        """What is in a message whose header was read. May be called in any thread. Raises SealError."""
        view = memoryview(message)
        if self._clear:
            if message[1] != Type.CLEAR:
                raise SealError("sealed, where both sides agreed on clear messages")
            return view[HEADER_BYTES:]
        if message[1] == Type.CLEAR:
            raise SealError("clear, where everything is sealed")
        try:
            return self._cipher.decrypt(_nonce(counter), view[HEADER_BYTES:], view[:HEADER_BYTES])
        except (InvalidTag, ValueError) as error:
            raise SealError("it does not open") from error

    def __repr__(self) -> str:
        return f"LaneSeal({self._lane.name})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seals:
    """The keys of one session, as one side uses them. ``mine`` seals, ``theirs`` opens; by lane."""

    session: bytes
    mine: dict[Lane, LaneSeal]
    theirs: dict[Lane, LaneSeal]
    unsealed: bool
    at: float  # the server's clock when it accepted

    def __repr__(self) -> str:
        return f"Seals({self.session.hex()})"


# the silo's side


class Dialling:
    """The silo's half of one agreement.

    Attributes:
        message: the Opening; the same bytes may be sent again while nothing came back.
    """

    def __init__(
        self, party: SiloParty, protocol: int, *, unsealed: bool = False, clock: Callable[[], float] = time.time
    ) -> None:
        self._party, self._clock = party, clock
        self._private = X25519PrivateKey.generate()
        self._opening = Opening(
            protocol=protocol,
            federation=party.federation,
            silo=party.name,
            session=os.urandom(SESSION_BYTES),
            share=self._private.public_key().public_bytes_raw(),
            at=clock(),
            unsealed_blobs=unsealed,
        )
        self._opening.signature = party.signing.sign(opening_bytes(self._opening, party.server_key))
        self.session: bytes = self._opening.session
        self.message: bytes = bytes((VERSION, Type.OPENING)) + self._opening.SerializeToString()

    def accepted(self, message: bytes) -> Seals | None:
        """The session's keys, out of the server's Accepting; None for what is not the server's answer to this Opening,
        which counts as silence: anybody may have written it.

        Raises:
            UserError: the server's signed refusal; OCT-CLOCK-OFF; OCT-LINK-SEAL for shares that agree on nothing.
        """
        accepting = _parse(Accepting, message, Type.ACCEPTING)
        if accepting is None or accepting.session != self.session:
            return None
        signed = accepting_bytes(self._opening, accepting)
        if not verify(self._party.server_key, signed, accepting.signature):
            return None
        if accepting.HasField("fault"):
            raise UserError.from_fault(accepting.fault)
        check_clock(self._clock(), accepting.at, "server")
        if accepting.unsealed_blobs and not self._opening.unsealed_blobs:
            raise _not_agreed("the server wants blobs in the clear, to which this silo did not consent")
        return _seals(
            self._private,
            accepting.share,
            _transcript(self._opening, accepting, self._party.server_key, self._party.signing.public),
            session=self.session,
            at_silo=True,
            unsealed=accepting.unsealed_blobs,
            at=accepting.at,
        )


def told_unknown(message: bytes, seals: Seals, party: SiloParty) -> UserError | None:
    """Whether this is the server's word that it no longer knows this session (it was started anew). Signed, and later
    than the server's agreement to it, so that nobody can have kept it from before."""
    accepting = _parse(Accepting, message, Type.ACCEPTING)
    if accepting is None or accepting.session != seals.session or accepting.at <= seals.at:
        return None
    if not verify(party.server_key, _unknown_bytes(party.federation, accepting), accepting.signature):
        return None
    return UserError.from_fault(accepting.fault)


# the server's side


def read_opening(message: bytes) -> Opening | None:
    """An Opening that is well-formed; nothing in it is believed yet."""
    opening = _parse(Opening, message, Type.OPENING)
    if opening is None or len(opening.session) != SESSION_BYTES or len(opening.share) != SHARE_BYTES:
        return None
    return opening


def accept(
    party: ServerParty,
    opening: Opening,
    *,
    address: str,
    protocol_fault: UserError | None = None,
    unsealed: bool = False,
    clock: Callable[[], float] = time.time,
) -> tuple[bytes, Seals]:
    """Check an Opening that came from ``address`` and agree: the Accepting to send, and the session's keys.

    Args:
        unsealed: this side's consent that blobs pass in the clear.
        protocol_fault: told once the silo is known to be who it says, in place of agreeing.

    Raises:
        UserError: what ``refuse`` is to tell the silo.
    """
    if opening.federation != party.federation:
        raise UserError(
            "OCT-LINK-SEAL",
            "This server belongs to another federation.",
            f"The silo named the federation {opening.federation[:16]!r}, this is {party.federation[:16]!r}.",
            "Check the address or the broker's topics: two federations may share a broker only under their own names.",
        )
    if opening.silo != address:
        raise UserError(
            "OCT-LINK-SEAL",
            "A silo opened a session under a name that is not its own.",
            f"It came from {address[:64]!r} and claims to be {opening.silo[:64]!r}.",
            "If you did not expect this, tell the federation's coordinator; check the carrier's user name.",
        )
    key = party.member_key(opening.silo)
    if not verify(key, opening_bytes(opening, party.signing.public), opening.signature):
        raise UserError(
            "OCT-LINK-SEAL",
            "The session's opening is not signed by the key that was enrolled.",
            f"Its signature does not fit {opening.silo!r} and this server.",
            "If this silo or the server enrolled anew, remove the federation here and enrol again.",
        )
    check_clock(clock(), opening.at, "silo")
    if protocol_fault is not None:
        raise protocol_fault
    private = X25519PrivateKey.generate()
    accepting = Accepting(
        session=opening.session,
        share=private.public_key().public_bytes_raw(),
        unsealed_blobs=unsealed and opening.unsealed_blobs,
        at=clock(),
    )
    accepting.signature = party.signing.sign(accepting_bytes(opening, accepting))
    seals = _seals(
        private,
        opening.share,
        _transcript(opening, accepting, party.signing.public, key),
        session=opening.session,
        at_silo=False,
        unsealed=accepting.unsealed_blobs,
        at=accepting.at,
    )
    return bytes((VERSION, Type.ACCEPTING)) + accepting.SerializeToString(), seals


def refuse(signing: SigningKey, opening: Opening, fault: UserError, clock: Callable[[], float] = time.time) -> bytes:
    """A signed Accepting that says why there is no session."""
    accepting = Accepting(session=opening.session, fault=_short(fault), at=clock())
    accepting.signature = signing.sign(accepting_bytes(opening, accepting))
    return bytes((VERSION, Type.ACCEPTING)) + accepting.SerializeToString()


def unknown(party: ServerParty, session: bytes, clock: Callable[[], float] = time.time) -> bytes:
    """The server's word to whoever uses a session that it does not know."""
    fault = UserError(
        "OCT-LINK-DOWN",
        "The server no longer knows this session.",
        "It was started anew, or ended the session.",
        "The connection is made anew by itself.",
    )
    accepting = Accepting(session=session, fault=_short(fault), at=clock())
    accepting.signature = party.signing.sign(_unknown_bytes(party.federation, accepting))
    return bytes((VERSION, Type.ACCEPTING)) + accepting.SerializeToString()


# what is signed


def opening_bytes(opening: Opening, server_key: bytes) -> bytes:
    """What the silo signs. ``server_key`` binds it to the one server that it means."""
    return _fields(
        _OPENING,
        struct.pack(">Q", opening.protocol),
        opening.federation.encode(),
        opening.silo.encode(),
        opening.session,
        opening.share,
        struct.pack(">d?", opening.at, opening.unsealed_blobs),
        server_key,
    )


def accepting_bytes(opening: Opening, accepting: Accepting) -> bytes:
    """What the server signs: the whole of the Opening, and its own answer."""
    return _fields(
        _ACCEPTING,
        struct.pack(">Q", opening.protocol),
        opening.federation.encode(),
        opening.silo.encode(),
        opening.session,
        opening.share,
        struct.pack(">d?", opening.at, opening.unsealed_blobs),
        opening.signature,
        accepting.session,
        accepting.share,
        struct.pack(">d?", accepting.at, accepting.unsealed_blobs),
        *_fault_fields(accepting.fault),
    )


def _unknown_bytes(federation: str, accepting: Accepting) -> bytes:
    return _fields(
        _UNKNOWN,
        federation.encode(),
        accepting.session,
        struct.pack(">d", accepting.at),
        *_fault_fields(accepting.fault),
    )


def check_clock(mine: float, theirs: float, who: str) -> None:
    """Raises OCT-CLOCK-OFF when the other side's time is more than ``CLOCK_S`` from this side's, saying which way.

    Args:
        mine, theirs: Unix seconds.
        who: "silo" or "server", the other side.
    """
    off = theirs - mine
    if abs(off) <= CLOCK_S:
        return
    way = "ahead of" if off > 0 else "behind"
    other = {"silo": "server", "server": "silo"}[who]
    raise UserError(
        "OCT-CLOCK-OFF",
        "The clocks of silo and server differ too much.",
        f"The {who}'s clock is {_span(abs(off))} {way} the {other}'s; at most {CLOCK_S:.0f} s are allowed, so that old "
        "messages cannot be played again.",
        "Set both clocks by NTP (on Linux 'timedatectl set-ntp true') and look which of the two was wrong.",
    )


def worn_out() -> UserError:
    return UserError(
        "OCT-LINK-DOWN",
        "The session's keys have sealed as many messages as they may.",
        f"The bound is {COUNTER_MOST} messages.",
        "The connection is made anew by itself, with new keys.",
    )


def _seals(
    private: X25519PrivateKey,
    share: bytes,
    transcript: bytes,
    *,
    session: bytes,
    at_silo: bool,
    unsealed: bool,
    at: float,
) -> Seals:
    try:
        secret = private.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError as error:  # a share of low order
        raise _not_agreed("the other side's share is none") from error
    salt = hashlib.sha256(transcript).digest()

    def lane_seal(upward: bool, lane: Lane) -> LaneSeal:
        info = _fields(_KEYS, b"up" if upward else b"down", bytes((lane,)))
        key = HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(secret)
        return LaneSeal(key, session, lane, clear=unsealed and lane is Lane.BULK)

    return Seals(
        session=session,
        mine={lane: lane_seal(at_silo, lane) for lane in Lane},
        theirs={lane: lane_seal(not at_silo, lane) for lane in Lane},
        unsealed=unsealed,
        at=at,
    )


def _transcript(opening: Opening, accepting: Accepting, server_key: bytes, silo_key: bytes) -> bytes:
    return _fields(accepting_bytes(opening, accepting), accepting.signature, server_key, silo_key)


def _nonce(counter: int) -> bytes:
    return counter.to_bytes(12, "big")


def _fields(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def _fault_fields(fault: Fault) -> tuple[bytes, ...]:
    return tuple(text.encode() for text in (fault.code, fault.what, fault.why, fault.next_step))


def _short(fault: UserError) -> Fault:
    return Fault(code=fault.code, what=fault.what[:300], why=fault.why[:600], next_step=fault.next_step[:600])


def _parse(kind: type[_Greeting], message: bytes, wanted: Type) -> _Greeting | None:
    if len(message) > GREETING_BYTES or message[:2] != bytes((VERSION, wanted)):
        return None
    try:
        return kind.FromString(message[2:])
    except DecodeError:
        return None


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _not_agreed(why: str) -> UserError:
    return UserError(
        "OCT-LINK-SEAL",
        "Silo and server could not agree on a sealed session.",
        f"Of their first messages, {why}.",
        "Update Octopus Desktop on both sides; if it lasts, tell the federation's coordinator.",
    )
