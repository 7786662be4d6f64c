"""What federation is measured against: each silo's model alone, and one model on the pooled data. Needs torch.

``python -m octopus_desktop.simulation.baselines --job DIR --config JSON --model FILE --silo name:alias=path …`` prints
one line of JSON: the accuracy of the given federated model, of each silo's own, and of the pooled one, each on the test
rows of all silos together (the trainer's own ``evaluate``, weighted by its rows).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from octopus_desktop.aggregation.facts import AnswerFacts, average_metrics
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation import layout
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.partition import Source
from octopus_desktop.simulation.simulator import SiloData, simulate
from octopus_desktop.training.engine import Engine, TaskInput
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

FEDERATED, POOLED = "federated", "pooled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Metrics ("eval/accuracy", …) by model: "federated", each silo's name, "pooled"."""

    metrics: Mapping[str, Mapping[str, float]]

    def of(self, metric: str) -> dict[str, float]:
        return {name: values[metric] for name, values in self.metrics.items() if metric in values}


def compare(job: Job, data: SiloData, config: RunConfig, model: Path, work: Path) -> Scores:
    """Train the baselines with the same package, rounds and seed, and judge all models on all silos' test rows.

    A baseline is a run of one silo, so plain averaging is the identity: strategy, quorum, filters and encoding of the
    federation are left out, its rounds stay, so each model sees each row as often.
    """
    single = replace(
        config, strategy="fedavg", strategy_parameters={}, quorum=0, privacy={}, encoding="none", encoding_parameters={}
    )
    models = {FEDERATED: model}
    for name, sources in data.items():
        models[name] = simulate(job, {name: sources}, config=single, work=_folder(work, f"alone-{name}")).model
    pooled = {POOLED: pool(data, _folder(work, "pooled-data"))}
    models[POOLED] = simulate(job, pooled, config=single, work=_folder(work, "pooled")).model
    return Scores(metrics=evaluate(job, data, config, models, work))


def pool(data: SiloData, folder: Path) -> dict[str, DataSource]:
    """All silos' rows in one file for each alias, in the silos' order."""
    pooled = {}
    for alias, first in next(iter(data.values())).items():
        if first.kind == "folder":
            raise UserError(
                "OCT-DATA-KIND",
                "Folders cannot be pooled.",
                f"{alias!r} is a folder.",
                "Compare jobs on tables or NPZ.",
            )
        whole = Source([Path(sources[alias].path) for sources in data.values()])
        pooled[alias] = replace(first, path=str(whole.write(range(whole.rows), folder / alias)))
    return pooled


def evaluate(
    job: Job, data: SiloData, config: RunConfig, models: Mapping[str, Path], work: Path
) -> dict[str, dict[str, float]]:
    """Each model's metrics over all silos' test rows, by the trainer's own ``evaluate``."""
    answers: dict[str, list[AnswerFacts]] = {name: [] for name in models}
    for silo, sources in data.items():
        engine = Engine(job.folder, job.manifest.trainer, config, silo, sources)
        for name, model in models.items():
            task = TaskInput(task="evaluate", round=config.rounds, rounds=config.rounds, model=model)
            result = engine.run(task, work / "no-update")
            answers[name].append(AnswerFacts(silo=silo, metrics=result.metrics))
    return {name: average_metrics(facts, "eval/") for name, facts in answers.items()}


def _folder(work: Path, name: str) -> Path:
    folder = work / name
    folder.mkdir(parents=True)
    return folder


def main() -> None:
    words = argparse.ArgumentParser(prog="python -m octopus_desktop.simulation.baselines")
    words.add_argument("--job", required=True, type=Path)
    words.add_argument("--config", required=True, help="the run's configuration (canonical JSON)")
    words.add_argument("--model", required=True, type=Path)
    words.add_argument("--silo", required=True, action="append")
    words.add_argument("--metric", default="eval/accuracy")
    given = words.parse_args()
    with tempfile.TemporaryDirectory(prefix="octopus-baselines-") as folder, open_job(given.job, Path(folder)) as job:
        data = layout.explicit(job, given.silo)
        config = RunConfig.from_dict(json.loads(given.config))
        scores = compare(job, data, config, given.model, Path(folder))
    print(json.dumps(scores.of(given.metric)))


if __name__ == "__main__":
    main()
