"""Where things lie on this machine. Knows no file's content."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOCKET_PATH_LIMIT = 100  # sun_path holds 108 bytes on Linux and 104 on macOS


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloHome:
    """A silo's directory: OCTOPUS_HOME, or the platform's place for user data. Private (0700)."""

    root: Path

    @property
    def database(self) -> Path:
        return self.root / "silo.sqlite"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / "daemon.lock"

    @property
    def runtime(self) -> Path:
        """The private directory of the local API's socket and token."""
        return runtime_dir(self.root, "daemon.sock")

    @property
    def socket(self) -> Path:
        return self.runtime / "daemon.sock"

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class FederationHome:
    """A federation server's directory: OCTOPUS_SERVER_HOME or the platform's place. Private (0700)."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "federation.toml"

    @property
    def database(self) -> Path:
        return self.root / "federation.sqlite"

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def lock(self) -> Path:
        return self.root / "server.lock"

    @property
    def runtime(self) -> Path:
        return runtime_dir(self.root, "operator.sock")

    @property
    def socket(self) -> Path:
        return self.runtime / "operator.sock"

    def run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeHome:
    """The directory of a further machine's agent: OCTOPUS_NODE_HOME or the platform's place. Private (0700)."""

    root: Path

    @property
    def place(self) -> Path:
        """Where this machine belongs: written when it joined."""
        return self.root / "node.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def lock(self) -> Path:
        return self.root / "agent.lock"


def node_home(given: str | Path | None = None) -> NodeHome:
    return NodeHome(root=_root(given, "OCTOPUS_NODE_HOME", "octopus-node"))


def author_home() -> Path:
    """A researcher's directory: OCTOPUS_AUTHOR_HOME or the platform's place. Private (0700)."""
    return _root(None, "OCTOPUS_AUTHOR_HOME", "octopus-author")


def silo_home(given: str | Path | None = None) -> SiloHome:
    return SiloHome(root=_root(given, "OCTOPUS_HOME", "octopus-desktop"))


def federation_home(given: str | Path | None = None) -> FederationHome:
    return FederationHome(root=_root(given, "OCTOPUS_SERVER_HOME", "octopus-federation"))


def private_dir(path: Path) -> Path:
    """Make a directory that only this user can enter, or raise PermissionError when somebody else owns it."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if hasattr(os, "getuid"):
        if path.stat().st_uid != os.getuid():
            raise PermissionError(f"{path} belongs to another user")
        path.chmod(0o700)
    return path


def runtime_dir(root: Path, socket_name: str) -> Path:
    """``root/run``, or a short private directory elsewhere when the socket's path would be too long for the OS."""
    near = root / "run"
    if len(os.fsencode(near / socket_name)) <= SOCKET_PATH_LIMIT:
        return near
    base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
    uid = os.getuid() if hasattr(os, "getuid") else 0
    return base / f"octopus-{uid}-{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"


def _root(given: str | Path | None, variable: str, name: str) -> Path:
    if given or os.environ.get(variable):
        return Path(given or os.environ[variable]).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_data_dir(name, appauthor=False))
