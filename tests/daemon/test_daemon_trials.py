"""Trying an offered job out before it is decided: real processes, a real sandbox, and nothing that leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from tests.daemon.scripted import TRAINER, scripted_federation, write_job
from tests.daemon.silo_process import SiloProcess, silo_process

HANGS = TRAINER.replace("        ctx.examples = 10\n", "        import time\n        time.sleep(600)\n")
FAILS = TRAINER.replace("        ctx.examples = 10\n", "        raise RuntimeError('no such scanner')\n")
NO_MODEL = TRAINER.replace("return nn.Linear(2, 1)", "return nn.Linear(int('x'), 1)")
CURIOUS = TRAINER.replace(
    "        ctx.examples = 10\n",
    "        ctx.examples = 10\n"
    "        seen = [p for p in PLACES if os.path.exists(p)]\n"
    "        assert not seen, seen\n",
)


async def offered(silo: SiloProcess, federation: Any, folder: Path, trainer: str, name: str) -> pb.SiloOffer:
    job = write_job(folder / name, name=name, trainer=trainer, rounds=1)
    return await silo.offer(federation.offer("north", federation.package(job), rounds=1), "offered")


async def tried(silo: SiloProcess, offer: pb.SiloOffer, limit_s: float = 0.0) -> list[pb.TryUpdate]:
    data = {d.alias: d.id for d in (await silo.snapshot()).datasets}
    request = pb.TryRequest(id=offer.id, datasets=data, limit_s=limit_s)
    return [update async for update in silo.stream("Approvals.Try", request)]


async def refused(silo: SiloProcess, offer: pb.SiloOffer, limit_s: float = 0.0) -> UserError:
    with pytest.raises(UserError) as caught:
        await tried(silo, offer, limit_s)
    return caught.value


def at_work(silo: SiloProcess) -> list[psutil.Process]:
    """Processes of trials below the daemon; what ends while one looks is none."""
    found = []
    for process in psutil.Process(silo.pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "rehearsal" in " ".join(process.cmdline()):
                found.append(process)
    return found


async def nothing_left(silo: SiloProcess) -> None:
    async with asyncio.timeout(20):
        while at_work(silo) or list((silo.home.root / "trials").glob("*")):  # noqa: ASYNC110 the system tells nobody
            await asyncio.sleep(0.05)


async def test_a_trial_does_the_first_round_confined_and_sends_nothing(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        hidden = [silo.home.secrets, silo.home.database, silo.home.blobs, tmp_path / "fed"]
        assert all(place.exists() for place in hidden)
        curious = CURIOUS.replace("PLACES", repr([str(place) for place in hidden]))
        offer = await offered(silo, federation, tmp_path, curious, "curious")
        updates = await tried(silo, offer)
        assert [u.state for u in updates if u.state in ("build", "done")] == ["build", "done"]
        result = updates[-1].result
        assert (result.error_code, result.error, result.examples) == ("", "", 10)
        assert result.metrics["train/loss"] == 0.5 and result.bytes > 0 and result.memory > 10 << 20
        assert {layer.name: layer.shape for layer in result.layers} == {"weight": "1×2", "bias": "1"}
        await nothing_left(silo)
        assert not federation.answers(offer.id), "nobody heard of it"
        snap = await silo.snapshot()
        assert not snap.runs and next(o for o in snap.offers if o.id == offer.id).state == "offered"
        audit = await silo.call("Audit.Page", pb.AuditPageRequest(limit=50))
        assert [e.subject for e in audit.entries if e.action == "offer.tried"] == [offer.id]
        review = await silo.call("Approvals.Review", pb.ById(id=offer.id))
        assert "tried" in [entry.what for entry in review.history]

        home = {**os.environ, "OCTOPUS_HOME": str(silo.home.root)}
        done = await asyncio.to_thread(octopus, "approvals", "try", offer.id, environment=home)
        assert json.loads(done.stdout)["examples"] == "10"
        await silo.decide(offer, "rejected", reason="Enough.")
        assert (await refused(silo, offer)).code == "OCT-APPROVAL-STATE"


async def test_what_goes_wrong_in_a_trial_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    async with scripted_federation(tmp_path / "fed") as federation, silo_process(tmp_path / "silo") as silo:
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        error = await refused(silo, await offered(silo, federation, tmp_path, NO_MODEL, "no-model"))
        assert error.code == "OCT-RUN-TRAINER" and error.next_step
        result = (await tried(silo, await offered(silo, federation, tmp_path, FAILS, "fails")))[-1].result
        assert result.error_code == "OCT-RUN-TRAINER" and not result.layers
        hangs = await offered(silo, federation, tmp_path, HANGS, "hangs")
        with pytest.raises(UserError) as caught:
            async for _ in silo.stream("Approvals.Try", pb.TryRequest(id=hangs.id)):
                pass
        assert caught.value.code == "OCT-APPROVAL-CONDITIONS", "no dataset was named"
        trial = asyncio.create_task(tried(silo, hangs))
        async with asyncio.timeout(30):
            while not at_work(silo):  # noqa: ASYNC110 the system tells nobody
                await asyncio.sleep(0.05)
        error = await refused(silo, hangs)
        assert error.code == "OCT-RUN-STATE" and "tiny" in error.why
        trial.cancel()
        await asyncio.gather(trial, return_exceptions=True)
        await nothing_left(silo)
        assert (await refused(silo, hangs, limit_s=2)).code == "OCT-RUN-STALLED"
        await nothing_left(silo)


async def test_without_a_sandbox_nothing_of_it_is_run(tmp_path: Path) -> None:
    async with (
        scripted_federation(tmp_path / "fed") as federation,
        silo_process(tmp_path / "silo", start=False) as silo,
    ):
        await silo.start(PATH=str(tmp_path))
        await silo.set_up(federation, data=tmp_path / "patients.csv")
        mark = tmp_path / "ran"
        trainer = f"open({str(mark)!r}, 'w').close()\n" + TRAINER
        error = await refused(silo, await offered(silo, federation, tmp_path, trainer, "eager"))
        assert error.code == "OCT-RUN-SANDBOX" and "bubblewrap" in error.why
        assert not mark.exists()
        await nothing_left(silo)
