"""The process that speaks PyTorch RPC for one end: ``python -m octopus_desktop.communication.torch_rpc_endpoint PLAN``.

RPC has no authentication and unpickles what any peer sends, so whoever reaches its port may run code here. Therefore
this process holds no key, no data and no file, lives in a sandbox (``torch_rpc``), and only carries sealed bytes
between peers and its end (``relay_client``), which believes nothing that it says. PLAN is a
``torch_rpc_plan.Plan`` in JSON.

The server's endpoint holds a TCPStore at the offered host and port, where silos learn its agent's address. Each life of
a silo's endpoint has a fresh name and number, and makes itself known by one call (``greet``); both then hold one call
(``stay``) open that is never answered, so that TCP tells of the other's death at once. ``rpc.init_rpc`` without a world
size is not used: there each one that joins calls every member, silos among them, and one member that was killed keeps
all later ones out. Here silos know the server alone. To leave is to end the process.

A message is a uint8 tensor. Each peer and lane has one call on its way (order is kept), with all that has gathered; a
call returns once there is room for its bytes at the other side, which is the back-pressure. torch is imported in
functions alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections import deque
from datetime import timedelta
from typing import Any

from octopus_desktop.communication.relay_client import RelayClient
from octopus_desktop.communication.relay_frames import MESSAGE_BYTES, NAME_BYTES
from octopus_desktop.communication.torch_rpc_plan import SERVER, Plan, inside, outside
from octopus_desktop.communication.wires import Lane
from octopus_desktop.system.sandbox import scope_itself
from octopus_desktop.wire.errors import UserError

CALL_S = 60.0  # a peer that takes no bytes for so long is taken for dead
SHARED_S = 5.0  # ... and where several claim one name, one that keeps the others waiting for so long
LEAVE_S = 0.8
BATCH_BYTES = 2 << 20
INWARD_BYTES = 4 << 20  # of each lane, from all peers
SMALL_BYTES = 16 << 10  # messages up to this size share a tensor
LIVES = 4  # of one silo at once: its newest, one that it replaces, and whoever claims its name
THREADS = 32
DATA_BYTES = 6 << 30  # of memory for this process, whatever its peers send
_LAST_ID = 32_000  # RPC numbers its workers with 16 bits


class _Lane:
    """What waits for one peer and lane, and the thread that sends it."""

    def __init__(self, endpoint: Endpoint, peer: str, lane: Lane) -> None:
        self._endpoint, self._peer, self._lane = endpoint, peer, lane
        self._queue: deque[bytes | bytearray] = deque()  # bounded by the room that the end was given
        self._work = threading.Condition()
        self._sending = False
        threading.Thread(target=self._run, name=f"to {peer}", daemon=True).start()

    def put(self, message: bytes | bytearray) -> None:
        with self._work:
            self._queue.append(message)
            self._work.notify()

    @property
    def idle(self) -> bool:
        return not self._queue and not self._sending

    def _run(self) -> None:
        while True:
            with self._work:
                self._sending = False
                while not self._queue:
                    self._work.wait()
                self._sending = True
                batch = [self._queue.popleft()]
                held = len(batch[0])
                while self._queue and held + len(self._queue[0]) <= BATCH_BYTES and len(batch) < 1024:
                    batch.append(self._queue.popleft())
                    held += len(batch[-1])
            try:
                self._endpoint.send(self._peer, self._lane, batch)
                self._endpoint.client.room(self._peer, self._lane, held)
            except OSError:  # the end is gone
                self._endpoint.leave()


class _Inward:
    """What came from peers and waits for the end, and the thread that gives it: while one message is written to the
    end's socket, the next comes over the network. Holds ``INWARD_BYTES``; who brings more waits."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._queues: dict[Lane, deque[tuple[str, list[memoryview]]]] = {lane: deque() for lane in Lane}
        self._held = dict.fromkeys(Lane, 0)
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="to the end", daemon=True).start()

    def put(self, peer: str, lane: Lane, messages: list[memoryview]) -> None:
        size = sum(map(len, messages))
        with self._changed:
            while self._held[lane] and self._held[lane] + size > INWARD_BYTES:
                self._changed.wait()
            self._held[lane] += size
            self._queues[lane].append((peer, messages))
            self._changed.notify_all()

    def _run(self) -> None:
        mail, bulk = self._queues[Lane.MAIL], self._queues[Lane.BULK]
        while True:
            with self._changed:
                while not mail and not bulk:
                    self._changed.wait()
                lane = Lane.MAIL if mail else Lane.BULK
                peer, messages = self._queues[lane].popleft()
            try:
                self._endpoint.client.give_all(peer, lane, messages)
            except OSError:  # the end is gone
                self._endpoint.leave()
            with self._changed:
                self._held[lane] -= sum(map(len, messages))
                self._changed.notify_all()


