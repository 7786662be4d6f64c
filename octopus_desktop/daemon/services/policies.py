"""Standing rules: kept as the administrator signed them, and asked about each offer that waits.

A rule's approval is signed by a key of the silo's own, in the name of the rule; it is checked and recorded like a
person's. A rule whose signature does not hold says nothing.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from octopus_desktop.daemon.core import DISK_RETRY_S, Silo, when_possible
from octopus_desktop.daemon.services.approvals import Approvals
from octopus_desktop.daemon.services.matching import problem
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.daemon.services.setup import Setup
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity.keys import verify
from octopus_desktop.jobs import findings as static
from octopus_desktop.jobs import package as packages
from octopus_desktop.jobs import policy as rules
from octopus_desktop.jobs import review
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.jobs.manifest import DataNeed, JobManifest, RunConfig
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Decision

if TYPE_CHECKING:
    from octopus_desktop.jobs.package import VerifiedPackage

log = logging.getLogger(__name__)


class Policies:
    """The noun ``policy``.

    Attributes:
        refusal: why the offered run cannot be carried here, or None; ``words``: how it travels;
            ``requirements``: what its packages mean for the runtimes here, and why none can take it. Set by ``app``.
    """

    def __init__(self, silo: Silo, keys: SiloKeys, setup: Setup, approvals: Approvals, store: Packages) -> None:
        self._silo, self._keys, self._setup = silo, keys, setup
        self._approvals, self._packages = approvals, store
        self._asking: dict[str, asyncio.Task[None]] = {}
        self.refusal: Callable[[pb.SiloOffer], UserError | None] = lambda offer: None
        self.words: Callable[[pb.SiloOffer], str] = lambda offer: ""
        self.requirements: Callable[[JobManifest], tuple[str, str]] = lambda manifest: ("", "")

    # commands

    def put(self, policy: pb.Policy) -> pb.Policy:
        """Add a rule, or replace the one of the same id or name. Raises OCT-POLICY-INVALID, OCT-CONFIG-INVALID."""
        if not policy.name.strip():
            raise UserError("OCT-POLICY-INVALID", "The rule has no name.", "", "Give it a name.")
        self._must_hold(policy)
        same = [p for p in self._silo.all("policy") if p.id == policy.id or p.name == policy.name]
        kept = pb.Policy.FromString(policy.SerializeToString())
        kept.id = same[0].id if same else new_id("p")
        kept.created_at = round(time.time(), 3)
        kept.created_by = self._silo.administrator
        with self._silo.change():
            self._silo.put("policy", kept)
            detail = {"name": kept.name, "enabled": kept.enabled, "rule": kept.rule_json}
            self._silo.record(self._silo.administrator, "policy.put", kept.id, detail)
            self._silo.answer(kept)
            self._silo.afterwards(self.apply_all)
        return kept

    def remove(self, policy_id: str) -> None:
        policy = self._silo.need("policy", policy_id)
        with self._silo.change():
            self._silo.drop("policy", policy_id)
            self._silo.record(self._silo.administrator, "policy.removed", policy_id, {"name": policy.name})
            self._silo.answer(pb.Ack())

    def _must_hold(self, policy: pb.Policy) -> rules.Rule:
        """The rule, when a person who may approve signed exactly it."""
        approver = self._setup.approver(policy.approver_key)
        why = ""
        if approver is None or approver.kind != "person":
            why = "The key that signed it is not an approver's of this silo."
        elif policy.statement != policy.rule_json.encode():
            why = "What was signed is not this rule."
        elif not verify(policy.approver_key, policy.statement, policy.signature):
            why = "The signature does not fit."
        if why:
            raise UserError(
                "OCT-POLICY-INVALID",
                f"The rule {policy.name!r} was not accepted.",
                why,
                "Sign it with the approver's own key, by the window or 'octopus policy put'.",
            )
        try:
            value = json.loads(policy.rule_json)
        except ValueError as error:
            raise UserError("OCT-POLICY-INVALID", "The rule is not JSON.", str(error), "Write it anew.") from error
        return rules.Rule.from_dict(value)

    # asking

    def apply_all(self) -> None:
        """A rule or the data changed: ask about everything that waits."""
        for offer in self._silo.all("offer"):
            if offer.state == "offered":
                self.apply(offer.id)

    def apply(self, run_id: str) -> None:
        """Let the rules answer an offer, or say what they think of it."""
        if run_id in self._asking:
            return
        task = asyncio.create_task(self._apply(run_id))
        self._asking[run_id] = task
        task.add_done_callback(lambda _: self._asking.pop(run_id, None))

    async def _apply(self, run_id: str) -> None:
        offer = self._silo.need("offer", run_id)
        if offer.state != "offered":
            return
        try:
            verified = await self._packages.seen(offer.offer)
            files = await asyncio.to_thread(packages.read_files, self._packages.path(offer.offer))
            found = await asyncio.to_thread(static.find, files)
            answer = self._evaluate(offer, verified, found)
            refused = self.refusal(offer)
            if answer.decision == "reject" or (answer.decision == "approve" and not refused):
                await self._decide(offer, answer)
            lines = [*answer.lines, *([_cannot(refused)] if refused else [])]
            when_possible(self._show, run_id, lines, refused)
        except UserError as error:
            if error.code == "OCT-DISK-FULL":
                asyncio.get_running_loop().call_later(DISK_RETRY_S, self.apply, run_id)
                return
            log.warning("the rules could not answer %s: %s", run_id, error)
            refusal = pb.PolicyLine(line="job", verdict="ask", why=f"{error.what} {error.why}".strip())
            when_possible(self._show, run_id, [refusal], None)

    def _show(self, run_id: str, lines: Sequence[pb.PolicyLine], refused: UserError | None) -> None:
        with self._silo.change():
            offer = self._silo.need("offer", run_id)
            before = offer.SerializeToString(deterministic=True)
            del offer.policy[:]
            offer.policy.extend(lines)
            if offer.problem_code in ("", "OCT-CARRIER-REFUSED"):
                offer.problem_code = refused.code if refused else ""
                offer.problem = f"{refused.what} {_sentence(refused.why)}" if refused else ""
            if offer.SerializeToString(deterministic=True) != before:
                self._silo.put("offer", offer)

    def forbidden(self, offer: pb.SiloOffer, verified: VerifiedPackage) -> str:
        """Why a rule rejects the offer, as the rules are now; "" when none does."""
        answer = self._evaluate(offer, verified, ())
        return answer.lines[0].why if answer.decision == "reject" else ""

    async def _decide(self, offer: pb.SiloOffer, answer: rules.Evaluation) -> None:
        """Sign what the rule says, and hand it in like anybody's decision."""
        conditions = answer.conditions or Conditions()
        verdict = "approved" if answer.decision == "approve" else "rejected"
        key = await asyncio.to_thread(lambda: self._keys.policy)
        if self._setup.approver(key.public) is None:
            with self._silo.change():
                self._setup.add_approver("standing rules", key.public, "policy")
                self._silo.record("daemon", "approver.added", "silo", {"name": "standing rules", "kind": "policy"})
        statement = Statement(
            run_id=offer.id,
            verdict=verdict,
            package_digest=offer.offer.package.digest,
            config_digest=offer.offer.config_digest,
            data_scope={need: self._silo.need("dataset", d).digest for need, d in conditions.datasets.items()},
            conditions=conditions,
            reason=answer.reason,
            decided_by=f"policy: {answer.rule}",
            decided_at=time.time(),
        ).to_bytes()
        decision = Decision(
            verdict=verdict.upper(),
            reason=answer.reason,
            statement=statement,
            signature=key.sign(statement),
            approver_key=key.public,
            decided_by=f"policy: {answer.rule}",
            decided_at=time.time(),
        )
        await self._approvals.decide(offer.id, decision)

    def _evaluate(
        self, offer: pb.SiloOffer, verified: VerifiedPackage, found: Sequence[pb.Finding]
    ) -> rules.Evaluation:
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        fitting = self._fitting(verified.manifest.data)
        facts = rules.OfferFacts(
            federation=offer.offer.federation,
            author_fingerprint=offer.offer.author_fingerprint,
            job=offer.offer.job_name,
            rounds=config.rounds,
            now=time.time(),
            hours=config.resources.hours,
            fitting=fitting,
            high_findings=sum(1 for finding in found if finding.severity == "high"),
            expires_at=offer.offer.expires_at,
        )
        return rules.evaluate(self._in_force(), facts)

    def examine(
        self, offer: pb.SiloOffer, verified: VerifiedPackage, files: Mapping[str, bytes]
    ) -> tuple[Sequence[pb.Finding], Sequence[pb.SummaryLine]]:
        """Findings of the static review, and the job in plain sentences with what the rules say of each."""
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        found = static.find(files, strategy=config.strategy)
        answer = self._evaluate(offer, verified, found)
        fitting = {need: list(datasets) for need, datasets in self._fitting(verified.manifest.data).items()}
        said = review.summary(verified.manifest, config, offer.offer, fitting, policy=answer.lines)
        carrier = next(line for line in said if line.topic == "carrier")
        carrier.text = self.words(offer) or carrier.text
        if offer.state == "offered" and (refused := self.refusal(offer)):
            carrier.verdict, carrier.why = "cannot", _cannot(refused).why
        packages_said, none_can = self.requirements(verified.manifest)
        if packages_said:
            hardware = next(line for line in said if line.topic == "hardware")
            hardware.text += f" {packages_said}"
            if none_can and offer.state == "offered":
                hardware.verdict, hardware.why = "cannot", none_can
        return found, said

    def _fitting(self, needs: Sequence[DataNeed]) -> dict[str, dict[str, str]]:
        """need -> the datasets that can serve it, as alias -> id."""
        datasets = self._silo.all("dataset")
        return {need.alias: {d.alias: d.id for d in datasets if not problem(need, d)} for need in needs}

    def _in_force(self) -> list[tuple[str, rules.Rule]]:
        """The rules that are on and hold, oldest first."""
        holding = []
        for policy in sorted(self._silo.all("policy"), key=lambda p: p.created_at):
            if not policy.enabled:
                continue
            try:
                holding.append((policy.name, self._must_hold(policy)))
            except UserError as error:
                log.warning("the rule %s is not in force: %s", policy.name, error.why)
        return holding


def _cannot(refused: UserError) -> pb.PolicyLine:
    """The line that tells why the job cannot be approved here, whatever the rules say."""
    why = f"{refused.what} {_sentence(refused.why)} {refused.next_step}".strip()
    return pb.PolicyLine(line="carrier", verdict="cannot", why=why)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}." if text else ""
