"""Virtual silos: an engine in this process, or the runner's own launcher with several workers. Needs torch."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from octopus_desktop.aggregation.events import Dispatch
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.returned import returned
from octopus_desktop.simulation.memory import Models
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.training import frames, leaving
from octopus_desktop.training.spec import KEPT_MODEL, PRIVATE, DataSource, RunnerSpec, beside
from octopus_desktop.training.state import Held
from octopus_desktop.wire.canonical import digest
from octopus_desktop.wire.errors import UserError


class VirtualSilo(Protocol):
    def run(
        self, order: Dispatch, words: Mapping[str, Any], shared: Mapping[str, Path], out: Held | None = None
    ) -> AnswerFacts:
        """Do the task; the update lies in ``out`` then, or in the store. ``words``: the strategy's, from the task's
        configuration; ``shared``: files of its state that come with the task. ``out`` is given only where no filter
        and no encoding comes in between.

        Raises:
            UserError: what the silo would have answered as its error.
        """
        ...

    def close(self) -> None: ...


def make_silo(
    name: str,
    package: Path,
    trainer: str,
    config: RunConfig,
    sources: Mapping[str, DataSource],
    work: Path,
    models: Models,
    runtime: Interpreter | None = None,
) -> VirtualSilo:
    """``config.resources.workers`` decides: one worker is an engine here, several are processes as in deployment, and
    so is whatever trains in another ``runtime``."""
    if config.resources.workers > 1 or runtime is not None:
        return ManyWorkers(name, package, trainer, config, sources, work, runtime or Interpreter())
    return OneWorker(name, package, trainer, config, sources, work, models)


class OneWorker:
    """One engine in this process."""

    def __init__(
        self,
        name: str,
        package: Path,
        trainer: str,
        config: RunConfig,
        sources: Mapping[str, DataSource],
        work: Path,
        models: Models,
    ) -> None:
        from octopus_desktop.training.engine import Engine

        self._models = models
        self._name, self._store = name, BlobStore(work / "blobs", durable=False)
        self._left = _Left(work / f"leaving-{name}")
        self._out, self._keep = work / f"update-{name}.safetensors", work / f"memory-{name}"
        self._engine = Engine(
            package, trainer, config, name, sources, threads=max(1, config.resources.threads_per_worker)
        )

    def run(
        self, order: Dispatch, words: Mapping[str, Any], shared: Mapping[str, Path], out: Held | None = None
    ) -> AnswerFacts:
        from octopus_desktop.training.engine import TaskInput

        model, held = self._models.named(self._store, order.model.digest)
        task = TaskInput(
            task=order.task,
            round=order.round,
            rounds=self._engine.config.rounds,
            model=model,
            held=held,
            config=dict(words),
            shared=dict(shared),
            keep=self._keep,
        )
        result = self._engine.run(task, out or self._out, digest=False)
        update, more = None, {}
        if out and order.task == "train":  # named like a file, but nobody asks for the bytes' digest
            update = Blob(digest=digest(f"{self._name} {order.round} {order.epoch}".encode()), size=out.layout.size)
        elif result.update:
            update = self._left.leave(self._engine.config, self._store, result.update, task.model, order.round)
            more = self._left.returned(self._engine.config, self._store, result.update, task.model)
        return AnswerFacts(
            silo=self._name,
            examples=result.examples,
            steps=result.steps,
            metrics=result.metrics,
            update=update,
            train_seconds=result.train_seconds,
            returned=more,
        )

    def close(self) -> None:
        self._out.unlink(missing_ok=True)
        self._left.close()


class ManyWorkers:
    """The launcher's DDP workers on this node, kept warm; an asyncio loop on a thread of its own talks to them."""

    def __init__(
        self,
        name: str,
        package: Path,
        trainer: str,
        config: RunConfig,
        sources: Mapping[str, DataSource],
        work: Path,
        runtime: Interpreter,
    ) -> None:
        from octopus_desktop.training.launcher import Workers

        self._name, self._store, self._config = name, BlobStore(work / "blobs", durable=False), config
        folder = work / f"silo-{name}"
        (folder / "work").mkdir(parents=True)
        self._out, self._keep = folder / "update.safetensors", folder / "work" / "memory"
        self._left = _Left(folder / PRIVATE)
        spec = RunnerSpec(
            run_id="simulation",
            silo=name,
            package=str(package),
            trainer=trainer,
            config=config.to_dict(),
            blobs=str(work / "blobs"),
            workers=max(1, config.resources.workers),
            python=runtime.python,
            python_paths=runtime.paths,
            threads=max(1, config.resources.threads_per_worker),
            data=tuple(asdict(source) for source in sources.values()),
        )
        spec.write(folder / "runner.json")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"workers of {name}", daemon=True)
        self._thread.start()
        self._workers = Workers(folder, spec, self)
        self._wait(self._workers.start())

    def run(
        self, order: Dispatch, words: Mapping[str, Any], shared: Mapping[str, Path], out: Held | None = None
    ) -> AnswerFacts:
        from octopus_desktop.training.launcher import TaskFailed

        model = self._store.path(order.model.digest)
        task = {
            "task": order.task,
            "round": order.round,
            "rounds": self._config.rounds,
            "model": str(model),
            "config": dict(words),
            "shared": {slot: str(path) for slot, path in shared.items()},
            "keep": str(self._keep),
            "out": str(self._out),
        }
        try:
            result = self._wait(self._workers.run(task))
        except TaskFailed as error:
            fault = error.fault
            raise UserError(fault["code"], fault["what"], fault["why"], fault["next"]) from error
        update, more = None, {}
        if order.task == "train":
            update = self._left.leave(self._config, self._store, self._out, model, order.round)
            more = self._left.returned(self._config, self._store, self._out, model)
        return AnswerFacts(
            silo=self._name,
            examples=result["examples"],
            steps=result["steps"],
            metrics=result["metrics"],
            update=update,
            train_seconds=result["train_seconds"],
            returned=more,
        )

    def close(self) -> None:
        self._wait(self._workers.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._left.close()

    def heard(self, frame: frames.Frame) -> None:
        """Live words of the workers are for a window; a simulation has its rounds."""

    def _wait(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def kept_models(work: Path, silos: Iterable[str]) -> dict[str, Path]:
    """The silos' own final models, where they keep any."""
    places = {
        name: [work / f"memory-{name}" / KEPT_MODEL, work / f"silo-{name}" / "work" / "memory" / KEPT_MODEL]
        for name in silos
    }
    return {name: place for name, either in places.items() for place in either if place.exists()}


class _Left:
    """What the runner does with an update, filters, encoding and its feedback included; but nothing here must survive a
    crash."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: Path | None = None

    def leave(self, config: RunConfig, store: BlobStore, update: Path, model: Path, round_: int) -> Blob:
        after = self._folder / f"left-out-{round_}.safetensors"
        clean = leaving.prepare(
            update, model, config, private=self._folder, before=self._before, after=after, durable=False
        )
        if clean.left_out:
            if self._before:
                self._before.unlink()
            self._before = clean.left_out
        return Blob(digest=store.adopt_hashed(clean.path, clean.digest), size=clean.size, encoding=clean.encoding)

    def returned(self, config: RunConfig, store: BlobStore, update: Path, model: Path) -> dict[str, Blob]:
        """What the strategy has the silo return; ``update``: the file beside which the workers wrote it."""
        found = {}
        for name in returned(config.strategy):
            clean = leaving.prepare_returned(
                name, beside(update, name), model, config, private=self._folder, durable=False
            )
            digest = store.adopt_hashed(clean.path, clean.digest)
            found[name] = Blob(digest=digest, size=clean.size, encoding=clean.encoding)
        return found

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
