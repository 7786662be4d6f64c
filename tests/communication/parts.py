"""What carrier tests are built of: a federation's keys, a small real owner of mail and blobs, and builders."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from octopus_desktop.communication.contract import SERVER, LinkPhase, LinkState
from octopus_desktop.communication.grpc_wire import ClientCredentials
from octopus_desktop.communication.parties import ServerParty, SiloParty
from octopus_desktop.identity import envelopes
from octopus_desktop.identity.authority import Authority
from octopus_desktop.identity.certificates import read_peer, to_pem
from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.identity.member import make_request
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import ANSWER, OFFER, PROGRESS, TASK, BlobRef, Envelope, Kind

MIB = 1 << 20
PATIENCE_S = 1800.0 if os.environ.get("OCTOPUS_BIG_TESTS") else 40.0  # a bound for hangs, never a measure of speed


class Keys:
    """One federation's CA and its members' signing keys."""

    def __init__(self) -> None:
        self.authority = Authority.create("Test federation")
        self.signing: dict[str, SigningKey] = {SERVER: SigningKey.generate()}
        self.revoked: set[str] = set()
        self.root = self.authority.ca_pem  # the CA that members trust
        self.federation = self.authority.fingerprint  # and the federation that they mean

    def impostor(self) -> Keys:
        """Keys of nobody's, whose holders trust this federation and pass for its members."""
        keys = Keys()
        keys.root, keys.federation = self.root, self.federation
        keys.signing[SERVER] = self.signing[SERVER]
        return keys

    def save(self, folder: Path) -> None:
        """For another process of the same test."""
        folder.mkdir(exist_ok=True)
        (folder / "ca.pem").write_bytes(self.authority.ca_pem)
        (folder / "ca.key").write_bytes(self.authority.key_pem)
        for name, key in self.signing.items():
            (folder / f"{name}.seed").write_bytes(key.seed())

    @classmethod
    def load(cls, folder: Path) -> Keys:
        keys = cls()
        keys.authority = Authority.load((folder / "ca.pem").read_bytes(), (folder / "ca.key").read_bytes())
        keys.root, keys.federation = keys.authority.ca_pem, keys.authority.fingerprint
        keys.signing = {path.stem: SigningKey.from_seed(path.read_bytes()) for path in folder.glob("*.seed")}
        return keys

    def server_pems(self) -> dict[str, bytes]:
        key, chain = self.authority.issue_server(["127.0.0.1"])
        return {"root": self.authority.ca_pem, "key": key, "chain": chain}

    def silo(self, name: str, *, root: bytes | None = None, valid_s: float = 3600.0) -> ClientCredentials:
        """A certificate for a silo; ``root``: another CA to trust."""
        self.signing.setdefault(name, SigningKey.generate())
        key, request = make_request(name)
        chain = to_pem(self.authority.issue(request, name, "silo", valid_s))
        return ClientCredentials(root=root or self.root, key=key, chain=chain)

    def silo_party(self, name: str) -> SiloParty:
        """The same silo, as the sealed carriers know it."""
        return SiloParty(
            name=name,
            federation=self.federation,
            signing=self.signing.setdefault(name, SigningKey.generate()),
            server_key=self.signing[SERVER].public,
        )

    def server_party(self) -> ServerParty:
        def member_key(name: str) -> bytes:
            if name in self.revoked:
                raise UserError(
                    "OCT-CERT-REVOKED", "The certificate was revoked.", "By the coordinator.", "Enrol anew."
                )
            if name not in self.signing:
                raise UserError("OCT-ENROL-ROLE", f"{name[:64]!r} is no member.", "It never enrolled.", "Enrol.")
            return self.signing[name].public

        return ServerParty(federation=self.authority.fingerprint, signing=self.signing[SERVER], member_key=member_key)


def authenticate(auth_context: dict[str, Sequence[bytes]]) -> str:
    """The silo's name out of the TLS peer's certificate."""
    peer = read_peer(auth_context["x509_pem_cert"][0])
    if peer.role != "silo":
        raise UserError("OCT-ENROL-ROLE", "Only silos may link.", f"The certificate's role is {peer.role}.", "")
    return peer.name


