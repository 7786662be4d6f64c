"""The carriers of one federation as the silo sees them: what is offered, this silo's own side, and by which a run goes.

Functions over the federation's entity. Pure: no I/O and no secret.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence

from octopus_desktop.communication import registry
from octopus_desktop.communication.settings import (
    CONTROL,
    MpiOffer,
    Offer,
    OwnSide,
    TorchRpcOffer,
    choose,
    offer,
)
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer

log = logging.getLogger(__name__)

WITHOUT_ROUTE = ("mqtt_s3", "mqtt")  # what can carry control where the server's port is out of reach, best first


def view(federation: pb.Federation, name: str) -> pb.CarrierView | None:
    """The federation's own row of this carrier; changing it changes the federation."""
    return next((v for v in federation.carriers if v.name == name), None)


def told(federation: pb.Federation) -> dict[str, dict[str, object]]:
    """What is offered, for the record: settings by carrier, without certificates."""
    return {
        c.name: {k: v for k, v in json.loads(c.settings_json).items() if not k.endswith("_pem")}
        for c in federation.carriers
    }


def own_side(carrier: pb.CarrierView) -> OwnSide:
    """What the administrator set, else nothing set."""
    return OwnSide.from_dict(json.loads(carrier.own_json or "{}"))


def offer_of(carrier: pb.CarrierView) -> Offer:
    return offer(carrier.name, carrier.settings_json)


def merge(federation: pb.Federation, offers: Iterable[CarrierOffer]) -> bool:
    """Bring the rows to what the federation offers now; this silo's own sides stay. True when something changed.

    An offer that this version cannot read is left out, with a line in the log. Nothing offered means an older server:
    then all stays. The control carrier stays too, though it is offered no longer: the link shows what is wrong.
    """
    known: dict[str, str] = {}
    for one in offers:
        try:
            known[one.name] = offer(one.name, one.settings_json).to_json()
        except UserError as error:
            log.warning("the carrier %.40r of %s cannot be used here: %s", one.name, federation.name, error)
    if not known:
        return False
    kept = [v for v in federation.carriers if v.name in known or v.name == federation.carrier]
    changed = len(kept) != len(federation.carriers)
    for v in kept:
        if v.name in known and v.settings_json != known[v.name]:
            v.settings_json, changed = known[v.name], True
    for name in known:
        if all(v.name != name for v in kept):
            kept.append(new_view(name, known[name]))
            changed = True
    if changed:
        del federation.carriers[:]
        federation.carriers.extend(kept)
    return changed


def new_view(name: str, settings_json: str = "{}", own_json: str = "") -> pb.CarrierView:
    title, settings = registry.carrier(name).title, offer(name, settings_json).to_json()
    return pb.CarrierView(name=name, title=title, settings_json=settings, own_json=own_json, link="idle")


def reason_not_ready(carrier: pb.CarrierView) -> str:
    """Why this silo cannot use the carrier as it is set up, or ""."""
    try:
        offered, own = offer_of(carrier), own_side(carrier)
    except UserError as error:
        return f"{error.what} {error.why}"
    if isinstance(offered, MpiOffer):
        return ""  # nothing of the silo's own is needed: whoever starts a world on its machine has said so
    if not carrier.own_json:  # for PyTorch RPC too: whether that network is to be trusted, this silo says
        return "it is not set up here" if offered.name != "grpc" else "this silo was enrolled without a route to it"
    if own.username and not carrier.secret_kept:
        return f"no password of the user {own.username!r} is kept"
    return ""


def asked(config_json: str) -> str:
    """The carrier that a run's configuration asks for; "" when it leaves the choice."""
    try:
        name = json.loads(config_json).get("carrier", "")
    except (ValueError, AttributeError):
        return ""
    return name if isinstance(name, str) and name != "auto" else ""


def agreed(federation: pb.Federation, config_json: str) -> str:
    """The carrier of a run's data. Raises OCT-CARRIER-REFUSED with the reason."""
    ready = {v.name: reason_not_ready(v) for v in federation.carriers}
    return choose(asked(config_json), _readable(federation.carriers), federation.carrier, ready)


def words(federation: pb.Federation, config_json: str) -> str:
    """How a run's messages travel, for the administrator's eyes."""
    name = asked(config_json) or federation.carrier
    carrier = view(federation, name)
    if carrier is None:
        return f"The job asks for the carrier {name}."
    text = f"Messages travel by {_title(carrier.title)}"
    if name != federation.carrier and (control := view(federation, federation.carrier)):
        text = f"Models and updates travel by {_title(carrier.title)}; control by {_title(control.title)}"
    offered = offer_of(carrier)
    if isinstance(offered, TorchRpcOffer | MpiOffer):
        sealed = offered.sealed or not own_side(carrier).accept_unsealed
        text += ", sealed end to end" if sealed else ", NOT sealed: whoever reads that network reads the updates"
    return f"{text}."


def needs_control(name: str) -> UserError:
    return UserError(
        "OCT-CARRIER-REFUSED",
        f"Control cannot go by {name}.",
        f"It moves a run's data alone; control goes by {', '.join(CONTROL)}.",
        "Choose one of these for control.",
    )


def _readable(carriers: Sequence[pb.CarrierView]) -> list[Offer]:
    found = []
    for carrier in carriers:
        try:
            found.append(offer_of(carrier))
        except UserError:
            continue
    return found


def _title(title: str) -> str:
    return title.split(", sealed")[0]
