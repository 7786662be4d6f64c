"""Offered packages on disk: verified before anybody sees them, unpacked anew before each launch. Knows no decision."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import Offer

if TYPE_CHECKING:
    from octopus_desktop.jobs.package import VerifiedPackage


class Packages:
    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._known: dict[str, VerifiedPackage] = {}

    def path(self, offer: Offer) -> Path:
        return self._blobs.path(offer.package.digest)

    async def verify(self, offer: Offer) -> VerifiedPackage:
        """Everything that can be said against the package, said; its content is read each time.

        Raises OCT-JOB-*, OCT-BLOB-MISSING, OCT-SIGN-BAD.
        """
        from octopus_desktop.jobs import package as packages

        verified = await asyncio.to_thread(packages.verify, self.path(offer))
        packages.require_signature(verified)
        if verified.digest != offer.package.digest:
            raise UserError(
                "OCT-JOB-TAMPERED",
                "The package is not the one that was offered.",
                f"It has the digest {verified.digest[:16]}…, the offer names {offer.package.digest[:16]}….",
                "Reject it and tell the federation's coordinator.",
            )
        if verified.author_key != offer.author_key or fingerprint(verified.author_key) != offer.author_fingerprint:
            raise UserError(
                "OCT-JOB-AUTHOR",
                "The package is signed by another author than the offer names.",
                f"Its signature is by {fingerprint(verified.author_key)}, the offer names {offer.author_fingerprint}.",
                "Reject it and tell the federation's coordinator.",
            )
        self._known[verified.digest] = verified
        while len(self._known) > 32:
            self._known.pop(next(iter(self._known)))
        return verified

    async def seen(self, offer: Offer) -> VerifiedPackage:
        """What the last verification found; verifies when there was none in this life of the daemon."""
        return self._known.get(offer.package.digest) or await self.verify(offer)

    async def unpack(self, offer: Offer, place: Path) -> VerifiedPackage:
        """Verify, and unpack into a fresh ``place``, so that what runs is exactly what was verified."""
        from octopus_desktop.jobs import package as packages

        verified = await self.verify(offer)

        def fresh() -> None:
            shutil.rmtree(place, ignore_errors=True)
            packages.unpack(self.path(offer), place)

        await asyncio.to_thread(fresh)
        return verified
