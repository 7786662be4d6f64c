"""What carriers are told: the federation's offers, which every silo may read, and each silo's own side of them.

Secrets are never here: a broker's password and an S3 secret go from the store of secrets straight into the end that
needs them, as ``Secrets``. Everything has a form in plain JSON, and foreign JSON is checked where it comes in.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import urlsplit

from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError

MIB = 1 << 20
CONTROL = ("grpc", "mqtt", "mqtt_s3")  # carriers that may carry control; the others carry a run's data alone
DATA = ("grpc", "mqtt", "mqtt_s3", "torch_rpc", "mpi")


class _Settings:
    name: ClassVar[str]

    def to_json(self) -> str:
        return canonical_json(asdict(self)).decode()  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """Raises OCT-CONFIG-INVALID, naming the key that is unknown, missing or of another type."""
        known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]
        for key, item in value.items():
            if key not in known:
                raise _bad(cls.name, key, f"it is not one of {', '.join(known)}")
            default = known[key].default
            wanted = type(default) if isinstance(default, bool | int | str) else None
            if wanted is bool and not isinstance(item, bool):
                raise _bad(cls.name, key, f"{item!r} is neither true nor false")
            if wanted is int and (not isinstance(item, int) or isinstance(item, bool)):
                raise _bad(cls.name, key, f"{item!r} is no whole number")
            if wanted is str and not isinstance(item, str):
                raise _bad(cls.name, key, f"{item!r} is no text")
            if wanted is None and not (isinstance(item, list | tuple) and all(isinstance(i, str) for i in item)):
                raise _bad(cls.name, key, f"{item!r} is no list of texts")
        settings = cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in value.items()})
        settings.check()
        return settings

    def check(self) -> None:
        """Raise OCT-CONFIG-INVALID for values that cannot be."""

    def _need(self, **given: str) -> None:
        for key, value in given.items():
            if not value:
                raise _bad(self.name, key, "it is empty")

    def _need_port(self, port: int) -> None:
        if not 0 < port < 65536:
            raise _bad(self.name, "port", f"{port} is no TCP port")


@dataclass(frozen=True, slots=True, kw_only=True)
class GrpcOffer(_Settings):
    """gRPC to the federation's one port; host and port are those of the enrolment."""

    name: ClassVar[str] = "grpc"
    chunk_bytes: int = MIB

    def check(self) -> None:
        if not 64 << 10 <= self.chunk_bytes <= 3 * MIB:
            raise _bad(self.name, "chunk_bytes", "it must lie between 65536 and 3145728")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOffer(_Settings):
    """A broker that both sides reach. ``ca_pem``: its CA where that is not one of the system's; ``topics``: the first
    level of all topics; ``packet_bytes``: largest PUBLISH, below the broker's own limit."""

    name: ClassVar[str] = "mqtt"
    host: str = ""
    port: int = 8883
    tls: bool = True
    ca_pem: str = ""
    topics: str = "octopus"
    packet_bytes: int = MIB

    def check(self) -> None:
        self._need(host=self.host, topics=self.topics)
        self._need_port(self.port)
        if any(sign in self.topics for sign in "+#$\0") or self.topics.strip("/") != self.topics:
            raise _bad(self.name, "topics", f"{self.topics!r} is no topic level")
        if not 64 << 10 <= self.packet_bytes <= 64 * MIB:
            raise _bad(self.name, "packet_bytes", "it must lie between 65536 and 67108864")


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttS3Offer(MqttOffer):
    """Control over the broker, blobs through a bucket. ``endpoint``: the store's URL as silos reach it; ``prefix``: of
    object names; ``url_s``: how long a signed URL is good; ``part_bytes``: of a multipart upload (at least 5 MiB)."""

    name: ClassVar[str] = "mqtt_s3"
    endpoint: str = ""
    bucket: str = ""
    region: str = "us-east-1"
    prefix: str = "octopus/"
    store_ca_pem: str = ""
    part_bytes: int = 16 * MIB
    url_s: int = 900

    def check(self) -> None:
        MqttOffer.check(self)
        self._need(endpoint=self.endpoint, bucket=self.bucket)
        if not self.endpoint.startswith(("http://", "https://")):
            raise _bad(self.name, "endpoint", f"{self.endpoint!r} does not begin with https:// or http://")
        if not 5 * MIB <= self.part_bytes <= 1024 * MIB:
            raise _bad(self.name, "part_bytes", "S3 takes parts from 5 MiB on; it must be at most 1 GiB")
        if not 10 <= self.url_s <= 7 * 86400:
            raise _bad(self.name, "url_s", "it must lie between 10 seconds and 7 days")


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchRpcOffer(_Settings):
    """PyTorch RPC inside a trusted network. ``host`` and ``port``: where the server's endpoint holds the rendezvous;
    ``networks``: CIDR blocks inside which either side's address must lie; ``sealed``: false lets blob bytes pass in
    the clear, with a silo that consents."""

    name: ClassVar[str] = "torch_rpc"
    host: str = ""
    port: int = 0
    networks: tuple[str, ...] = ()
    sealed: bool = True

    def check(self) -> None:
        self._need(host=self.host)
        self._need_port(self.port)
        if not self.networks:
            raise _bad(self.name, "networks", "it is empty; name the trusted networks, such as 10.20.0.0/16")
        for block in self.networks:
            try:
                ipaddress.ip_network(block)
            except ValueError as error:
                raise _bad(self.name, "networks", str(error)) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class MpiOffer(_Settings):
    """One MPI world of the server and the silos. ``sealed``: as in ``TorchRpcOffer``."""

    name: ClassVar[str] = "mpi"
    sealed: bool = True


