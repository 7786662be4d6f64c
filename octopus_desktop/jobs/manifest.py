"""What a job says of itself: the typed form of ``job.toml`` and of a run's configuration.

Validation with exact places is ``jobs.toml``; this module holds data only, and knows neither zip nor signatures.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from octopus_desktop.wire.canonical import canonical_json, digest


@dataclass(frozen=True, slots=True, kw_only=True)
class DataNeed:
    """One dataset that a job reads, by the alias its code uses. ``columns``: name to type (number | integer | text |
    any); a silo maps the need to one of its registered datasets at approval."""

    alias: str
    kind: str = "table"  # table | arrays | folder
    columns: dict[str, str] = field(default_factory=dict)
    min_rows: int = 1
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one silo should have. ``workers`` 0: one per GPU, else one CPU worker. Memory in MiB, hours per silo."""

    workers: int = 0
    threads_per_worker: int = 1
    gpus: int = 0
    memory_mib: int = 0
    hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All that steers a run beside the code. Its canonical JSON is what the offer carries and approval binds.

    Units: deadlines in seconds. ``quorum``: the least number of silos whose answers close a round at its deadline;
    0 means all of them. ``per_round``: how many silos, drawn anew for each round, are asked to train; 0 means all.
    ``update``: ``weights`` or ``difference``; an ``encoding`` other than "none" encodes the difference in any case.
    ``encoding_parameters``: those of the table [encoding] that were given.
    """

    rounds: int = 1
    seed: int = 0
    mode: str = "sync"
    quorum: int = 0
    per_round: int = 0
    round_deadline_s: float = 3600.0
    lease_s: float = 120.0
    strategy: str = "fedavg"
    strategy_parameters: dict[str, float | int | str | bool] = field(default_factory=dict)
    update: str = "weights"
    encoding: str = "none"
    carrier: str = "auto"
    hyperparameters: dict[str, float | int | str | bool] = field(default_factory=dict)
    privacy: dict[str, float | int | str | bool] = field(default_factory=dict)
    resources: Resources = field(default_factory=Resources)
    encoding_parameters: dict[str, float | int | str | bool] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        value = asdict(self)
        if not self.encoding_parameters:
            del value["encoding_parameters"]  # a configuration without them has the digest it always had
        return value

    def to_json(self) -> str:
        return canonical_json(self.to_dict()).decode()

    def digest(self) -> str:
        return digest(self.to_json().encode())

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RunConfig:
        """From ``to_dict``'s form. Unknown keys raise TypeError: callers that read foreign input use ``jobs.toml``."""
        return cls(**{**value, "resources": Resources(**value.get("resources", {}))})


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest:
    """job.toml. ``trainer`` is ``module:Class`` below ``code/``. Tables: [job] name, version, purpose, trainer,
    requirements; [[data]]; [resources]; [run] rounds, seed, mode, quorum, per_round, round_deadline_s, lease_s, update,
    encoding; [encoding] its parameters; [strategy] name + parameters; [communication] carrier; [privacy];
    [hyperparameters]."""

    name: str
    version: str
    trainer: str
    purpose: str = ""
    requirements: tuple[str, ...] = ()
    data: tuple[DataNeed, ...] = ()
    config: RunConfig = field(default_factory=RunConfig)