class Owner:
    """A real ``MailOwner``: one mailbox a run, one blob store, signatures checked; remembers what it was told."""

    def __init__(self, root: Path, name: str, keys: Keys) -> None:
        self.root, self.name, self.keys = root, name, keys
        self.store = BlobStore(root / "blobs")
        self.boxes: dict[str, Mailbox] = {}
        for path in sorted((root / "runs").glob("*.sqlite")):
            self.boxes[path.stem] = Mailbox(path)
        self.accepted: list[str] = []
        self.duplicates: list[str] = []
        self.delivered_count = 0
        self.heard_live: list[Envelope] = []
        self.states: list[LinkState] = []
        self.greeted: list[tuple[str, list[str]]] = []
        self.closed_runs: set[str] = set()
        self.before_accept: Callable[[Envelope], None] = lambda envelope: None
        self._waiting: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def box(self, run_id: str) -> Mailbox:
        if run_id not in self.boxes:
            self.boxes[run_id] = Mailbox(self.root / "runs" / f"{run_id}.sqlite")
        return self.boxes[run_id]

    def hasty(self, run_id: str) -> None:
        """Let this run's mail not wait for the disk: where a test is of the link, and of many messages."""
        self.box(run_id)._db.execute("PRAGMA synchronous=OFF")

    def envelope(self, to: str, *, run: str = "run-a", kind: Kind = TASK, body: bytes = b"", dedupe: str = "",
                 blobs: Sequence[BlobRef] = (), round: int = 1) -> Envelope:  # fmt: skip
        """A signed envelope from this owner."""
        made = Envelope(
            id=new_id("e-"), run_id=run, round=round, kind=kind, sender=self.name, recipient=to, body=body, blobs=blobs,
            dedupe=dedupe,
        )  # fmt: skip
        envelopes.sign(made, self.keys.signing[self.name])
        return made

    def post(self, to: str, **fields: object) -> Envelope:
        made = self.envelope(to, **fields)  # type: ignore[arg-type]
        self.box(made.run_id).post(made)
        return made

    def blob(self, size: int) -> BlobRef:
        """A blob of random bytes in the store."""
        with self.store.create() as new:
            left = size
            while left:
                new.write(os.urandom(min(left, MIB)))
                left -= min(left, MIB)
        return BlobRef(digest=new.digest, size=size)

    def open_count(self) -> int:
        return sum(len(box.pending()) for box in self.boxes.values())

    async def until(self, condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
        """Wait until something that this owner was told makes the condition true."""
        if condition():
            return
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.append((condition, waiting))
        await asyncio.wait_for(waiting, patience_s)

    def _told(self) -> None:
        for condition, waiting in list(self._waiting):
            if not waiting.done() and condition():
                waiting.set_result(None)
        self._waiting = [entry for entry in self._waiting if not entry[1].done()]

    @property
    def is_up(self) -> bool:
        return bool(self.states) and self.states[-1].phase is LinkPhase.UP

    # MailOwner

    def pending(self, peer: str) -> Sequence[Envelope]:
        return [envelope for box in self.boxes.values() for _, envelope in box.pending(peer)]

    def delivered(self, envelope: Envelope) -> None:
        self.box(envelope.run_id).delivered(envelope.id)
        self.delivered_count += 1
        self._told()

    def accept(self, envelope: Envelope) -> bool:
        self.before_accept(envelope)
        envelopes.check(envelope, self.keys.signing[envelope.sender].public)
        for ref in envelope.blobs:
            assert self.store.has(ref.digest), "handed over before its blob was whole"
        new = self.box(envelope.run_id).accept(envelope)
        (self.accepted if new else self.duplicates).append(envelope.id)
        self._told()
        return new

    def live(self, envelope: Envelope) -> None:
        self.heard_live.append(envelope)
        self._told()

    def blobs(self) -> BlobStore:
        return self.store

    def may_read(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return run_id not in self.closed_runs

    def may_write(self, peer: str, run_id: str, blob: BlobRef) -> bool:
        return run_id not in self.closed_runs

    def open_runs(self) -> Sequence[str]:
        return sorted(self.boxes)

    def link_changed(self, state: LinkState) -> None:
        self.states.append(state)
        self._told()

    def peer_greeted(self, peer: str, runs: Sequence[str]) -> None:
        self.greeted.append((peer, list(runs)))
        self._told()


__all__ = ["ANSWER", "MIB", "OFFER", "PROGRESS", "TASK", "Keys", "Owner", "authenticate"]