Offer = GrpcOffer | MqttOffer | MqttS3Offer | TorchRpcOffer | MpiOffer
OFFERS: dict[str, type[Offer]] = {
    kind.name: kind for kind in (GrpcOffer, MqttOffer, MqttS3Offer, TorchRpcOffer, MpiOffer)
}


def offer(name: str, settings: str | Mapping[str, Any]) -> Offer:
    """An offer from its JSON or plain form. Raises OCT-CONFIG-INVALID."""
    if name not in OFFERS:
        raise _bad(name, "name", f"the carriers are {', '.join(OFFERS)}")
    try:
        value = json.loads(settings or "{}") if isinstance(settings, str) else settings
    except ValueError as error:
        raise _bad(name, "settings", f"they are no JSON: {error}") from error
    if not isinstance(value, Mapping):
        raise _bad(name, "settings", "they are no table")
    return OFFERS[name].from_dict(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnSide(_Settings):
    """A silo's own side of one carrier. ``proxy``: ``http://host:port`` of an HTTP CONNECT proxy; ``ca_file``: a CA of
    the site's own, beside the offered one; ``username``: at the broker (gRPC: at the proxy); ``store_key_id``: S3
    credentials of the silo's own ("": the server signs URLs); ``interface``: network interface for PyTorch RPC;
    ``accept_unsealed``: this silo's consent to ``sealed = false``."""

    name: ClassVar[str] = "own side"
    proxy: str = ""
    ca_file: str = ""
    username: str = ""
    store_key_id: str = ""
    interface: str = ""
    accept_unsealed: bool = False

    def check(self) -> None:
        if self.proxy and not self.proxy.startswith("http://"):
            raise _bad(self.name, "proxy", f"{self.proxy!r} does not begin with http://")
        if "@" in self.proxy:
            raise _bad(self.name, "proxy", "it holds a user or a password; they are set apart from it")
        try:
            if self.proxy and not (urlsplit(self.proxy).hostname and urlsplit(self.proxy).port):
                raise ValueError
        except ValueError:
            raise _bad(self.name, "proxy", f"{self.proxy!r} is not of the form http://host:port") from None


def own_ca(own: OwnSide) -> bytes:
    """The PEM certificates of ``own.ca_file``; empty without one. Raises OCT-CONFIG-INVALID."""
    if not own.ca_file:
        return b""
    try:
        pem = Path(own.ca_file).read_bytes()
    except OSError as error:
        raise _bad(own.name, "ca_file", f"{own.ca_file} cannot be read: {error.strerror}") from error
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise _bad(own.name, "ca_file", f"{own.ca_file} holds no certificate in PEM")
    return b"\n" + pem


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """What an end needs and nobody else may see; its ``repr`` shows nothing."""

    password: str = ""
    store_secret: str = ""

    def __repr__(self) -> str:
        return "Secrets(...)"


def choose(wanted: str, offered: Sequence[Offer], control: str, ready: Mapping[str, str]) -> str:
    """The carrier of a run's data, as silo and server both come to it.

    Args:
        wanted: what the job asks for: a carrier's name or "auto".
        offered: what the federation offers.
        control: the carrier by which this silo's control goes.
        ready: for each carrier that this silo could use, "" or why it cannot.

    Raises:
        UserError: OCT-CARRIER-REFUSED, with the reason and the next step.
    """
    name = control if wanted in ("", "auto") else wanted
    names = [o.name for o in offered]
    if name not in names and name != "grpc":
        raise UserError(
            "OCT-CARRIER-REFUSED",
            f"The job asks for the carrier {name}, which the federation does not offer.",
            f"It offers {', '.join(names) or 'grpc'}.",
            "Ask the coordinator to offer it ('octopus server carrier put'), or the author for carrier = \"auto\".",
        )
    if why := ready.get(name, "it is not set up here"):
        raise UserError(
            "OCT-CARRIER-REFUSED",
            f"This silo cannot use the carrier {name}.",
            why,
            f"Set it up with 'octopus federation carrier set FEDERATION {name}', or reject the job with this reason.",
        )
    return name


def with_sealing(offered: Offer, sealed: bool) -> Offer:
    """The same offer with ``sealed`` set, where it has such a choice."""
    return replace(offered, sealed=sealed) if isinstance(offered, TorchRpcOffer | MpiOffer) else offered


def _bad(carrier: str, key: str, why: str) -> UserError:
    return UserError(
        "OCT-CONFIG-INVALID",
        f"The settings of the carrier {carrier} cannot be used.",
        f"{key}: {why}.",
        "Correct this value and try again.",
    )
