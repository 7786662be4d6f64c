"""One worker's task and its result, as plain values."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from octopus_desktop.training import state as files


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskInput:
    """``task``: train | evaluate. ``model``: the global model's file. ``config``: the strategy's words (Task).
    ``shared``: files of the strategy's state that came with the task. ``keep``: folder of this silo's memory.
    ``held``: the same model in memory, where the caller has it there for many silos."""

    task: str
    round: int
    rounds: int
    model: Path
    config: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, Path] = field(default_factory=dict)
    keep: Path | None = None
    held: files.Held | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """``metrics``: "eval/…" of the model that came in, "train/…" of the training. ``update``: the file that ``run`` was
    told to write, None for "evaluate" and on ranks above 0; ``digest`` is its SHA-256 ("" if not asked for), ``size``
    its bytes. ``spans``: (lane, step, start, end) in Unix seconds. ``returned``: files that the strategy asked for
    beside the update (``training.spec.beside``), of rank 0 alone."""

    examples: int
    steps: int
    metrics: dict[str, float]
    update: Path | None
    train_seconds: float
    spans: tuple[tuple[str, str, float, float], ...]
    digest: str = ""
    size: int = 0
    returned: dict[str, Path] = field(default_factory=dict)