class Endpoint:
    """One life of an endpoint. ``lives``: each peer's names in RPC, the longest unheard first."""

    def __init__(self, client: RelayClient, plan: Plan) -> None:
        self.client, self.plan = client, plan
        self.lives: dict[str, list[str]] = {}
        self._peer_of: dict[str, str] = {}
        self._ids: dict[str, int] = {}
        self._stays: dict[str, Any] = {}
        self._lanes: dict[tuple[str, Lane], _Lane] = {}
        self._lock = threading.RLock()
        self._agent: Any = None
        self._store: Any = None
        self._own_name = SERVER
        self._inward = _Inward(self)

    # joining

    def join(self) -> None:
        """Open RPC and, as a silo, meet the server. Raises UserError."""
        if self.plan.name == SERVER:
            rendezvous = self._hold_rendezvous()
            rendezvous.set("torch", _torch_version())
            rendezvous.set(SERVER, self._open_agent(SERVER, 0))
            self._rendezvous = rendezvous
        else:
            self._meet_server()

    def _hold_rendezvous(self) -> Any:
        from torch.distributed import TCPStore

        plan = self.plan
        # TCPStore by itself would listen on every interface
        family = socket.AF_INET6 if ":" in plan.host else socket.AF_INET
        with socket.socket(family) as listening:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listening.bind((plan.host, plan.port))
            except OSError as error:
                raise UserError(
                    "OCT-PORT-USED",
                    f"PyTorch RPC cannot listen at {plan.host}:{plan.port}.",
                    f"{error.strerror}.",
                    "End what uses the port, or offer another one ('octopus server carrier put torch_rpc').",
                ) from error
            listening.listen(128)
            return TCPStore(
                plan.host, plan.port, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=plan.join_s),
                master_listen_fd=listening.detach(),
            )  # fmt: skip

    def _open_agent(self, name: str, number: int, known: dict[str, str] | None = None) -> str:
        """RPC's agent on a store of its own, so that no peer can confuse it; returns its address."""
        from torch._C._distributed_rpc import TensorPipeAgent
        from torch.distributed import HashStore, autograd
        from torch.distributed.rpc import TensorPipeRpcBackendOptions, api

        os.environ["TP_SOCKET_IFNAME"] = os.environ["GLOO_SOCKET_IFNAME"] = self.plan.interface
        self._store = HashStore()
        for peer, address in (known or {}).items():
            self._store.set(f"addrs/{peer}", address)
        autograd._init(number)
        options = TensorPipeRpcBackendOptions(
            num_worker_threads=THREADS, rpc_timeout=CALL_S, _transports=["uv"], _channels=["basic"]
        )
        self._agent = TensorPipeAgent(self._store, name, number, None, options, {}, [])
        self._own_name = name
        api._init_rpc_states(self._agent)
        address = str(self._store.get(f"addrs/{name}").decode())
        bound = address.removeprefix("uv://").rpartition(":")[0].strip("[]").partition("%")[0]
        if not inside(bound, self.plan.networks):
            raise outside(bound, self.plan.networks)
        return address

    def _meet_server(self) -> None:
        from torch.distributed import TCPStore, rpc

        plan = self.plan
        try:
            rendezvous = TCPStore(
                plan.host, plan.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=plan.join_s)
            )
            address = rendezvous.get(SERVER).decode()
            theirs, ours = rendezvous.get("torch").decode(), _torch_version()
            number = rendezvous.add("lives", 1) % _LAST_ID + 1
        except Exception as error:
            raise _no_server(plan, f"The rendezvous does not answer: {_first_line(error)}") from error
        differ = f"The server's PyTorch is {theirs[:40]}, this side's is {ours}."
        if theirs.split(".")[:2] != ours.split(".")[:2]:
            self.client.note(
                f"{differ} PyTorch promises nothing for RPC between versions; update one side if it fails."
            )
        name = f"s{number}_{os.urandom(8).hex()}"  # neither may ever come again; a hyphen would not be understood
        mine = self._open_agent(name, number, {SERVER: address})
        try:
            self._know(SERVER, SERVER, 0)
            rpc.rpc_sync(SERVER, greet, args=(plan.name, name, number, mine), timeout=plan.join_s)
        except Exception as error:
            raise _no_server(plan, f"{_first_line(error)} {differ if theirs != ours else ''}") from error
        self._watch(SERVER)

    # peers

    def greeted(self, peer: str, life: str, number: int, address: str) -> None:
        """A silo's endpoint came; one of its earlier lives may still be there."""
        if not (peer.isascii() and peer.isprintable() and 0 < len(peer) <= NAME_BYTES) or peer == SERVER:
            raise ValueError("a name that cannot be")
        with self._lock:
            self._store.set(f"addrs/{life}", address)
            self._know(peer, life, number)
            lives = self.lives[peer]
            for old in lives[: len(lives) - LIVES]:
                self._forget(old)
        self._watch(life)

    def _know(self, peer: str, life: str, number: int) -> None:
        from torch._C._distributed_rpc import WorkerInfo

        self._agent._update_group_membership(WorkerInfo(life, number), [], {}, True)
        with self._lock:
            self._peer_of[life], self._ids[life] = peer, number
            self.lives.setdefault(peer, []).append(life)

    def _watch(self, life: str) -> None:
        from torch.distributed import rpc

        rpc.rpc_async(life, stay, args=(self._own_name,), timeout=0).then(lambda _: self.lost(life))

    def lost(self, life: str) -> None:
        """A peer's process, or the line to it, ended."""
        if life == SERVER:
            self.leave(_no_server(self.plan, "It was there, and is gone."))
        with self._lock:
            self._forget(life)

    def _forget(self, life: str) -> None:
        from torch._C._distributed_rpc import WorkerInfo

        if (peer := self._peer_of.pop(life, None)) is None:
            return
        self._stays.pop(life, None)
        lives = self.lives[peer]
        lives.remove(life)
        with contextlib.suppress(Exception):
            self._agent._update_group_membership(WorkerInfo(life, self._ids.pop(life)), [], {}, False)
        if not lives:
            del self.lives[peer]
            self.client.gone(peer)

    def staying(self, life: str) -> Any:
        """An answer that never comes; held, for it would be lost otherwise."""
        import torch

        with self._lock:
            if life not in self._peer_of:
                raise ValueError("unknown")
            return self._stays.setdefault(life, torch.futures.Future())

    # messages

    def take(self, peer: str, lane: Lane, message: bytes | bytearray) -> None:
        """From the end; what goes to somebody who is not there is thrown away."""
        found = self._lanes.get((peer, lane))
        if found is None:
            if peer not in self.lives:
                self.client.gone(peer)
                self.client.room(peer, lane, len(message))
                return
            found = self._lanes[peer, lane] = _Lane(self, peer, lane)
        found.put(message)

    def send(self, peer: str, lane: Lane, batch: list[bytes | bytearray]) -> None:
        """One call with a batch of messages to each life of a peer; a life that fails is over."""
        from torch.distributed import rpc

        with self._lock:
            lives = list(self.lives.get(peer, ()))
        if not lives:
            self.client.gone(peer)
            return
        lengths, tensors = _packed(batch)
        calls = []
        patience = CALL_S if len(lives) == 1 else SHARED_S
        for life in lives:
            try:
                args = (self._own_name, int(lane), lengths, tensors)
                calls.append((life, rpc.rpc_async(life, deliver, args=args, timeout=patience)))
            except Exception:
                self.lost(life)
        for life, call in calls:
            try:
                call.wait()
            except Exception:
                self.lost(life)

    def arrived(self, life: str, lane: Lane, lengths: list[list[int]], tensors: list[Any]) -> None:
        """A peer's call: its messages go to the end; returns when there is room for them."""
        with self._lock:
            peer = self._peer_of[life]
            lives = self.lives[peer]
            lives.remove(life)
            lives.append(life)
        messages = []
        for sizes, tensor in zip(lengths, tensors, strict=True):
            view = memoryview(tensor.numpy()).cast("B")
            at = 0
            for size in sizes:
                if not 0 <= size <= MESSAGE_BYTES or at + size > len(view):
                    raise ValueError("lengths that do not fit")
                messages.append(view[at : at + size])
                at += size
        self._inward.put(peer, lane, messages)

    def carry(self) -> None:
        """Carry messages until the end closes; then let go out what waits, and leave."""
        self.client.ready()
        for _, lane, peer, payload in self.client.messages():
            self.take(peer, lane, payload)
        until = time.monotonic() + LEAVE_S
        while time.monotonic() < until and not all(lane.idle for lane in self._lanes.values()):
            time.sleep(0.005)
        self.leave()

    def leave(self, fault: UserError | None = None) -> None:
        """End this process, at once: its peers see the line close."""
        with contextlib.suppress(OSError):
            if fault is not None:
                self.client.fault(fault)
        os._exit(0 if fault is None else 3)


