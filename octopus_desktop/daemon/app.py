"""Wires the daemon's parts together. Constructors receive; nothing reaches out for another part."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.local_api.approvals import ApprovalsApi
from octopus_desktop.daemon.local_api.audit import AuditApi
from octopus_desktop.daemon.local_api.base import LocalApi
from octopus_desktop.daemon.local_api.daemon import DaemonApi
from octopus_desktop.daemon.local_api.datasets import DatasetsApi
from octopus_desktop.daemon.local_api.federations import FederationsApi
from octopus_desktop.daemon.local_api.logs import LogsApi
from octopus_desktop.daemon.local_api.nodes import NodesApi
from octopus_desktop.daemon.local_api.policies import PoliciesApi
from octopus_desktop.daemon.local_api.runs import RunsApi
from octopus_desktop.daemon.local_api.runtimes import RuntimesApi
from octopus_desktop.daemon.local_api.setup import SetupApi
from octopus_desktop.daemon.local_api.slurm import SlurmApi
from octopus_desktop.daemon.mail import Inward, Mailboxes, SiloMail
from octopus_desktop.daemon.reducer import Restarted
from octopus_desktop.daemon.services.agents import Agents
from octopus_desktop.daemon.services.approvals import Approvals
from octopus_desktop.daemon.services.blob_uses import BlobUses
from octopus_desktop.daemon.services.carriers import Carriers
from octopus_desktop.daemon.services.credentials import Credentials
from octopus_desktop.daemon.services.datasets import Datasets
from octopus_desktop.daemon.services.exports import Exports
from octopus_desktop.daemon.services.federations import Federations
from octopus_desktop.daemon.services.links import Links
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.logs import LogHandler, Logs
from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.daemon.services.offers import Offers
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.daemon.services.places import Places
from octopus_desktop.daemon.services.policies import Policies
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.daemon.services.reviews import Reviews
from octopus_desktop.daemon.services.runs import Runs
from octopus_desktop.daemon.services.runtimes import Runtimes
from octopus_desktop.daemon.services.setup import Setup
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.daemon.services.slurm import Slurm
from octopus_desktop.daemon.services.spread import Spread
from octopus_desktop.daemon.services.trials import Trials
from octopus_desktop.daemon.services.words import Words
from octopus_desktop.identity import envelopes
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.silo_db import SiloDb
from octopus_desktop.system.paths import SiloHome
from octopus_desktop.wire.pb import local_pb2 as pb


class App:
    """The whole daemon. ``shutdown`` is called when a client asks for the end."""

    def __init__(self, home: SiloHome, db: SiloDb, shutdown: Callable[[], None]) -> None:
        silo = self.silo = Silo(home, db)
        self.keys = SiloKeys(home)
        self.blobs = BlobStore(home.blobs)
        self.logs = Logs(silo)
        self.record = Record(silo)
        self.lives = Lives(silo, self.keys, self.record)
        self.setup = Setup(silo)
        self.nodes = Nodes(silo)
        self.agents = Agents(silo, self.keys)
        self.datasets = Datasets(silo)
        self.places = Places(silo, self.agents)
        self.uses = BlobUses(silo, self.blobs)
        self.packages = Packages(self.blobs)
        self.mailboxes = Mailboxes(home.run)
        self.credentials = Credentials(silo, self.keys)
        self.links = Links(silo, self.keys, self.credentials, self.lives)
        self.carriers = Carriers(silo, self.lives, self.credentials, self.links)
        self.federations = Federations(silo, self.keys, self.credentials, self.links)
        self.offers = Offers(silo, self.lives, self.packages, self.uses)
        self.runtimes = Runtimes(silo)
        self.slurm = Slurm(silo)
        self.approvals = Approvals(
            silo, self.lives, self.setup, self.nodes, self.datasets, self.packages, self.runtimes, self.slurm
        )
        self.words = Words(silo, self.lives, self.record, self.logs, self.mailboxes, self.uses)
        self.spread = Spread(silo, self.agents, self.blobs, self.logs)
        self.runs = Runs(
            silo,
            self.lives,
            self.record,
            self.logs,
            self.nodes,
            self.mailboxes,
            self.blobs,
            self.uses,
            self.words,
            self.spread,
        )
        self.policies = Policies(silo, self.keys, self.setup, self.approvals, self.packages)
        self.reviews = Reviews(silo, self.packages, self.policies)
        self.trials = Trials(silo, self.packages, self.datasets, self.runtimes)
        self._wire()
        self.api = LocalApi(
            silo,
            {
                "Daemon": DaemonApi(silo, shutdown),
                "Setup": SetupApi(self.setup),
                "Federations": FederationsApi(self.federations, self.carriers),
                "Nodes": NodesApi(self.nodes, self.agents),
                "Datasets": DatasetsApi(self.datasets, self.places),
                "Approvals": ApprovalsApi(self.approvals, self.reviews, self.trials),
                "Runtimes": RuntimesApi(self.runtimes, self.places, self.approvals.uses_runtime),
                "Slurm": SlurmApi(self.slurm, self.approvals.uses_slurm),
                "Policies": PoliciesApi(silo, self.policies),
                "Runs": RunsApi(silo, self.runs, self.record, Exports(silo, self.record, self.blobs)),
                "Audit": AuditApi(silo, self.keys),
                "Logs": LogsApi(self.logs),
            },
        )
        self._tasks: list[asyncio.Task[None]] = []

    def _wire(self) -> None:
        """Who is told what. The only place where the parts come to know of each other."""
        lives, runs, links, carriers = self.lives, self.runs, self.links, self.carriers
        lives.launch, lives.tell, lives.end = runs.launch, runs.tell, runs.end
        lives.check_package, lives.apply_policy = self.offers.check, self.policies.apply
        self.datasets.changed = carriers.changed = self.policies.apply_all
        self.approvals.agree, self.approvals.forbidden = carriers.agree, self.policies.forbidden
        self.trials.forbidden = self.policies.forbidden
        self.policies.refusal, self.policies.words = carriers.refusal, carriers.words
        self.policies.requirements = self.runtimes.words
        self.reviews.runtimes, self.runtimes.waiting = self.runtimes.matches, self.reviews.waiting
        lives.posted, lives.active_changed = links.outbox_changed, links.settle
        runs.lawful, self.approvals.spread = self.approvals.lawful, self.spread.plan
        self.approvals.must_take = self.spread.must_take
        self.agents.up_changed, self.agents.heard = self.spread.up_changed, self.spread.heard
        self.agents.may_read, self.agents.removed = self.spread.may_read, self.places.forget
        runs.give_back, self.slurm.going = self.slurm.give_back, runs.allocated
        self.words.sign = lambda envelope: envelopes.sign(envelope, self.keys.silo)
        self.words.outbox_changed, self.words.send_live = links.outbox_changed, links.send_live
        self.nodes.workers, self.nodes.changed = runs.workers, runs.launch_waiting
        self.silo.hub.watch_began = self.nodes.wake
        links.make_mail, links.offered = self._mail_of, carriers.offered
        self.federations.leaving = runs.stop_all_of

    def _mail_of(self, federation: pb.Federation) -> SiloMail:
        """What the carriers of one federation work on."""
        runs = self.runs
        return SiloMail(
            silo=self.silo,
            lives=self.lives,
            record=self.record,
            mailboxes=self.mailboxes,
            blobs=self.blobs,
            federation_id=federation.id,
            name=federation.silo_name,
            key=self.keys.silo,
            server_key=self.credentials.server_key(federation.id),
            inward=Inward(
                offer=self.offers.came,
                task=runs.task_came,
                stop=runs.stop_came,
                finished=runs.finished_came,
                round=runs.round_came,
            ),
            allowed=runs.answer_allowed,
            answered=runs.answer_delivered,
        )

    async def start(self) -> None:
        """Answer first, then bring rows, mail and processes together."""
        logging.getLogger("octopus_desktop").addHandler(LogHandler(self.logs, asyncio.get_running_loop()))
        self.silo.db.forget_old_requests()
        self.silo.status.secrets = await asyncio.to_thread(lambda: self.keys.kind)
        await self.api.start(self.silo.home.socket)
        self.agents.begin()
        self.slurm.begin()
        self.runs.restart_all()
        for life in self.lives.open():
            self.lives.apply(life.run_id, Restarted())
        self.federations.bring_up_to_date()
        self.links.connect_all()
        for work in (
            self.nodes.sample_while_useful(),
            self.agents.open_port(),
            self.offers.expire_in_time(),
            self.federations.renew_in_time(),
        ):
            self._tasks.append(asyncio.create_task(work))

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self.runs.leave()
        await self.slurm.stop()
        await self.agents.stop()
        await self.api.stop()
