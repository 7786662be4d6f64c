"""What a job says of itself: the typed form of ``job.toml`` and of a run's configuration.

Validation with exact places is ``jobs.toml``; this module holds data only, and knows neither zip nor signatures.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, field, fields
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


FIRST_KEYS = frozenset(
    {
        "rounds", "seed", "mode", "quorum", "round_deadline_s", "lease_s", "strategy", "strategy_parameters", "update",
        "encoding", "carrier", "hyperparameters", "privacy", "resources",
    }
)  # fmt: skip
"""Keys that are in the canonical JSON whatever their value; later ones only when they say something."""


def _default(key: Any) -> Any:
    return key.default if key.default_factory is MISSING else key.default_factory()


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How a silo's workers make optimiser steps: the table [training].

    ``precision``: "float32", "bf16" or "fp16" (the model and its update stay as they are; the arithmetic of the
    forward pass changes). ``accumulate``: batches that make one optimiser step. ``clip_norm``: the longest gradient, as
    the 2-norm over all parameters of an optimiser; 0: any. ``compile``: ``torch.compile`` the model.
    ``parallel``: "ddp" or "fsdp". ``shares``: "equal" batches for all workers, or "measured": by the speed of each in
    the round before, whose bits cannot be had again. ``stall_s``: seconds without progress after which a task has
    failed; 0: the round's deadline alone counts.
    """

    precision: str = "float32"
    accumulate: int = 1
    clip_norm: float = 0.0
    compile: bool = False
    parallel: str = "ddp"
    shares: str = "equal"
    stall_s: float = 0.0

    def chosen(self) -> dict[str, Any]:
        """What differs from the defaults."""
        return {name: value for name, value in asdict(self).items() if value != getattr(Training(), name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All that steers a run beside the code. Its canonical JSON is what the offer carries and approval binds.

    Units: deadlines in seconds. ``quorum``: the least number of silos whose answers close a round at its deadline;
    0 means all of them. ``per_round``: how many silos, drawn anew for each round, are asked to train; 0 means all.
    ``strategy``: the name of one of ours, or ``module:Class`` of the package's own. ``update``: ``weights`` or
    ``difference``; an ``encoding`` other than "none" encodes the difference in any case.
    ``encoding_parameters``: those of the table [encoding] that were given.

    ``best``: "max NAME" or "min NAME" of one of the federation's metrics of the model ("eval/accuracy"); "" keeps no
    best model. ``patience``: the run ends early after so many rounds without a better model (0: never), better by more
    than ``min_delta``. ``late``: what becomes of an answer to a round that has closed: "drop", or "next": it counts in
    the fold of the next round. ``keep_models``: the server keeps the models of so many of the last rounds, beside the
    best one (0: of all). ``most_norm``: an update whose difference to the model it was trained from is longer, as the
    2-norm of all its floating tensors together, is refused (0: none is).

    ``first_model``: SHA-256 of the model that the run begins with, "" for a fresh one; ``forked_from``: "run:round"
    that it comes from; ``first_slots``: name to SHA-256 of the strategy's state that goes with it. Set by who starts
    the run, never by a job.

    ``personal_layers``: patterns (``fnmatch``) of the tensors that stay at each silo. ``personal_steps``: each silo
    also evaluates the model after so many own training steps (0: not), or after ``personal_epochs`` passes over its own
    data; ``personal_keep``: the final model as it is then stays at the silo, for its administrator. ``central``: the
    server evaluates each round's model on data of its own. ``share_metrics``: each silo is told every silo's metrics of
    a round, by name.
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
    training: Training = field(default_factory=Training)
    best: str = ""
    patience: int = 0
    min_delta: float = 0.0
    late: str = "drop"
    keep_models: int = 0
    most_norm: float = 0.0
    first_model: str = ""
    forked_from: str = ""
    first_slots: dict[str, str] = field(default_factory=dict)
    personal_layers: tuple[str, ...] = ()
    personal_steps: int = 0
    central: bool = False
    personal_epochs: int = 0
    personal_keep: bool = False
    share_metrics: bool = False

    @property
    def is_personal(self) -> bool:
        """Whether the model, or what is judged of it, is another one at each silo."""
        return bool(self.personal_layers or self.personal_steps or self.personal_epochs)

    @property
    def own_strategy(self) -> bool:
        """Whether the package's own code combines the updates: ``strategy`` is ``module:Class`` below ``code/``."""
        return ":" in self.strategy

    def to_dict(self) -> dict[str, Any]:
        value = asdict(self)
        value["training"] = self.training.chosen()
        for key in fields(self):
            if key.name not in FIRST_KEYS and value[key.name] in (_default(key), {}):
                del value[key.name]  # a configuration that does not use a newer key has the digest it always had
        return value

    def to_json(self) -> str:
        return canonical_json(self.to_dict()).decode()

    def digest(self) -> str:
        return digest(self.to_json().encode())

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> RunConfig:
        """From ``to_dict``'s form. Unknown keys raise TypeError: callers that read foreign input use ``jobs.toml``."""
        return cls(
            **{
                **value,
                "resources": Resources(**value.get("resources", {})),
                "training": Training(**value.get("training", {})),
                "personal_layers": tuple(value.get("personal_layers", ())),
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class JobManifest:
    """job.toml. ``trainer`` is ``module:Class`` below ``code/``, or ``flower:MODULE`` or ``fedml:CLASS`` for an
    application of another framework, of which ``model`` names the model as ``module:Class``. Tables: [job] name,
    version, purpose, trainer, requirements, model; [[data]]; [resources]; [training]; [run] rounds, seed, mode, quorum,
    per_round, round_deadline_s, lease_s, update, encoding, best, patience, min_delta, late, keep_models, most_norm;
    [encoding] its parameters; [strategy] name (ours, or ``module:Class`` below ``code/``) + parameters; [personal]
    layers, finetune_steps, finetune_epochs, keep; [evaluation] central, share; [communication] carrier; [privacy];
    [hyperparameters]."""

    name: str
    version: str
    trainer: str
    purpose: str = ""
    requirements: tuple[str, ...] = ()
    model: str = ""
    data: tuple[DataNeed, ...] = ()
    config: RunConfig = field(default_factory=RunConfig)
