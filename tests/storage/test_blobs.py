"""The blob store keeps its promises: only whole, checked bytes are visible; interrupted ones can be continued."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from octopus_desktop.storage.blobs import BlobStore, disk_errors, file_digest, read_chunks
from octopus_desktop.wire.errors import UserError

MIB = 1 << 20
DATA = random.Random(0).randbytes(3 * MIB + 17)  # the same in each process: names of tests are made of it
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def leftovers(store: BlobStore) -> list[str]:
    return sorted(path.name for path in (store.root / "partial").iterdir())


def test_bytes_come_back_under_their_digest(store: BlobStore) -> None:
    assert store.put(DATA) == DIGEST
    assert store.path(DIGEST).read_bytes() == DATA
    assert store.has(DIGEST) and store.size(DIGEST) == store.offset(DIGEST) == len(DATA)
    assert list(store.digests()) == [DIGEST] and leftovers(store) == []


def test_a_durable_store_has_its_folders_before_blobs_come_and_does_without_them(store: BlobStore) -> None:
    folders = [path for path in store.root.iterdir() if len(path.name) == 2]
    assert len(folders) == 256
    for folder in folders:
        folder.rmdir()  # as a store of an earlier version, or one whose making was cut short
    assert store.put(DATA) == DIGEST
    assert list(BlobStore(store.root).digests()) == [DIGEST]
    assert not (BlobStore(store.root.with_name("short-lived"), durable=False).root / "00").exists()


def test_an_empty_blob_is_a_blob(store: BlobStore) -> None:
    digest = store.put(b"")
    assert digest == hashlib.sha256(b"").hexdigest() and store.size(digest) == 0
    store.remove(digest)
    with store.writer(digest, 0) as writer:
        writer.commit()
    assert store.has(digest)


def test_an_interrupted_transfer_goes_on_at_its_offset(store: BlobStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:MIB])
    assert not store.has(DIGEST) and store.offset(DIGEST) == MIB
    with pytest.raises(UserError, match="not in the store"):
        store.path(DIGEST)
    with store.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == MIB
        writer.write(memoryview(DATA)[MIB:])
        assert not store.has(DIGEST), "not visible before its digest was checked"
        writer.commit()
    assert store.path(DIGEST).read_bytes() == DATA and leftovers(store) == []


def test_a_transfer_killed_with_its_process_goes_on_too(store: BlobStore) -> None:
    code = (
        "import sys, time; from pathlib import Path; from octopus_desktop.storage.blobs import BlobStore\n"
        f"writer = BlobStore(Path(sys.argv[1])).writer('{DIGEST}', {len(DATA)})\n"
        "writer.write(sys.stdin.buffer.read()); print('written', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(DATA[:MIB])
    child.stdin.close()
    assert child.stdout.readline() == b"written\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with store.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == MIB
        writer.write(DATA[MIB:])
        writer.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_bytes_that_do_not_fit_the_digest_are_thrown_away(store: BlobStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(bytes(len(DATA)))
        with pytest.raises(UserError) as caught:
            writer.commit()
    assert caught.value.code == "OCT-BLOB-CORRUPT"
    assert not store.has(DIGEST) and store.offset(DIGEST) == 0 and leftovers(store) == []


def test_more_bytes_than_announced_are_refused(store: BlobStore) -> None:
    with store.writer(DIGEST, MIB) as writer, pytest.raises(UserError) as caught:
        writer.write(bytes(MIB + 1))
    assert caught.value.code == "OCT-BLOB-CORRUPT" and store.offset(DIGEST) == 0


def test_a_blob_that_is_not_whole_is_not_made_visible(store: BlobStore) -> None:
    with store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA[:-1])
        with pytest.raises(UserError) as caught:
            writer.commit()
    assert caught.value.code == "OCT-BLOB-CORRUPT"
    assert not store.has(DIGEST) and store.offset(DIGEST) == len(DATA) - 1, "what came can be continued"


def test_a_partial_blob_longer_than_announced_begins_anew(store: BlobStore) -> None:
    (store.root / "partial" / DIGEST).write_bytes(bytes(len(DATA) + 1))
    with store.writer(DIGEST, len(DATA)) as writer:
        assert writer.offset == 0
        writer.write(DATA)
        writer.commit()
    assert store.path(DIGEST).read_bytes() == DATA


def test_a_creation_that_fails_leaves_nothing(store: BlobStore) -> None:
    with pytest.raises(RuntimeError), store.create() as new:
        new.write(DATA)
        raise RuntimeError
    assert list(store.digests()) == [] and leftovers(store) == []


@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_adopted(store: BlobStore, tmp_path: Path, move: bool) -> None:
    for _ in range(2):
        source = tmp_path / "update.safetensors"
        source.write_bytes(DATA)
        assert store.adopt(source, move=move) == DIGEST
        assert store.path(DIGEST).read_bytes() == DATA and source.exists() is not move
    source.write_bytes(DATA)
    assert store.adopt_hashed(source, DIGEST) == DIGEST and not source.exists()


@pytest.mark.parametrize(
    "name", ["", "abc", "../" + "a" * 61, DIGEST.upper(), DIGEST + "0", "/etc/passwd", DIGEST[:-1] + "\n"]
)
def test_a_name_that_is_no_digest_never_becomes_a_path(store: BlobStore, name: str) -> None:
    for use in (
        store.path,
        store.has,
        store.offset,
        store.remove,
        lambda digest: store.writer(digest, 1),
        lambda digest: store.adopt_hashed(store.root / "x", digest),
    ):
        with pytest.raises(UserError) as caught:
            use(name)
        assert caught.value.code == "OCT-BLOB-CORRUPT"


def test_a_removed_blob_is_gone_with_what_had_come_of_it(store: BlobStore) -> None:
    store.put(DATA)
    other = "ab" * 32
    with store.writer(other, 10) as writer:
        writer.write(b"12345")
    for digest in (DIGEST, other, "cd" * 32):
        store.remove(digest)
        assert not store.has(digest) and store.offset(digest) == 0


def test_two_processes_that_store_the_same_bytes_do_not_disturb_each_other(store: BlobStore) -> None:
    code = (
        "import sys; from pathlib import Path; from octopus_desktop.storage.blobs import BlobStore\n"
        "data = sys.stdin.buffer.read(); store = BlobStore(Path(sys.argv[1]))\n"
        "print({store.put(data) for _ in range(20)})"
    )
    children = [
        subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [child.communicate(DATA)[0].decode() for child in children]
    assert said == [f"{{'{DIGEST}'}}\n"] * 2
    assert store.path(DIGEST).read_bytes() == DATA and leftovers(store) == []


def test_a_full_disk_is_told_as_such(store: BlobStore) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(UserError) as caught, disk_errors(store.root):
            raise OSError(number, os.strerror(number))
        assert caught.value.code == "OCT-DISK-FULL" and str(store.root.parent) in caught.value.why
    with pytest.raises(PermissionError), disk_errors(store.root):
        raise PermissionError


def test_a_write_that_finds_no_room_says_so_and_leaves_nothing_visible(store: BlobStore) -> None:
    (store.root / "partial" / DIGEST).symlink_to("/dev/full")
    with pytest.raises(UserError) as caught, store.writer(DIGEST, len(DATA)) as writer:
        writer.write(DATA)
    assert caught.value.code == "OCT-DISK-FULL" and not store.has(DIGEST)


def test_files_are_read_in_chunks_from_any_offset(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(DATA)
    assert b"".join(bytes(chunk) for chunk in read_chunks(path, 5, 1000)) == DATA[5:]
    seen: list[int] = []
    assert file_digest(path, seen.append) == DIGEST and sum(seen) == len(DATA)
