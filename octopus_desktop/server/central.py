"""The server's own evaluation of each round's model ([evaluation] central), on data that the operator gave.

The job's ``evaluate`` runs in a worker as at a silo, in the same sandbox, warm between rounds, and never in the
coordinator: the coordinator asks and waits, for a round's deadline at most. Its metrics are named ``central/…``. Of
layers that stay at the silos the server has none, so it sees the model as it is. No torch here.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from octopus_desktop.communication.contract import SERVER
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import frames
from octopus_desktop.training.central import central_metrics, evaluator_config
from octopus_desktop.training.launcher import TaskFailed, Workers
from octopus_desktop.training.spec import DataSource, RunnerSpec
from octopus_desktop.wire.errors import UserError


class Central:
    """One run's evaluating worker. An event loop on a thread of its own talks to it; it starts with the first model."""

    def __init__(
        self, folder: Path, run_id: str, package: Path, trainer: str, config: RunConfig, sources: Sequence[DataSource]
    ) -> None:
        self._folder, self._rounds = folder, config.rounds
        self._spec = RunnerSpec(
            run_id=run_id,
            silo=SERVER,
            package=str(package),
            trainer=trainer,
            config=evaluator_config(config).to_dict(),
            blobs="",
            threads=max(1, config.resources.threads_per_worker),
            data=tuple(asdict(source) for source in sources),
        )
        self._loop = asyncio.new_event_loop()
        self._workers: Workers | None = None

    def evaluate(self, model: Path, round_: int) -> dict[str, float]:
        """Blocks.

        Raises:
            UserError: what the job's code or the data came to, OCT-RUN-WORKERS or OCT-RUN-STALLED.
        """
        if self._workers is None:
            (self._folder / "work").mkdir(parents=True, exist_ok=True)
            self._spec.write(self._folder / "runner.json")
            self._workers = Workers(self._folder, self._spec, self, confine=True)
            threading.Thread(target=self._loop.run_forever, name="central", daemon=True).start()
            self._wait(self._workers.start())
        words = {
            "task": "evaluate",
            "round": round_,
            "rounds": self._rounds,
            "model": str(model),
            "config": {},
            "shared": {},
            "out": str(self._folder / "work" / "none"),
        }
        try:
            return central_metrics(dict(self._wait(self._workers.run(words))["metrics"]))
        except TaskFailed as error:
            fault = error.fault
            raise UserError(fault["code"], fault["what"], fault["why"], fault["next"]) from error
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                "OCT-RUN-TRAINER",
                "The evaluating worker's answer cannot be read.",
                "The job's code has changed how a worker speaks to its parent.",
                "Look at what the job's code does with sockets.",
            ) from error

    def close(self) -> None:
        if self._workers:
            self._wait(self._workers.stop())
            self._loop.call_soon_threadsafe(self._loop.stop)

    def heard(self, frame: frames.Frame) -> None:
        """Live words of the worker are for nobody: the metrics come with the round."""

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()
