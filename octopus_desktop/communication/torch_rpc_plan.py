"""What an endpoint of PyTorch RPC is told by its end, and the networks inside which either may be. Knows no torch."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from octopus_desktop.wire.errors import UserError

SERVER = "server"
JOIN_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an endpoint is told: nothing secret.

    Attributes:
        name: "server", or the silo's enrolled name.
        host, port: numeric address of the rendezvous.
        address, interface: its own, inside ``networks``.
        networks: CIDR blocks outside which it does not open a port.
        descriptor: of the socket to its end.
    """

    name: str
    host: str
    port: int
    address: str
    interface: str
    networks: tuple[str, ...]
    descriptor: int = -1
    join_s: float = JOIN_S

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        value = json.loads(text)
        return cls(**{**value, "networks": tuple(value["networks"])})


def inside(address: str, networks: Sequence[str]) -> bool:
    """Whether a numeric address lies in one of the blocks."""
    found = ipaddress.ip_address(address)
    blocks = [ipaddress.ip_network(block) for block in networks]
    return any(found.version == block.version and found in block for block in blocks)


def outside(address: str, networks: Sequence[str]) -> UserError:
    return UserError(
        "OCT-RPC-NETWORK",
        "PyTorch RPC is not started: it may only be used inside the networks that the federation names.",
        f"The address {address} does not lie in {', '.join(networks)}.",
        "Set an interface inside them ('octopus federation carrier set … --interface'), or use another carrier.",
    )
