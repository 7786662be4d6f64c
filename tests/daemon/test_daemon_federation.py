"""The daemon with a federation server that follows a script, over real mutual TLS: enrolment, offers, decisions."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.identity import envelopes, invitations
from octopus_desktop.identity.keys import SigningKey, verify
from octopus_desktop.jobs.policy import Rule
from octopus_desktop.storage.audit import head_bytes
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.pb import envelope_pb2 as e
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import TRAINER, scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_process import fails


def enrolment(text: str, name: str = "north") -> pb.EnrolLocalRequest:
    return pb.EnrolLocalRequest(text=text, name=name, request_id=new_id())


async def rule(silo: SiloProcess, key: SigningKey | None = None, **words: Any) -> pb.Policy:
    text, signer = Rule.from_dict(words).to_json(), key or silo.key
    policy = pb.Policy(
        name="tiny jobs", enabled=True, rule_json=text, statement=text.encode(),
        signature=signer.sign(text.encode()), approver_key=signer.public,
    )  # fmt: skip
    return await silo.call("Policies.Put", pb.PutPolicyRequest(policy=policy, request_id=new_id()))


async def test_enrol_check_renew_and_leave(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        text = federation.invite()
        view = await silo.call("Federations.Inspect", pb.InspectRequest(text=text))
        assert (view.federation, view.ca_fingerprint) == ("Test Federation", federation.authority.fingerprint)
        assert await fails(silo, "Federations.Enrol", enrolment(text)) == "OCT-CONFIG-INVALID"  # not set up yet
        await silo.call("Setup.Configure", silo.configuration())
        request = enrolment(text)
        got = await silo.call("Federations.Enrol", request)
        assert (got.silo_name, got.ca_fingerprint) == ("north", federation.authority.fingerprint)
        assert (await silo.call("Federations.Enrol", request)).id == got.id
        up = await silo.until(lambda s: next((f for f in s.federations if f.link == "up"), None))
        assert await fails(silo, "Federations.Enrol", enrolment(federation.invite())) == "OCT-STATE-EXISTS"

        check = await silo.call("Federations.Check", pb.ById(id=got.id))
        steps = {s.name: s for s in check.steps}
        assert list(steps) == ["name", "route", "TLS", "their certificate", "link", "our certificate", "clock"]
        assert all(s.ok for s in check.steps), [s.detail for s in check.steps]
        assert "TLSv1.3" in steps["TLS"].detail and "0.0 s" in steps["clock"].detail

        renewed = await silo.call("Federations.Renew", pb.ById(id=got.id, request_id=new_id()))
        assert renewed.certificate_fingerprint != up.certificate_fingerprint
        await silo.until(
            lambda s: (
                s.federations[0].link == "up"
                and s.federations[0].certificate_fingerprint == renewed.certificate_fingerprint
            )
        )
        await silo.kill()
        await silo.start()
        await silo.until(lambda s: s.federations[0].link == "up")
        await silo.call("Federations.Leave", pb.ById(id=got.id, request_id=new_id()))
        assert (await silo.snapshot()).federations[0].link == "left"
        assert await fails(silo, "Federations.Check", pb.ById(id=got.id)) == "OCT-FEDERATION-UNKNOWN"


async def test_invitations_that_are_no_good(tmp_path: Path) -> None:
    async with (
        scripted_federation(tmp_path / "fed") as federation,
        scripted_federation(tmp_path / "foreign") as foreign,
        silo_process(tmp_path / "silo") as silo,
    ):
        await silo.call("Setup.Configure", silo.configuration())
        assert await fails(silo, "Federations.Enrol", enrolment("not an invitation")) == "OCT-ENROL-INVALID"
        assert await fails(silo, "Federations.Enrol", enrolment(federation.invite()[:-9])) == "OCT-ENROL-INVALID"
        assert await fails(silo, "Federations.Enrol", enrolment(federation.invite(valid_s=0))) == "OCT-ENROL-EXPIRED"
        assert await fails(silo, "Federations.Enrol", enrolment(federation.invite(), "No Good!")) == "OCT-ENROL-NAME"
        assert await fails(silo, "Federations.Enrol", enrolment(federation.invite(role="author"))) == "OCT-ENROL-ROLE"
        used = federation.invite()
        federation.used.add(invitations.decode(used).id)
        assert await fails(silo, "Federations.Enrol", enrolment(used)) == "OCT-ENROL-USED"
        elsewhere = invitations.decode(federation.invite())
        elsewhere.server = f"127.0.0.1:{foreign.port}"
        assert await fails(silo, "Federations.Enrol", enrolment(invitations.encode(elsewhere))) == "OCT-ENROL-CA"
        elsewhere.server = "127.0.0.1:1"
        assert await fails(silo, "Federations.Enrol", enrolment(invitations.encode(elsewhere))) == "OCT-LINK-DOWN"
        assert not (await silo.snapshot()).federations


async def test_an_offer_is_reviewed_and_refused(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        job = write_job(tmp_path / "job", trainer="import socket\n" + TRAINER)
        run_id = federation.offer("north", federation.package(job))
        offer = await silo.offer(run_id, "offered")
        assert offer.signature_verified and offer.offer.author == "Ada Author"
        review = await silo.call("Approvals.Review", pb.ById(id=run_id))
        assert [f.path for f in review.files] == ["code/trainer.py", "job.toml"] and "tiny" in review.manifest_toml
        assert [line.topic for line in review.summary][:2] == ["data", "hardware"]
        assert [(m.need, m.fits) for m in review.data] == [("patients", True)]
        assert [(f.rule, f.severity, f.path) for f in review.findings] == [("network", "high", "code/trainer.py")]
        file = await silo.call("Approvals.ReadFile", pb.ReadFileRequest(id=run_id, path="code/trainer.py"))
        assert b"class Trainer" in file.content and not file.binary
        outside = pb.ReadFileRequest(id=run_id, path="../../silo.sqlite")
        assert await fails(silo, "Approvals.ReadFile", outside) == "OCT-JOB-PATH"
        note = pb.NoteRequest(id=run_id, path="code/trainer.py", line=3, text="why?", request_id=new_id())
        await silo.call("Approvals.Note", note)
        after = await silo.decide(offer, "rejected", reason="The ethics vote is missing.")
        assert (after.state, after.reason, after.decided_by) == ("rejected", "The ethics vote is missing.", "Nora")
        told = (await federation.until(lambda: federation.decisions(run_id)))[0]
        assert (told.verdict, told.reason) == (e.Decision.REJECTED, "The ethics vote is missing.")
        assert verify(silo.key.public, told.statement, told.signature)
        history = (await silo.call("Approvals.Review", pb.ById(id=run_id))).history
        assert [entry.what for entry in history] == ["rejected", "note", "offered"]
        assert await fails_to_decide(silo, offer, "approved") == "OCT-APPROVAL-STATE"


async def fails_to_decide(silo: SiloProcess, offer: pb.SiloOffer, verdict: str = "approved", **changes: Any) -> str:
    decision = await silo.decision(offer, verdict, **changes)
    return await fails(silo, "Approvals.Decide", pb.DecideRequest(id=offer.id, decision=decision))


async def test_a_decision_counts_only_as_it_was_signed(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job")))
        offer = await silo.offer(run_id, "offered")
        assert await fails_to_decide(silo, offer, key=SigningKey.generate()) == "OCT-SIGN-BAD"
        good = await silo.decision(offer)
        for spoil in ("statement", "signature", "approver_key"):
            bad = e.Decision.FromString(good.SerializeToString())
            setattr(bad, spoil, getattr(good, spoil)[:-1] + bytes([getattr(good, spoil)[-1] ^ 1]))
            assert await fails(silo, "Approvals.Decide", pb.DecideRequest(id=run_id, decision=bad)) == "OCT-SIGN-BAD"
        turned = e.Decision.FromString((await silo.decision(offer, "rejected")).SerializeToString())
        turned.verdict = e.Decision.APPROVED
        request = pb.DecideRequest(id=run_id, decision=turned)
        assert await fails(silo, "Approvals.Decide", request) == "OCT-APPROVAL-MISSING"
        for field in ("run_id", "package_digest", "config_digest"):
            assert await fails_to_decide(silo, offer, **{field: "0" * 64}) == "OCT-APPROVAL-MISSING"
        assert await fails_to_decide(silo, offer, data_scope={"patients": "0" * 64}) == "OCT-DATA-CHANGED"
        assert await fails_to_decide(silo, offer, data_scope={}) == "OCT-APPROVAL-CONDITIONS"
        for limits in (
            {"max_rounds": 1}, {"max_hours": -1.0}, {"expires_at": 5.0}, {"max_epsilon": 1.0},
            {"hours_of_day": ((3, 3),)},
        ):  # fmt: skip
            assert await fails_to_decide(silo, offer, limits=limits) == "OCT-APPROVAL-CONDITIONS", limits
        assert await fails_to_decide(silo, offer, limits={"nodes": ("nobody",)}) == "OCT-NODE-UNKNOWN"
        (tmp_path / "patients.csv").write_text("age,sick\n1,0\n")
        assert await fails_to_decide(silo, offer) == "OCT-DATA-CHANGED"
        assert await fails(silo, "Approvals.Decide", pb.DecideRequest(id="x", decision=good)) == "OCT-RUN-UNKNOWN"
        snap = await silo.snapshot()
        assert snap.offers[0].state == "offered" and not snap.runs and not federation.decisions(run_id)


async def test_packages_and_offers_that_are_not_sound_are_kept_as_invalid(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        job = write_job(tmp_path / "job")
        tampered = tmp_path / "tampered.octojob"
        with zipfile.ZipFile(federation.package(job)) as whole, zipfile.ZipFile(tampered, "w") as changed:
            for entry in whole.infolist():
                changed.writestr(entry, whole.read(entry).replace(b"value.add_(1.0)", b"value.add_(9.0)"))
        garbage = tmp_path / "garbage"
        garbage.write_bytes(b"PK\x03\x04" + bytes(200))
        cases = {
            federation.offer("north", federation.package(job, sign=False)): "OCT-JOB-UNSIGNED",
            federation.offer("north", tampered): "OCT-JOB-TAMPERED",
            federation.offer("north", garbage): "OCT-JOB-ZIP",
            federation.offer("north", federation.package(job, author=SigningKey.generate())): "OCT-JOB-AUTHOR",
            federation.offer("north", federation.package(job), config_json='{"rounds":2}'): "OCT-JOB-TAMPERED",
            federation.offer("north", federation.package(job), silos=["south"]): "OCT-JOB-TAMPERED",
        }
        for run_id, code in cases.items():
            offer = await silo.offer(run_id, "invalid", "offered")
            assert (offer.state, offer.problem_code) == ("invalid", code) and offer.problem
            told = (await federation.until(lambda run_id=run_id: federation.decisions(run_id)))[0]
            assert told.verdict == e.Decision.REJECTED and code in told.reason
            assert not (await silo.call("Approvals.Review", pb.ById(id=run_id))).files
            read = pb.ReadFileRequest(id=run_id, path="job.toml")
            assert await fails(silo, "Approvals.ReadFile", read) == "OCT-APPROVAL-STATE"
            assert await fails_to_decide(silo, offer) == "OCT-APPROVAL-STATE"


async def test_offers_expire_and_are_withdrawn(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        job = federation.package(write_job(tmp_path / "job"))
        short = federation.offer("north", job, expires_at=time.time() + 1.5)
        taken_back = federation.offer("north", job)
        await silo.offer(taken_back, "offered")
        federation.post("north", taken_back, e.STOP, e.Stop(reason="A mistake.", code="OCT-RUN-STOPPED"))
        assert (await silo.offer(taken_back, "withdrawn")).reason == "A mistake."
        assert (await silo.offer(short, "expired")).state == "expired"


async def test_mail_that_is_not_the_servers_is_refused(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        job = federation.package(write_job(tmp_path / "job"))
        good, federation.key = federation.key, SigningKey.generate()  # whoever sits on the wire
        federation.offer("north", job)
        await federation.until(lambda: not federation.pending("north"))
        federation.key = good
        federation.offer("north", job, run_id="../../escape")
        await federation.until(lambda: not federation.pending("north"))
        honest = federation.offer("north", job)
        await silo.offer(honest, "offered")
        assert {o.id for o in (await silo.snapshot()).offers} == {honest}


async def test_a_rule_decides_alone_signed_and_recorded(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        with pytest.raises(Exception, match="not accepted"):
            await rule(silo, SigningKey.generate(), effect="approve", job="tiny*")
        await rule(silo, effect="reject", job="tiny*", reason="Not at this site.")
        job = federation.package(write_job(tmp_path / "job"))
        refused = federation.offer("north", job)
        offer = await silo.offer(refused, "rejected")
        assert (offer.decided_by, offer.reason) == ("policy: tiny jobs", "Not at this site.")
        told = (await federation.until(lambda: federation.decisions(refused)))[0]
        assert verify(told.approver_key, told.statement, told.signature)
        approvers = {a.key: a.kind for a in (await silo.snapshot()).daemon.approvers}
        assert approvers[told.approver_key] == "policy"

        await rule(silo, effect="approve", job="tiny*", max_rounds=1, allow_high_findings=True)
        asks = federation.offer("north", job)
        waiting = await silo.until(lambda s: next((o for o in s.offers if o.id == asks and o.policy), None))
        assert waiting.state == "offered" and "ask" in {line.verdict for line in waiting.policy}
        await rule(silo, effect="approve", job="tiny*", allow_high_findings=True)
        offer = await silo.offer(asks, "approved")
        assert offer.decided_by == "policy: tiny jobs"
        page = await silo.call("Audit.Page", pb.AuditPageRequest(run_id=asks, action="offer.approved"))
        assert page.entries[0].actor == "policy: tiny jobs"
        policies = await silo.call("Policies.List")
        assert [p.name for p in policies.policies] == ["tiny jobs"]
        await silo.call("Policies.Remove", pb.ById(id=policies.policies[0].id, request_id=new_id()))
        assert not (await silo.snapshot()).policies


async def test_what_is_decided_is_witnessed_by_a_signed_head(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job", data="")))
        await silo.decide(await silo.offer(run_id, "offered"), "changes_requested", reason="Fewer rounds.")
        heads = await federation.until(lambda: [x for x in federation.got if x.kind == e.AUDIT_HEAD])
        head = e.AuditHead.FromString(heads[0].body)
        assert verify(federation.silo_keys["north"], head_bytes(head.seq, head.hash), head.signature)
        envelopes.check(heads[0], federation.silo_keys["north"])
        page = await silo.call("Audit.Page", pb.AuditPageRequest(limit=500))
        assert {entry.seq: entry.hash for entry in page.entries}[head.seq] == head.hash
        left = [json.loads(x.detail_json) for x in page.entries if x.action == "message.left"]
        assert {x["kind"] for x in left} == {"DECISION", "AUDIT_HEAD"} and all(x["bytes"] for x in left)
        assert (await silo.call("Audit.Verify")).whole


async def test_a_server_that_is_away_loses_nothing(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job", data="")))
        offer = await silo.offer(run_id, "offered")
        await federation.stop()
        down = await silo.until(lambda s: next((f for f in s.federations if f.link == "down"), None))
        assert down.error_code == "OCT-LINK-DOWN"
        assert (await silo.decide(offer, "rejected", reason="No.")).state == "rejected"
        await silo.kill()
        await silo.start()
        await federation.start()
        assert (await federation.until(lambda: federation.decisions(run_id), 40))[0].reason == "No."
        assert len(federation.decisions(run_id)) == 1


async def test_a_revoked_certificate_is_told_and_not_dialled_again(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        federation.revoke("north")
        gone = await silo.until(lambda s: next((f for f in s.federations if f.link == "revoked"), None))
        assert gone.error_code == "OCT-CERT-REVOKED"
        check = await silo.call("Federations.Check", pb.ById(id=gone.id))
        link = next(s for s in check.steps if s.name == "link")
        assert link.state == "failed" and "OCT-CERT-REVOKED" in link.detail


async def test_a_zip_bomb_does_not_take_the_daemon_with_it(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation)
        bomb = tmp_path / "bomb.octojob"
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("code/zeros.bin", bytes(300 << 20))
        run_id = federation.offer("north", bomb)
        offer = await silo.offer(run_id, "invalid")
        assert offer.problem_code == "OCT-JOB-TOO-LARGE"
        assert (await silo.call("Audit.Verify")).whole
