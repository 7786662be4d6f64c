"""What the server's own evaluation of a model is, in a federation and in a simulation alike: which configuration its
worker gets, and how its metrics are named. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from octopus_desktop.jobs.manifest import RunConfig


def evaluator_config(config: RunConfig) -> RunConfig:
    """What the evaluating worker is told: the run's configuration without what concerns silos alone."""
    resources = replace(config.resources, workers=1)
    alike = replace(config, personal_layers=(), personal_steps=0, personal_epochs=0, personal_keep=False)
    return replace(alike, resources=resources)


def central_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A worker's ``eval/…`` under the name by which they stand in a round's row."""
    return {f"central/{name.removeprefix('eval/')}": value for name, value in metrics.items()}
