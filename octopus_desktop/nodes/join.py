"""A further machine joins a silo: makes its key, asks with the code's certificate, and keeps what it is given.

The code is a one-time invitation of the silo's own CA (``identity.invitations``): it holds the daemon's address, the
CA's certificate and a key that opens the port once. Knows no daemon's inside.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from octopus_desktop import __version__
from octopus_desktop.communication.grpc_wire import ClientCredentials, client_channel, to_user_error
from octopus_desktop.identity import certificates, invitations
from octopus_desktop.identity.authority import NODE
from octopus_desktop.identity.secrets import SecretStore
from octopus_desktop.nodes import PROTOCOL, SERVICE
from octopus_desktop.nodes.report import fill
from octopus_desktop.system.inventory import machine
from octopus_desktop.system.paths import NodeHome, private_dir
from octopus_desktop.wire.canonical import canonical_json, fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import Node
from octopus_desktop.wire.pb.node_pb2 import AgentHello, JoinReply, JoinRequest, NodeRenewReply, NodeRenewRequest

JOIN_S = 20.0
KEY = "node/key"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where this machine belongs. Holds no secret."""

    address: str
    node_id: str
    name: str
    silo: str
    ca_pem: str
    certificate_pem: str
    fingerprint: str

    def renew_in_s(self) -> float:
        """Until two thirds of the certificate's time are over."""
        certificate = certificates.load(self.certificate_pem.encode())
        begun = (certificate.not_valid_before_utc + certificates.CLOCK_SKEW).timestamp()  # when it was issued
        ends = certificate.not_valid_after_utc.timestamp()
        return max(0.0, ends - (ends - begun) / 3 - time.time())

    def good_until(self) -> str:
        return f"{certificates.load(self.certificate_pem.encode()).not_valid_after_utc:%Y-%m-%d %H:%M} UTC"

    def check_current(self) -> None:
        """Raises OCT-CERT-EXPIRED."""
        if certificates.load(self.certificate_pem.encode()).not_valid_after_utc.timestamp() < time.time():
            raise UserError(
                "OCT-CERT-EXPIRED",
                "This node's certificate has ended.",
                f"It was good until {self.good_until()}, and the node was not connected while it could be renewed.",
                "Remove the node at its silo, delete this node's directory, and join anew with a new code.",
            )

    def write(self, path: Path) -> None:
        half = path.with_suffix(".new")
        half.write_bytes(canonical_json(self.__dict__))
        os.replace(half, path)

    @classmethod
    def read(cls, home: NodeHome) -> Place:
        """Raises OCT-STATE-MISSING."""
        try:
            return cls(**json.loads(home.place.read_bytes()))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                "OCT-STATE-MISSING",
                "This machine has not joined a silo.",
                f"{home.place} is not there or cannot be read.",
                "Join with the code that 'octopus node invite' gives on the silo's first machine.",
            ) from error


def credentials(place: Place, store: SecretStore) -> ClientCredentials:
    """What the agent shows and trusts. Raises OCT-SECRET-STORE."""
    key = store.get(KEY)
    if key is None:
        raise UserError(
            "OCT-SECRET-STORE",
            "This node's key is not in the store of secrets.",
            f"Nothing is kept there as {KEY!r}.",
            "Join anew with a new code.",
        )
    return ClientCredentials(root=place.ca_pem.encode(), key=key, chain=place.certificate_pem.encode())


async def join(home: NodeHome, store: SecretStore, code: str) -> Place:
    """Join with a code. The key is kept before anything is asked, so that a lost answer can be asked for again.

    Raises:
        UserError: OCT-STATE-EXISTS when this machine belongs to a silo already; OCT-ENROL-INVALID, -EXPIRED, -USED,
            -UNKNOWN for the code; OCT-LINK-DOWN or OCT-LINK-TLS when the daemon is not reached.
    """
    if home.place.exists():
        raise UserError(
            "OCT-STATE-EXISTS",
            "This machine has joined a silo already.",
            f"{home.place} says which.",
            "To join another, remove the node there and delete that file here.",
        )
    invitation = invitations.decode(code, (NODE,))
    private_dir(home.root)
    kept = await asyncio.to_thread(store.get, KEY)
    key = certificates.key_from_pem(kept) if kept else certificates.new_key()
    if not kept:
        await asyncio.to_thread(store.set, KEY, certificates.key_to_pem(key))
    facts = Node()
    fill(facts, await asyncio.to_thread(machine, home.root))
    request = JoinRequest(
        csr_der=certificates.make_csr(key, "node"),
        protocol=PROTOCOL,
        hello=AgentHello(protocol=PROTOCOL, version=__version__),
        machine=facts,
    )
    key_pem, chain = invitations.tls_identity(invitation)
    ca_pem = certificates.to_pem(invitation.ca_der)
    reply = await _ask(invitation.server, ClientCredentials(root=ca_pem, key=key_pem, chain=chain), request)
    _check_ours(reply.certificate_der, key, invitation.ca_der)
    place = Place(
        address=invitation.server,
        node_id=reply.node_id,
        name=reply.name,
        silo=invitation.federation,
        ca_pem=ca_pem.decode(),
        certificate_pem=certificates.to_pem(reply.certificate_der).decode(),
        fingerprint=fingerprint(certificates.public_der(key.public_key())),
    )
    place.write(home.place)
    return place


async def renew(home: NodeHome, place: Place, channel: grpc.aio.Channel | None, key_pem: bytes) -> Place:
    """A fresh certificate for the same key, over the agent's own link; kept before it is returned.

    Raises UserError, grpc.RpcError; OCT-ENROL-CA when what came is not for this key and of this silo.
    """
    assert channel is not None
    call = channel.unary_unary(
        f"/{SERVICE}/Renew",
        request_serializer=NodeRenewRequest.SerializeToString,
        response_deserializer=NodeRenewReply.FromString,
    )
    key = certificates.key_from_pem(key_pem)
    reply: NodeRenewReply = await call(NodeRenewRequest(csr_der=certificates.make_csr(key, "node")), timeout=JOIN_S)
    _check_ours(reply.certificate_der, key, certificates.to_der(certificates.load(place.ca_pem.encode())))
    fresh = replace(place, certificate_pem=certificates.to_pem(reply.certificate_der).decode())
    fresh.write(home.place)
    return fresh


def _check_ours(certificate_der: bytes, key: Any, ca_der: bytes) -> None:
    if certificates.load(certificate_der).public_key() != key.public_key():
        raise UserError(
            "OCT-ENROL-CA", "The silo's answer is not for this machine's key.", "", "Ask its administrator for a code."
        )
    certificates.verify_issued(certificate_der, ca_der)


async def _ask(address: str, credentials: ClientCredentials, request: JoinRequest) -> JoinReply:
    channel = client_channel(address, credentials)
    call = channel.unary_unary(
        f"/{SERVICE}/Join",
        request_serializer=JoinRequest.SerializeToString,
        response_deserializer=JoinReply.FromString,
    )
    try:
        reply: JoinReply = await call(request, timeout=JOIN_S)
        return reply
    except grpc.RpcError as error:
        raise to_user_error(error, address) from error
    finally:
        await channel.close(None)
