"""Where secrets are kept: the OS keyring, a systemd credential, or a file sealed by a passphrase.

Which one: what this store already is; else what the caller or OCTOPUS_SECRETS names (``keyring`` | ``credential`` |
``file``); else the file, when the caller or OCTOPUS_PASSPHRASE_FILE gives a passphrase; else the keyring, when its
probe succeeds; else a systemd credential. A store never changes its kind by itself: a keyring that is locked today must
not look like a silo without keys. Knows no prompt: who wants to ask a person catches OCT-SECRET-PASSPHRASE.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from octopus_desktop.identity import os_keyring
from octopus_desktop.identity.keys import SEED_BYTES, SigningKey
from octopus_desktop.identity.sealed_file import SealedFile
from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.canonical import canonical_json, new_id
from octopus_desktop.wire.errors import UserError

KEYRING, CREDENTIAL, FILE = "keyring", "systemd credential", "passphrase file"
CHOICES = {"keyring": KEYRING, "credential": CREDENTIAL, "file": FILE}
CREDENTIAL_PREFIX = "octopus-"
PASSPHRASE_CREDENTIAL = "octopus-passphrase"
MARKER, SEALED = "store.json", "secrets.sealed"


class SecretStore(Protocol):
    """Named secrets. ``kind``: keyring | systemd credential | passphrase file. Names: letters, digits, ``-_./``.

    All raise UserError OCT-SECRET-STORE when the place cannot be used. ``delete`` of what is not there is quiet.
    """

    kind: str

    def get(self, name: str) -> bytes | None: ...
    def set(self, name: str, value: bytes) -> None: ...
    def delete(self, name: str) -> None: ...


def open_store(
    directory: Path, *, passphrase: str | Callable[[], str] | None = None, choice: str | None = None
) -> SecretStore:
    """The store of one home. ``choice``: keyring | credential | file, for a store that is not made yet.

    A ``passphrase`` that is a function is called only when a sealed file must be opened and OCTOPUS_PASSPHRASE_FILE is
    not set: so a prompt appears only where it is needed.

    Raises:
        UserError: OCT-SECRET-PASSPHRASE when the sealed file needs one and it is missing or wrong; OCT-SECRET-STORE
            when the place cannot be used; OCT-CONFIG-INVALID for an unknown choice.
    """
    marker = _read_marker(directory)
    given = passphrase if isinstance(passphrase, str) else _passphrase_from_file()
    kind = marker.get("kind") or _choose(directory, given, choice or os.environ.get("OCTOPUS_SECRETS") or "")
    if kind == KEYRING:
        return _open_keyring(directory, marker)
    if kind == CREDENTIAL:
        return _Credentials(directory)
    if given is None and callable(passphrase):
        given = passphrase()
    return _open_file(directory, given, marker)


def approver_key(store: SecretStore, name: str) -> SigningKey:
    """The approver's own key, made at the first call."""
    return signing_key(store, f"approver/{name}")


def signing_key(store: SecretStore, secret: str) -> SigningKey:
    """The Ed25519 key under this secret's name, made at the first call. Raises OCT-SECRET-STORE when it is damaged."""
    seed = store.get(secret)
    if seed is None:
        key = SigningKey.generate()
        store.set(secret, key.seed())
        return key
    if len(seed) != SEED_BYTES:
        raise UserError(
            "OCT-SECRET-STORE",
            f"The stored key {secret!r} is damaged",
            f"it has {len(seed)} bytes in place of {SEED_BYTES}",
            "Restore the store from a backup, or delete this secret and register a new key",
        )
    return SigningKey.from_seed(seed)


class _KeyringStore(os_keyring.Keyring):
    kind = KEYRING


class _FileStore(SealedFile):
    kind = FILE


