"""The server's directory: its configuration, the authority's key, and the key by which it signs. Knows no database.

``federation.toml`` is for people to read and change (host, port, bind, database); the keys are files of mode 0600 in
``keys/`` that no command ever prints.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from octopus_desktop.identity.authority import Authority, check_address
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.server.carrier_files import CarrierConfig, read_carriers
from octopus_desktop.storage.federation_engine import sqlite_url
from octopus_desktop.system.paths import FederationHome, private_dir
from octopus_desktop.wire.errors import UserError

CA_CERTIFICATE = "authority.pem"
CA_KEY = "authority.key"
SIGNING_KEY = "signing.key"
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """``host``: where silos reach it, in invitations and in the certificate. ``bind``: the interface it listens on.
    ``carriers``: what it offers, by name."""

    name: str
    host: str
    port: int
    bind: str
    database: str
    carriers: Mapping[str, CarrierConfig] = field(default_factory=lambda: read_carriers({}))

    @property
    def address(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def listen(self) -> str:
        return f"[{self.bind}]:{self.port}" if ":" in self.bind else f"{self.bind}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerIdentity:
    """The federation's authority and the server's own Ed25519 key."""

    authority: Authority
    signing: SigningKey


def create(home: FederationHome, name: str, host: str, port: int, bind: str = "") -> ServerConfig:
    """Make a federation: authority, keys, configuration; the configuration last, so that a half-made one is made anew.

    Raises OCT-STATE-EXISTS when there is one, OCT-CONFIG-INVALID for values that cannot be.
    """
    if home.config.exists():
        raise UserError(
            "OCT-STATE-EXISTS",
            f"There is already a federation in {home.root}.",
            "Its authority's key would be lost, and with it every enrolment.",
            "Use it with 'octopus server start', or give another --home.",
        )
    bind = bind or ("127.0.0.1" if host in LOOPBACK else "0.0.0.0")
    config = ServerConfig(name=name, host=host, port=port, bind=bind, database="")
    check_address(config.address)
    authority = Authority.create(name)
    authority.issue_server([host])  # a bad host name shows here
    try:
        private_dir(home.root)
        private_dir(home.keys)
        _secret(home.keys / CA_KEY, authority.key_pem)
        _secret(home.keys / CA_CERTIFICATE, authority.ca_pem)
        _secret(home.keys / SIGNING_KEY, SigningKey.generate().seed())
        _secret(home.config, _toml(config).encode())
    except OSError as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"The federation cannot be made in {home.root}.",
            str(error),
            "Give a --home on a disk that you may write to.",
        ) from error
    return config


def load(home: FederationHome) -> ServerConfig:
    """Raises OCT-STATE-MISSING when there is no federation, OCT-CONFIG-INVALID naming the mistake in its file."""
    try:
        raw = tomllib.loads(home.config.read_text())
        part = raw["federation"]
        config = ServerConfig(
            name=str(part["name"]),
            host=str(part["host"]),
            port=int(part["port"]),
            bind=str(part["bind"]),
            database=str(part.get("database", "")) or sqlite_url(home.database),
            carriers=read_carriers(raw.get("carriers", {})),
        )
    except FileNotFoundError:
        raise UserError(
            "OCT-STATE-MISSING",
            f"There is no federation in {home.root}.",
            f"{home.config.name} is not there.",
            "Make one with 'octopus server init', or give its --home.",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"{home.config} cannot be read.",
            f"{type(error).__name__}: {error}",
            "It needs a table [federation] with name, host, port and bind.",
        ) from error
    check_address(config.address)
    return config


def load_identity(home: FederationHome) -> ServerIdentity:
    """Raises OCT-STATE-MISSING when a key file is gone or damaged."""
    try:
        authority = Authority.load((home.keys / CA_CERTIFICATE).read_bytes(), (home.keys / CA_KEY).read_bytes())
        return ServerIdentity(authority=authority, signing=SigningKey.from_seed((home.keys / SIGNING_KEY).read_bytes()))
    except (OSError, ValueError) as error:
        raise UserError(
            "OCT-STATE-MISSING",
            f"The federation's keys in {home.keys} cannot be read.",
            str(error),
            "Restore the directory 'keys' from a backup: without them no member can be recognised.",
        ) from error


def _secret(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _toml(config: ServerConfig) -> str:
    def text(value: str) -> str:
        return json.dumps(value, ensure_ascii=False)  # a JSON string is a TOML basic string

    return (
        "# The federation server's configuration; read at its start.\n"
        "[federation]\n"
        f"name = {text(config.name)}\n"
        f"host = {text(config.host)}  # where silos reach it; stands in invitations and in its certificate\n"
        f"port = {config.port}\n"
        f"bind = {text(config.bind)}  # the interface it listens on\n"
        '# database = "postgresql+psycopg://user@host/name"  # default: federation.sqlite beside this file\n'
    )
