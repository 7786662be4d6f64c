"""Trying an offered job out before it is decided: one task on the chosen data, in the sandbox, sent to nobody.

One at a time. What a trial leaves is an entry in the audit; everything else of it is deleted when it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.mail import layers_of
from octopus_desktop.daemon.services.datasets import Datasets
from octopus_desktop.daemon.services.matching import problem
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.daemon.services.runtimes import Runtimes
from octopus_desktop.daemon.supervisor import Runner
from octopus_desktop.jobs.manifest import JobManifest, RunConfig
from octopus_desktop.jobs.package import VerifiedPackage
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.mailbox import Mailbox
from octopus_desktop.training.spec import MAILBOX, DataSource, RunnerSpec
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb
from octopus_desktop.wire.pb.envelope_pb2 import Answer

REHEARSAL = "octopus_desktop.training.rehearsal"
LIMIT_S = 900.0
MEMORY_LOOK_S = 0.5
STEPS = {"build": "Building the job's first model.", "train": "Training its first round on the chosen data."}


class Trials:
    """
    Attributes:
        forbidden: why a standing rule of the silo forbids the offer, or ""; set by ``app``.
    """

    def __init__(self, silo: Silo, packages: Packages, datasets: Datasets, runtimes: Runtimes) -> None:
        self._silo, self._packages, self._datasets, self._runtimes = silo, packages, datasets, runtimes
        self.forbidden: Callable[[pb.SiloOffer, VerifiedPackage], str] = lambda offer, package: ""
        self._running = ""
        self._root = silo.home.root / "trials"
        shutil.rmtree(self._root, ignore_errors=True)  # of a daemon that was killed

    async def run(self, request: pb.TryRequest) -> AsyncGenerator[pb.TryUpdate, None]:
        """Try it; the last update bears the result. Whoever stops listening ends the trial.

        Raises OCT-APPROVAL-STATE, OCT-POLICY-FORBIDDEN, OCT-RUN-STATE, OCT-APPROVAL-CONDITIONS, OCT-DATA-*,
        OCT-PACKAGE-MISSING, OCT-RUNTIME-*, OCT-RUN-STALLED, and what the job's code does wrong.
        """
        offer = self._silo.need("offer", request.id)
        if offer.state != "offered" or not offer.signature_verified:
            raise UserError(
                "OCT-APPROVAL-STATE",
                "Only a job that waits for a decision is tried out.",
                f"The offer is {offer.state.replace('_', ' ')}.",
                "Look at its run, if it was approved.",
            )
        if self._running:
            raise UserError(
                "OCT-RUN-STATE",
                "Another job is being tried out.",
                f"It is {self._running}; they are tried one at a time.",
                "Wait for its end, or cancel it.",
            )
        self._running = f"{offer.offer.job_name} {offer.offer.job_version}"
        place = self._root / new_id("t")
        try:
            verified = await self._packages.seen(offer.offer)
            if why := self.forbidden(offer, verified):
                raise UserError(
                    "OCT-POLICY-FORBIDDEN",
                    "A standing rule of this silo forbids this job.",
                    f"{why[0].upper()}{why[1:]}.",
                    "Change or remove the rule first, or reject the job.",
                )
            spec = await self._spec(offer, verified.manifest, request, place)
            with self._silo.change():
                what = {"datasets": dict(request.datasets), "package": offer.offer.package.digest}
                self._silo.record(self._silo.administrator, "offer.tried", offer.id, what)
            spec.write(place / "runner.json")
            async with contextlib.aclosing(self._watch(place, request.limit_s or LIMIT_S)) as updates:
                async for update in updates:
                    yield update
        finally:
            self._running = ""
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, place, True))

    async def _spec(
        self, offer: pb.SiloOffer, manifest: JobManifest, request: pb.TryRequest, place: Path
    ) -> RunnerSpec:
        needs = {need.alias: need for need in manifest.data}
        if set(request.datasets) != set(needs):
            raise UserError(
                "OCT-APPROVAL-CONDITIONS",
                "The trial does not name a dataset for each need of the job.",
                f"The job needs {', '.join(sorted(needs)) or 'no data'}.",
                "Choose one dataset for each need.",
            )
        sources = []
        for alias, dataset_id in sorted(request.datasets.items()):
            dataset = await self._datasets.still_the_same(dataset_id)
            if why := problem(needs[alias], dataset):
                raise UserError(
                    "OCT-DATA-COLUMN",
                    f"{dataset.alias} cannot serve the job's data {alias!r}.",
                    f"{why[0].upper()}{why[1:]}.",
                    "Choose another dataset.",
                )
            columns = needs[alias].columns
            sources.append(
                DataSource(alias=alias, path=dataset.path, kind=dataset.kind, digest=dataset.digest, columns=columns)
            )
        interpreter = await self._runtimes.serve(request.runtime, manifest)
        place.mkdir(parents=True, mode=0o700)
        await self._packages.unpack(offer.offer, place / "package")
        config = RunConfig.from_dict(json.loads(offer.offer.config_json))
        return RunnerSpec(
            run_id=offer.id,
            silo=self._silo.need("federation", offer.federation_id).silo_name,
            package=str(place / "package"),
            trainer=manifest.trainer,
            config=config.to_dict(),
            blobs=str(place / "blobs"),
            threads=max(1, config.resources.threads_per_worker),
            package_digest=offer.offer.package.digest,
            python=interpreter.python,
            python_paths=interpreter.paths,
            max_restarts=0,
            data=tuple({name: getattr(s, name) for name in DataSource.__dataclass_fields__} for s in sources),
        )

    async def _watch(self, place: Path, limit_s: float) -> AsyncGenerator[pb.TryUpdate, None]:
        """What the trial's process says, until its task is answered."""
        words: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        runner = Runner(
            heard=words.put_nowait,
            wrote=lambda text: words.put_nowait({"word": "log", "text": text}),
            gone=lambda why: words.put_nowait({"word": "gone", "why": why}),
        )
        began, peak = time.time(), 0
        await runner.start(REHEARSAL, str(place), cwd=place)
        try:
            async with asyncio.timeout(limit_s):
                while True:
                    word = {"word": ""}
                    with contextlib.suppress(TimeoutError):
                        word = await asyncio.wait_for(words.get(), MEMORY_LOOK_S)
                    peak = max(peak, await asyncio.to_thread(_memory, runner.pid))
                    if word["word"] == "outbox":
                        yield pb.TryUpdate(state="done", memory=peak, result=self._result(place, began, peak))
                        return
                    if word["word"] == "gone":
                        raise UserError(
                            "OCT-RUN-WORKERS",
                            "The trial's process ended by itself.",
                            f"The system says {word['why']}.",
                            "Look into the log, and try again.",
                        )
                    if update := _update(word):
                        update.memory = peak
                        yield update
        except TimeoutError:
            raise UserError(
                "OCT-RUN-STALLED",
                "The trial took too long and was ended.",
                f"It had {limit_s:.0f} s.",
                "Ask the author how long a round takes, or give it more time.",
            ) from None
        finally:
            await asyncio.shield(runner.end("The trial is over."))

    def _result(self, place: Path, began: float, peak: int) -> pb.TryResult:
        """From the answer in the outbox, which nobody carries anywhere."""
        pending = Mailbox(place / MAILBOX).pending("server")
        answer = Answer.FromString(next(envelope for _, envelope in pending).body)
        blobs = BlobStore(place / "blobs")
        layers = layers_of(blobs, answer.update) if answer.update.digest else []
        return pb.TryResult(
            seconds=time.time() - began,
            train_seconds=answer.train_seconds,
            examples=answer.examples,
            steps=answer.steps,
            metrics=answer.metrics,
            memory=peak,
            bytes=answer.update.size + sum(ref.size for ref in answer.returned.values()),
            encoding=answer.update.encoding,
            layers=layers,
            error_code=answer.error_code,
            error=answer.error,
            spans=answer.spans,
        )


def _update(word: dict[str, Any]) -> pb.TryUpdate | None:
    """Raises the UserError that the process told."""
    if word["word"] == "fault":
        told = word["fault"]
        raise UserError(told["code"], told["what"], told["why"], told["next_step"])
    if word["word"] == "step":
        return pb.TryUpdate(state=str(word["step"]), text=STEPS.get(str(word["step"]), ""))
    if word["word"] == "progress":
        return pb.TryUpdate(state="train", fraction=min(1.0, max(0.0, float(word.get("fraction", 0.0)))))
    if word["word"] == "log":
        return pb.TryUpdate(state="log", text=str(word["text"])[:2000])
    return None


def _memory(pid: int) -> int:
    """Bytes of memory that a process and all below it hold now."""
    import psutil

    total = 0
    with contextlib.suppress(psutil.Error):
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                total += process.memory_info().rss
    return total