class _Credentials:
    """systemd's credentials: ``octopus-<name>`` files are read only; ``octopus-passphrase`` opens a sealed file in
    which new secrets are kept. Slashes in names are dots in credential names."""

    kind = CREDENTIAL

    def __init__(self, directory: Path) -> None:
        self._credentials = credentials_directory()
        self._sealed: SealedFile | None = None
        phrase = self._read(PASSPHRASE_CREDENTIAL)
        if phrase is not None:
            self._sealed = SealedFile(directory / SEALED, phrase.strip())
        elif (directory / SEALED).exists():
            raise _no_passphrase(directory / SEALED)

    def get(self, name: str) -> bytes | None:
        value = self._read(CREDENTIAL_PREFIX + name.replace("/", "."))
        if value is None and self._sealed is not None:
            return self._sealed.get(name)
        return value

    def set(self, name: str, value: bytes) -> None:
        self._writable(name).set(name, value)

    def delete(self, name: str) -> None:
        if self.get(name) is not None:
            self._writable(name).delete(name)

    def _read(self, credential: str) -> bytes | None:
        if self._credentials is None:
            return None
        try:
            return (self._credentials / credential).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(
                "OCT-SECRET-STORE",
                f"The systemd credential {credential} cannot be read",
                str(error),
                "Check LoadCredentialEncrypted= in the unit",
            ) from error

    def _writable(self, name: str) -> SealedFile:
        if self._sealed is None or self._read(CREDENTIAL_PREFIX + name.replace("/", ".")) is not None:
            raise UserError(
                "OCT-SECRET-STORE",
                f"The secret {name!r} cannot be stored",
                "systemd credentials are read only",
                f"Give the unit a credential {PASSPHRASE_CREDENTIAL}: new secrets then go to a file that it seals",
            )
        return self._sealed


def credentials_directory() -> Path | None:
    """systemd's directory of credentials, when it holds any of ours."""
    place = os.environ.get("CREDENTIALS_DIRECTORY")
    if not place or not Path(place).is_dir():
        return None
    return Path(place) if any(Path(place).glob(CREDENTIAL_PREFIX + "*")) else None


def _choose(directory: Path, passphrase: str | None, choice: str) -> str:
    if choice:
        if choice not in CHOICES:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"{choice!r} is not a place for secrets",
                "",
                f"Choose one of: {', '.join(CHOICES)}",
            )
        return CHOICES[choice]
    if (directory / SEALED).exists() or passphrase is not None:
        return FILE
    if not os_keyring.usable():
        return KEYRING
    return CREDENTIAL if credentials_directory() else FILE


def _open_keyring(directory: Path, marker: dict[str, str]) -> SecretStore:
    why = os_keyring.usable()
    if why:
        raise os_keyring.unavailable(why)
    if marker.get("kind") != KEYRING:
        marker = {"kind": KEYRING, "service": new_id("octopus-desktop-")}
        _write_marker(directory, marker)
    return _KeyringStore(marker["service"])


def _open_file(directory: Path, passphrase: str | None, marker: dict[str, str]) -> SecretStore:
    phrase = (passphrase or "").rstrip("\r\n")
    if not phrase:
        raise _no_passphrase(directory / SEALED)
    store = _FileStore(directory / SEALED, phrase.encode())
    if not marker:
        _write_marker(directory, {"kind": FILE})
    return store


def _no_passphrase(path: Path) -> UserError:
    new = not path.exists()
    return UserError(
        "OCT-SECRET-PASSPHRASE",
        "A passphrase is needed to keep the keys here" if new else "A passphrase is needed to open the stored keys",
        "there is no usable keyring and no systemd credential here" if new else f"{path} is sealed by one",
        "Write the passphrase to a file that only you can read (mode 0600), and name it in OCTOPUS_PASSPHRASE_FILE; "
        "a silo's daemon is given it by 'octopus daemon unlock'",
    )


def _passphrase_from_file() -> str | None:
    place = os.environ.get("OCTOPUS_PASSPHRASE_FILE")
    if not place:
        return None
    path = Path(place).expanduser()
    try:
        if os.name == "posix" and path.stat().st_mode & 0o077 and path.is_file():
            raise UserError(
                "OCT-SECRET-PASSPHRASE",
                f"The passphrase file {path} was refused",
                "other users of this machine may read it",
                f"chmod 600 {path}",
            )
        text = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            "OCT-SECRET-PASSPHRASE",
            f"The passphrase file {path} cannot be read",
            str(error),
            "Correct OCTOPUS_PASSPHRASE_FILE or the file's mode",
        ) from error
    if not text:
        raise UserError(
            "OCT-SECRET-PASSPHRASE", f"The passphrase file {path} is empty", "", "Write the passphrase into it"
        )
    return text


def _read_marker(directory: Path) -> dict[str, str]:
    try:
        value = json.loads((directory / MARKER).read_bytes())
        if isinstance(value, dict) and (value.get("kind") == FILE or isinstance(value.get("service"), str)):
            return value
        raise ValueError("it does not name a store")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            "OCT-SECRET-STORE",
            f"The place of the secrets cannot be told: {directory / MARKER} is damaged",
            str(error),
            "Restore the file from a backup",
        ) from error


def _write_marker(directory: Path, marker: dict[str, str]) -> None:
    private_dir(directory)
    temporary = directory / (MARKER + ".new")
    temporary.write_bytes(canonical_json(marker))
    os.replace(temporary, directory / MARKER)
