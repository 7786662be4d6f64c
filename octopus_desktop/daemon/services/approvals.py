"""Decisions: checked when they come, kept as they were signed, and checked again at each launch.

What makes a run lawful is an approver's signature over exactly this package, configuration, data and conditions; the
state in the database only says where it lies.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from octopus_desktop.daemon import reducer
from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services import conditions as terms
from octopus_desktop.daemon.services.datasets import Datasets
from octopus_desktop.daemon.services.lives import Lives
from octopus_desktop.daemon.services.matching import problem
from octopus_desktop.daemon.services.nodes import Nodes
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.daemon.services.runtimes import Runtimes
from octopus_desktop.daemon.services.setup import Setup
from octopus_desktop.daemon.services.slurm import Slurm
from octopus_desktop.identity.keys import verify
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.jobs.manifest import JobManifest, RunConfig
from octopus_desktop.jobs.package import VerifiedPackage
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.training.spec import DataSource, RunnerSpec
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Decision

VERDICTS = {
    Decision.APPROVED: "approved",
    Decision.REJECTED: "rejected",
    Decision.CHANGES_REQUESTED: "changes_requested",
    Decision.REVOKED: "revoked",
}
CLOCK_SKEW_S = 600.0


class Approvals:
    """
    Attributes:
        agree: raises OCT-CARRIER-REFUSED when the offered run cannot be carried here.
        forbidden: why a standing rule of the silo forbids the offer, or "".
        spread: who trains, as ``Spread.plan``.
        must_take: raises OCT-NODE-FURTHER when a further machine cannot, as ``Spread.must_take``; all are set by
            ``app``.
    """

    def __init__(
        self,
        silo: Silo,
        lives: Lives,
        setup: Setup,
        nodes: Nodes,
        datasets: Datasets,
        packages: Packages,
        runtimes: Runtimes,
        slurm: Slurm,
    ) -> None:
        self._silo, self._lives, self._setup = silo, lives, setup
        self._nodes, self._datasets, self._packages, self._runtimes = nodes, datasets, packages, runtimes
        self._slurm = slurm
        self.agree: Callable[[pb.SiloOffer], str] = lambda offer: ""
        self.spread: Callable[..., Awaitable[dict[str, Any]]]
        self.must_take: Callable[[JobManifest, Conditions], Awaitable[None]]
        self.forbidden: Callable[[pb.SiloOffer, VerifiedPackage], str] = lambda offer, package: ""

    async def decide(self, run_id: str, decision: Decision) -> pb.SiloOffer:
        """Take a person's, or a policy's, signed decision. See ``_statement`` and ``_check_scope`` for the errors."""
        offer = self._silo.need("offer", run_id)
        statement = self._statement(offer, decision)
        verdict = statement.verdict
        if verdict == "approved":
            self._must_be(offer, "offered")
            self.agree(offer)
            await self._must_be_allowed(offer)
            manifest, _ = await self._check_scope(offer, statement)
            await self.must_take(manifest, statement.conditions)
            if statement.conditions.slurm:
                await self._slurm.must_take(statement.conditions.slurm)
        with self._silo.change():
            offer = self._silo.need("offer", run_id)
            self._must_be(offer, "approved" if verdict == "revoked" else "offered")
            self._keep(run_id, decision)
            if verdict == "revoked":
                self._revoke(offer, statement)
            else:
                self._settle(offer, statement, decision)
            offer = self._silo.need("offer", run_id)
            self._silo.answer(offer)
        return offer

    async def _must_be_allowed(self, offer: pb.SiloOffer) -> None:
        """What a standing rule forbids, no single approval allows."""
        if why := self.forbidden(offer, await self._packages.seen(offer.offer)):
            raise UserError(
                "OCT-POLICY-FORBIDDEN",
                "A standing rule of this silo forbids this job.",
                f"{why[0].upper()}{why[1:]}.",
                "Change or remove the rule first, or reject the job.",
            )

    def _settle(self, offer: pb.SiloOffer, statement: Statement, decision: Decision) -> None:
        offer.decided_by, offer.decided_at = statement.decided_by, round(time.time(), 3)
        offer.reason = statement.reason
        if statement.verdict == "approved":
            offer.conditions_json = statement.conditions.to_json()
            for dataset_id in set(statement.conditions.datasets.values()):
                self._datasets.link_run(dataset_id, offer.id)
        self._silo.put("offer", offer)
        event = reducer.Decided(statement.verdict, statement.decided_by, statement.reason)
        self._lives.apply(offer.id, event, decision)

    def _revoke(self, offer: pb.SiloOffer, statement: Statement) -> None:
        if not self._lives.get(offer.id).active:
            raise UserError(
                "OCT-APPROVAL-STATE",
                "The run has ended; there is nothing to revoke.",
                f"It is {self._lives.get(offer.id).run}.",
                "Its record stays in the audit.",
            )
        reason = statement.reason or "The approval was revoked."
        self._lives.apply(offer.id, reducer.StopAsked(statement.decided_by, reason))

    def _keep(self, run_id: str, decision: Decision) -> None:
        (seq,) = self._silo.db.one("SELECT coalesce(max(seq),0)+1 FROM decisions WHERE run_id=?", run_id)
        self._silo.db.execute(
            "INSERT INTO decisions VALUES(?,?,?,?)", run_id, seq, decision.SerializeToString(), time.time()
        )

    def _must_be(self, offer: pb.SiloOffer, state: str) -> None:
        if offer.state != state:
            raise UserError(
                "OCT-APPROVAL-STATE",
                "This decision comes too late." if offer.state != "fetching" else "This decision comes too early.",
                f"The offer is {offer.state.replace('_', ' ')}.",
                "Ask the coordinator to offer the run anew, if it is still wanted."
                if offer.state != "fetching"
                else "Wait until the package is verified.",
            )

    def _statement(self, offer: pb.SiloOffer, decision: Decision) -> Statement:
        """What was signed, when it is a known approver's word on exactly this offer.

        Raises OCT-SIGN-BAD (no statement, another's or a wrong signature) and OCT-APPROVAL-MISSING (a word on something
        else).
        """
        try:
            statement = Statement.from_bytes(decision.statement)
        except (ValueError, TypeError, AttributeError) as error:
            raise _bad_signature(f"What was signed is no statement: {error}") from error
        approver = self._setup.approver(decision.approver_key)
        if approver is None:
            raise _bad_signature("The key that signed is not one of this silo's approvers.")
        if not verify(decision.approver_key, decision.statement, decision.signature):
            raise _bad_signature("The signature does not fit the statement.")
        expected = {
            "run": (statement.run_id, offer.id),
            "package": (statement.package_digest, offer.offer.package.digest),
            "configuration": (statement.config_digest, offer.offer.config_digest),
            "verdict": (statement.verdict, VERDICTS.get(decision.verdict, "")),
        }
        for name, (stated, wanted) in expected.items():
            if stated != wanted:
                raise UserError(
                    "OCT-APPROVAL-MISSING",
                    "The decision is about something else than this offer.",
                    f"The {name} that was signed is {stated[:16]!r}, not {wanted[:16]!r}.",
                    "Read the offer again and decide anew.",
                )
        if statement.decided_at > time.time() + CLOCK_SKEW_S:
            raise _bad_signature("It was signed in the future; one of the clocks is wrong.")
        return statement

    async def _check_scope(self, offer: pb.SiloOffer, statement: Statement) -> tuple[JobManifest, Interpreter]:
        """Data, nodes, runtime and conditions of an approval. Raises OCT-DATA-*, OCT-NODE-UNKNOWN, OCT-APPROVAL-*,
        OCT-PACKAGE-MISSING, OCT-RUNTIME-*."""
        verified = await self._packages.seen(offer.offer)
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        conditions = statement.conditions
        terms.check_form(conditions, time.time(), config.rounds, bool(config.privacy))
        self._nodes.must_know(conditions.nodes)
        if conditions.slurm and conditions.nodes:
            raise terms.broken(
                "It names nodes of this silo and a Slurm profile, and a run trains in one of both.",
                "Name the nodes, or the profile.",
            )
        needs = {need.alias: need for need in verified.manifest.data}
        if set(conditions.datasets) != set(needs) or set(statement.data_scope) != set(needs):
            raise UserError(
                "OCT-APPROVAL-CONDITIONS",
                "The approval does not name a dataset for each need of the job.",
                f"The job needs {', '.join(sorted(needs)) or 'no data'}; "
                f"the approval names {', '.join(sorted(conditions.datasets)) or 'none'}.",
                "Choose one dataset for each need.",
            )
        for alias, dataset_id in conditions.datasets.items():
            dataset = await self._datasets.still_the_same(dataset_id)
            if statement.data_scope[alias] != dataset.digest:
                raise UserError(
                    "OCT-DATA-CHANGED",
                    f"{dataset.alias} is not the data that was signed for.",
                    "Its digest is another one now.",
                    "Read the offer again and decide anew.",
                )
            why = problem(needs[alias], dataset)
            if why:
                raise UserError(
                    "OCT-DATA-COLUMN",
                    f"{dataset.alias} cannot serve the job's data {alias!r}.",
                    f"{why[0].upper()}{why[1:]}.",
                    "Choose another dataset, or ask the author for changes.",
                )
        return verified.manifest, await self._runtimes.serve(conditions.runtime, verified.manifest)

    def uses_runtime(self, runtime_id: str) -> bool:
        """Whether a run that is not over was approved for this runtime."""
        return self._uses("runtime", runtime_id)

    def uses_slurm(self, profile_id: str) -> bool:
        """Whether a run that is not over was approved for this Slurm profile."""
        return self._uses("slurm", profile_id)

    def _uses(self, condition: str, wanted: str) -> bool:
        offers = (self._silo.get("offer", life.run_id) for life in self._lives.active())
        return any(json.loads(o.conditions_json or "{}").get(condition) == wanted for o in offers if o is not None)

    def approval(self, run_id: str) -> Decision | None:
        """The newest signed decision on a run."""
        row = self._silo.db.one("SELECT body FROM decisions WHERE run_id=? ORDER BY seq DESC LIMIT 1", run_id)
        return Decision.FromString(row[0]) if row else None

    async def lawful(self, run_id: str, place: Path) -> RunnerSpec:
        """Everything again, from what was signed down to the bytes on disk; then what the runner is told.

        Raises UserError with the reason why this run may not start now.
        """
        offer = self._silo.need("offer", run_id)
        decision = self.approval(run_id)
        if decision is None or decision.verdict != Decision.APPROVED:
            raise UserError(
                "OCT-APPROVAL-MISSING",
                "No valid approval covers this run.",
                "There is no signed approval in this silo's state.",
                "Ask the coordinator to offer the run anew.",
            )
        statement = self._statement(offer, decision)
        if statement.conditions.to_json() != offer.conditions_json:
            raise UserError(
                "OCT-APPROVAL-MISSING",
                "The conditions in the state are not those that were signed.",
                "Somebody changed the state.",
                "Verify the audit, and ask the coordinator to offer the run anew.",
            )
        manifest, interpreter = await self._check_scope_again(offer, statement)
        verified = await self._packages.unpack(offer.offer, place / "package")
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        federation = self._silo.need("federation", offer.federation_id)
        if statement.conditions.slurm:
            who = self._slurm.plan(run_id, config, statement.conditions.slurm)
        else:
            who = await self.spread(run_id, manifest, config, statement.conditions, self._share(config))
        needs = {need.alias: need for need in manifest.data}
        return RunnerSpec(
            run_id=run_id,
            silo=federation.silo_name,
            package=str(place / "package"),
            trainer=verified.manifest.trainer,
            config=config.to_dict(),
            blobs=str(self._silo.home.blobs),
            threads=max(1, config.resources.threads_per_worker),
            package_digest=offer.offer.package.digest,
            python=interpreter.python,
            python_paths=interpreter.paths,
            **who,
            data=tuple(
                _source(alias, self._silo.need("dataset", dataset_id), needs[alias].columns)
                for alias, dataset_id in sorted(statement.conditions.datasets.items())
            ),
        )

    async def _check_scope_again(self, offer: pb.SiloOffer, statement: Statement) -> tuple[JobManifest, Interpreter]:
        """Like ``_check_scope``; a dataset that has gone counts as changed data."""
        for alias, dataset_id in statement.conditions.datasets.items():
            if self._silo.get("dataset", dataset_id) is None:
                raise UserError(
                    "OCT-DATA-CHANGED",
                    f"The dataset approved for {alias!r} is no longer registered.",
                    "It was removed.",
                    "Register it again and decide anew.",
                )
        return await self._check_scope(offer, statement)

    def _share(self, config: RunConfig) -> tuple[int, tuple[str, ...]]:
        """(workers, devices): one worker per GPU, else as many CPU workers as the job asks for, at least one."""
        node = self._nodes.local
        gpus = [f"cuda:{gpu.index}" for gpu in node.gpus] if node else []
        wanted = config.resources.workers or config.resources.gpus or len(gpus) or 1
        if gpus and wanted <= len(gpus):
            return wanted, tuple(gpus[:wanted])
        return max(1, config.resources.workers), ()


def _source(alias: str, dataset: pb.Dataset, columns: dict[str, str]) -> dict[str, object]:
    source = DataSource(alias=alias, path=dataset.path, kind=dataset.kind, digest=dataset.digest, columns=columns)
    return {name: getattr(source, name) for name in ("alias", "path", "kind", "digest", "columns")}


def _bad_signature(why: str) -> UserError:
    return UserError(
        "OCT-SIGN-BAD", "The decision was not accepted.", why, "Decide with the approver's own key, by window or CLI."
    )
