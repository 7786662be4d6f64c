"""A real daemon process and its local API, for tests."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from octopus_desktop.identity.keys import SigningKey
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.system.endpoint import aio_channel, read_token, to_user_error
from octopus_desktop.system.paths import SiloHome
from octopus_desktop.system.service import daemon_pid, start_daemon, wait_stopped
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import local_pb2_grpc
from octopus_desktop.wire.pb.envelope_pb2 import Decision


class SiloProcess:
    """One home and the daemon that works on it. ``key``: its approver's."""

    def __init__(self, root: Path) -> None:
        self.home = SiloHome(root=root / "home")
        self.key = SigningKey.generate()
        self._passphrase = root / "passphrase"
        if not self._passphrase.exists():
            with os.fdopen(os.open(self._passphrase, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write("correct horse")
        self.pid = 0
        self._channel: Any = None

    async def start(self, **environment: str) -> int:
        env = {**os.environ, "OCTOPUS_PASSPHRASE_FILE": str(self._passphrase), **environment}
        self.pid = await asyncio.to_thread(start_daemon, self.home, environment=env)
        self.connect()
        return self.pid

    def connect(self, token: str | None = None) -> None:
        self._channel = aio_channel(self.home.socket, read_token(self.home.socket, _away) if token is None else token)

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._channel is not None:
            await self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        await asyncio.to_thread(wait_stopped, self.home)

    async def call(self, method: str, request: Any = None, **fields: Any) -> Any:
        """``call("Nodes.Register", pb.RegisterNodeRequest(…))``; failures come as UserError."""
        import grpc

        service, name = method.split(".")
        stub = getattr(getattr(local_pb2_grpc, f"{service}Stub")(self._channel), name)
        try:
            return await stub(pb.Empty() if request is None else request, timeout=30)
        except grpc.aio.AioRpcError as error:
            raise to_user_error(error, _away) or error from None

    async def stream(self, method: str, request: Any) -> AsyncIterator[Any]:
        import grpc

        service, name = method.split(".")
        call = getattr(getattr(local_pb2_grpc, f"{service}Stub")(self._channel), name)(request)
        try:
            async for message in call:
                yield message
        except grpc.aio.AioRpcError as error:
            raise to_user_error(error, _away) or error from None
        finally:
            call.cancel()

    async def snapshot(self) -> pb.Snapshot:
        async for event in self.stream("Daemon.Watch", pb.WatchRequest()):
            return event.snapshot
        raise AssertionError("no snapshot came")

    async def until(self, condition: Callable[[pb.Snapshot], Any], seconds: float = 30.0) -> Any:
        """Watch until the condition holds of the state, and return what it gave."""
        state = pb.Snapshot()
        try:
            async with asyncio.timeout(seconds):
                async for event in self.stream("Daemon.Watch", pb.WatchRequest()):
                    fold(state, event)
                    found = condition(state)
                    if found:
                        return found
        except TimeoutError:
            page = await self.call("Logs.Page", pb.LogPageRequest(limit=30))
            lines = "\n".join(line.text for line in page.lines)
            raise AssertionError(f"it did not come to pass; the state:\n{state}\nlog:\n{lines}") from None
        raise AssertionError("the stream ended")

    async def offer(self, run_id: str, *states: str) -> pb.SiloOffer:
        return await self.until(lambda s: next((o for o in s.offers if o.id == run_id and o.state in states), None))

    async def run(self, run_id: str, *states: str) -> pb.Run:
        return await self.until(lambda s: next((r for r in s.runs if r.id == run_id and r.state in states), None))

    async def set_up(self, federation: Any = None, name: str = "north", data: Path | None = None) -> pb.Snapshot:
        """Organisation, approver, node; a dataset ``patients``; enrolled, when there is a federation."""
        await self.call("Setup.Configure", self.configuration())
        await self.call("Nodes.Register", pb.RegisterNodeRequest(request_id=new_id()))
        if data is not None:
            data.write_text("age,sick\n" + "".join(f"{30 + n},{n % 2}\n" for n in range(20)))
            await self.call("Datasets.Register", pb.RegisterDatasetRequest(alias="patients", path=str(data)))
        if federation is not None:
            await self.call("Federations.Enrol", pb.EnrolLocalRequest(text=federation.invite(), name=name))
            await self.until(lambda s: [f for f in s.federations if f.link == "up"])
        return await self.snapshot()

    def configuration(self) -> pb.ConfigureRequest:
        return pb.ConfigureRequest(
            organisation="North Hospital", administrator="Nora", approver_key=self.key.public, request_id=new_id()
        )

    async def decision(
        self, offer: pb.SiloOffer, verdict: str = "approved", *, key: SigningKey | None = None, reason: str = "",
        limits: dict[str, Any] | None = None, **changes: Any,
    ) -> Decision:  # fmt: skip
        """A signed decision on the offer; approvals name the dataset ``patients`` where it is registered."""
        snap = await self.snapshot()
        known = {d.alias: d for d in snap.datasets if d.alias == "patients"} if verdict == "approved" else {}
        values: dict[str, Any] = {
            "run_id": offer.id, "verdict": verdict, "package_digest": offer.offer.package.digest,
            "config_digest": offer.offer.config_digest, "data_scope": {a: d.digest for a, d in known.items()},
            "conditions": Conditions(datasets={a: d.id for a, d in known.items()}, **(limits or {})),
            "reason": reason, "decided_by": "Nora", "decided_at": time.time(),
        }  # fmt: skip
        statement = Statement(**{**values, **changes}).to_bytes()
        signer = key or self.key
        return Decision(
            verdict=Decision.Verdict.Value(verdict.upper()), reason=reason, statement=statement,
            signature=signer.sign(statement), approver_key=signer.public, decided_by="Nora", decided_at=time.time(),
        )  # fmt: skip

    async def decide(self, offer: pb.SiloOffer, verdict: str = "approved", **changes: Any) -> pb.SiloOffer:
        decision = await self.decision(offer, verdict, **changes)
        return await self.call("Approvals.Decide", pb.DecideRequest(id=offer.id, decision=decision))


def fold(state: pb.Snapshot, event: pb.Event) -> None:
    """Bring a snapshot forward by one event, as a window does."""
    what = event.WhichOneof("what")
    if what == "snapshot":
        state.CopyFrom(event.snapshot)
    elif what == "daemon":
        state.daemon.CopyFrom(event.daemon)
    elif what == "removed":
        rows = getattr(state, _PLURAL[event.removed.kind])
        for place, row in enumerate(rows):
            if row.id == event.removed.id:
                del rows[place]
                break
    elif what in _PLURAL:
        rows, new = getattr(state, _PLURAL[what]), getattr(event, what)
        for row in rows:
            if row.id == new.id:
                row.CopyFrom(new)
                return
        rows.append(new)


_PLURAL = {
    "federation": "federations", "node": "nodes", "dataset": "datasets", "offer": "offers", "run": "runs",
    "policy": "policies", "runtime": "runtimes",
    "slurm_profile": "slurm_profiles",
}  # fmt: skip


def _away() -> UserError:
    return UserError("OCT-DAEMON-AWAY", "No daemon answers.")


@asynccontextmanager
async def silo_process(root: Path, *, start: bool = True) -> AsyncIterator[SiloProcess]:
    """A silo whose daemon is gone at the end, however it ends."""
    root.mkdir(parents=True, exist_ok=True)
    silo = SiloProcess(root)
    try:
        if start:
            await silo.start()
        yield silo
    finally:
        if daemon_pid(silo.home):
            await silo.kill()
