"""A run over a real server, real coordinators and two silos that play by a script."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import psutil
import pytest

from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as pb
from octopus_desktop.wire.pb import operator_pb2 as op
from tests.server.scripted import federation

ENDED = ("completed", "stopped", "failed")


def coordinator_of(pid: int) -> psutil.Process:
    found = [c for c in psutil.Process(pid).children() if "server.coordinator" in " ".join(c.cmdline())]
    assert len(found) == 1
    return found[0]


async def test_two_silos_approve_train_and_hear_that_it_is_finished(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        run = server.start_run(request_id="same")
        assert server.start_run(request_id="same").id == run.id
        assert [s.silo for s in run.silos] == ["aa", "bbbb"]
        done = await server.until_run(run.id, lambda r: r.state in ENDED)
        assert (done.state, done.round, len(done.history)) == ("completed", 2, 2)
        assert list(done.history[1].answered) == ["aa", "bbbb"]
        for silo in silos:
            finished = pb.Finished.FromString((await silo.until_kind(pb.FINISHED)).body)
            assert finished.model.digest == done.model.digest
            assert silo._store.has(done.model.digest)
        exported = b"".join(
            c.data for c in server.api.stream("Operator.ExportModel", op.ExportModelRequest(run_id=run.id))
        )
        out = tmp_path / "model"
        out.write_bytes(exported)
        assert file_digest(out) == done.model.digest
        assert done.bytes_in > 0 and done.bytes_out > 0
        status = server.call("Status", op.StatusRequest())
        assert (status.silos_connected, status.runs_active) == (2, 0)
        with pytest.raises(UserError) as refused:
            server.call("StopRun", op.StopRunRequest(id=run.id))
        assert refused.value.code == "OCT-RUN-STATE"


async def test_killing_server_and_coordinator_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        undisturbed = await server.until_run(server.start_run(rounds=3).id, lambda r: r.state in ENDED)
        silos[1].answer_up_to(0)
        run = server.start_run(rounds=3)
        await silos[1].until(lambda: any(e.kind == pb.TASK and e.run_id == run.id for e in silos[1].seen))
        coordinator_of(server.pid).kill()
        silos[1].answer_up_to(1)
        await server.until_run(run.id, lambda r: r.round >= 1)  # and no further: the second silo holds round 2 back
        orphan = coordinator_of(server.pid)
        server.end(signal.SIGKILL)
        orphan.wait(timeout=10)
        server.start()
        silos[1].answer_up_to(3)
        done = await server.until_run(run.id, lambda r: r.state in ENDED)
        assert done.state == "completed"
        assert done.model.digest == undisturbed.model.digest
        assert [list(h.answered) for h in done.history] == [["aa", "bbbb"]] * 3
        for silo in silos:
            await silo.until(lambda silo=silo: not silo.runs)


async def test_a_silo_that_was_away_learns_how_the_run_ended(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        silos[0].verdict = silos[1].verdict = ""
        run = server.start_run()
        offer = await silos[0].until_kind(pb.OFFER)
        await silos[1].until_kind(pb.OFFER)
        await silos[1].disconnect()
        stopped = server.call("StopRun", op.StopRunRequest(id=run.id, reason="not needed any more"))
        assert (stopped.state, stopped.code) == ("stopped", "OCT-RUN-STOPPED")
        assert pb.Stop.FromString((await silos[0].until_kind(pb.STOP)).body).reason == "not needed any more"
        silos[1].connect()
        await silos[1].until_kind(pb.STOP)
        # a silo that forgot the STOP still says that it holds the run: it is told again
        await silos[0].disconnect()
        silos[0].runs.add(run.id)
        silos[0].connect()
        again = await silos[0].until_kind(pb.STOP, 2)
        assert again.id != offer.id
        # and one that lost its offer gets it again
        second = server.start_run(silos=["aa"])
        await silos[0].until(lambda: any(e.kind == pb.OFFER and e.run_id == second.id for e in silos[0].seen))
        await silos[0].disconnect()
        silos[0].runs.clear()
        silos[0].connect()
        await silos[0].until_kind(pb.OFFER, 3)


async def test_refusals_leave_the_cohort_and_too_few_end_the_run(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        silos[0].verdict = "rejected"
        done = await server.until_run(server.start_run().id, lambda r: r.state in ENDED)
        assert done.state == "completed"
        assert {s.silo: s.state for s in done.silos} == {"aa": "rejected", "bbbb": "completed"}
        failed = await server.until_run(server.start_run(quorum=2).id, lambda r: r.state in ENDED)
        assert (failed.state, failed.code) == ("failed", "OCT-RUN-QUORUM")


async def test_an_approval_of_something_else_is_refused(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa") as (server, silos):
        server.submit()
        silos[0].verdict = ""
        run = server.start_run()
        offer = pb.Offer.FromString((await silos[0].until_kind(pb.OFFER)).body)
        silos[0].decide(run.id, offer, "approved", config_digest="0" * 64)
        await silos[0].until(lambda: not silos[0].pending("server"))
        assert server.run(run.id).state == "offered"
        faults = [s.fault.code for s in silos[0].states if s.fault]
        assert faults == ["OCT-APPROVAL-MISSING"]
        silos[0].decide(run.id, offer, "approved")
        await server.until_run(run.id, lambda r: r.state == "completed")


async def test_replayed_forged_and_foreign_messages_count_for_nothing(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        one, other = silos
        server.submit()
        one.verdict = other.verdict = ""
        run = server.start_run()
        offer = pb.Offer.FromString((await one.until_kind(pb.OFFER)).body)
        await other.until_kind(pb.OFFER)
        approval = one.decide(run.id, offer, "approved")
        one.decide(run.id, offer, "rejected", "changed my mind")
        await server.until_run(run.id, lambda r: r.silos[0].state == "rejected")
        # the same bytes once more, as if the row had come back
        one.box(run.id)._db.execute("UPDATE outbox SET delivered_at=NULL WHERE id=?", (approval.id,))
        one.end.outbox_changed()
        await one.until(lambda: not one.pending("server"))
        assert server.run(run.id).silos[0].state == "rejected"
        # signed by another's key, and in another's name
        forged = other.make(run.id, pb.DECISION, pb.Decision(verdict=pb.Decision.REJECTED))
        other.post(forged, signed_by=one.signing)
        named = other.make(run.id, pb.DECISION, pb.Decision(verdict=pb.Decision.REJECTED), sender="aa")
        other.post(named)
        await other.until(lambda: not other.pending("server"))
        assert {s.fault.code for s in other.states if s.fault} == {"OCT-LINK-ENVELOPE"}
        assert server.run(run.id).silos[1].state == "offered"
        # an answer that nobody asked for
        other.post(other.make(run.id, pb.ANSWER, pb.Answer(task="train"), round=1, dedupe="1/bbbb/train"))
        await other.until(lambda: any(s.fault and s.fault.code.startswith("OCT-RUN") for s in other.states))


async def test_a_witnessed_audit_head_that_goes_back_is_recorded(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa") as (server, silos):
        for seq, hash_ in ((5, b"five"), (7, b"seven"), (6, b"six"), (7, b"other")):
            silos[0].post(silos[0].make("", pb.AUDIT_HEAD, pb.AuditHead(seq=seq, hash=hash_)))
            await silos[0].until(lambda: not silos[0].pending("server"))
        server.end(signal.SIGTERM)
        server.start()
        (row,) = server.call("Silos", op.SilosRequest()).silos
        assert [w[:20] for w in row.warnings] == ["the chain went back ", "entry 7 has another "]


async def test_revoking_a_silo_cuts_its_link_and_takes_it_out_of_its_runs(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        silos[1].trains = False
        run = server.start_run(quorum=1)
        await silos[1].until_kind(pb.TASK)
        row = server.call("Revoke", op.RevokeRequest(name="bbbb", reason="left the alliance"))
        assert row.state == "revoked"
        await silos[1].until(lambda: silos[1].states[-1].phase == "revoked")
        done = await server.until_run(run.id, lambda r: r.state in ENDED)
        assert done.state == "completed"
        assert {s.silo: s.state for s in done.silos} == {"aa": "completed", "bbbb": "revoked"}
        silos[1].connect()  # a fresh connection with the revoked certificate
        await asyncio.wait_for(silos[1]._task, 20)
        assert silos[1].end.state.fault.code == "OCT-CERT-REVOKED"


async def test_a_silo_reads_and_writes_only_what_belongs_to_its_runs(tmp_path: Path) -> None:
    from octopus_desktop.communication.grpc_wire import client_channel, encode_data, encode_head
    from octopus_desktop.wire.pb.federation_pb2 import Chunk, GetRequest, PutReply

    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        run = server.start_run(silos=["aa"])
        await server.until_run(run.id, lambda r: r.state in ENDED)
        job = server.run(run.id).job_digest
        async with client_channel(silos[1].address, silos[1].credentials) as channel:
            get = channel.unary_stream("/octopus.v1.Carrier/Get", GetRequest.SerializeToString, Chunk.FromString)
            put = channel.stream_unary("/octopus.v1.Carrier/Put", lambda b: b, PutReply.FromString)
            ref = pb.BlobRef(digest=job, size=1)
            with pytest.raises(Exception, match="may not pass"):
                await get(GetRequest(blob=ref, run_id=run.id)).read()
            data = os.urandom(10)
            ref = pb.BlobRef(digest="ab" * 32, size=10)
            with pytest.raises(Exception, match="may not pass"):
                await put(iter([encode_head(ref, 0, run.id), encode_data(data)]))
