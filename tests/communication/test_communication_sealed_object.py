"""The sealed stream in the bucket: any segment alone, and nothing that was cut, moved, swapped or changed."""

from __future__ import annotations

import os

import pytest

from octopus_desktop.communication.sealed_object import (
    SEALED_SEGMENT_BYTES,
    SEGMENT_BYTES,
    SealedObject,
    new_key,
    sealed_size,
    segment_count,
)
from octopus_desktop.communication.store_transfer import LEAST_PART_BYTES, MOST_PARTS, Layout
from octopus_desktop.wire.errors import UserError

DIGEST = "ab" * 32
SIZES = (0, 1, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 3 * SEGMENT_BYTES)


def sealed(data: bytes, key: bytes, digest: str = DIGEST) -> list[bytes]:
    stream = SealedObject(key, digest, len(data))
    return [stream.seal(i, data[i * SEGMENT_BYTES :][:SEGMENT_BYTES]) for i in range(stream.count)]


def refuses(stream: SealedObject, index: int, piece: bytes) -> None:
    with pytest.raises(UserError) as caught:
        stream.open(index, piece)
    assert caught.value.code == "OCT-STORE-OBJECT"


@pytest.mark.parametrize("size", SIZES)
def test_each_segment_opens_alone_and_the_length_is_foretold(size: int) -> None:
    data, key = os.urandom(size), new_key()
    pieces = sealed(data, key)
    assert sum(map(len, pieces)) == sealed_size(size) and len(pieces) == segment_count(size)
    stream = SealedObject(key, DIGEST, size)
    assert [n for _, n in stream.spans(0, stream.count)] == [len(p) for p in pieces]
    for index in reversed(range(stream.count)):
        assert stream.open(index, pieces[index]) == data[index * SEGMENT_BYTES :][:SEGMENT_BYTES]


def test_the_same_blob_under_the_same_key_gives_the_same_bytes_and_under_another_key_others() -> None:
    data, key = os.urandom(SEGMENT_BYTES + 5), new_key()
    assert sealed(data, key) == sealed(data, key)
    assert not set(sealed(data, key)) & set(sealed(data, new_key()))


def test_a_stream_that_was_cut_short_has_no_last_segment() -> None:
    data, key = os.urandom(3 * SEGMENT_BYTES), new_key()
    pieces = sealed(data, key)
    shorter = SealedObject(key, DIGEST, 2 * SEGMENT_BYTES)
    assert shorter.open(0, pieces[0]) == data[:SEGMENT_BYTES]
    refuses(shorter, 1, pieces[1])  # it was not the last one when it was sealed


def test_a_last_segment_in_the_middle_does_not_open() -> None:
    data, key = os.urandom(2 * SEGMENT_BYTES), new_key()
    pieces = sealed(data, key)
    refuses(SealedObject(key, DIGEST, 3 * SEGMENT_BYTES), 1, pieces[1])


def test_segments_in_another_order_or_from_another_object_or_blob_do_not_open() -> None:
    data, key = os.urandom(3 * SEGMENT_BYTES), new_key()
    stream, pieces = SealedObject(key, DIGEST, len(data)), sealed(data, key)
    refuses(stream, 0, pieces[1])
    refuses(stream, 1, sealed(data, new_key())[1])
    refuses(stream, 1, sealed(data, key, "cd" * 32)[1])


def test_a_changed_bit_anywhere_shows() -> None:
    key = new_key()
    piece = sealed(b"some bytes", key)[0]
    for place in range(len(piece)):
        changed = bytearray(piece)
        changed[place] ^= 1
        refuses(SealedObject(key, DIGEST, 10), 0, bytes(changed))
    refuses(SealedObject(key, DIGEST, 10), 0, piece[:-1])


def test_segments_and_keys_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError):
        SealedObject(b"short", DIGEST, 10)
    refuses(SealedObject(new_key(), DIGEST, 10), 1, b"x" * 26)


def test_its_key_shows_in_no_representation() -> None:
    key = new_key()
    assert key.hex() not in repr(SealedObject(key, DIGEST, 1)) and repr(key) not in repr(SealedObject(key, DIGEST, 1))


@pytest.mark.parametrize("stored", [16, LEAST_PART_BYTES, 6 << 20, 33 << 20, 2 << 30, 1 << 40])
def test_parts_hold_whole_segments_and_cover_the_object(stored: int) -> None:
    layout = Layout.of(stored, LEAST_PART_BYTES)
    assert layout.part_bytes % SEALED_SEGMENT_BYTES == 0 and layout.part_bytes >= LEAST_PART_BYTES
    assert 1 <= layout.count <= MOST_PARTS
    assert sum(layout.length(part) for part in range(1, layout.count + 1)) == stored
    assert Layout.of(stored, layout.part_bytes) == layout
    assert layout.segments(2)[0] == layout.segments(1)[1]
    assert layout.missing({1: layout.length(1)}) == list(range(2, layout.count + 1))
    assert layout.missing({1: layout.length(1) - 1})[0] == 1
