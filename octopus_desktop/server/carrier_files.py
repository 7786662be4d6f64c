"""What the server is told of its carriers, as files: tables ``[carriers.NAME]`` of federation.toml, which people read
and change, and secrets in ``keys/`` (0600), which no command ever prints. Starts nothing."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from octopus_desktop.communication.settings import GrpcOffer, MqttOffer, MqttS3Offer, Offer, Secrets, offer
from octopus_desktop.system.paths import FederationHome, private_dir
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer

PASSWORD, STORE = "password", "store"


@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierConfig:
    """One carrier that the federation offers. ``username``: the server's own at the broker; ``store_key_id``: its
    credentials at the object store, with which it signs URLs."""

    offer: Offer
    username: str = ""
    store_key_id: str = ""

    @property
    def name(self) -> str:
        return self.offer.name

    def to_offer(self) -> CarrierOffer:
        """What silos are told: no user and no secret."""
        return CarrierOffer(name=self.name, settings_json=self.offer.to_json())


def read_carriers(tables: Any) -> dict[str, CarrierConfig]:
    """From the TOML's ``carriers``; gRPC is always among them. Raises OCT-CONFIG-INVALID, naming the mistake."""
    if not isinstance(tables, Mapping):
        raise invalid("carriers", "it is no table", "Write one table for each carrier, such as [carriers.mqtt].")
    found = {"grpc": CarrierConfig(offer=GrpcOffer())}
    for name, table in tables.items():
        if not isinstance(table, Mapping):
            raise invalid(name, "it is no table", f"Write it as [carriers.{name}].")
        settings = dict(table)
        username, key_id = settings.pop("username", ""), settings.pop("store_key_id", "")
        if not isinstance(username, str) or not isinstance(key_id, str):
            raise invalid(name, "username and store_key_id are texts", "Put them in quotes.")
        found[name] = CarrierConfig(offer=offer(name, settings), username=username, store_key_id=key_id)
    check_together(found)
    return found


def check_together(carriers: Mapping[str, CarrierConfig]) -> None:
    """Two carriers at one broker would hear each other's messages: each needs topics of its own."""
    places: dict[tuple[str, int, str], str] = {}
    for name, config in carriers.items():
        if isinstance(config.offer, MqttOffer):
            place = (config.offer.host, config.offer.port, config.offer.topics)
            if place in places:
                raise invalid(
                    name,
                    f"its topics {config.offer.topics!r} are those of {places[place]} at the same broker",
                    f"Give each its own, for example topics = {name!r}.",
                )
            places[place] = name


def check_complete(home: FederationHome, config: CarrierConfig) -> None:
    """Raises OCT-CONFIG-INVALID when a user or key has no secret, or the store no key."""
    kept = secrets_of(home, config.name)
    if config.username and not kept.password:
        raise invalid(config.name, f"no password of the user {config.username!r} is kept", "Give it with the user.")
    if isinstance(config.offer, MqttS3Offer) and not (config.store_key_id and kept.store_secret):
        raise invalid(
            config.name,
            "the server has no credentials for the object store",
            "Give a key id and its secret that may read, write and delete below the prefix.",
        )


# federation.toml


def write_carrier(home: FederationHome, name: str, config: CarrierConfig | None) -> None:
    """Put the carrier's table in place of the one that is there; None takes it away. The rest of the file stays.

    Raises OCT-CONFIG-INVALID when the file is written in a way that this cannot change without harm.
    """
    before = home.config.read_text()
    wanted = tomllib.loads(before)
    tables = wanted.setdefault("carriers", {})
    tables.pop(name, None)
    text = _without(before, name)
    if config is not None:
        table = _table(config)
        tables[name] = tomllib.loads(table)["carriers"][name]
        text = f"{text.rstrip()}\n\n{table}"
    try:
        same = {"carriers": {}, **tomllib.loads(text)} == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise invalid(
            name, f"{home.config.name} was written by hand in a form that is not changed by itself",
            f"Write the table [carriers.{name}] there yourself and start the server again.",
        )  # fmt: skip
    _replace(home.config, text.encode())


def _without(text: str, name: str) -> str:
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        head = line.strip()
        if head.startswith("["):
            inside = head.split("]")[0] == f"[carriers.{name}"
        if not inside:
            kept.append(line)
    return "".join(kept)


def _table(config: CarrierConfig) -> str:
    lines = [f"[carriers.{config.name}]"]
    for field in fields(config.offer):
        value = getattr(config.offer, field.name)
        if field.default is MISSING or value != field.default:
            lines.append(f"{field.name} = {_value(value)}")
    for key in ("username", "store_key_id"):
        if getattr(config, key):
            lines.append(f"{key} = {_value(getattr(config, key))}")
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)  # good TOML as well


# secrets


def secrets_of(home: FederationHome, name: str) -> Secrets:
    return Secrets(password=_read(home, name, PASSWORD), store_secret=_read(home, name, STORE))


def keep_secret(home: FederationHome, name: str, kind: str, value: bytes) -> None:
    """Raises OCT-CONFIG-INVALID when it is no text."""
    try:
        value.decode()
    except UnicodeDecodeError as error:
        raise invalid(name, "the secret is no text", "Give it in UTF-8.") from error
    private_dir(home.keys)
    _replace(_place(home, name, kind), value)


def restore_secrets(home: FederationHome, name: str, before: Secrets) -> None:
    """As they were before a change that failed."""
    for kind, value in ((PASSWORD, before.password), (STORE, before.store_secret)):
        if value:
            keep_secret(home, name, kind, value.encode())
        else:
            _place(home, name, kind).unlink(missing_ok=True)


def drop_secrets(home: FederationHome, name: str) -> None:
    for kind in (PASSWORD, STORE):
        _place(home, name, kind).unlink(missing_ok=True)


def _place(home: FederationHome, name: str, kind: str) -> Path:
    return home.keys / f"carrier.{name}.{kind}"


def _read(home: FederationHome, name: str, kind: str) -> str:
    try:
        return _place(home, name, kind).read_text().rstrip("\r\n")
    except FileNotFoundError:
        return ""


def _replace(path: Path, content: bytes) -> None:
    """Written beside and put in place: a crash leaves the old one whole."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, path)


def invalid(name: str, why: str, next_step: str) -> UserError:
    return UserError(
        "OCT-CONFIG-INVALID", f"The carrier {name} cannot be offered like this.", f"{why[0].upper()}{why[1:]}.",
        next_step,
    )  # fmt: skip
