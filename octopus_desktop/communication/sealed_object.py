"""The sealed stream that lies in a bucket: a blob in segments, each encrypted by itself, so that any range of segments
can be read alone and a transfer resumes. Knows nothing of buckets, blobs' stores or who may read what.

AES-256-GCM under a random key that belongs to one object alone. The nonce is the segment's number (11 bytes) and a
byte that is 1 for the last segment and else 0, as in STREAM (Hoang, Reyhanitabar, Rogaway, Vizár: Online Authenticated-
Encryption and its Nonce-Reuse Misuse-Resistance, CRYPTO 2015). So a segment that is changed, moved, left out, or taken
from another object does not open, and a stream that was cut short has no last segment. The blob's digest is bound in as
associated data.

One key seals one content once. Sealing the same blob anew under the remembered key, as a resumed upload does, gives the
same bytes; whoever finds an object damaged takes a new key with the new object.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

SEGMENT_BYTES = 1 << 20
TAG_BYTES = 16
SEALED_SEGMENT_BYTES = SEGMENT_BYTES + TAG_BYTES
KEY_BYTES = 32
_PURPOSE = b"octopus sealed object 1\0"


def new_key() -> bytes:
    """A key for one new object."""
    return secrets.token_bytes(KEY_BYTES)


def segment_count(size: int) -> int:
    """Segments of a blob of ``size`` bytes; an empty blob has one, which is empty."""
    return max(1, -(-size // SEGMENT_BYTES))


def sealed_size(size: int) -> int:
    """Bytes of the object that holds a blob of ``size`` bytes."""
    return size + TAG_BYTES * segment_count(size)


class SealedObject:
    """Seals and opens the segments of one object; any of them, in any order, in any thread.

    Arguments:
        key: 32 bytes, of this object alone.
        digest: the blob's SHA-256, lower-case hex.
        size: the blob's bytes.
    """

    def __init__(self, key: bytes, digest: str, size: int) -> None:
        if len(key) != KEY_BYTES:
            raise _does_not_open(digest, f"its key has {len(key)} bytes instead of {KEY_BYTES}")
        self._gcm = AESGCM(key)
        self._digest = digest
        self._bound = _PURPOSE + digest.encode()
        self.size = size
        self.count = segment_count(size)
        self.stored = sealed_size(size)

    def __repr__(self) -> str:
        return f"SealedObject({self._digest[:12]}, {self.size})"

    def plain_bytes(self, index: int) -> int:
        """Length of segment ``index`` before sealing."""
        return min(SEGMENT_BYTES, self.size - index * SEGMENT_BYTES)

    def spans(self, first: int, end: int) -> Iterator[tuple[int, int]]:
        """(index, sealed bytes) of the segments ``first`` up to, not including, ``end``."""
        for index in range(first, min(end, self.count)):
            yield index, self.plain_bytes(index) + TAG_BYTES

    def seal(self, index: int, plain: bytes | memoryview) -> bytes:
        assert len(plain) == self.plain_bytes(index)
        return self._gcm.encrypt(self._nonce(index), plain, self._bound)

    def open(self, index: int, sealed: bytes | memoryview) -> bytes:
        """Raises OCT-STORE-OBJECT when the bytes are not this segment of this object."""
        try:
            return self._gcm.decrypt(self._nonce(index), sealed, self._bound)
        except InvalidTag:
            raise _does_not_open(self._digest, f"segment {index} of {self.count} was changed or moved") from None

    def _nonce(self, index: int) -> bytes:
        if not 0 <= index < self.count:
            raise _does_not_open(self._digest, f"there is no segment {index} of {self.count}")
        return index.to_bytes(11, "big") + (b"\1" if index == self.count - 1 else b"\0")


def _does_not_open(digest: str, why: str) -> UserError:
    return UserError(
        "OCT-STORE-OBJECT",
        f"The object that holds blob {digest[:12]} is not what the other side stored.",
        f"It does not open: {why}.",
        "It is sent anew by itself; if this repeats, somebody or something changes objects in the bucket.",
    )
