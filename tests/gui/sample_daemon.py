"""A daemon out of sample data: the real local API on a real socket, in a thread of this process.

Tests and screenshots use it where a real daemon would need minutes of training to look like this.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from octopus_desktop.system.endpoint import TOKEN_METADATA, create_token, fault_metadata
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as envelope
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb import local_pb2_grpc as rpc
from tests.gui import sample_data as sample

VERDICTS = {
    envelope.Decision.APPROVED: "approved",
    envelope.Decision.REJECTED: "rejected",
    envelope.Decision.CHANGES_REQUESTED: "changes_requested",
    envelope.Decision.REVOKED: "revoked",
}


class SampleDaemon:
    """``start`` and ``stop`` as often as wanted; each start is a new boot. ``push`` sends an event to all watchers.

    Attributes: ``snapshot`` (what ``Watch`` begins with; change it at will), ``calls`` (method and request of each
    call), ``faults`` (method -> UserError that the next calls raise), ``delays`` (method -> seconds its answer takes),
    ``protocol`` (what Hello says).
    """

    def __init__(self, socket: Path, empty: bool = False) -> None:
        self.socket, self.now = socket, time.time()
        self.snapshot = sample.make_snapshot(self.now, empty)
        self.audit = [] if empty else sample.make_audit(self.now)
        self.logs = [] if empty else sample.make_logs(self.now)
        self.codes = [] if empty else sample.make_codes(self.now)
        self.calls: list[tuple[str, Any]] = []
        self.faults: dict[str, UserError] = {}
        self.delays: dict[str, float] = {}
        self.protocol, self.boot_id, self.number = 1, "", 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._watchers: set[asyncio.Queue[Any]] = set()
        self._stop: asyncio.Event | None = None

    def start(self) -> SampleDaemon:
        self.boot_id = self.snapshot.daemon.boot_id = new_id("boot-")
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(ready)), name="sample-daemon", daemon=True
        )
        self._thread.start()
        assert ready.wait(20)
        return self

    def stop(self) -> None:
        if self._thread is not None and self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20)
            self._thread = None

    def push(self, skip: int = 0, **what: Any) -> None:
        """Send ``Event(**what)`` to all watchers, its number ahead by ``skip`` to make a gap."""

        def send() -> None:
            self.number += 1 + skip
            event = pb.Event(number=self.number, **what)
            for queue in self._watchers:
                queue.put_nowait(event)

        assert self._loop is not None
        self._loop.call_soon_threadsafe(send)

    def put(self, kind: str, item: Any) -> None:
        """Replace or add an item of the snapshot and push it."""
        items = getattr(self.snapshot, {"policy": "policies"}.get(kind, kind + "s"))
        kept = [*(old for old in items if old.id != item.id), item]
        del items[:]
        items.extend(kept)
        self.push(**{kind: item})

    def find(self, kind: str, item_id: str) -> Any:
        for item in getattr(self.snapshot, {"policy": "policies"}.get(kind, kind + "s")):
            if item.id == item_id:
                return item
        raise UserError("OCT-RUN-UNKNOWN", f"There is no {kind} {item_id}.", "", "Look into the list.")

    def _remove(self, kind: str, item_id: str) -> pb.Ack:
        items = getattr(self.snapshot, {"policy": "policies"}.get(kind, kind + "s"))
        kept = [old for old in items if old.id != item_id]
        del items[:]
        items.extend(kept)
        self.push(removed=pb.Removed(kind=kind, id=item_id))
        return pb.Ack()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._watchers.clear()
        token = create_token(self.socket)
        self.socket.unlink(missing_ok=True)
        server = grpc.aio.server()
        for service, methods in self._services().items():
            adder = getattr(rpc, f"add_{service}Servicer_to_server")
            adder(_servicer(self, token, service, methods), server)
        server.add_insecure_port(f"unix:{self.socket}")
        await server.start()
        ready.set()
        await self._stop.wait()
        await server.stop(None)
        self.socket.unlink(missing_ok=True)

    def _services(self) -> dict[str, dict[str, Callable[..., Any]]]:
        return {
            "Daemon": {"Hello": self._hello, "Watch": self._watch, "Shutdown": lambda _r: pb.Ack()},
            "Setup": {"Configure": self._configure},
            "Federations": {
                "Inspect": self._inspect,
                "Enrol": self._enrol,
                "Renew": lambda r: self.find("federation", r.id),
                "Leave": lambda r: self._remove("federation", r.id),
                "Check": self._check_link,
                "ConfigureCarrier": self._configure_carrier,
                "EnrolRequestFile": lambda r: pb.FileReply(file=b"request of " + r.name.encode(), name=r.name),
                "EnrolFile": lambda r: self._enrol(pb.EnrolLocalRequest(name="by-file")),
            },
            "Nodes": {
                "Register": self._register_node,
                "Drain": self._drain,
                "Invite": self._invite_node,
                "Accept": self._accept_node,
                "Remove": lambda r: self._remove("node", r.id),
                "Codes": lambda _r: pb.NodeCodeList(codes=self.codes),
                "Withdraw": self._withdraw_code,
            },
            "Runtimes": {
                "Look": self._look_at_runtime,
                "Add": self._add_runtime,
                "Check": self._check_runtime,
                "Place": lambda r: self._place("runtime", r),
                "Remove": lambda r: self._remove("runtime", r.id),
            },
            "Datasets": {
                "Probe": self._probe,
                "Register": self._register_dataset,
                "Check": self._check_dataset,
                "Relocate": self._relocate,
                "Place": lambda r: self._place("dataset", r),
                "Remove": lambda r: self._remove("dataset", r.id),
            },
            "Approvals": {
                "Review": lambda r: sample.make_review(self.find("offer", r.id), self.now),
                "ReadFile": lambda r: pb.ReadFileReply(content=sample.FILES[r.path].encode()),
                "Decide": self._decide,
                "Note": lambda _r: pb.Ack(),
                "Try": self._try,
            },
            "Runs": {
                "Pause": lambda r: self._run_state(r.id, "paused"),
                "Resume": lambda r: self._run_state(r.id, "training"),
                "Stop": lambda r: self._run_state(r.id, "stopped"),
                "Detail": lambda r: sample.make_detail(self.find("run", r.id), self.now),
                "Follow": self._follow,
                "ExportModel": lambda _r: pb.Ack(),
            },
            "Policies": {
                "List": lambda _r: pb.PolicyList(policies=self.snapshot.policies),
                "Put": self._put_policy,
                "Remove": lambda r: self._remove("policy", r.id),
            },
            "Audit": {"Page": self._audit_page, "Verify": self._verify},
            "Logs": {"Page": self._logs_page, "Tail": self._logs_tail},
        }

    def _hello(self, request: pb.LocalHelloRequest) -> pb.LocalHelloReply:
        return pb.LocalHelloReply(protocol=self.protocol, boot_id=self.boot_id, version="0.1.0", home="/srv/octopus")

    async def _watch(self, request: pb.WatchRequest) -> AsyncIterator[pb.Event]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            if request.boot_id != self.boot_id or request.after != self.number or not request.after:
                self.number = max(self.number, 1)
                yield pb.Event(number=self.number, snapshot=self.snapshot)
            while True:
                yield await queue.get()
        finally:
            self._watchers.discard(queue)

    def _configure(self, request: pb.ConfigureRequest) -> pb.DaemonStatus:
        daemon = self.snapshot.daemon
        daemon.organisation, daemon.administrator, daemon.configured = request.organisation, request.administrator, True
        daemon.approvers.add(name=request.administrator, key=request.approver_key, kind="person", added_at=time.time())
        self.push(daemon=daemon)
        return daemon

    def _inspect(self, request: pb.InspectRequest) -> pb.InvitationView:
        if "heart" not in request.text:
            raise UserError(
                "OCT-ENROL-INVALID",
                "This is not an invitation.",
                "The text cannot be read: it is cut off or damaged.",
                "Copy the whole invitation, from its first character to its last.",
            )
        return pb.InvitationView(
            federation="Heart Alliance",
            server="federation.heart-alliance.org:8443",
            role="silo",
            id="inv-1",
            ca_fingerprint="3f9a 07d1 c4e8 5b60 11aa 9e27 d03c 7f45",
            expires_at=time.time() + 86_400,
        )

    def _enrol(self, request: pb.EnrolLocalRequest) -> pb.Federation:
        made = sample.make_federations(time.time())[0]
        made.silo_name = request.name
        self.put("federation", made)
        return made

    def _check_link(self, request: pb.ById) -> pb.CheckReply:
        return sample.make_check(self.find("federation", request.id))

    def _configure_carrier(self, request: pb.ConfigureCarrierRequest) -> pb.Federation:
        changed = pb.Federation()
        changed.CopyFrom(self.find("federation", request.id))
        for view in changed.carriers:
            if view.name == request.name:
                view.own_json = request.own_json
                view.secret_kept = view.secret_kept or bool(request.secret)
                view.error = view.error_code = ""
            if request.control:
                view.control = view.in_use = view.name == request.name
                changed.carrier = request.name
        self.put("federation", changed)
        return changed

    def _withdraw_code(self, request: pb.ById) -> pb.Ack:
        self.codes = [code for code in self.codes if code.id != request.id]
        return pb.Ack()

    async def _look_at_runtime(self, request: pb.LookRuntimeRequest) -> AsyncIterator[pb.CheckStep]:
        for step in sample.make_look(request.path or request.id):
            await asyncio.sleep(0.02)
            yield step

    def _add_runtime(self, request: pb.AddRuntimeRequest) -> pb.Runtime:
        made = sample.make_runtimes(time.time())[0]
        made.id, made.name, made.path = new_id("v-"), request.name, request.path
        self.put("runtime", made)
        return made

    def _check_runtime(self, request: pb.ById) -> pb.Runtime:
        changed = pb.Runtime()
        changed.CopyFrom(self.find("runtime", request.id))
        changed.checked_at = time.time()
        self.put("runtime", changed)
        return changed

    def _invite_node(self, request: pb.InviteNodeRequest) -> pb.InviteNodeReply:
        self.codes.append(
            pb.NodeCode(id=new_id("i"), name=request.name, made_at=time.time(), expires_at=time.time() + 86400)
        )
        return pb.InviteNodeReply(code="OCTOPUS1.sample", expires_at=time.time() + 86400, address="127.0.0.1:7470")

    def _accept_node(self, request: pb.ById) -> pb.Node:
        changed = pb.Node()
        changed.CopyFrom(self.find("node", request.id))
        changed.state = "ready"
        self.put("node", changed)
        return changed

    def _register_node(self, request: pb.RegisterNodeRequest) -> pb.Node:
        made = sample.make_nodes(time.time())[0]
        made.name = request.name or made.name
        self.put("node", made)
        return made

    def _drain(self, request: pb.DrainRequest) -> pb.Node:
        node = self.find("node", request.id)
        changed = pb.Node()
        changed.CopyFrom(node)
        changed.state = "draining" if request.drain else "ready"
        self.put("node", changed)
        return changed

    def _probe(self, request: pb.ProbeRequest) -> pb.Dataset:
        if not Path(request.path).exists():
            raise UserError("OCT-DATA-MISSING", f"There is nothing at {request.path}.", "", "Choose an existing file.")
        made = sample.make_datasets(self.now)[0]
        made.path, made.id, made.alias = request.path, "", ""
        return made

    def _register_dataset(self, request: pb.RegisterDatasetRequest) -> pb.Dataset:
        if any(old.alias == request.alias for old in self.snapshot.datasets):
            raise UserError("OCT-DATA-ALIAS", f"The alias “{request.alias}” is taken.", "", "Choose another alias.")
        made = sample.make_datasets(time.time())[0]
        made.id, made.alias, made.path = new_id("data-"), request.alias, request.path
        made.description = request.description
        self.put("dataset", made)
        return made

    def _check_dataset(self, request: pb.ById) -> pb.Dataset:
        changed = pb.Dataset()
        changed.CopyFrom(self.find("dataset", request.id))
        changed.checked_at = time.time()
        self.put("dataset", changed)
        return changed

    def _relocate(self, request: pb.RelocateRequest) -> pb.Dataset:
        changed = pb.Dataset()
        changed.CopyFrom(self.find("dataset", request.id))
        changed.path, changed.state, changed.error = request.path, "ok", ""
        self.put("dataset", changed)
        return changed

    async def _try(self, request: pb.TryRequest) -> AsyncIterator[pb.TryUpdate]:
        for update in sample.make_trial():
            await asyncio.sleep(self.delays.get("Approvals.Try", 0.02))
            yield update

    def _place(self, kind: str, request: pb.PlaceRequest) -> Any:
        found = self.find(kind, request.id)
        changed = type(found).FromString(found.SerializeToString())
        others = [place for place in changed.places if place.node != request.node]
        del changed.places[:]
        changed.places.extend([*others, pb.NodePlace(node=request.node, path=request.path, state="ok")])
        self.put(kind, changed)
        return changed

    def _decide(self, request: pb.DecideRequest) -> pb.SiloOffer:
        changed = pb.SiloOffer()
        changed.CopyFrom(self.find("offer", request.id))
        changed.state = VERDICTS[request.decision.verdict]
        changed.decided_by, changed.decided_at = request.decision.decided_by, request.decision.decided_at
        changed.reason = request.decision.reason
        self.put("offer", changed)
        return changed

    def _run_state(self, run_id: str, state: str) -> pb.Run:
        changed = pb.Run()
        changed.CopyFrom(self.find("run", run_id))
        changed.state = state
        self.put("run", changed)
        return changed

    async def _follow(self, request: pb.ById) -> AsyncIterator[pb.RunUpdate]:
        run = self.find("run", request.id)
        step = 0
        while True:
            await asyncio.sleep(0.1)
            step += 1
            point = pb.Point(
                name="train/loss", source="silo", round=run.round, step=20 + step, value=0.35, at=time.time()
            )
            yield pb.RunUpdate(run=run, points=[point])

    def _put_policy(self, request: pb.PutPolicyRequest) -> pb.Policy:
        if not request.policy.id:
            request.policy.id, request.policy.created_at = new_id("pol-"), time.time()
        self.put("policy", request.policy)
        return request.policy

    def _audit_page(self, request: pb.AuditPageRequest) -> pb.AuditPageReply:
        found = [
            entry
            for entry in reversed(self.audit)
            if (not request.before or entry.seq < request.before)
            and entry.action.startswith(request.action)
            and request.text.lower() in f"{entry.actor} {entry.action} {entry.subject} {entry.detail_json}".lower()
        ]
        return pb.AuditPageReply(entries=found[: request.limit or 200], total=len(self.audit))

    def _verify(self, _request: pb.Empty) -> pb.VerifyReply:
        return pb.VerifyReply(whole=True, entries=len(self.audit), head=self.audit[-1].hash if self.audit else b"")

    def _logs_page(self, request: pb.LogPageRequest) -> pb.LogPageReply:
        order = ("debug", "info", "warning", "error")
        least = order.index(request.level) if request.level in order else 0
        found = [
            line
            for line in self.logs
            if (not request.before or line.seq < request.before)
            and order.index(line.level) >= least
            and (not request.run_id or line.run_id == request.run_id)
            and request.text.lower() in line.text.lower()
        ]
        return pb.LogPageReply(lines=found[-(request.limit or 200) :], total=len(found))

    async def _logs_tail(self, request: pb.LogPageRequest) -> AsyncIterator[pb.LogPageReply]:
        yield self._logs_page(request)
        while True:
            await asyncio.sleep(0.5)
            line = pb.LogLine(
                seq=self.logs[-1].seq + 1 if self.logs else 1,
                at=time.time(),
                level="info",
                source="link",
                text="Still here",
            )
            self.logs.append(line)
            yield pb.LogPageReply(lines=[line])


def _servicer(daemon: SampleDaemon, token: str, service: str, methods: dict[str, Callable[..., Any]]) -> Any:
    """An object with a coroutine or generator for each method, which checks the token and tells faults."""
    streams = {"Watch", "Follow", "Tail", "Look", "Try"}

    async def check(context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if dict(context.invocation_metadata() or ()).get(TOKEN_METADATA) != token:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "wrong token")

    def unary(name: str, answer: Callable[[Any], Any]) -> Callable[..., Any]:
        async def call(_self: Any, request: Any, context: Any) -> Any:
            await check(context)
            daemon.calls.append((f"{service}.{name}", request))
            await asyncio.sleep(daemon.delays.get(f"{service}.{name}", 0))
            try:
                if (fault := daemon.faults.get(f"{service}.{name}")) is not None:
                    raise fault
                return answer(request)
            except UserError as error:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, error.what, fault_metadata(error))

        return call

    def stream(name: str, answer: Callable[[Any], AsyncIterator[Any]]) -> Callable[..., Any]:
        async def call(_self: Any, request: Any, context: Any) -> AsyncIterator[Any]:
            await check(context)
            daemon.calls.append((f"{service}.{name}", request))
            if (fault := daemon.faults.get(f"{service}.{name}")) is not None:
                await context.abort(grpc.StatusCode.FAILED_PRECONDITION, fault.what, fault_metadata(fault))
            async for item in answer(request):
                yield item

        return call

    made = {n: stream(n, f) if n in streams else unary(n, f) for n, f in methods.items()}
    return type(f"Sample{service}", (getattr(rpc, f"{service}Servicer"),), made)()  # the rest is not implemented
