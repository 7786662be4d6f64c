"""Offers that arrive: kept, verified before they are shown, expired in time. Decides nothing about them."""

from __future__ import annotations

import asyncio
import json
import logging
import time

from octopus_desktop.daemon import reducer
from octopus_desktop.daemon.core import Silo, when_possible
from octopus_desktop.daemon.services.blob_uses import BlobUses
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.canonical import canonical_json, digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Envelope, Offer

log = logging.getLogger(__name__)
LOOK_MOST_S = 3600.0


class Offers:
    def __init__(self, silo: Silo, lives: Lives, packages: Packages, uses: BlobUses) -> None:
        self._silo, self._lives, self._packages, self._uses = silo, lives, packages, uses
        self._checks: dict[str, asyncio.Task[None]] = {}
        self._came = asyncio.Event()

    def came(self, federation_id: str, envelope: Envelope) -> bool:
        """Keep an offer; the same one again is nothing new."""
        if self._silo.get("offer", envelope.run_id) is not None:
            return False
        offer = Offer.FromString(envelope.body)
        config = _config(offer)
        kept = pb.SiloOffer(
            id=envelope.run_id,
            federation_id=federation_id,
            offer=offer,
            state="fetching",
            received_at=round(time.time(), 3),
        )
        with self._silo.change():
            self._silo.put("offer", kept)
            self._uses.add(envelope.run_id, "package", 0, offer.package.digest)
            self._lives.apply(envelope.run_id, reducer.OfferCame(federation_id, config.rounds if config else 0))
        self._came.set()
        return True

    def check(self, run_id: str) -> None:
        """Verify the package; the offer is shown for decision only after that."""
        if run_id not in self._checks:
            task = asyncio.create_task(self._check(run_id))
            self._checks[run_id] = task
            task.add_done_callback(lambda _: self._checks.pop(run_id, None))

    async def _check(self, run_id: str) -> None:
        offer = self._silo.need("offer", run_id)
        try:
            self._must_fit(offer)
            await self._packages.verify(offer.offer)
        except UserError as error:
            bad = reducer.PackageBad(error.code, f"{error.what} {error.why}".strip())
            when_possible(self._lives.apply, run_id, bad)
            return
        except Exception as error:  # whatever a hostile package breaks, the daemon goes on
            log.exception("the package of %s could not be verified", run_id)
            bad = reducer.PackageBad("OCT-JOB-ZIP", f"It could not be verified: {error!r}")
            when_possible(self._lives.apply, run_id, bad)
            return
        when_possible(self._is_good, run_id)

    def _is_good(self, run_id: str) -> None:
        with self._silo.change():
            offer = self._silo.need("offer", run_id)
            offer.signature_verified = True
            self._silo.put("offer", offer)
            self._lives.apply(run_id, reducer.PackageGood())

    def _must_fit(self, offer: pb.SiloOffer) -> None:
        """What the offer says must hold together."""
        said = offer.offer
        federation = self._silo.need("federation", offer.federation_id)
        why = ""
        if digest(said.config_json.encode()) != said.config_digest:
            why = "its configuration does not fit the digest that it names"
        elif _config(said) is None:
            why = "its configuration cannot be read by this version"
        elif federation.silo_name not in said.silos:
            why = f"it is not for {federation.silo_name}"
        if why:
            raise UserError(
                "OCT-JOB-TAMPERED", "The offer contradicts itself.", f"Of the offer, {why}.", "Tell the coordinator."
            )

    async def expire_in_time(self) -> None:
        """Sleep until the next offer is past its time, or another offer comes."""
        while True:
            self._came.clear()
            now, next_at = time.time(), time.time() + LOOK_MOST_S
            for life in self._lives.open():
                offer = self._silo.get("offer", life.run_id)
                if offer is None or life.offer not in reducer.OFFER_OPEN or not offer.offer.expires_at:
                    continue
                if offer.offer.expires_at <= now:
                    when_possible(self._lives.apply, life.run_id, reducer.OfferExpired())
                else:
                    next_at = min(next_at, offer.offer.expires_at)
            try:
                await asyncio.wait_for(self._came.wait(), max(0.05, next_at - time.time()))
            except TimeoutError:
                pass


def _config(offer: Offer) -> RunConfig | None:
    try:
        value = json.loads(offer.config_json)
        config = RunConfig.from_dict(value)
        return config if canonical_json(value).decode() == offer.config_json else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
