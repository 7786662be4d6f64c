"""This silo's side of its federations' carriers: set up by the administrator, and agreed upon for each offer.

Knows which carrier a run may use and why not; links are ``links``', decisions ``approvals``'.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

from octopus_desktop.communication.settings import CONTROL, MqttS3Offer, Offer, OwnSide, own_ca
from octopus_desktop.daemon.core import Silo, when_possible
from octopus_desktop.daemon.services import carrier_views as views
from octopus_desktop.daemon.services.credentials import PASSWORD, STORE, Credentials
from octopus_desktop.daemon.services.links import GONE, Links
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer


class Carriers:
    """
    Attributes:
        changed: told when offers that wait may be answered otherwise now; set by ``app``.
    """

    def __init__(self, silo: Silo, lives: Lives, credentials: Credentials, links: Links) -> None:
        self._silo, self._lives, self._credentials, self._links = silo, lives, credentials, links
        self.changed: Callable[[], None] = lambda: None

    async def configure(self, request: pb.ConfigureCarrierRequest) -> pb.Federation:
        """Set this silo's side of a carrier; with ``control``, let control go by it. Empty secrets stay as they are.

        Raises OCT-FEDERATION-UNKNOWN, OCT-CARRIER-REFUSED (not offered, or no carrier for control), OCT-CONFIG-INVALID.
        """
        federation = self._known(request.id)
        carrier = self._offered(federation, request.name)
        own_json = request.own_json or carrier.own_json or "{}"
        own = read_own_side(own_json)
        if request.control and request.name not in CONTROL:
            raise views.needs_control(request.name)
        kept = await asyncio.to_thread(self._credentials.secrets, request.id, request.name)
        check_own_side(
            views.offer_of(carrier), own,
            password=bool(request.secret or kept.password), store=bool(request.store_secret or kept.store_secret),
        )  # fmt: skip
        for kind, secret in ((PASSWORD, request.secret), (STORE, request.store_secret)):
            if secret:
                await asyncio.to_thread(self._credentials.keep_secret, request.id, request.name, kind, secret)
        with self._silo.change():
            federation = self._known(request.id)
            carrier = self._offered(federation, request.name)
            carrier.own_json = own.to_json()
            carrier.secret_kept = bool(request.secret or kept.password)
            if request.control:
                self._use_for_control(federation, request.name)
            self._silo.put("federation", federation)
            detail = {
                "federation": federation.name, "carrier": request.name, "own": json.loads(carrier.own_json),
                "control": federation.carrier, "password changed": bool(request.secret),
                "store secret changed": bool(request.store_secret),
            }  # fmt: skip
            self._silo.record(self._silo.administrator, "carrier.configured", request.id, detail)
            self._silo.answer(federation)
        await self._links.arrange(request.id, anew=[request.name])
        self.changed()
        return self._known(request.id)

    def _use_for_control(self, federation: pb.Federation, name: str) -> None:
        """Inside ``change``. Runs that leave the choice move their data with it."""
        before, federation.carrier = federation.carrier, name
        for carrier in federation.carriers:
            carrier.control = carrier.name == name
        if before == name:
            return
        for life in self._lives.active():
            offer = self._silo.get("offer", life.run_id)
            if life.federation_id == federation.id and offer and not views.asked(offer.offer.config_json):
                run = self._silo.need("run", life.run_id)
                run.carrier = name
                self._silo.put("run", run)

    def offered(self, federation_id: str, offers: Sequence[CarrierOffer]) -> None:
        """What the server said at a greeting."""
        when_possible(self._merge, federation_id, offers)

    def _merge(self, federation_id: str, offers: Sequence[CarrierOffer]) -> None:
        federation = self._silo.get("federation", federation_id)
        if federation is None or federation.link in GONE:
            return
        federation = self._known(federation_id)
        if not views.merge(federation, offers):
            return
        used = {c.name: c.settings_json for c in self._known(federation_id).carriers if c.in_use}
        moved = [c.name for c in federation.carriers if used.get(c.name, c.settings_json) != c.settings_json]
        with self._silo.change():
            self._silo.put("federation", federation)
            self._silo.record("server", "carriers.offered", federation_id, {"carriers": views.told(federation)})
            if moved:
                text = f"{federation.name} has changed the settings of {', '.join(moved)}, by which you are connected."
                self._silo.notify("warning", "", text, "federation", federation_id)
        self._links.settle(federation_id)
        self.changed()

    # agreement

    def agree(self, offer: pb.SiloOffer) -> str:
        """The carrier of the offered run's data. Raises OCT-CARRIER-REFUSED with the reason."""
        return views.agreed(self._known(offer.federation_id), offer.offer.config_json)

    def refusal(self, offer: pb.SiloOffer) -> UserError | None:
        try:
            self.agree(offer)
        except UserError as error:
            return error
        return None

    def words(self, offer: pb.SiloOffer) -> str:
        return views.words(self._known(offer.federation_id), offer.offer.config_json)

    def _known(self, federation_id: str) -> pb.Federation:
        federation: pb.Federation = self._silo.need("federation", federation_id)
        return federation

    def _offered(self, federation: pb.Federation, name: str) -> pb.CarrierView:
        carrier = views.view(federation, name)
        if carrier is None:
            raise UserError(
                "OCT-CARRIER-REFUSED",
                f"{federation.name} does not offer the carrier {name!r}.",
                f"It offers {', '.join(v.name for v in federation.carriers)}.",
                "Choose one of these, or ask the coordinator to offer it.",
            )
        return carrier


def read_own_side(text: str) -> OwnSide:
    """What an administrator gave. Raises OCT-CONFIG-INVALID."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("they are no table")
    except ValueError as error:
        raise _invalid(
            f"The settings are no JSON table: {error}.", 'Write them like {"username": "st-mary"}.'
        ) from error
    return OwnSide.from_dict(value)


def check_own_side(offered: Offer, own: OwnSide, *, password: bool, store: bool) -> None:
    """What an end would stumble over later."""
    own_ca(own)
    if own.username and not password:
        why = f"No password of the user {own.username!r} is given, and none is kept."
        raise _invalid(why, "Give it too; it goes into the store of secrets.")
    if isinstance(offered, MqttS3Offer) and own.store_key_id and not store:
        why = f"No secret of the store's key {own.store_key_id!r} is given, and none is kept."
        raise _invalid(why, "Give it too, or leave the key away: the server signs URLs then.")


def _invalid(why: str, next_step: str) -> UserError:
    return UserError("OCT-CONFIG-INVALID", "The carrier cannot be set up like this.", why, next_step)
