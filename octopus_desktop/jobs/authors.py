"""A researcher's own side: the key that signs packages, and the federations that this researcher may submit to.

The key lies in the author's secret store, or in a PEM file of the author's (0600). Knows no network and no prompt.
"""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from octopus_desktop.identity import member
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.secrets import SecretStore, open_store, signing_key
from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError

_KEY = "author/key"
_SECRETS, _FEDERATIONS = "secrets", "federations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """A federation that enrolled this author. ``key_pem`` is secret and kept apart from the rest."""

    federation: str
    server: str
    name: str
    ca_der: bytes
    certificate_der: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"Membership(federation={self.federation!r}, server={self.server!r}, name={self.name!r})"


def store(home: Path, passphrase: str | Callable[[], str] | None = None) -> SecretStore:
    """The author's secret store. Raises OCT-SECRET-*."""
    private_dir(home)
    return open_store(home / _SECRETS, passphrase=passphrase)


def own_key(secrets: SecretStore) -> SigningKey:
    """The author's key, made at the first call."""
    return signing_key(secrets, _KEY)


def read_pem(path: Path) -> SigningKey:
    """An Ed25519 private key in PKCS#8 PEM. Raises OCT-SECRET-STORE: not there, readable by others, not such a key."""
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077:
            raise _bad_key(path, "other users of this machine may read it", f"chmod 600 {path}")
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise _bad_key(path, error.strerror or str(error)) from error
    except (ValueError, TypeError) as error:
        raise _bad_key(path, "it is not an unencrypted private key in PEM form") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise _bad_key(path, "it is not an Ed25519 key")
    return SigningKey(key)


def make_pem(path: Path) -> SigningKey:
    """A new key in a new file (0600). Raises OCT-STATE-EXISTS when there is a file already."""
    key = SigningKey.generate()
    pem = Ed25519PrivateKey.from_private_bytes(key.seed()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(pem)
    except FileExistsError:
        raise UserError("OCT-STATE-EXISTS", f"There is already a file {path}", "", "Choose another name") from None
    except OSError as error:
        raise _bad_key(path, error.strerror or str(error), "Choose a folder that you can write to") from error
    return key


def enrolment_key(secrets: SecretStore, invitation: str, name: str) -> tuple[bytes, bytes]:
    """The TLS key and certificate request for this invitation: the same key at a second attempt, so that an answer that
    got lost costs no invitation. Raises OCT-ENROL-NAME."""
    kept = secrets.get(f"author/enrol/{invitation}")
    if kept is not None:
        return kept, member.renew_request(kept, name)
    key_pem, csr = member.make_request(name)
    secrets.set(f"author/enrol/{invitation}", key_pem)
    return key_pem, csr


def remember(home: Path, secrets: SecretStore, membership: Membership) -> None:
    """Keep a membership: its key in the store, the rest in a file of its own."""
    secrets.set(_tls(membership.federation), membership.key_pem)
    folder = private_dir(home / _FEDERATIONS)
    value: dict[str, Any] = {
        key: base64.b64encode(item).decode() if isinstance(item, bytes) else item
        for key, item in asdict(membership).items()
        if key != "key_pem"
    }
    place = folder / f"{_file_name(membership.federation)}.json"
    temporary = place.with_suffix(".new")
    temporary.write_bytes(canonical_json(value))
    os.replace(temporary, place)


def memberships(home: Path) -> list[str]:
    """Names of the federations that enrolled this author."""
    return sorted(value["federation"] for value in _all(home))


def membership(home: Path, secrets: SecretStore, federation: str) -> Membership:
    """The named membership; of "" the only one. Raises OCT-ENROL-UNKNOWN."""
    found = [value for value in _all(home) if not federation or value["federation"] == federation]
    if len(found) == 1:
        value = found[0]
        key = secrets.get(_tls(value["federation"]))
        if key is not None:
            return Membership(
                federation=value["federation"],
                server=value["server"],
                name=value["name"],
                ca_der=base64.b64decode(value["ca_der"]),
                certificate_der=base64.b64decode(value["certificate_der"]),
                key_pem=key,
            )
    known = ", ".join(memberships(home)) or "none"
    raise UserError(
        "OCT-ENROL-UNKNOWN",
        f"You are not enrolled as an author in {federation!r}" if federation else "It is not clear which federation",
        f"known here: {known}",
        "Enrol with 'octopus jobs enrol INVITATION', or name one with --federation",
    )


def _all(home: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_bytes()) for path in sorted((home / _FEDERATIONS).glob("*.json"))]


def _tls(federation: str) -> str:
    return f"author/tls/{_file_name(federation)}"


def _file_name(federation: str) -> str:
    return re.sub(r"[^A-Za-z0-9-]", lambda found: f"_{ord(found[0]):x}_", federation)


def _bad_key(path: Path, why: str, next_step: str = "Make one with 'octopus jobs key --file PATH'") -> UserError:
    return UserError("OCT-SECRET-STORE", f"The key file {path} cannot be used", why, next_step)
