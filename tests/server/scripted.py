"""A real server process with scripted silos: real certificates, the carrier's real silo end, real mailboxes; only the
administrator and the training are played by a few lines here."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np

from octopus_desktop.cli.common import Api, server_api
from octopus_desktop.cli.local_federation import free_port
from octopus_desktop.communication.contract import LinkPhase, LinkState
from octopus_desktop.communication.grpc_silo import GrpcSiloEnd
from octopus_desktop.communication.grpc_wire import ClientCredentials, client_channel, to_user_error
from octopus_desktop.identity import certificates, envelopes
from octopus_desktop.identity.invitations import decode
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.member import enrol_request, make_request
from octopus_desktop.jobs.approval import Statement
from octopus_desktop.jobs.package import build, sign
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.system.paths import FederationHome
from octopus_desktop.system.service import start_detached
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb import envelope_pb2 as pb
from octopus_desktop.wire.pb import operator_pb2 as op
from octopus_desktop.wire.pb.federation_pb2 import Chunk, EnrolReply, Invitation
from octopus_desktop.wire.pb.federation_pb2_grpc import EnrolmentStub
from octopus_desktop.wire.tensors import read_layout

ROOT = Path(__file__).resolve().parents[2]
ECHO = ROOT / "resources" / "examples" / "echo"
PATIENCE_S = 40.0
EXAMPLES = 10


class Server:
    """A federation below ``root``, and its process."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.home = FederationHome(root=root)
        self.port = port or free_port()
        self.author = SigningKey.generate()
        self.pid = 0

    def init(self) -> subprocess.CompletedProcess[str]:
        words = ["--name", "Alliance", "--host", "127.0.0.1", "--port", str(self.port)]
        command = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", "server", "init", *words]
        return subprocess.run([*command, "--home", str(self.home.root)], capture_output=True, text=True, timeout=30)

    def start(self) -> None:
        self.pid = start_detached(
            "octopus_desktop.server.main",
            ["--home", str(self.home.root)],
            self.home.logs / "server.log",
            what="federation server",
        )

    def end(self, how: int = signal.SIGKILL) -> None:
        if self.pid:
            os.kill(self.pid, how)
            os.waitpid(self.pid, 0)
            self.pid = 0

    @property
    def api(self) -> Api:
        return server_api(self.home)

    def call(self, method: str, request: Any) -> Any:
        return self.api.call(f"Operator.{method}", request)

    def invite(self, name: str = "", role: str = "silo", valid_s: float = 3600) -> Invitation:
        return decode(self.call("Invite", op.InviteRequest(role=role, name=name, valid_s=valid_s)).text)

    def submit(self, folder: Path = ECHO, key: SigningKey | None = None, known: bool = True) -> Any:
        package = self.home.root.parent / f"{new_id('job-')}.octojob"
        build(folder, package)
        sign(package, key or self.author, "ada")
        if known:
            self.call("AddAuthor", op.AddAuthorRequest(name="ada", key=(key or self.author).public))
        data = package.read_bytes()
        return self.api.send("Operator.SubmitJob", [Chunk(blob=pb.BlobRef(size=len(data)), data=data)])

    def start_run(
        self, silos: Sequence[str] = (), request_id: str = "", origin: tuple[str, int] = ("", 0), strategy: str = "",
        **settings: Any,
    ) -> Any:  # fmt: skip
        overrides = json.dumps(
            {"run": {"rounds": 2, **settings}, **({"strategy": {"name": strategy}} if strategy else {})}
        )
        request = op.StartRunRequest(
            job="echo", silos=silos, overrides_json=overrides, request_id=request_id, from_run=origin[0],
            from_round=origin[1], allow_own_strategy=":" in strategy,
        )  # fmt: skip
        return self.call("StartRun", request)

    def run(self, run_id: str) -> Any:
        return self.call("GetRun", op.GetRunRequest(id=run_id))

    async def until_run(self, run_id: str, condition: Callable[[Any], bool], patience_s: float = PATIENCE_S) -> Any:
        """Follow the run until the condition holds."""
        return await asyncio.wait_for(asyncio.to_thread(self._follow, run_id, condition), patience_s)

    def _follow(self, run_id: str, condition: Callable[[Any], bool]) -> Any:
        info = None
        for info in self.api.stream("Operator.WatchRun", op.GetRunRequest(id=run_id)):
            if condition(info):
                return info
        raise AssertionError(f"the run ended before that: {info}")


