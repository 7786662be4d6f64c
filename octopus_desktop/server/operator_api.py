"""The operator's door: the ``Operator`` service on a private Unix socket. Translates, and decides nothing."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc.aio

from octopus_desktop import __version__
from octopus_desktop.identity.invitations import encode
from octopus_desktop.server.doors import mount
from octopus_desktop.server.run_wishes import state_of
from octopus_desktop.storage.blobs import BlobStore, read_chunks
from octopus_desktop.storage.federation_db import AuthorRow, MemberRow
from octopus_desktop.system.endpoint import OPTIONS, TOKEN_METADATA, create_token
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import federation_pb2 as fed
from octopus_desktop.wire.pb import operator_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef

if TYPE_CHECKING:
    from pathlib import Path

    from octopus_desktop.server.app import Federation

INVITATION_VALID_S = 7 * 86_400.0


class OperatorDoor:
    """One method a verb of ``octopus server …``."""

    def __init__(self, federation: Federation) -> None:
        self._f = federation
        self._token = ""
        self._server: grpc.aio.Server | None = None

    async def start(self, socket: Path) -> None:
        """Bind and serve. grpcio makes its socket readable for all, so the umask is narrowed while it binds."""
        self._token = create_token(socket)
        socket.unlink(missing_ok=True)
        self._server = grpc.aio.server(options=OPTIONS)
        mount(self._server, pb.DESCRIPTOR.services_by_name["Operator"], self, self._guard)
        before = os.umask(0o177)
        try:
            self._server.add_insecure_port(f"unix:{socket}")
        finally:
            os.umask(before)
        await self._server.start()

    async def stop(self) -> None:
        if self._server:
            await self._server.stop(0.5)

    def _guard(self, context: Any, method: str) -> str:
        given = dict(context.invocation_metadata() or ()).get(TOKEN_METADATA, "")
        if not hmac.compare_digest(str(given).encode(), self._token.encode()):
            raise UserError(
                "OCT-DAEMON-TOKEN",
                "The operator socket's token is missing or wrong.",
                "The server was restarted meanwhile, or the caller did not read the token file.",
                "Try again.",
            )
        return "operator"

    # the federation and its members

    async def Status(self, request: pb.StatusRequest, _: str) -> pb.StatusReply:
        silos = [m for m in self._f.db.members("silo") if m.state == "active"]
        return pb.StatusReply(
            federation=self._f.config.name,
            address=self._f.config.address,
            ca_fingerprint=self._f.identity.authority.fingerprint,
            silos=len(silos),
            silos_connected=sum(self._f.mail.is_up(m.name) for m in silos),
            runs_active=self._f.runs.active(),
            version=__version__,
            pid=os.getpid(),
        )

    async def Invite(self, request: pb.InviteRequest, _: str) -> pb.InviteReply:
        valid_s = request.valid_s or INVITATION_VALID_S
        if not valid_s > 0:
            raise UserError(
                "OCT-CONFIG-INVALID",
                "An invitation cannot be valid for no time.",
                f"Got {valid_s} seconds.",
                "Give a duration such as 7d.",
            )
        invitation = self._f.members.invite(request.role or "silo", request.name, valid_s)
        return pb.InviteReply(id=invitation.id, text=encode(invitation), expires_at=invitation.expires_at)

    async def Invitations(self, request: pb.InvitationsRequest, _: str) -> pb.InvitationsReply:
        rows = self._f.db.invitations()
        return pb.InvitationsReply(
            invitations=[
                pb.InvitationInfo(
                    id=row.id, role=row.role, name=row.name, created_at=row.created_at, expires_at=row.expires_at,
                    used_at=row.used_at, used_by=row.used_by,
                )
                for row in rows
            ]
        )  # fmt: skip

    async def Silos(self, request: pb.SilosRequest, _: str) -> pb.SilosReply:
        return pb.SilosReply(silos=[self._silo(row) for row in self._f.db.members("silo")])

    async def Revoke(self, request: pb.RevokeRequest, _: str) -> pb.SiloInfo:
        return self._silo(self._f.members.revoke(request.name, request.reason))

    async def Authors(self, request: pb.AuthorsRequest, _: str) -> pb.AuthorsReply:
        return pb.AuthorsReply(authors=[_author(row) for row in self._f.db.authors()])

    async def AddAuthor(self, request: pb.AddAuthorRequest, _: str) -> pb.AuthorInfo:
        return _author(self._f.members.add_author(request.name, request.key))

    # carriers

    async def Carriers(self, request: pb.CarriersRequest, _: str) -> pb.CarriersReply:
        return pb.CarriersReply(carriers=self._f.carriers.infos())

    async def PutCarrier(self, request: pb.PutCarrierRequest, _: str) -> pb.CarrierInfo:
        return await self._f.carriers.put(request)

    async def RemoveCarrier(self, request: pb.RemoveCarrierRequest, _: str) -> pb.CarriersReply:
        await self._f.carriers.remove(request.name)
        return pb.CarriersReply(carriers=self._f.carriers.infos())

    async def EnrolFile(self, request: pb.EnrolFileRequest, _: str) -> pb.EnrolFileReply:
        name, file = self._f.members.enrol_file(request.file)
        return pb.EnrolFileReply(file=file, name=name)

    # jobs and runs

    async def SubmitJob(self, request: AsyncIterator[fed.Chunk], _: str) -> fed.JobInfo:
        return await self._f.catalogue.submit(request)

    async def ListJobs(self, request: fed.JobsRequest, _: str) -> fed.JobsReply:
        return fed.JobsReply(jobs=self._f.catalogue.infos())

    async def StartRun(self, request: pb.StartRunRequest, _: str) -> pb.RunInfo:
        return await self._f.runs.start_run(request)

    async def ListRuns(self, request: pb.ListRunsRequest, _: str) -> pb.ListRunsReply:
        return pb.ListRunsReply(runs=self._f.runs.infos(request.state))

    async def GetRun(self, request: pb.GetRunRequest, _: str) -> pb.RunInfo:
        return self._f.runs.info(request.id)

    async def WatchRun(self, request: pb.GetRunRequest, _: str) -> AsyncIterator[pb.RunInfo]:
        async for info in self._f.runs.watch(request.id):
            yield info

    async def StopRun(self, request: pb.StopRunRequest, _: str) -> pb.RunInfo:
        return self._f.runs.stop_run(request.id, request.reason)

    async def ExportModel(self, request: pb.ExportModelRequest, _: str) -> AsyncIterator[fed.Chunk]:
        run = self._f.runs.find(request.run_id)
        digest = self._f.runs.model(run, request.round, best=request.best)[1]
        async for chunk in self._chunks(run.id, digest):
            yield chunk

    async def ExportState(self, request: pb.ExportModelRequest, _: str) -> AsyncIterator[pb.StateChunk]:
        run = self._f.runs.find(request.run_id)
        digest = self._f.runs.model(run, request.round, best=request.best)[1]
        by = str(json.loads(run.config_json)["strategy"])
        state = state_of(run, self._f.mail.box(run.id).read("rounds"), digest, self._f.blobs)
        for slot, held in sorted(state.items()):
            async for chunk in self._chunks(run.id, held):
                first = chunk.HasField("blob")
                yield pb.StateChunk(slot=slot if first else "", chunk=chunk, strategy=by if first else "")

    async def _chunks(self, run_id: str, digest: str) -> AsyncIterator[fed.Chunk]:
        store: BlobStore = self._f.blobs
        path, size = store.path(digest), store.size(digest)
        first: BlobRef | None = BlobRef(digest=digest, size=size)
        chunks = read_chunks(path)
        while (chunk := await asyncio.to_thread(_next, chunks)) is not None:
            yield fed.Chunk(blob=first, data=chunk, run_id=run_id if first else "")
            first = None

    def _silo(self, row: MemberRow) -> pb.SiloInfo:
        link = self._f.mail.link(row.name)
        return pb.SiloInfo(
            name=row.name,
            organisation=row.organisation,
            contact=row.contact,
            state=row.state,
            connected=self._f.mail.is_up(row.name),
            last_seen=row.last_seen,
            enrolled_at=row.enrolled_at,
            certificate_expires=row.certificate_expires,
            fingerprint=row.fingerprint,
            bytes_in=row.bytes_in,
            bytes_out=row.bytes_out,
            latency_ms=link.latency_ms if link else 0.0,
            carrier=self._f.mail.control(row.name),
            warnings=self._f.db.audit_problems(row.name),
        )


def _next(chunks: Any) -> bytes | None:
    chunk = next(chunks, None)
    return None if chunk is None else bytes(chunk)


def _author(row: AuthorRow) -> pb.AuthorInfo:
    return pb.AuthorInfo(
        name=row.name, fingerprint=row.fingerprint, key=row.key, added_at=row.added_at, state=row.state
    )
