"""Approved runs with the real runner: rounds, pause, stop, conditions, changed data, kills, what the record holds."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import struct
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as e
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.tensors import read_layout
from tests.daemon.scripted import ScriptedFederation, scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process
from tests.daemon.test_daemon_process import fails


def write_model(path: Path, value: float = 0.0) -> Path:
    """A global model for the tiny trainer (nn.Linear(2, 1)) as a safetensors file."""
    tensors = {"bias": [value], "weight": [value, value]}
    header, data = {}, b""
    for name, values in tensors.items():
        raw = struct.pack(f"<{len(values)}f", *values)
        shape = [1] if name == "bias" else [1, 2]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    read_layout(path)
    return path


async def approved(
    silo: SiloProcess, federation: ScriptedFederation, root: Path, *, wait_for_removal: str = "", rounds: int = 2,
    **limits: Any,
) -> str:  # fmt: skip
    """A run of the tiny job that was offered and approved by the administrator."""
    config = {"hyperparameters": {"wait_for_removal": wait_for_removal}} if wait_for_removal else {}
    run_id = federation.offer("north", federation.package(write_job(root / "job")), rounds=rounds, config=config)
    await silo.decide(await silo.offer(run_id, "offered"), limits=limits)
    return run_id


def runner_of(silo: SiloProcess) -> psutil.Process:
    for child in psutil.Process(silo.pid).children(recursive=True):
        if "training.runner" in " ".join(child.cmdline()):
            return child
    raise AssertionError("no runner")


async def test_two_rounds_to_the_end_and_all_of_it_recorded(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = await approved(silo, federation, tmp_path)
        await silo.run(run_id, "preparing")  # the runner warms up before there is anything to do
        follow = silo.stream("Runs.Follow", pb.ById(id=run_id))
        assert (await anext(follow)).run.id == run_id
        for round_ in (1, 2):
            model = write_model(tmp_path / f"m{round_}.safetensors", float(round_))
            federation.task("north", run_id, round_, model)
            answers = await federation.until(lambda n=round_: len(a := federation.answers(run_id)) == n and a, 60)
            answer = answers[-1][1]
            assert (answer.examples, answer.error) == (10, "") and answer.metrics["train/loss"] == 0.5
            result = e.RoundResult(
                rounds=2, metrics={"eval/accuracy": 0.5 + round_ / 10}, answered=["north"], seconds=1
            )
            federation.post("north", run_id, e.ROUND, result, round_=round_)
        final = write_model(tmp_path / "final.safetensors", 7.0)
        ref = e.BlobRef(digest=federation.blobs().adopt(final), size=final.stat().st_size)
        finished = e.Finished(model=ref, metrics={"eval/accuracy": 0.9}, rounds=2)
        federation.post("north", run_id, e.FINISHED, finished, round_=2, blobs=[ref])
        run = await silo.run(run_id, "completed")
        assert (run.round, run.rounds, run.metrics["eval/accuracy"], run.approved_by) == (2, 2, 0.9, "Nora")
        assert run.bytes_out and run.bytes_in

        detail = await silo.call("Runs.Detail", pb.ById(id=run_id))
        assert [(r.round, dict(r.federation)) for r in detail.rounds] == [
            (1, {"eval/accuracy": 0.6}),
            (2, {"eval/accuracy": 0.7}),
        ]
        assert all(r.local["train/loss"] == 0.5 and r.bytes_out for r in detail.rounds)
        assert {s.span.step for s in detail.spans} >= {"upload", "wait"}
        assert {p.source for p in detail.points} >= {"silo", "federation"}
        sent = [m for m in detail.left if m.kind == "ANSWER"]
        assert [m.digest for m in sent] == [a.update.digest for _, a in federation.answers(run_id)]
        assert [layer.shape for layer in sent[0].layers] == ["1", "1×2"]
        page = await silo.call("Audit.Page", pb.AuditPageRequest(run_id=run_id, limit=500))
        actions = [entry.action for entry in reversed(page.entries)]
        told = ["offer.received", "offer.verified", "offer.approved", "run.runner-started", "run.training"]
        assert [a for a in actions if a in told][:5] == told and actions.count("run.exchanging") == 2
        assert actions[-1] == "run.completed"
        assert all(any(m.digest in entry.detail_json for entry in page.entries) for m in sent)

        out = tmp_path / "out.safetensors"
        export = pb.ExportRequest(id=run_id, path=str(out), request_id=new_id())
        await silo.call("Runs.ExportModel", export)
        assert file_digest(out) == ref.digest
        export.request_id = new_id()
        assert await fails(silo, "Runs.ExportModel", export) == "OCT-STATE-EXISTS"
        first = pb.ExportRequest(id=run_id, round=1, path=str(tmp_path / "one"), request_id=new_id())
        await silo.call("Runs.ExportModel", first)
        assert file_digest(tmp_path / "one") == file_digest(tmp_path / "m2.safetensors")
        own = pb.ExportRequest(id=run_id, personal=True, path=str(tmp_path / "own"), request_id=new_id())
        assert await fails(silo, "Runs.ExportModel", own) == "OCT-BLOB-MISSING", "the job keeps none"
        async with asyncio.timeout(20):
            while (silo.home.run(run_id) / "work").exists():  # noqa: ASYNC110  no event tells of it
                await asyncio.sleep(0.02)
        assert await fails(silo, "Runs.Pause", pb.ById(id=run_id)) == "OCT-RUN-STATE"
        assert await fails(silo, "Runs.Stop", pb.StopLocalRequest(id="x")) == "OCT-RUN-UNKNOWN"
        snap = await silo.snapshot()
        assert snap.daemon.bytes_out_today >= run.bytes_out and snap.datasets[0].runs == [run_id]
        lines = (await silo.call("Logs.Page", pb.LogPageRequest(run_id=run_id))).lines
        assert any("Round 1" in line.text for line in lines)


async def test_killed_in_the_middle_it_trains_on_and_answers_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")  # the trainer waits for a file outside of what it may see
    gate = tmp_path / "gate"
    gate.touch()
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = await approved(silo, federation, tmp_path, wait_for_removal=str(gate))
        federation.task("north", run_id, 1, write_model(tmp_path / "m"))
        await silo.run(run_id, "training")
        assert await federation.until(lambda: federation.live_got)
        family = [runner_of(silo), *runner_of(silo).children(recursive=True)]
        await silo.kill()
        assert not psutil.wait_procs(family, 10)[1], "no child outlives the daemon"
        await silo.start()
        await silo.run(run_id, "training")
        os.kill(runner_of(silo).pid, signal.SIGKILL)
        await silo.until(lambda s: [r for r in s.runs if "signal 9" in r.reason])
        await silo.run(run_id, "training")
        gate.unlink()
        await federation.until(lambda: federation.answers(run_id), 60)
        await silo.run(run_id, "exchanging")
        federation.task("north", run_id, 1, tmp_path / "m", epoch=2)  # the server asks again: the same answer
        answers = await federation.until(lambda: len(a := federation.answers(run_id)) == 2 and a)
        assert [a.epoch for _, a in answers] == [1, 2] and len({a.update.digest for _, a in answers}) == 1


async def test_pause_resume_and_stop(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = await approved(silo, federation, tmp_path)
        await silo.run(run_id, "preparing")
        assert (await silo.call("Runs.Pause", pb.ById(id=run_id, request_id=new_id()))).state == "paused"
        federation.task("north", run_id, 1, write_model(tmp_path / "m"))
        await federation.until(lambda: not federation.pending("north"))
        await silo.kill()
        await silo.start()  # paused stays paused
        assert (await silo.run(run_id, "paused")).state == "paused" and not federation.answers(run_id)
        await silo.call("Runs.Resume", pb.ById(id=run_id, request_id=new_id()))
        await federation.until(lambda: federation.answers(run_id), 60)
        stop = pb.StopLocalRequest(id=run_id, reason="Enough.", request_id=new_id())
        runner = runner_of(silo)
        assert (await silo.call("Runs.Stop", stop)).state == "stopped"
        told = await federation.until(lambda: [d for d in federation.decisions(run_id) if d.reason == "Enough."])
        assert told[0].verdict == e.Decision.REVOKED
        assert not psutil.wait_procs([runner], 10)[1]
        federation.task("north", run_id, 2, tmp_path / "m")
        await federation.until(lambda: not federation.pending("north"))
        assert len(federation.answers(run_id)) == 1


async def test_a_revoked_approval_stops_the_run(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = await approved(silo, federation, tmp_path)
        await silo.run(run_id, "preparing")
        offer = await silo.offer(run_id, "approved")
        await silo.decide(offer, "revoked", reason="The consent was withdrawn.")
        assert (await silo.run(run_id, "stopped")).reason == "The consent was withdrawn."
        await federation.until(lambda: [d for d in federation.decisions(run_id) if d.verdict == e.Decision.REVOKED])
        decision = await silo.decision(offer, "revoked")
        assert await fails(silo, "Approvals.Decide", pb.DecideRequest(id=run_id, decision=decision)) == (
            "OCT-APPROVAL-STATE"
        )


async def test_changed_data_and_a_doctored_state_stop_the_next_launch(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        changed, doctored = [await approved(silo, federation, tmp_path) for _ in range(2)]
        for run_id in (changed, doctored):
            await silo.call("Runs.Pause", pb.ById(id=run_id, request_id=new_id()))
        await silo.kill()
        import sqlite3

        with sqlite3.connect(silo.home.database) as db:
            (raw,) = db.execute("SELECT body FROM decisions WHERE run_id=?", (doctored,)).fetchone()
            decision = e.Decision.FromString(raw)
            decision.statement = decision.statement.replace(b'"max_rounds":0', b'"max_rounds":9')
            db.execute("UPDATE decisions SET body=? WHERE run_id=?", (decision.SerializeToString(), doctored))
        await silo.start()
        await silo.call("Runs.Resume", pb.ById(id=doctored, request_id=new_id()))
        assert (await silo.run(doctored, "failed")).code == "OCT-SIGN-BAD"
        with (tmp_path / "patients.csv").open("a") as file:
            file.write("99,1\n")
        await silo.call("Runs.Resume", pb.ById(id=changed, request_id=new_id()))
        run = await silo.run(changed, "failed")
        assert run.code == "OCT-DATA-CHANGED" and "patients" in run.reason
        assert (await silo.snapshot()).datasets[0].state == "changed"
        told = await federation.until(lambda: [d for d in federation.decisions(changed) if "OCT-DATA" in d.reason])
        assert told[0].verdict == e.Decision.REVOKED


@pytest.mark.parametrize(
    ("limits", "why"),
    [({"max_bytes_out": 10}, "bytes"), ({"max_hours": 1e-6}, "hours"), ({"expires_at": 2.0}, "expiry")],
)
async def test_conditions_end_a_run(tmp_path: Path, limits: dict[str, float], why: str) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        if "expires_at" in limits:
            limits = {"expires_at": time.time() + limits["expires_at"]}
        run_id = await approved(silo, federation, tmp_path, **limits)
        federation.task("north", run_id, 1, write_model(tmp_path / "m"))
        run = await silo.run(run_id, "failed")
        assert run.code == "OCT-APPROVAL-CONDITIONS" and why in run.reason
        assert why == "expiry" or not federation.answers(run_id), "nothing left against the conditions"


async def test_outside_the_allowed_hours_the_run_waits(tmp_path: Path) -> None:
    now = time.localtime().tm_hour
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = await approved(silo, federation, tmp_path, hours_of_day=(((now + 3) % 24, (now + 4) % 24 or 24),))
        assert "hours" in (await silo.run(run_id, "paused")).reason
        with pytest.raises(UserError) as error:
            await silo.call("Runs.Resume", pb.ById(id=run_id, request_id=new_id()))
        assert error.value.code == "OCT-RUN-STATE"


async def test_without_a_ready_node_the_run_waits_for_one(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        snap = await silo.set_up(federation, data=tmp_path / "patients.csv")
        await silo.call("Nodes.Drain", pb.DrainRequest(id=snap.nodes[0].id, drain=True))
        run_id = await approved(silo, federation, tmp_path)
        await silo.until(lambda s: [r for r in s.runs if "drained" in r.reason])
        await silo.call("Nodes.Drain", pb.DrainRequest(id=snap.nodes[0].id))
        assert (await silo.run(run_id, "preparing")).workers == 1


async def test_a_trainer_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    trainer = "from octopus_desktop.training.sdk import ClientTrainer\nclass Trainer(ClientTrainer):\n    pass\n"
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        run_id = federation.offer("north", federation.package(write_job(tmp_path / "job", trainer=trainer)))
        await silo.decide(await silo.offer(run_id, "offered"))
        federation.task("north", run_id, 1, write_model(tmp_path / "m"))
        await asyncio.wait(
            [
                asyncio.ensure_future(federation.until(lambda: federation.answers(run_id), 60)),
                asyncio.ensure_future(silo.run(run_id, "failed")),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        codes = {a.error_code for _, a in federation.answers(run_id)} | {r.code for r in (await silo.snapshot()).runs}
        assert codes & {"OCT-RUN-TRAINER", "OCT-JOB-TRAINER"}
        assert (await silo.call("Audit.Verify")).whole