def _packed(batch: list[bytes | bytearray]) -> tuple[list[list[int]], list[Any]]:
    """Tensors and, for each, the lengths of the messages in it; large messages are not copied."""
    import torch

    lengths: list[list[int]] = []
    tensors: list[Any] = []
    joined: bytearray | None = None
    for message in batch:
        if len(message) > SMALL_BYTES and isinstance(message, bytearray):
            joined = None
            lengths.append([len(message)])
            tensors.append(torch.frombuffer(message, dtype=torch.uint8))
        elif joined is None or len(joined) > BATCH_BYTES:
            joined = bytearray(message)
            lengths.append([len(message)])
            tensors.append(joined)
        else:
            joined += message
            lengths[-1].append(len(message))
    return lengths, [
        torch.frombuffer(t or bytearray(1), dtype=torch.uint8) if isinstance(t, bytearray) else t for t in tensors
    ]


# What peers call. Anyone may call anything else too, for RPC runs what it is sent: see the top.

_endpoint: Endpoint | None = None


def greet(peer: str, life: str, number: int, address: str) -> None:
    """A silo's endpoint makes itself known at the server's."""
    assert _endpoint is not None
    _endpoint.greeted(peer, life, number, address)


def deliver(life: str, lane: int, lengths: list[list[int]], tensors: list[Any]) -> None:
    """Messages from a peer, as uint8 tensors with the lengths of the messages in each."""
    assert _endpoint is not None
    _endpoint.arrived(life, Lane(lane), lengths, tensors)


