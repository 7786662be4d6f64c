"""How the parts of an allocation reach the run's runner: one TCP port, mutual TLS 1.3, a key that lives in one file.

The runner makes a key and a certificate for each allocation and writes them, with its address, into the run's folder,
which this user alone can read, on the file system that the compute nodes share. Either side shows that certificate and
believes no other. The file is made anew for a new runner, so that an allocation that outlived the old one finds it.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octopus_desktop.training.spec import SLURM

DOOR, IDENTITY = "door.json", "door.pem"
DIAL_S = 10.0
LINE_BYTES = 1 << 20
BEAT_S, SILENCE_S = 15.0, 60.0  # how often either end says that it is there, and when it is taken for gone
VALID = datetime.timedelta(days=60)  # an allocation waits and runs for so long at most

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Door:
    """Where the runner listens. Holds no secret: the key lies in its own file beside it."""

    address: str
    port: int
    alone_s: float

    @classmethod
    def read(cls, run_dir: Path) -> Door:
        """Raises OSError and ValueError when there is none: the run is over, or its folder cannot be seen."""
        try:
            return cls(**json.loads((run_dir / SLURM / DOOR).read_text()))
        except TypeError as error:
            raise ValueError(str(error)) from error


class Doorway:
    """The runner's end. Opened before an allocation is asked for."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = run_dir / SLURM
        self._run_dir = run_dir
        self._server: asyncio.Server | None = None

    async def open(self, serve: Serve, address: str, alone_s: float) -> None:
        """Listen on this address of this machine, with a new key. Raises OSError."""
        await self.close()
        self._folder.mkdir(mode=0o700, exist_ok=True)
        await asyncio.to_thread(_write_private, self._folder / IDENTITY, _identity())
        context = _context(self._folder / IDENTITY, ssl.PROTOCOL_TLS_SERVER)
        self._server = await asyncio.start_server(serve, address, 0, ssl=context, limit=LINE_BYTES)
        port = self._server.sockets[0].getsockname()[1]
        door = {"address": address, "port": port, "alone_s": alone_s}
        _write_private(self._folder / DOOR, json.dumps(door).encode())

    async def close(self) -> None:
        """Nobody finds this way any more."""
        for name in (DOOR, IDENTITY):
            (self._folder / name).unlink(missing_ok=True)
        if self._server:
            self._server.close()
            self._server = None


async def dial(run_dir: Path, **hello: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the runner, and who calls. Raises OSError, ValueError (no door) and ssl.SSLError (another's)."""
    door = Door.read(run_dir)
    context = _context(run_dir / SLURM / IDENTITY, ssl.PROTOCOL_TLS_CLIENT)
    async with asyncio.timeout(DIAL_S):
        reader, writer = await asyncio.open_connection(door.address, door.port, ssl=context, limit=LINE_BYTES)
    say(writer, "hello", **hello)
    return reader, writer


def say(writer: asyncio.StreamWriter, word: str, **fields: Any) -> None:
    """One line; lost when the other end is gone."""
    if not writer.is_closing():
        writer.write(json.dumps({"word": word, **fields}).encode() + b"\n")


async def hear(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next words; None when the other end is gone, silent, or does not keep to the form."""
    try:
        async with asyncio.timeout(SILENCE_S):
            line = await reader.readline()
        value = json.loads(line) if line else None
    except (TimeoutError, OSError, ValueError):
        return None
    return value if isinstance(value, dict) and isinstance(value.get("word"), str) else None


async def beat(writer: asyncio.StreamWriter) -> None:
    """Say that this end is there, until cancelled."""
    while True:
        await asyncio.sleep(BEAT_S)
        say(writer, "beat")


def _context(identity: Path, purpose: int) -> ssl.SSLContext:
    context = ssl.SSLContext(purpose)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # there is one certificate, and either side has it in its hands
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(identity)
    context.load_verify_locations(identity)
    return context


def _identity() -> bytes:
    """A new key and its own certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    from octopus_desktop.identity import certificates

    key = certificates.new_key()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "octopus allocation")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - certificates.CLOCK_SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificates.key_to_pem(key) + certificates.to_pem(made)


def _write_private(path: Path, content: bytes) -> None:
    half = path.with_suffix(".new")
    half.unlink(missing_ok=True)
    with os.fdopen(os.open(half, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    os.replace(half, path)
