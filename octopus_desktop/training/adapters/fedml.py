"""A FedML ``ClientTrainer``, unmodified, as a trainer: ``[job] trainer = "fedml:MyTrainer"``.

The class of that name is looked for below ``code/``; the job's ``model`` is what it is made with. Each training task
does what FedML's own client does around it (``fedml.core.alg_frame.client_trainer.ClientTrainer``):

    update_dataset, set_model_params, on_before_local_training, train(train_data, device, args),
    on_after_local_training, get_model_params; test(test_data, device, args) for an evaluation

``args``: the hyperparameters as attributes, with client_id, rank, round_idx (from 0) and comm_round beside them.
``train_data``: batches of (inputs, targets), a DataLoader as FedML's own data loaders give, over the first need's data:
the arrays x and y, or a table whose last column is the target. fedml is imported by the class alone: it belongs to the
runtime, and whatever has these methods will do. The model lies best in a module that does not import fedml: the server
builds the first one, in an environment of its own.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from octopus_desktop.training.adapters.package import Application, require_plain
from octopus_desktop.training.sdk import ClientTrainer, Context
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError

KIND = "FedML trainer"
BATCH = 32
METHODS = ("get_model_params", "set_model_params", "train", "test")
COUNTS = {"test_correct": ("accuracy", "test_total"), "test_loss": ("loss", "test_total")}
"""What ``test`` gives as sums, as FedML's own trainers do: name -> (its mean's name, the number to divide by)."""


class FedmlTrainer(ClientTrainer):
    def __init__(self, application: Application) -> None:
        self._application = application

    def build_model(self, ctx: Context) -> nn.Module:
        return self._application.build_model()

    def train(self, ctx: Context, model: nn.Module) -> None:
        require_plain(ctx, KIND)
        theirs, args, data = self._made(ctx, model)
        for name in ("on_before_local_training", "train", "on_after_local_training"):
            if hasattr(theirs, name):  # the two around it came with FedML 0.8
                getattr(theirs, name)(data, ctx.device, args)
        _take(model, theirs.get_model_params())

    def evaluate(self, ctx: Context, model: nn.Module) -> Mapping[str, float]:
        require_plain(ctx, KIND)
        theirs, args, data = self._made(ctx, model)
        return _means(theirs.test(data, ctx.device, args))

    def _made(self, ctx: Context, model: nn.Module) -> tuple[Any, SimpleNamespace, Any]:
        """Their trainer with the global model and the silo's data, its arguments, the batches."""
        cls = self._application.found(f"{_home(self._application)}:{self._application.name}")
        lacks = [name for name in METHODS if not callable(getattr(cls, name, None))]
        if lacks:
            raise UserError(
                "OCT-JOB-TRAINER",
                f"{self._application.name} is no FedML ClientTrainer.",
                f"It lacks {', '.join(lacks)}.",
                "Name the class that derives from fedml.core.ClientTrainer.",
            )
        number = derive_seed(0, "fedml", ctx.silo) % (1 << 31)
        args = SimpleNamespace(
            **{"batch_size": BATCH, "epochs": 1, "learning_rate": 0.01, **ctx.hyperparameters},
            client_id=number, rank=number, round_idx=ctx.round - 1, comm_round=ctx.rounds,
        )  # fmt: skip
        batches = ctx.loader(self._examples(ctx), batch_size=int(args.batch_size))
        theirs = cls(self._application.build_model().to(ctx.device), args)
        if hasattr(theirs, "set_id"):
            theirs.set_id(number)
        if hasattr(theirs, "update_dataset"):
            theirs.update_dataset(batches, batches, ctx.examples)
        theirs.set_model_params({name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()})
        return theirs, args, batches

    def _examples(self, ctx: Context) -> Any:
        if not self._application.aliases:
            raise UserError(
                "OCT-JOB-TRAINER",
                "The job names no data, and a FedML trainer is given some.",
                "job.toml has no [[data]].",
                "Add a [[data]] with the arrays x and y, or a table whose last column is the target.",
            )
        alias = self._application.aliases[0]

        def read() -> tuple[torch.Tensor, torch.Tensor]:
            dataset = ctx.dataset(alias)
            if dataset.kind == "npz":
                inputs, target = dataset.arrays()["x"], dataset.arrays()["y"]
            else:
                *columns, target = dataset.columns().values()
                inputs = np.stack(columns, axis=1)
            kind = np.int64 if np.issubdtype(target.dtype, np.integer) else np.float32
            return torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(target.astype(kind))

        return ctx.cached("examples", read)


def _home(application: Application) -> str:
    """The module below ``code/`` that defines the class."""
    for path in sorted(application.root.rglob("*.py")):
        tree = ast.parse(path.read_bytes())
        if any(isinstance(node, ast.ClassDef) and node.name == application.name for node in tree.body):
            parts = path.relative_to(application.root).with_suffix("").parts
            return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    raise UserError(
        "OCT-JOB-TRAINER",
        f"There is no class {application.name} below code/.",
        "job.toml names it as the trainer.",
        "Correct 'trainer' in job.toml.",
    )


def _take(model: nn.Module, given: Mapping[str, Any]) -> None:
    """Their parameters into the model; by name, since FedML's are a state dict."""
    state = model.state_dict()
    if set(given) != set(state):
        odd = sorted(set(given) ^ set(state))
        raise ValueError(f"get_model_params gave other names than the model has: {', '.join(odd[:5])}")
    with torch.no_grad():
        for name, tensor in state.items():
            value = torch.as_tensor(given[name])
            if value.shape != tensor.shape:
                raise ValueError(f"get_model_params gave {name} with the shape {tuple(value.shape)}")
            tensor.copy_(value)


def _means(told: Any) -> dict[str, float]:
    """``test``'s numbers; FedML's sums over examples as means."""
    if not isinstance(told, Mapping):
        return {}
    numbers = {str(name): float(value) for name, value in told.items() if isinstance(value, int | float)}
    total = numbers.get("test_total", 0.0)
    means = {mean: numbers.pop(name) / total for name, (mean, _) in COUNTS.items() if name in numbers and total}
    numbers.pop("test_total", None)
    return {**numbers, **means}
