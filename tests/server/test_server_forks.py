"""A run that begins with another run's model, one that ends early, and what of both the operator sees."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.storage.blobs import BlobStore, file_digest
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import envelope_pb2 as pb
from octopus_desktop.wire.pb import operator_pb2 as op
from tests.aggregation.own_strategies import NESTEROV
from tests.server.scripted import ECHO, Server, federation

ENDED = ("completed", "stopped", "failed")


async def finished(server: Server, **wish: Any) -> Any:
    return await server.until_run(server.start_run(**wish).id, lambda run: run.state in ENDED)


def first_model(silo: Any, run_id: str) -> str:
    (task,) = [e for e in silo.seen if e.run_id == run_id and e.kind == pb.TASK and e.round == 1]
    return pb.Task.FromString(task.body).model.digest


async def test_a_fork_begins_with_the_model_of_the_round_and_carries_the_strategys_state_on(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        whole = await finished(server, rounds=4, strategy="fedavgm")
        half = await finished(server, rounds=2, strategy="fedavgm")
        rest = await finished(server, rounds=2, strategy="fedavgm", origin=(half.id, 0))
        assert first_model(silos[0], rest.id) == half.model.digest
        assert rest.model.digest == whole.model.digest, "with its momentum, two and two rounds are four"
        config = json.loads(rest.config_json)
        assert (config["first_model"], config["forked_from"]) == (half.model.digest, f"{half.id}:2")
        assert len(config["first_slots"]) == 1
        again = await finished(server, rounds=2, strategy="fedavgm", origin=(half.id, 2))
        assert again.model.digest == whole.model.digest, "the first fork took nothing from the old run"
        middle = await finished(server, rounds=3, strategy="fedavgm", origin=(whole.id, 1))
        assert first_model(silos[0], middle.id) == whole.history[0].model.digest
        assert "first_slots" not in json.loads(middle.config_json), "of a round in between the state is gone"
        other = await finished(server, rounds=1, strategy="fedavg", origin=("last", 0))
        assert "first_slots" not in json.loads(other.config_json)
        with pytest.raises(UserError) as refused:
            server.start_run(origin=(half.id, 9))
        assert refused.value.code == "OCT-BLOB-MISSING"
        with pytest.raises(UserError) as refused:
            server.start_run(origin=("nobody", 0))
        assert refused.value.code == "OCT-RUN-UNKNOWN"


async def test_the_state_of_a_packages_own_strategy_goes_along_with_the_same_package_alone(tmp_path: Path) -> None:
    def package(name: str, source: str) -> Path:
        folder = Path(shutil.copytree(ECHO, tmp_path / name))
        (folder / "code" / "strategy.py").write_text(source)
        return folder

    async with federation(tmp_path, "aa", "bbbb") as (server, _):
        server.submit(package("one", NESTEROV))
        own = {"rounds": 1, "strategy": "strategy:Nesterov"}
        old = await finished(server, **own)
        assert old.state == "completed", f"{old.code} {old.reason}"
        rest = server.start_run(**own, origin=(old.id, 0))
        assert list(json.loads(rest.config_json)["first_slots"]) == ["velocity"]
        server.submit(package("other", NESTEROV + "# of another mind\n"))
        changed = server.start_run(**own, origin=(old.id, 0))
        assert json.loads(changed.config_json)["first_model"] == old.model.digest
        assert "first_slots" not in json.loads(changed.config_json)


async def test_a_fork_whose_job_builds_another_model_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa") as (server, silos):
        server.submit()
        old = await finished(server, rounds=1)
        before = len(silos[0].seen)
        with pytest.raises(UserError) as refused:
            wider = json.dumps({"hyperparameters": {"mib": 2}})
            server.call("StartRun", op.StartRunRequest(job="echo", overrides_json=wider, from_run=old.id))
        assert refused.value.code == "OCT-MODEL-SHAPE"
        assert len(silos[0].seen) == before and len(server.call("ListRuns", op.ListRunsRequest()).runs) == 1


async def test_a_run_that_gets_no_better_ends_early_and_its_best_model_can_be_exported(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        done = await finished(server, rounds=30, best="max eval/accuracy", patience=2)
        assert (done.state, done.code, done.round, done.rounds) == ("completed", "", 4, 30)
        assert done.reason == "Ended early: 2 rounds brought no better eval/accuracy. The best is 0.5, of round 1."
        assert (done.best_round, done.best_value) == (1, 0.5)
        assert done.best.digest == done.history[0].model.digest != done.model.digest
        assert dict(done.history[0].silos["aa"].metrics) == {"eval/accuracy": 0.5, "eval/examples": 10.0}
        for silo in silos:
            body = pb.Finished.FromString((await silo.until_kind(pb.FINISHED)).body)
            assert (body.best.digest, body.best_round, body.reason) == (done.best.digest, 1, done.reason)
            assert silo._store.has(done.best.digest)
        exported = tmp_path / "best"
        request = op.ExportModelRequest(run_id=done.id, best=True)
        exported.write_bytes(b"".join(c.data for c in server.api.stream("Operator.ExportModel", request)))
        assert file_digest(exported) == done.best.digest
        plain = await finished(server, rounds=1)
        with pytest.raises(UserError) as refused:
            list(server.api.stream("Operator.ExportModel", op.ExportModelRequest(run_id=plain.id, best=True)))
        assert refused.value.code == "OCT-BLOB-MISSING"


async def test_only_the_last_rounds_models_and_the_best_one_are_kept_where_a_run_asks_for_it(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa") as (server, _):
        server.submit()
        store = BlobStore(server.home.blobs)
        done = await finished(server, rounds=7, keep_models=3, best="max eval/accuracy")
        assert done.state == "completed", "no silo missed a model"
        assert done.best_round == 1, "all are equally good"
        assert [store.has(row.model.digest) for row in done.history] == [True, False, False, False, True, True, True]
        with pytest.raises(UserError, match="not kept any longer"):
            server.start_run(origin=(done.id, 3))
        again = await finished(server, rounds=7, keep_models=3)
        assert again.model.digest == done.model.digest
        assert store.has(done.best.digest), "another run of the same job came to the same bytes, and leaves them"


async def test_an_answer_that_comes_after_its_round_counts_in_the_next_where_the_run_says_so(tmp_path: Path) -> None:
    async with federation(tmp_path, "aa", "bbbb") as (server, silos):
        server.submit()
        silos[1].answer_up_to(0)
        wish = {"rounds": 3, "quorum": 1, "update": "difference", "late": "next", "round_deadline_s": 3, "lease_s": 60}
        run = server.start_run(**wish)
        await server.until_run(run.id, lambda r: r.round >= 1)  # closed at its deadline, without the slow silo
        silos[1].answer_up_to(1)
        await server.until_run(run.id, lambda r: r.round >= 2)
        silos[1].answer_up_to(9)
        done = await server.until_run(run.id, lambda r: r.state in ENDED)
        assert done.state == "completed", f"{done.code} {done.reason}"
        assert [(list(h.answered), list(h.late)) for h in done.history[:2]] == [(["aa"], []), (["aa"], ["bbbb"])]
        assert list(done.history[1].missing) == ["bbbb"], "to its own round it did not answer"
        assert "bbbb" in (*done.history[2].answered, *done.history[2].late)
