"""Wires the daemon's parts together. Constructors receive; nothing reaches out for another part."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.local_api.audit import AuditApi
from octopus_desktop.daemon.local_api.base import LocalApi
from octopus_desktop.daemon.local_api.daemon import DaemonApi
from octopus_desktop.daemon.local_api.datasets import DatasetsApi
from octopus_desktop.daemon.local_api.logs import LogsApi
from octopus_desktop.daemon.local_api.nodes import NodesApi
from octopus_desktop.daemon.local_api.setup import SetupApi
from octopus_desktop.daemon.services.datasets import Datasets
from octopus_desktop.daemon.services.logs import LogHandler, Logs
from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.daemon.services.setup import Setup
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.paths import SiloHome


class App:
    """The whole daemon. ``shutdown`` is called when a client asks for the end."""

    def __init__(self, home: SiloHome, db: SiloDb, shutdown: Callable[[], None]) -> None:
        self.silo = Silo(home, db)
        self.keys = SiloKeys(home)
        self.logs = Logs(self.silo)
        self.setup = Setup(self.silo)
        self.nodes = Nodes(self.silo)
        self.datasets = Datasets(self.silo)
        self.api = LocalApi(
            self.silo,
            {
                "Daemon": DaemonApi(self.silo, shutdown),
                "Setup": SetupApi(self.setup),
                "Nodes": NodesApi(self.nodes),
                "Datasets": DatasetsApi(self.datasets),
                "Audit": AuditApi(self.silo, self.keys),
                "Logs": LogsApi(self.logs),
            },
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        logging.getLogger("octopus_desktop").addHandler(LogHandler(self.logs, asyncio.get_running_loop()))
        self.silo.db.forget_old_requests()
        self.silo.status.secrets = await asyncio.to_thread(lambda: self.keys.kind)
        self._tasks.append(asyncio.create_task(self.nodes.sample_while_useful()))
        await self.api.start(self.silo.home.socket)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.api.stop()
