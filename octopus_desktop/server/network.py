"""The one network port: mutual TLS 1.3, with enrolment, the researcher's door and the silos' links behind it.

``main.least_tls`` sees to it that nothing below 1.3 is spoken. A caller is known by its certificate alone; each call
looks at the members' table, so that a revocation counts at once.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, server_credentials
from octopus_desktop.identity.authority import Authority
from octopus_desktop.server.catalogue import Catalogue
from octopus_desktop.server.doors import mount
from octopus_desktop.server.home import ServerConfig
from octopus_desktop.server.members import AUTHOR, SILO, Members
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import federation_pb2 as pb


class EnrolmentDoor:
    """``Enrolment``: with an invitation's certificate, or a member's own for Renew."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def guard(self, context: Any, method: str) -> Any:
        auth = context.auth_context()
        return self._members.authenticate(auth, (SILO, AUTHOR)) if method == "Renew" else self._members.peer(auth)

    async def Enrol(self, request: pb.EnrolRequest, caller: Any) -> pb.EnrolReply:
        return self._members.enrol(caller, request)

    async def Renew(self, request: pb.RenewRequest, caller: str) -> pb.EnrolReply:
        return self._members.renew(caller, request)


class ResearchDoor:
    """``Research``: for certificates of the role author."""

    def __init__(self, members: Members, catalogue: Catalogue) -> None:
        self._members, self._catalogue = members, catalogue

    def guard(self, context: Any, method: str) -> str:
        return self._members.authenticate(context.auth_context(), (AUTHOR,))

    async def Submit(self, request: AsyncIterator[pb.Chunk], caller: str) -> pb.JobInfo:
        return await self._catalogue.submit(request)

    async def Jobs(self, request: pb.JobsRequest, caller: str) -> pb.JobsReply:
        return pb.JobsReply(jobs=self._catalogue.infos())


def make_server(config: ServerConfig, authority: Authority) -> grpc.aio.Server:
    """A gRPC server bound to the port, not started. A fresh server certificate at each start never expires unseen.

    Raises OCT-PORT-USED, or OCT-CONFIG-INVALID when the interface cannot be bound.
    """
    require_free(config.bind, config.port)
    key, chain = authority.issue_server([config.host])
    server = grpc.aio.server(options=SERVER_OPTIONS)
    credentials = server_credentials(root=authority.ca_pem, key=key, chain=chain)
    try:
        bound = server.add_secure_port(config.listen, credentials)
    except RuntimeError:
        bound = 0
    if bound != config.port:
        raise _used(config.bind, config.port)
    return server


def mount_doors(server: grpc.aio.Server, members: Members, catalogue: Catalogue) -> None:
    services = pb.DESCRIPTOR.services_by_name
    enrolment, research = EnrolmentDoor(members), ResearchDoor(members, catalogue)
    mount(server, services["Enrolment"], enrolment, enrolment.guard)
    mount(server, services["Research"], research, research.guard)


def require_free(bind: str, port: int) -> None:
    """gRPC does not say why it could not bind: ask the operating system first."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((bind, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise _used(bind, port) from error
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"The server cannot listen on {bind}, port {port}.",
                str(error),
                "Correct 'bind' and 'port' in federation.toml; ports below 1024 need a privilege.",
            ) from error


def _used(bind: str, port: int) -> UserError:
    return UserError(
        "OCT-PORT-USED",
        f"Port {port} on {bind} is in use.",
        "Another program listens there.",
        "Stop it, or change 'port' in federation.toml (invitations made before name the old port).",
    )
