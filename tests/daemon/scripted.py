"""A federation server that does what a test says, over real mutual TLS: CA, enrolment, carrier end, mail in SQLite."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio

from octopus_desktop.communication.contract import SERVER, LinkState
from octopus_desktop.communication.grpc_server import GrpcServerEnd
from octopus_desktop.communication.grpc_wire import SERVER_OPTIONS, abort, server_credentials
from octopus_desktop.communication.mqtt import MqttServerEnd
from octopus_desktop.communication.parties import ServerParty
from octopus_desktop.communication.settings import MqttOffer, Secrets
from octopus_desktop.identity import enrol_files, envelopes, invitations
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.certificates import read_peer
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.jobs import package
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.wire.canonical import fingerprint, new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as e
from octopus_desktop.wire.pb.federation_pb2 import CarrierOffer, EnrolReply, EnrolRequest, RenewRequest
from octopus_desktop.wire.pb.federation_pb2_grpc import EnrolmentServicer, add_EnrolmentServicer_to_server

TRAINER = """
import torch
from torch import nn
from octopus_desktop.training.sdk import ClientTrainer, Context

class Trainer(ClientTrainer):
    def build_model(self, ctx: Context) -> nn.Module:
        return nn.Linear(2, 1)

    def train(self, ctx: Context, model: nn.Module):
        import os, time
        while os.path.exists(str(ctx.hyperparameters.get("wait_for_removal", ""))):
            time.sleep(0.02)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(1.0)
        ctx.examples = 10
        return {"loss": 0.5}

    def evaluate(self, ctx: Context, model: nn.Module):
        return {"accuracy": 0.75}
