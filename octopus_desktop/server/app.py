"""The federation's parts, wired: one object that the doors share. Its constructor opens, ``start`` serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from octopus_desktop import __version__
from octopus_desktop.communication.contract import ServerEnd
from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.server.catalogue import Catalogue
from octopus_desktop.server.home import ServerConfig, load_identity
from octopus_desktop.server.mail import ServerMail
from octopus_desktop.server.members import Members
from octopus_desktop.server.network import make_server, mount_doors
from octopus_desktop.server.operator_api import OperatorDoor
from octopus_desktop.server.runs import Runs
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import FederationDb
from octopus_desktop.system.paths import FederationHome
from octopus_desktop.wire.canonical import new_id

log = logging.getLogger(__name__)

STOP_GRACE_S = 1.0
SAVE_LINKS_S = 60.0


class Federation:
    """Everything that one federation server holds.

    Attributes: ``config``, ``identity``, ``db``, ``blobs``, ``mail``, ``members``, ``catalogue``, ``runs``, ``links``
    (the carriers' server ends).
    """

    def __init__(self, home: FederationHome, config: ServerConfig) -> None:
        self.home, self.config = home, config
        self.identity = load_identity(home)
        self.db = FederationDb(config.database)
        self.blobs = BlobStore(home.blobs)
        self.mail = ServerMail(home, self.db, self.blobs, self.identity.signing)
        self.members = Members(self.db, self.identity.authority, self.identity.signing, config.address)
        self.catalogue = Catalogue(self.db, self.blobs)
        self.runs = Runs(home, config.name, self.db, self.blobs, self.mail, self.catalogue)
        self.links: list[ServerEnd] = []
        self._operator = OperatorDoor(self)
        self._saving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind both doors and serve. Raises OCT-PORT-USED."""
        self._server = make_server(self.config, self.identity.authority)
        mount_doors(self._server, self.members, self.catalogue)
        self.links.append(
            GrpcServerEnd(
                server=self._server,
                owner=self.mail,
                authenticate=self.members.authenticate,
                version=__version__,
                boot_id=new_id("b"),
            )
        )
        self.mail.notify = self._notify
        self.members.on_revoked = self._on_revoked
        for end in self.links:
            await end.start()
        await self.runs.start()
        await self._server.start()
        await self._operator.start(self.home.socket)
        self._saving = asyncio.create_task(self._save_links())
        log.info("%s listens on %s (silos reach it as %s)", self.config.name, self.config.listen, self.config.address)

    async def stop(self) -> None:
        if self._saving:
            self._saving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._saving
        await self._operator.stop()
        await self.runs.close()
        for end in self.links:
            await end.stop(STOP_GRACE_S)
        await self._server.stop(STOP_GRACE_S)
        self.mail.close()
        self.db.close()

    def _notify(self, peer: str) -> None:
        for end in self.links:
            end.outbox_changed(peer)

    def _on_revoked(self, name: str, reason: str) -> None:
        log.warning("%s is revoked: %s", name, reason)
        self.runs.member_removed(name, reason)
        for end in self.links:
            end.disconnect(name, self.members.revoked(name, reason))

    async def _save_links(self) -> None:
        while True:
            await asyncio.sleep(SAVE_LINKS_S)
            self.mail.save_links()