def stay(life: str) -> Any:
    """Never answered: fails at the caller when this process ends."""
    assert _endpoint is not None
    return _endpoint.staying(life)


def main(plan: Plan) -> None:
    """Run one endpoint; never returns."""
    global _endpoint
    client = RelayClient.inherited(plan.descriptor)
    try:
        _limit_itself()
        _import_torch()
        _endpoint = Endpoint(client, plan)
        _endpoint.join()
    except UserError as error:
        client.fault(error)
        os._exit(3)
    _endpoint.carry()


def _limit_itself() -> None:
    """A peer that fills the memory of this process ends it, and nothing else on the machine."""
    import resource

    scope_itself()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    bound = DATA_BYTES if most == resource.RLIM_INFINITY else min(DATA_BYTES, most)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, bound))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _import_torch() -> None:
    global stay
    try:
        import torch
        from torch.distributed import rpc
    except (ImportError, OSError) as error:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "PyTorch RPC needs PyTorch, which cannot be imported here.",
            _first_line(error),
            f"Install it for {sys.executable}, or use another carrier.",
        ) from error
    if not rpc.is_available() or not hasattr(rpc, "TensorPipeRpcBackendOptions"):
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "This build of PyTorch has no RPC.",
            f"PyTorch {torch.__version__} was built without TensorPipe.",
            "Install a build with it (Linux wheels have it), or use another carrier.",
        )
    torch.set_num_threads(1)
    stay = rpc.functions.async_execution(stay)


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def _no_server(plan: Plan, why: str) -> UserError:
    return UserError(
        "OCT-RPC-PEER",
        f"The server's PyTorch RPC endpoint at {plan.host}:{plan.port} cannot be reached.",
        why[:300],
        "It is tried again by itself. If it lasts, ask the coordinator whether the server offers PyTorch RPC.",
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


if __name__ == "__main__":
    # RPC names functions by their module: the one that peers import, not __main__
    from octopus_desktop.communication import torch_rpc_endpoint

    torch_rpc_endpoint.main(Plan.from_json(sys.argv[1]))