"""
DATA = """
[[data]]
alias = "patients"
kind = "table"
[data.columns]
age = "number"
sick = "integer"
"""


def write_job(
    folder: Path, *, name: str = "tiny", data: str = DATA, rounds: int = 2, trainer: str = TRAINER,
    more: str = "",
) -> Path:  # fmt: skip
    (folder / "code").mkdir(parents=True, exist_ok=True)
    (folder / "code" / "trainer.py").write_text(trainer)
    (folder / "job.toml").write_text(
        f'[job]\nname = "{name}"\nversion = "1.0.0"\ntrainer = "trainer:Trainer"\npurpose = "Test."\n{more}{data}\n'
        f'[run]\nrounds = {rounds}\nseed = 1\n[strategy]\nname = "fedavg"\n'
    )
    return folder


class ScriptedFederation(EnrolmentServicer):
    """Implements MailOwner for the server's side. ``got``: what the silo sent, in order."""

    name = SERVER
    heartbeat_s = 1.0

    def __init__(self, root: Path) -> None:
        root.mkdir(parents=True, exist_ok=True)
        self.root = root
        self.authority = Authority.create("Test Federation")
        self.key, self.author = SigningKey.generate(), SigningKey.generate()
        self.silo_keys: dict[str, bytes] = {}
        self.revoked: set[str] = set()
        self.used: set[str] = set()
        self.got: list[e.Envelope] = []
        self.live_got: list[e.Envelope] = []
        self._news = asyncio.Event()
        self._store, self._box = BlobStore(root / "blobs"), Mailbox(root / "mail.sqlite")
        self._tls = self.authority.issue_server(["127.0.0.1"])
        self.port = 0
        self.offers: list[CarrierOffer] = []
        self._server: Any = None
        self.end: Any = None
        self.by_broker: MqttServerEnd | None = None

    async def start(self) -> None:
        """Listen; a second time on the same port."""
        self._server = grpc.aio.server(options=SERVER_OPTIONS)
        key, chain = self._tls
        creds = server_credentials(root=self.authority.ca_pem, key=key, chain=chain)
        self.end = GrpcServerEnd(
            server=self._server,
            owner=self,
            authenticate=self._who,
            version="t",
            boot_id=new_id(),
            heartbeat_s=self.heartbeat_s,
            carriers=lambda: self.offers,
        )
        add_EnrolmentServicer_to_server(self, self._server)
        self.port = self._server.add_secure_port(f"127.0.0.1:{self.port}", creds)
        await self._server.start()

    async def offer_broker(self, port: int, password: str) -> None:
        """Offer MQTT beside gRPC, and be there."""
        offered = MqttOffer(host="127.0.0.1", port=port, tls=False)
        self.offers = [
            CarrierOffer(name="grpc", settings_json="{}"),
            CarrierOffer(name="mqtt", settings_json=offered.to_json()),
        ]
        party = ServerParty(
            federation=self.authority.fingerprint, signing=self.key, member_key=lambda name: self.silo_keys[name]
        )
        self.by_broker = MqttServerEnd(
            offer=offered, username=SERVER, secrets=Secrets(password=password), party=party, owner=self, version="t",
            boot_id=new_id(), heartbeat_s=self.heartbeat_s, carriers=lambda: self.offers,
        )  # fmt: skip
        await self.by_broker.start()
        self.end.announce()

    def answer_file(self, content: bytes) -> bytes:
        """The answer to a request file."""
        _, request = enrol_files.read_request(content, self.authority.ca_der)
        self.silo_keys[request.name] = request.signing_key
        return enrol_files.write_reply(self._certify(request.csr_der, request.name), self.authority)

    async def stop(self) -> None:
        if self.by_broker:
            await self.by_broker.stop(0)
        await self.end.stop(0)
        await self._server.stop(0)

    def invite(self, **changes: Any) -> str:
        return invitations.encode(self.authority.invite(f"127.0.0.1:{self.port}", **changes))

    # Enrolment

    async def Enrol(self, request: EnrolRequest, context: Any) -> EnrolReply:
        peer = read_peer(context.auth_context()["x509_pem_cert"][0])
        if peer.role != "invitation":
            await abort(context, UserError("OCT-ENROL-ROLE", "Not an invitation."))
        if peer.name in self.used:
            await abort(context, UserError("OCT-ENROL-USED", "The invitation was used before.", "", "Ask for another."))
        self.used.add(peer.name)
        self.silo_keys[request.name] = request.signing_key
        return self._certify(request.csr_der, request.name)

    async def Renew(self, request: RenewRequest, context: Any) -> EnrolReply:
        return self._certify(request.csr_der, self._who(context.auth_context()))

    def _certify(self, csr_der: bytes, name: str) -> EnrolReply:
        return EnrolReply(
            certificate_der=self.authority.issue(csr_der, name, "silo"),
            ca_der=self.authority.ca_der,
            name=name,
            federation=self.authority.federation,
            server_signing_key=self.key.public,
            carriers=self.offers,
        )

    def _who(self, auth: Any) -> str:
        peer = read_peer(auth["x509_pem_cert"][0])
        if peer.role != "silo":
            raise UserError("OCT-ENROL-ROLE", "Not a silo.")
        if peer.name in self.revoked:
            raise UserError("OCT-CERT-REVOKED", "The certificate is revoked.", "", "Ask the coordinator.")
        return peer.name

    def revoke(self, silo: str) -> None:
        self.revoked.add(silo)
        self.end.disconnect(silo, UserError("OCT-CERT-REVOKED", "The certificate is revoked.", "", "Ask."))

    # MailOwner

    def pending(self, peer: str) -> Sequence[e.Envelope]:
        found = [envelope for _, envelope in self._box.pending(peer)]
        for envelope in found:
            if not envelope.signature:
                envelopes.sign(envelope, self.key)
        return found

    def delivered(self, envelope: e.Envelope) -> None:
        self._box.delivered(envelope.id)

    def accept(self, envelope: e.Envelope) -> bool:
        envelopes.check(envelope, self.silo_keys[envelope.sender])
        new = envelope.id not in {known.id for known in self.got}
        if new:
            self.got.append(envelope)
            self._news.set()
        return new

    def live(self, envelope: e.Envelope) -> None:
        envelopes.check(envelope, self.silo_keys[envelope.sender])
        self.live_got.append(envelope)
        self._news.set()

    def blobs(self) -> BlobStore:
        return self._store

    def may_read(self, peer: str, run_id: str, blob: e.BlobRef) -> bool:
        return True

    def may_write(self, peer: str, run_id: str, blob: e.BlobRef) -> bool:
        return True

    def open_runs(self) -> Sequence[str]:
        return []

    def link_changed(self, state: LinkState) -> None:
        self._news.set()

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        self._news.set()

    # what a test does

    def post(
        self, silo: str, run_id: str, kind: Any, body: Any, *, round_: int = 0, blobs: Any = (), **fields: Any
    ) -> e.Envelope:  # fmt: skip
        envelope = e.Envelope(
            id=new_id("s"), run_id=run_id, round=round_, kind=kind, sender=SERVER, recipient=silo,
            body=body.SerializeToString(), blobs=list(blobs), **fields,
        )  # fmt: skip
        self._box.post(envelope)
        self.end.outbox_changed(silo)
        if self.by_broker:
            self.by_broker.outbox_changed(silo)
        return envelope

    def package(self, folder: Path, *, sign: bool = True, author: SigningKey | None = None) -> Path:
        out = self.root / f"{new_id('p')}.octojob"
        package.build(folder, out)
        if sign:
            package.sign(out, author or self.author, "Ada Author")
        return out

    def offer(self, silo: str, path: Path, *, rounds: int = 2, run_id: str = "", **changes: Any) -> str:
        """Offer a run of the package; returns the run's id."""
        made = self.offer_envelope(silo, path, rounds=rounds, run_id=run_id, **changes)
        self.post(silo, made.run_id, e.OFFER, e.Offer.FromString(made.body), blobs=made.blobs)
        return made.run_id

    def offer_envelope(self, silo: str, path: Path, *, rounds: int = 2, run_id: str = "", **changes: Any) -> e.Envelope:
        digest = self._store.adopt(path)
        config = RunConfig(rounds=rounds, seed=1, **changes.pop("config", {}))
        ref = e.BlobRef(digest=digest, size=path.stat().st_size)
        values: dict[str, Any] = {
            "job_name": "tiny", "job_version": "1.0.0", "package": ref, "config_json": config.to_json(),
            "config_digest": config.digest(), "author": "Ada Author", "author_key": self.author.public,
            "author_fingerprint": fingerprint(self.author.public), "purpose": "Test.", "silos": [silo],
            "expires_at": time.time() + 3600, "federation": self.authority.federation, "offered_at": time.time(),
        }  # fmt: skip
        body = e.Offer(**{**values, **changes}).SerializeToString()
        run_id = run_id or new_id("r")
        return e.Envelope(id=new_id("s"), run_id=run_id, kind=e.OFFER, recipient=silo, body=body, blobs=[ref])

    def task(self, silo: str, run_id: str, round_: int, model: Path, *, epoch: int = 1) -> None:
        digest = self._store.adopt(model)
        ref = e.BlobRef(digest=digest, size=model.stat().st_size, encoding="none")
        body = e.Task(task="train", epoch=epoch, until=time.time() + 60, model=ref, config_json=json.dumps({}))
        self.post(silo, run_id, e.TASK, body, round_=round_, blobs=[ref])

    async def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> Any:
        """Wait until the condition holds, looking after each piece of news."""
        async with asyncio.timeout(seconds):
            while True:
                self._news.clear()
                found = condition()
                if found:
                    return found
                await self._news.wait()

    def decisions(self, run_id: str) -> list[e.Decision]:
        found = [x for x in self.got if x.run_id == run_id and x.kind == e.DECISION]
        return [e.Decision.FromString(x.body) for x in found]

    def answers(self, run_id: str) -> list[tuple[int, e.Answer]]:
        found = [x for x in self.got if x.run_id == run_id and x.kind == e.ANSWER]
        return [(x.round, e.Answer.FromString(x.body)) for x in found]


@asynccontextmanager
async def scripted_federation(root: Path) -> Any:
    federation = ScriptedFederation(root)
    await federation.start()
    try:
        yield federation
    finally:
        await federation.stop()
