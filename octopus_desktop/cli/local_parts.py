"""What a carrier needs beside server and daemons, on this machine and below one directory: a broker, an S3 store, an
MPI world. For demonstrations and tests; a real federation brings its own.

Parts outlive the process that started them, as the daemons do; a later one finds them again and ends them. Passwords
are made here, lie in files of mode 0600, and reach server and daemons through their APIs alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from octopus_desktop.system.paths import private_dir
from octopus_desktop.wire.errors import UserError

CARRIERS = ("grpc", "mqtt", "mqtt_s3", "torch_rpc", "mpi")
_SERVER = "server"


class Parts:
    """The parts of one carrier.

    Arguments:
        root: where they lie.
        carrier: one of CARRIERS.
        silos: by their names.
    """

    def __init__(self, root: Path, carrier: str, silos: Sequence[str]) -> None:
        if carrier not in CARRIERS:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"There is no carrier {carrier!r} for a federation on this machine.",
                f"There are {', '.join(CARRIERS)}.",
                "Choose one of these.",
            )
        self.root, self.carrier, self.silos = root / "parts", carrier, list(silos)

    @property
    def carries_control(self) -> bool:
        return self.carrier in ("mqtt", "mqtt_s3")

    @property
    def has_broker(self) -> bool:
        return self.carries_control

    def start(self, free_port: Callable[[], int]) -> None:
        """Start what is not there yet. Raises OCT-PACKAGE-MISSING, saying what to install."""
        private_dir(self.root)
        if self.has_broker:
            self._start_broker(free_port)
        if self.carrier == "mqtt_s3":
            self._store().start()
        if self.carrier == "torch_rpc" and "port" not in self._kept():
            self._keep(port=free_port())

    def start_world(self, run_id: str, server_home: Path, silo_homes: Mapping[str, Path]) -> int:
        """Let a run's data go by an MPI world that lasts as long as the run; returns the process id of its starter."""
        words = ["federation", "run", "--mpi", run_id, "--server-home", str(server_home)]
        words += [word for name, home in silo_homes.items() for word in ("--silo-home", f"{name}={home}")]
        with open(self.root / "mpi.log", "ab", buffering=0) as log:
            world = subprocess.Popen(
                [sys.executable, "-m", "octopus_desktop.cli.main", *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._keep(worlds=[*self._kept().get("worlds", []), world.pid])
        return world.pid

    def stop_worlds(self) -> None:
        """End the MPI worlds that still run; what they carried waits for the next one."""
        import psutil

        for pid in self._kept().get("worlds", []):
            try:
                starter = psutil.Process(pid)
                if str(self.root.parent) not in " ".join(starter.cmdline()):
                    continue  # another process got its number
                starter.send_signal(signal.SIGINT)
                starter.wait(15)
            except psutil.TimeoutExpired:
                starter.kill()
                with contextlib.suppress(psutil.Error):
                    starter.wait(5)
            except psutil.NoSuchProcess:
                pass
        self._keep(worlds=[])

    def stop(self) -> None:
        """End what runs; the directory stays."""
        if self.carrier == "mpi" and self.root.exists():
            self.stop_worlds()
        if self.has_broker and self.broker.exists():
            from octopus_desktop.communication import broker

            broker.stop(self.broker)
        if self.carrier == "mqtt_s3" and self.root.exists():
            self._store().stop()

    def offer(self) -> dict[str, Any]:
        """The fields of a ``PutCarrierRequest``."""
        kept = self._kept()
        settings: dict[str, Any] = {}
        fields: dict[str, Any] = {"name": self.carrier}
        if self.has_broker:
            settings = {"host": "127.0.0.1", "port": kept["port"], "ca_pem": kept["ca_pem"]}
            fields |= {"username": _SERVER, "secret": kept["passwords"][_SERVER].encode()}
        if self.carrier == "mqtt_s3":
            store = self._store()
            settings |= {"endpoint": store.endpoint, "bucket": store.bucket}
            fields |= {"store_key_id": store.key_id, "store_secret": store.secret.encode()}
        if self.carrier == "torch_rpc":
            settings = {"host": "127.0.0.1", "port": kept["port"], "networks": ["127.0.0.0/8"]}
        return {**fields, "settings_json": json.dumps(settings)}

    def own_side(self, silo: str) -> dict[str, Any]:
        """The fields of a silo's ``ConfigureCarrierRequest``, without its federation's id."""
        fields: dict[str, Any] = {"name": self.carrier, "own_json": "{}", "control": self.carries_control}
        if self.has_broker:
            password = self._kept()["passwords"][silo]
            fields |= {"own_json": json.dumps({"username": silo}), "secret": password.encode()}
        return fields

    # broker and store

    @property
    def broker(self) -> Path:
        """The broker's own directory."""
        return self.root / "broker"

    def broker_pid(self) -> int:
        """Of the broker that runs, or 0."""
        import psutil

        try:
            pid = int((self.broker / "pid").read_text())
            mine = str(self.broker / "mosquitto.conf") in psutil.Process(pid).cmdline()
        except (OSError, ValueError, psutil.Error):
            return 0
        return pid if mine else 0

    def _start_broker(self, free_port: Callable[[], int]) -> None:
        from octopus_desktop.communication import broker

        if self.broker_pid():
            return
        broker.find()
        if "passwords" not in self._kept():
            from octopus_desktop.identity.authority import Authority

            authority = Authority.create("Broker of this machine")
            key, chain = authority.issue_server(["127.0.0.1"])
            users = {name: secrets.token_urlsafe(24) for name in (_SERVER, *self.silos)}
            port = free_port()
            self._keep(port=port, passwords=users, ca_pem=authority.ca_pem.decode())
            broker.prepare(self.broker, broker.BrokerPlan(port=port, users=users, key=key, chain=chain))
        broker.start(self.broker)

    def _store(self) -> Any:
        from octopus_desktop.communication.seaweed import Seaweed

        return Seaweed(self.root / "store", keep=True)

    # what is kept

    def _kept(self) -> Mapping[str, Any]:
        try:
            kept: dict[str, Any] = json.loads((self.root / "parts.json").read_text())
        except FileNotFoundError:
            return {}
        return kept

    def _keep(self, **values: Any) -> None:
        text = json.dumps({**self._kept(), **values})
        with os.fdopen(os.open(self.root / "parts.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