def make_server(root: Path) -> Server:
    server = Server(root)
    assert server.init().returncode == 0
    server.start()
    return server


def invitation_credentials(invitation: Invitation) -> ClientCredentials:
    key = certificates.key_from_scalar(invitation.key_seed)
    return ClientCredentials(
        root=certificates.to_pem(invitation.ca_der),
        key=certificates.key_to_pem(key),
        chain=certificates.to_pem(invitation.certificate_der),
    )


async def enrol(invitation: Invitation, name: str, signing: SigningKey, csr: bytes) -> EnrolReply:
    """Enrol over the network; the server's fault comes as UserError."""
    async with client_channel(invitation.server, invitation_credentials(invitation)) as channel:
        request = enrol_request(csr, name, signing, f"{name} hospital", "desk@example.org")
        try:
            return await EnrolmentStub(channel).Enrol(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            raise to_user_error(error, invitation.server) from None


class ScriptedSilo:
    """An enrolled silo: a ``MailOwner`` that decides as ``verdict`` says and "trains" by adding a number to all.

    Attributes: ``seen`` envelopes that arrived, in order; ``refused`` receipts of ours that bore a fault.
    """

    def __init__(
        self, root: Path, name: str, credentials: ClientCredentials, signing: SigningKey, address: str
    ) -> None:
        self.root, self.name, self.credentials = root, name, credentials
        self.signing, self.address = signing, address
        self.approver = SigningKey.generate()
        self.verdict = "approved"
        self.trains = True
        self.seen: list[pb.Envelope] = []
        self.states: list[LinkState] = []
        self.runs: set[str] = set()
        self.server_runs: list[str] = []
        self._store = BlobStore(root / "blobs")
        self._boxes: dict[str, Mailbox] = {}
        self._changed = asyncio.Condition()
        self.end: GrpcSiloEnd | None = None
        self._task: asyncio.Task[None] | None = None
        self.most_round = 1_000_000  # tasks of later rounds wait

    # the silo's process

    def connect(self) -> None:
        self.end = GrpcSiloEnd(
            address=self.address, credentials=self.credentials, owner=self, version="test", boot_id=new_id("b")
        )
        self._task = asyncio.create_task(self.end.run())

    async def disconnect(self) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = self.end = None

    def post(self, envelope: pb.Envelope, *, signed_by: SigningKey | None = None) -> pb.Envelope:
        envelopes.sign(envelope, signed_by or self.signing)
        self.box(envelope.run_id).post(envelope)
        if self.end:
            self.end.outbox_changed()
        return envelope

    def make(self, run_id: str, kind: Any, body: Any, **fields: Any) -> pb.Envelope:
        made = pb.Envelope(
            id=new_id("e"), run_id=run_id, kind=kind, sender=self.name, recipient="server",
            body=body.SerializeToString(),
        )  # fmt: skip
        for key, value in fields.items():
            getattr(made, key).extend(value) if key == "blobs" else setattr(made, key, value)
        return made

    def box(self, run_id: str) -> Mailbox:
        if run_id not in self._boxes:
            self._boxes[run_id] = Mailbox(self.root / f"{run_id or 'none'}.sqlite")
        return self._boxes[run_id]

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        async with asyncio.timeout(patience_s):
            async with self._changed:
                await self._changed.wait_for(condition)

    def answer_up_to(self, round_: int) -> None:
        self.most_round = round_
        self._tell()

    async def until_kind(self, kind: Any, count: int = 1) -> pb.Envelope:
        await self.until(lambda: sum(e.kind == kind for e in self.seen) >= count)
        return [e for e in self.seen if e.kind == kind][count - 1]

    def _tell(self) -> None:
        async def tell() -> None:
            async with self._changed:
                self._changed.notify_all()

        self._telling = asyncio.ensure_future(tell())

    # administrator and runner

    def decide(self, run_id: str, offer: pb.Offer, verdict: str, reason: str = "", **changes: Any) -> pb.Envelope:
        statement = Statement(
            **{
                "run_id": run_id, "verdict": verdict, "package_digest": offer.package.digest,
                "config_digest": offer.config_digest, "decided_by": "adm", "decided_at": time.time(), **changes,
            }
        ).to_bytes()  # fmt: skip
        decision = pb.Decision(
            verdict=pb.Decision.Verdict.Value(verdict.upper()), reason=reason, statement=statement,
            signature=self.approver.sign(statement), approver_key=self.approver.public, decided_by="adm",
            decided_at=time.time(),
        )  # fmt: skip
        return self.post(self.make(run_id, pb.DECISION, decision))

    async def _answer(self, envelope: pb.Envelope) -> None:
        await self.until(lambda: envelope.round <= self.most_round)
        task = pb.Task.FromString(envelope.body)
        answer = pb.Answer(task=task.task, epoch=task.epoch, metrics={"eval/accuracy": 0.5, "eval/examples": 10.0})
        blobs = []
        if task.task == "train":
            update = await asyncio.to_thread(self._train, task.model.digest)
            answer.update.CopyFrom(update)
            answer.examples = EXAMPLES
            blobs = [update]
        dedupe = f"{envelope.round}/{self.name}/{task.task}"
        self.post(self.make(envelope.run_id, pb.ANSWER, answer, round=envelope.round, dedupe=dedupe, blobs=blobs))

    def _train(self, digest: str) -> pb.BlobRef:
        """Every float plus a number of this silo's own, in a new file of the same layout."""
        path = self._store.path(digest)
        raw = bytearray(path.read_bytes())
        for spec in read_layout(path):
            view = np.frombuffer(raw, dtype="<f4", count=spec.elements, offset=spec.begin)
            view += np.float32(len(self.name))
        return pb.BlobRef(digest=self._store.put(bytes(raw)), size=len(raw), encoding="none")

    # MailOwner

    def pending(self, peer: str) -> Sequence[pb.Envelope]:
        return [e for _, box in sorted(self._boxes.items()) for _, e in box.pending()]

    def delivered(self, envelope: pb.Envelope) -> None:
        self.box(envelope.run_id).delivered(envelope.id)
        self._tell()

    def accept(self, envelope: pb.Envelope) -> bool:
        if not self.box(envelope.run_id).accept(envelope):
            return False
        self.seen.append(envelope)
        if envelope.kind == pb.OFFER:
            self.runs.add(envelope.run_id)
            if self.verdict:
                self.decide(envelope.run_id, pb.Offer.FromString(envelope.body), self.verdict)
        elif envelope.kind == pb.TASK and self.trains:
            self._working = asyncio.ensure_future(self._answer(envelope))
        elif envelope.kind in (pb.STOP, pb.FINISHED):
            self.runs.discard(envelope.run_id)
        self._tell()
        return True

    def live(self, envelope: pb.Envelope) -> None:
        return None

    def blobs(self) -> BlobStore:
        return self._store

    def may_read(self, peer: str, run_id: str, blob: pb.BlobRef) -> bool:
        return True

    def may_write(self, peer: str, run_id: str, blob: pb.BlobRef) -> bool:
        return True

    def open_runs(self) -> Sequence[str]:
        return sorted(self.runs)

    def link_changed(self, state: LinkState) -> None:
        self.states.append(state)
        self._tell()

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        self.server_runs = list(runs)
        self._tell()

    @property
    def up(self) -> bool:
        return bool(self.states) and self.states[-1].phase is LinkPhase.UP


async def make_silo(server: Server, name: str, *, connect: bool = True) -> ScriptedSilo:
    """Invite, enrol, and connect a silo."""
    invitation, signing = server.invite(name), SigningKey.generate()
    key, csr = make_request(name)
    reply = await enrol(invitation, name, signing, csr)
    credentials = ClientCredentials(
        root=certificates.to_pem(reply.ca_der), key=key, chain=certificates.to_pem(reply.certificate_der)
    )
    silo = ScriptedSilo(server.home.root.parent / name, name, credentials, signing, invitation.server)
    if connect:
        silo.connect()
        await silo.until(lambda: silo.up)
    return silo


@asynccontextmanager
async def federation(root: Path, *names: str) -> AsyncIterator[tuple[Server, list[ScriptedSilo]]]:
    """A server process and connected silos; whatever happens, nothing of it outlives the block."""
    server = make_server(root / "server")
    silos: list[ScriptedSilo] = []
    try:
        for name in names:
            silos.append(await make_silo(server, name))
        yield server, silos
    finally:
        for silo in silos:
            await silo.disconnect()
        server.end()
