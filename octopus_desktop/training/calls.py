"""Calls into a package's trainer that need no data: building its model, and what its failures become. Knows no task."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import state as files
from octopus_desktop.training.data import SiloDataset
from octopus_desktop.training.loading import OutOfMemory, PackageCode, TrainerError
from octopus_desktop.training.sdk import ClientTrainer, Context, Shelf, Silent, seed_everything
from octopus_desktop.training.steps import Enough
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError


def only_deterministic_kernels() -> None:
    """As ``torch.use_deterministic_algorithms(True)``, which would load the whole compiler: a second, and 100 MiB."""
    torch.set_deterministic_debug_mode("error")
    if compiler := sys.modules.get("torch._inductor.config"):
        compiler.deterministic = True  # type: ignore[attr-defined]


def build_model(trainer: ClientTrainer, config: RunConfig, shelf: Shelf, code: Path) -> nn.Module:
    """The package's model with the run's first weights; the same wherever it is built."""
    ctx = Context(
        run_seed=config.seed,
        round=0,
        rounds=config.rounds,
        silo="",
        rank=0,
        world_size=1,
        device=torch.device("cpu"),
        task="init",
        hyperparameters=config.hyperparameters,
        config={},
        shelf=shelf,
        reporter=Silent(),
    )
    seed_everything(derive_seed(config.seed, "init"))
    model = call_trainer("build_model", lambda: trainer.build_model(ctx), code)
    if not isinstance(model, nn.Module):
        raise TrainerError("build_model", TypeError(f"it returned {type(model).__name__}, not a torch Module"), code)
    return model


def initial_model(package: Path, trainer: str, config: RunConfig, out: Path) -> files.Written:
    """Write the run's first global model. Build it where no data is: ``ctx.dataset`` is refused."""

    def refuse(alias: str) -> SiloDataset:
        raise UserError(
            "OCT-DATA-ALIAS",
            f"The job's code asked for the data {alias!r} while building the first model.",
            "The first model is built at the server, where no data is.",
            "Give build_model what it needs to know as hyperparameters.",
        )

    only_deterministic_kernels()
    code = PackageCode(package, trainer)
    with code.active():
        made = call_trainer("__init__", code.cls, code.root)
        return files.write_model(build_model(made, config, Shelf(refuse), code.root), out)


def call_trainer(phase: str, work: Callable[[], Any], code: Path) -> Any:
    """Run foreign code; what it raises becomes OCT-RUN-TRAINER with the package's lines. ``sys.exit`` counts too."""
    try:
        return work()
    except (UserError, KeyboardInterrupt, Enough):
        raise
    except BaseException as error:
        raise (OutOfMemory if OutOfMemory.is_it(error) else TrainerError)(phase, error, code) from error


def no_weight(why: str) -> UserError:
    return UserError(
        "OCT-MODEL-WEIGHT",
        "The training used no examples, so its result has no weight.",
        why,
        "Ask the job's author, or approve a dataset that holds rows for this job.",
    )
