"""Secrets in one file, sealed by a passphrase: scrypt and AES-256-GCM, mode 0600, written atomically.

Layout: magic (8), log2 n, r, p (one byte each), salt (16), check (16), nonce (12), ciphertext. The key is
scrypt(passphrase, salt); ``check`` is an HMAC over the header by a second key, so that a wrong passphrase and a damaged
file are told apart; the header is the cipher's associated data. Knows no prompt and no environment.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError

MAGIC = b"OCTSEAL1"
LOG2_N, R, P = 15, 8, 3  # 32 MiB and about a third of a second; OWASP's second choice, kind to small machines
_HEADER = len(MAGIC) + 3 + 16
_CHECK = _HEADER + 16
_NONCE = _CHECK + 12


class SealedFile:
    """A mapping of names to bytes in one sealed file, shared safely by several processes of one user.

    The file appears at the first ``set``. ``get`` sees what another process wrote.
    """

    def __init__(self, path: Path, passphrase: bytes) -> None:
        """Raises OCT-SECRET-PASSPHRASE when the file is there and the passphrase does not open it."""
        self._path, self._passphrase = path, passphrase
        self._keys: tuple[bytes, bytes, bytes] | None = None  # header, sealing key, check key
        self._seen: tuple[int, int, int] | None = None
        self._values: dict[str, bytes] = {}
        self._refresh()

    def get(self, name: str) -> bytes | None:
        self._refresh()
        return self._values.get(name)

    def set(self, name: str, value: bytes) -> None:
        self._change(lambda values: values.__setitem__(name, value))

    def delete(self, name: str) -> None:
        self._change(lambda values: values.pop(name, None))

    def _change(self, apply: Callable[[dict[str, bytes]], object]) -> None:
        try:
            private_dir(self._path.parent)
            with _locked(self._path.with_suffix(".lock")):
                self._refresh()
                values = dict(self._values)
                apply(values)
                self._write(values)
        except OSError as error:
            raise _unusable(self._path, error) from error

    def _write(self, values: dict[str, bytes]) -> None:
        header, key, check = self._keys or self._derive(MAGIC + bytes([LOG2_N, R, P]) + os.urandom(16))
        plain = canonical_json({name: base64.b64encode(value).decode() for name, value in values.items()})
        nonce = os.urandom(12)
        sealed = header + _check(check, header) + nonce + AESGCM(key).encrypt(nonce, plain, header)
        temporary = self._path.with_suffix(f".new{os.getpid()}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._path)
        _sync_directory(self._path.parent)
        self._values, self._seen = values, _stamp(self._path)

    def _refresh(self) -> None:
        try:
            stamp = _stamp(self._path)
            if stamp == self._seen:
                return
            raw = self._path.read_bytes()
        except FileNotFoundError:
            self._values, self._seen = {}, None
            return
        except OSError as error:
            raise _unusable(self._path, error) from error
        self._values, self._seen = self._open(raw), stamp

    def _open(self, raw: bytes) -> dict[str, bytes]:
        if len(raw) < _NONCE + 16 or not raw.startswith(MAGIC):
            raise _unusable(self._path, "it is not a file of sealed secrets, or it is cut off")
        header, nonce = raw[:_HEADER], raw[_CHECK:_NONCE]
        log2_n, r, p = header[len(MAGIC) : len(MAGIC) + 3]
        if not (10 <= log2_n <= 20 and 1 <= r <= 16 and 1 <= p <= 16):
            raise _unusable(self._path, "its header asks for impossible work")
        if self._keys is None or self._keys[0] != header:
            self._keys = self._derive(header)
        _, key, check = self._keys
        if not hmac.compare_digest(_check(check, header), raw[_HEADER:_CHECK]):
            self._keys = None
            raise UserError(
                "OCT-SECRET-PASSPHRASE",
                "The passphrase does not open the stored secrets",
                f"it is not the one with which {self._path} was sealed",
                "Try again. Without the passphrase the keys are lost, and the silo must enrol anew",
            )
        try:
            plain = AESGCM(key).decrypt(nonce, raw[_NONCE:], header)
            return {name: base64.b64decode(value) for name, value in json.loads(plain).items()}
        except InvalidTag as error:
            raise _unusable(self._path, "its content was changed or damaged") from error

    def _derive(self, header: bytes) -> tuple[bytes, bytes, bytes]:
        log2_n, r, p = header[len(MAGIC) : len(MAGIC) + 3]
        both = Scrypt(salt=header[-16:], length=64, n=1 << log2_n, r=r, p=p).derive(self._passphrase)
        self._keys = (header, both[:32], both[32:])
        return self._keys


def _check(key: bytes, header: bytes) -> bytes:
    return hmac.new(key, header, hashlib.sha256).digest()[:16]


def _stamp(path: Path) -> tuple[int, int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One writer at a time among this user's processes."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name == "posix":
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_LOCK, 1)  # type: ignore[attr-defined]
        yield
    finally:
        os.close(descriptor)


def _unusable(path: Path, why: object) -> UserError:
    return UserError(
        "OCT-SECRET-STORE",
        f"The file of secrets {path} cannot be used",
        str(why),
        "Check the disk and the file's owner and mode, or restore it from a backup",
    )
