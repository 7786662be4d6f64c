"""The carriers by name. One line here registers one; its modules are imported only when it is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from octopus_desktop.wire.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Carrier:
    """One way to move mail.

    Attributes:
        name: as in job.toml and in configuration.
        title: as people read it.
        silo, server: ``module:class`` of its two ends, implementing ``SiloEnd`` and ``ServerEnd``.
        sealed: whether blobs and bodies must be sealed end to end, for they pass through somebody else's hands.
        control: whether it may carry control (offers, decisions); each may carry a run's data.
    """

    name: str
    title: str
    silo: str
    server: str
    sealed: bool = False
    control: bool = True

    def silo_end(self) -> type[Any]:
        """The class of the silo's end; each carrier documents its own constructor."""
        return _load(self.silo)

    def server_end(self) -> type[Any]:
        return _load(self.server)


_ROOM = "octopus_desktop.communication"
CARRIERS: dict[str, Carrier] = {
    carrier.name: carrier
    for carrier in (
        Carrier(
            name="grpc",
            title="gRPC, mutual TLS",
            silo=f"{_ROOM}.grpc_silo:GrpcSiloEnd",
            server=f"{_ROOM}.grpc_server:GrpcServerEnd",
        ),
        Carrier(
            name="mqtt",
            title="MQTT 5, sealed, through a broker",
            silo=f"{_ROOM}.mqtt:MqttSiloEnd",
            server=f"{_ROOM}.mqtt:MqttServerEnd",
            sealed=True,
        ),
        Carrier(
            name="mqtt_s3",
            title="MQTT 5 and an S3 store, sealed",
            silo=f"{_ROOM}.mqtt_s3:MqttS3SiloEnd",
            server=f"{_ROOM}.mqtt_s3:MqttS3ServerEnd",
            sealed=True,
        ),
        Carrier(
            name="torch_rpc",
            title="PyTorch RPC in a trusted network",
            silo=f"{_ROOM}.torch_rpc:TorchRpcSiloEnd",
            server=f"{_ROOM}.torch_rpc:TorchRpcServerEnd",
            sealed=True,
            control=False,
        ),
        Carrier(
            name="mpi",
            title="MPI, one world",
            silo=f"{_ROOM}.mpi:MpiSiloEnd",
            server=f"{_ROOM}.mpi:MpiServerEnd",
            sealed=True,
            control=False,
        ),
        Carrier(
            name="loopback",
            title="In one process",
            silo=f"{_ROOM}.loopback:LoopbackSiloEnd",
            server=f"{_ROOM}.loopback:LoopbackServerEnd",
        ),
    )
}


def carrier(name: str) -> Carrier:
    """The carrier of this name. Raises OCT-CONFIG-INVALID, naming those there are."""
    try:
        return CARRIERS[name]
    except KeyError:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"There is no carrier {name!r}.",
            f"Known are: {', '.join(sorted(CARRIERS))}.",
            "Choose one of these as [communication] carrier in job.toml.",
        ) from None


def _load(place: str) -> type[Any]:
    module, _, name = place.partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found
