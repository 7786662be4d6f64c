"""A whole federation on this machine: a server and some silos, each a process of its own below one directory.

The demo shows it, the end-to-end tests and the benchmarks drive it, over each carrier. Every step looks first at what
is there already, so that a second call goes on where the first one stopped. Speaks to server and daemons through their
APIs alone.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octopus_desktop.cli.common import Api, daemon_api, request_id, server_api, snapshot
from octopus_desktop.cli.local_parts import Parts
from octopus_desktop.system.paths import FederationHome, SiloHome, private_dir
from octopus_desktop.system.service import PASSPHRASE_VARIABLE
from octopus_desktop.wire.errors import UserError

NOWHERE = "192.0.2.1"  # an address for documentation (RFC 5737): no packet to it arrives


@dataclass(frozen=True, slots=True, kw_only=True)
class SiloPlan:
    """One silo of the federation: its name there, its people, its data (alias -> file), its standing rule."""

    name: str
    organisation: str
    administrator: str
    data: Mapping[str, Path] = field(default_factory=dict)
    rule: Mapping[str, Any] | None = None


class LocalSilo:
    """One silo: home, passphrase file, daemon process."""

    def __init__(self, root: Path, plan: SiloPlan) -> None:
        self.plan = plan
        self.home = SiloHome(root=root / "silos" / plan.name)
        self.passphrase_file = root / "silos" / f"{plan.name}.passphrase"
        private_dir(self.home.root)
        if not self.passphrase_file.exists():
            with os.fdopen(os.open(self.passphrase_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(24))

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, PASSPHRASE_VARIABLE: str(self.passphrase_file), "OCTOPUS_HOME": str(self.home.root)}

    def start(self) -> int:
        """Start the daemon unless it answers already; returns its process id."""
        from octopus_desktop.system.service import start_daemon

        return start_daemon(self.home, environment=self.environment)

    def api(self) -> Api:
        return daemon_api(self.home)

    def key(self) -> Any:
        """The approver's own key, from this silo's store."""
        from octopus_desktop.identity.secrets import approver_key, open_store

        store = open_store(self.home.secrets, passphrase=self.passphrase_file.read_text())
        return approver_key(store, self.plan.administrator)

    def prepare(self, invite: Callable[[], str], answer: Callable[[bytes], bytes] | None = None) -> None:
        """Set the silo up, enrol it with ``invite()``, register this machine, its data and its rule.

        ``answer``: the coordinator's answer to a request file; with it, the silo enrols without a route to the server.
        """
        from octopus_desktop.wire.pb import local_pb2 as pb

        api, plan = self.api(), self.plan
        snap = snapshot(api)
        if not snap.daemon.configured:
            api.call(
                "Setup.Configure",
                pb.ConfigureRequest(
                    organisation=plan.organisation,
                    administrator=plan.administrator,
                    approver_key=self.key().public,
                    request_id=request_id(),
                ),
            )
        if not snap.nodes:
            api.call("Nodes.Register", pb.RegisterNodeRequest(request_id=request_id()))
        known = {dataset.alias for dataset in snap.datasets}
        for alias, path in plan.data.items():
            if alias not in known:
                dataset = pb.RegisterDatasetRequest(alias=alias, path=str(path), request_id=request_id())
                api.call("Datasets.Register", dataset)
        if plan.rule is not None and not snap.policies:
            self.put_rule("demo", plan.rule)
        if not snap.federations:
            enrolment = pb.EnrolLocalRequest(text=invite(), name=plan.name, request_id=request_id())
            if answer is None:
                api.call("Federations.Enrol", enrolment)
            else:
                asked = api.call("Federations.EnrolRequestFile", enrolment)
                reply = pb.EnrolFileLocalRequest(file=answer(asked.file), request_id=request_id())
                api.call("Federations.EnrolFile", reply)

    def use_carrier(self, own_side: Mapping[str, Any]) -> None:
        """Set this silo's side of a carrier; ``own_side``: the fields of a ``ConfigureCarrierRequest`` but the id."""
        from octopus_desktop.wire.pb import local_pb2 as pb

        federation, known = self._offered(str(own_side["name"]))
        if known.own_json in ("", "{}") or known.control != own_side["control"]:
            wanted = pb.ConfigureCarrierRequest(id=federation.id, request_id=request_id(), **own_side)
            self.api().call("Federations.ConfigureCarrier", wanted)

    def _offered(self, carrier: str, seconds: float = 60) -> Any:
        """The federation, and its row of this carrier, once the server has told of it."""
        from octopus_desktop.wire.pb.local_pb2 import WatchRequest

        deadline = time.monotonic() + seconds
        for event in self.api().stream("Daemon.Watch", WatchRequest()):
            for federation in event.snapshot.federations if event.HasField("snapshot") else [event.federation]:
                for known in federation.carriers:
                    if known.name == carrier:
                        return federation, known
            if time.monotonic() > deadline:
                break
        raise TimeoutError(f"{self.plan.name} was not told of the carrier {carrier} within {seconds} s")

    def put_rule(self, name: str, rule: Mapping[str, Any]) -> None:
        from octopus_desktop.jobs.policy import Rule
        from octopus_desktop.wire.pb import local_pb2 as pb

        text, key = Rule.from_dict(dict(rule)).to_json(), self.key()
        policy = pb.Policy(
            name=name,
            enabled=True,
            rule_json=text,
            created_by=self.plan.administrator,
            statement=text.encode(),
            signature=key.sign(text.encode()),
            approver_key=key.public,
        )
        self.api().call("Policies.Put", pb.PutPolicyRequest(policy=policy, request_id=request_id()))

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run an octopus command in this silo, as its administrator would."""
        return octopus(*words, environment=self.environment)


class LocalFederation:
    """The server and its silos below ``root``, with what their carrier needs.

    Arguments:
        carrier: by which runs move their data, and where it may also carry control, that as well.
        route: false: silos enrol by files, and the server's address in their invitations leads nowhere; then the
            carrier must be one that carries control.
    """

    def __init__(
        self, root: Path, name: str, plans: Sequence[SiloPlan], *, carrier: str = "grpc", route: bool = True
    ) -> None:
        self.root, self.name, self.route = root, name, route
        self.home = FederationHome(root=root / "server")
        private_dir(root)
        self.silos = [LocalSilo(root, plan) for plan in plans]
        self.parts = Parts(root, carrier, [plan.name for plan in plans])

    @property
    def carrier(self) -> str:
        return self.parts.carrier

    def start_server(self, port: int = 0) -> None:
        """Make the federation when there is none, and start its server unless it answers already."""
        if not self.home.config.exists():
            host = "127.0.0.1" if self.route else NOWHERE
            words = ["--name", self.name, "--host", host, "--port", str(port or free_port())]
            words += [] if self.route else ["--bind", "127.0.0.1"]
            octopus("server", "init", "--home", str(self.home.root), *words)
        try:
            self.server().call("Operator.Status", _operator().StatusRequest())
        except UserError:
            octopus("server", "start", "--home", str(self.home.root))

    def start(self) -> None:
        """What the carrier needs and the server first, then all silos side by side."""
        self.parts.start(free_port)
        self.start_server()
        self.offer_carrier()
        with ThreadPoolExecutor(max_workers=2) as pool:
            list(pool.map(self._start_silo, self.silos))

    def offer_carrier(self) -> None:
        """Let the server offer the carrier, unless it does already."""
        if self.carrier == "grpc":
            return
        pb = _operator()
        offered = self.server().call("Operator.Carriers", pb.CarriersRequest()).carriers
        if self.carrier not in [one.name for one in offered]:
            self.server().call("Operator.PutCarrier", pb.PutCarrierRequest(**self.parts.offer()))

    def _start_silo(self, silo: LocalSilo) -> None:
        silo.start()
        silo.prepare(lambda: self.invite(silo.plan.name), None if self.route else self.answer)
        if self.carrier != "grpc":
            silo.use_carrier(self.parts.own_side(silo.plan.name))

    def answer(self, request: bytes) -> bytes:
        """The server's answer to a request file."""
        reply = self.server().call("Operator.EnrolFile", _operator().EnrolFileRequest(file=request))
        return bytes(reply.file)

    def server(self) -> Api:
        return server_api(self.home)

    def invite(self, name: str) -> str:
        """A fresh invitation for one silo; secret."""
        request = _operator().InviteRequest(role="silo", name=name, valid_s=3600)
        return str(self.server().call("Operator.Invite", request).text)

    def submit(self, folder: Path, author: str = "demo-author") -> str:
        """Build and sign the job in ``folder`` by an author key kept below ``root``, submit it; returns its digest."""
        from octopus_desktop.identity.keys import SigningKey
        from octopus_desktop.jobs.package import build, sign
        from octopus_desktop.wire.pb.envelope_pb2 import BlobRef
        from octopus_desktop.wire.pb.federation_pb2 import Chunk

        seed = self.root / "author.key"
        if not seed.exists():
            with os.fdopen(os.open(seed, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(SigningKey.generate().seed())
        key = SigningKey.from_seed(seed.read_bytes())
        api = self.server()
        api.call("Operator.AddAuthor", _operator().AddAuthorRequest(name=author, key=key.public))
        package = self.root / f"{folder.name}.octojob"
        build(folder, package)
        sign(package, key, author)
        data = package.read_bytes()
        job = api.send("Operator.SubmitJob", [Chunk(blob=BlobRef(size=len(data)), data=data)])
        return str(job.digest)

    def start_run(
        self,
        job: str,
        overrides: Mapping[str, Any] | None = None,
        silos: Sequence[str] = (),
        *,
        own_strategy: bool = False,
    ) -> str:
        """Offer a run of a submitted job to silos, over this federation's carrier; returns the run's id.
        ``own_strategy``: allow one that the package brings."""
        settings = {"communication": {"carrier": self.carrier}, **dict(overrides or {})}
        request = _operator().StartRunRequest(
            job=job,
            silos=list(silos),
            overrides_json=json.dumps(settings),
            request_id=request_id(),
            allow_own_strategy=own_strategy,
        )
        run_id = str(self.server().call("Operator.StartRun", request).id)
        if self.carrier == "mpi":
            self.start_world(run_id)
        return run_id

    def start_world(self, run_id: str) -> int:
        """An MPI world for this run; see ``Parts.start_world``."""
        homes = {silo.plan.name: silo.home.root for silo in self.silos}
        return self.parts.start_world(run_id, self.home.root, homes)

    def run(self, run_id: str) -> Any:
        return self.server().call("Operator.GetRun", _operator().GetRunRequest(id=run_id))

    def watch(self, run_id: str) -> Iterator[Any]:
        """The run now, then at each change, until it ends."""
        yield from self.server().stream("Operator.WatchRun", _operator().GetRunRequest(id=run_id))

    def wait_offer(
        self, silo: LocalSilo, run_id: str, states: Sequence[str] = ("offered",), seconds: float = 60
    ) -> Any:
        """Wait until the silo's offer of this run is in one of the states; returns it."""
        from octopus_desktop.wire.pb.local_pb2 import WatchRequest

        deadline = time.monotonic() + seconds
        for event in silo.api().stream("Daemon.Watch", WatchRequest()):
            offers = event.snapshot.offers if event.HasField("snapshot") else [event.offer]
            for offer in offers:
                if offer.id == run_id and offer.state in states:
                    return offer
                if offer.id == run_id and offer.state == "invalid":
                    raise UserError(offer.problem_code, f"The offer is not valid for {silo.plan.name}.", offer.problem)
            if time.monotonic() > deadline:
                break
        raise TimeoutError(f"no offer of {run_id} in {states} at {silo.plan.name} within {seconds} s")

    def stop(self) -> None:
        """Ask every daemon and the server to stop; what does not answer is not running. Then the carrier's parts."""
        from octopus_desktop.system.service import wait_stopped
        from octopus_desktop.wire.pb.local_pb2 import ShutdownRequest

        for silo in self.silos:
            try:
                silo.api().call("Daemon.Shutdown", ShutdownRequest(request_id=request_id()))
                wait_stopped(silo.home, 15)
            except UserError:
                continue
        try:
            octopus("server", "stop", "--home", str(self.home.root))
        except UserError:
            pass
        self.parts.stop()

    def remove(self) -> None:
        """Stop everything and remove the directory."""
        self.stop()
        for silo in self.silos:
            shutil.rmtree(silo.home.runtime, ignore_errors=True)
        shutil.rmtree(self.home.runtime, ignore_errors=True)
        shutil.rmtree(self.root, ignore_errors=True)


def octopus(*words: str, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run an octopus command with --json; its failure is raised as the UserError that it printed."""
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(environment) if environment else None)
    if done.returncode:
        try:
            error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
        except (ValueError, KeyError, IndexError):
            raise RuntimeError(f"octopus {' '.join(words)} failed:\n{done.stderr[-4000:]}") from None
        raise UserError(error["code"], error["what"], error["why"], error["next_step"])
    return done


def free_port() -> int:
    """A TCP port of the loopback interface that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _operator() -> Any:
    from octopus_desktop.wire.pb import operator_pb2

    return operator_pb2
