"""The federation's parts, wired: one object that the doors share. Its constructor opens, ``start`` serves."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from octopus_desktop import __version__
from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.parties import ServerParty
from octopus_desktop.communication.settings import GrpcOffer
from octopus_desktop.server.carriers import Carriers
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

    Attributes: ``config``, ``identity``, ``db``, ``blobs``, ``mail``, ``members``, ``catalogue``, ``runs``,
    ``carriers``.
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
        self._boot_id = new_id("b")
        authority, signing = self.identity.authority, self.identity.signing
        self.carriers = Carriers(
            home,
            config.carriers,
            party=ServerParty(federation=authority.fingerprint, signing=signing, member_key=self.members.member_key),
            view=self.mail.view,
            wanted=self.runs.carriers_wanted,
            boot_id=self._boot_id,
        )
        self._operator = OperatorDoor(self)
        self._saving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind both doors and serve. Raises OCT-PORT-USED."""
        self._server = make_server(self.config, self.identity.authority)
        mount_doors(self._server, self.members, self.catalogue)
        offered = self.config.carriers["grpc"].offer
        assert isinstance(offered, GrpcOffer)
        end = GrpcServerEnd(
            server=self._server,
            owner=self.mail.view("grpc"),
            authenticate=self.members.authenticate,
            version=__version__,
            boot_id=self._boot_id,
            chunk_bytes=offered.chunk_bytes,
            carriers=self.carriers.offers,
        )
        self.mail.notify = self.carriers.outbox_changed
        self.members.on_revoked = self._on_revoked
        self.members.offers = self.carriers.offers
        self.runs.offered, self.runs.carriers_changed = self.carriers.offered, self.carriers.settle
        await self.runs.start()
        await self.carriers.start(end)
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
        await self.carriers.stop()
        await self._server.stop(STOP_GRACE_S)
        self.mail.close()
        self.db.close()

    def _on_revoked(self, name: str, reason: str) -> None:
        log.warning("%s is revoked: %s", name, reason)
        self.runs.member_removed(name, reason)
        self.carriers.disconnect(name, self.members.revoked(name, reason))

    async def _save_links(self) -> None:
        while True:
            await asyncio.sleep(SAVE_LINKS_S)
            self.mail.save_links()
