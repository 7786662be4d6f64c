"""An author's key and memberships are kept safely."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from octopus_desktop.jobs import authors
from octopus_desktop.wire.errors import UserError


def test_an_authors_key_is_made_once(tmp_path: Path) -> None:
    key = authors.own_key(authors.store(tmp_path / "author", "p"))
    assert authors.own_key(authors.store(tmp_path / "author", "p")).public == key.public
    assert stat.S_IMODE((tmp_path / "author").stat().st_mode) == 0o700


def test_a_key_file_is_private_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    key = authors.make_pem(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert authors.read_pem(path).public == key.public
    with pytest.raises(UserError) as there:
        authors.make_pem(path)
    assert there.value.code == "OCT-STATE-EXISTS"


def pem(key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey, password: bytes = b"") -> bytes:
    seal = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, seal)


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (pem(Ed25519PrivateKey.generate()), 0o644, "other users"),
        (pem(ec.generate_private_key(ec.SECP256R1())), 0o600, "not an Ed25519"),
        (pem(Ed25519PrivateKey.generate(), b"secret"), 0o600, "unencrypted"),
        (b"no key", 0o600, "PEM"),
    ],
)
def test_a_key_file_that_cannot_be_used_is_told(tmp_path: Path, content: bytes, mode: int, reason: str) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(content)
    path.chmod(mode)
    with pytest.raises(UserError) as told:
        authors.read_pem(path)
    assert told.value.code == "OCT-SECRET-STORE" and reason in told.value.why and told.value.next_step
    with pytest.raises(UserError):
        authors.read_pem(tmp_path / "nowhere.pem")


def make_membership(federation: str) -> authors.Membership:
    return authors.Membership(
        federation=federation, server="h:1", name="lin", ca_der=b"ca", certificate_der=b"cert", key_pem=b"very secret"
    )


def test_memberships_are_found_by_name_or_when_there_is_only_one(tmp_path: Path) -> None:
    store = authors.store(tmp_path, "p")
    with pytest.raises(UserError) as none:
        authors.membership(tmp_path, store, "")
    assert none.value.code == "OCT-ENROL-UNKNOWN"
    authors.remember(tmp_path, store, make_membership("Heart / Alliance"))
    assert authors.membership(tmp_path, store, "") == make_membership("Heart / Alliance")
    authors.remember(tmp_path, store, make_membership("Heart _ Alliance"))
    assert authors.memberships(tmp_path) == ["Heart / Alliance", "Heart _ Alliance"]
    assert authors.membership(tmp_path, store, "Heart _ Alliance").federation == "Heart _ Alliance"
    with pytest.raises(UserError):
        authors.membership(tmp_path, store, "")
    assert "secret" not in repr(make_membership("x"))
    assert all(b"very secret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
