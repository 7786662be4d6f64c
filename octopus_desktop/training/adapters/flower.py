"""A Flower ``ClientApp``, unmodified, as a trainer: ``[job] trainer = "flower:client_app"``.

The app is the one that ``[tool.flwr.app.components] clientapp`` of ``code/pyproject.toml`` names, or ``app`` in
``code/client_app.py`` (the name after the colon). Each task becomes the message that a Flower server would have sent:

    Message API     train and evaluate get a RecordDict with "arrays" (ArrayRecord, the state dict) and "config"
    client_fn       fit and evaluate get the state dict's arrays in its order, and the same configuration

``context.run_config``: ``[tool.flwr.app.config]``, overlaid with the job's hyperparameters. ``context.node_config``:
"dataset-path" and "data-path" (the first need's file), every need's file under its alias, "partition-id" 0 of
"num-partitions" 1, since a silo holds its own data; a hyperparameter "partition-id.SILO" and "num-partitions" say
otherwise, for an app that cuts a shared data set. ``context.state`` begins empty in every task: what a task gives must
not hang on earlier ones. Written from Flower's public interface (flwr 1.20 to 1.42); flwr is the runtime's, not ours.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from octopus_desktop.training.adapters.package import Application, plain_settings, require_plain
from octopus_desktop.training.sdk import ClientTrainer, Context
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError

KIND = "Flower app"
PARTITION, PARTITIONS = "partition-id", "num-partitions"
TTL_S = 3600.0


class FlowerTrainer(ClientTrainer):
    def __init__(self, application: Application) -> None:
        self._application = application

    def build_model(self, ctx: Context) -> nn.Module:
        """The app's own model; flwr is not imported for it, unless the model's module does."""
        return self._application.build_model()

    def train(self, ctx: Context, model: nn.Module) -> Mapping[str, float]:
        require_plain(ctx, KIND)
        talk = _Talk(self._application, ctx)
        arrays, metrics = talk.train(model)
        _take(model, arrays)
        return metrics

    def evaluate(self, ctx: Context, model: nn.Module) -> Mapping[str, float]:
        require_plain(ctx, KIND)
        return _Talk(self._application, ctx).evaluate(model)


class _Talk:
    """One message to the app and its reply."""

    def __init__(self, application: Application, ctx: Context) -> None:
        os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
        self._ctx = ctx
        project = application.project().get("tool", {}).get("flwr", {}).get("app", {})
        reference = project.get("components", {}).get("clientapp", f"{application.name}:app")
        self._app = application.found(str(reference))
        try:
            from flwr.app import Context as FlowerContext
            from flwr.app import Message, RecordDict
        except ImportError as error:
            raise UserError(
                "OCT-PACKAGE-MISSING",
                "The job's Flower app needs flwr, 1.20 or newer, and the runtime has none.",
                f"{error}.",
                "Choose a runtime that has it (octopus runtime add NAME PATH; octopus approvals approve --runtime).",
            ) from error
        self._message, self._records = Message, RecordDict
        node_id = derive_seed(0, "flower", ctx.silo)
        _identify(node_id)
        values = dict(ctx.hyperparameters)
        own = {name: values.pop(name) for name in list(values) if name.partition(".")[0] in (PARTITION, PARTITIONS)}
        settings = plain_settings(project.get("config", {})) | values
        data = application.own_data(ctx)
        first = {"dataset-path": next(iter(data.values())), "data-path": next(iter(data.values()))} if data else {}
        node = {
            **first,
            **data,
            PARTITION: int(own.get(f"{PARTITION}.{ctx.silo}", own.get(PARTITION, 0))),
            PARTITIONS: int(own.get(PARTITIONS, 1)),
        }
        self._config = {**settings, "server-round": ctx.round, "server_round": ctx.round}
        self._context = FlowerContext(
            run_id=1,
            node_id=node_id,
            node_config=node,
            state=RecordDict(),
            run_config=settings,
        )

    def train(self, model: nn.Module) -> tuple[list[tuple[str, Any]], dict[str, float]]:
        """(name and array of each tensor; names are "" where the app gave a list), metrics."""
        if self._by_client_fn:
            return self._fit(model)
        content = self._send("train", self._sent(model))
        records = list(content.array_records.values())
        if len(records) != 1:
            raise ValueError(f"the app's reply to 'train' holds {len(records)} ArrayRecords, and one is needed")
        metrics = self._metrics(content)
        return [(name, array.numpy()) for name, array in records[0].items()], metrics

    def evaluate(self, model: nn.Module) -> dict[str, float]:
        if self._by_client_fn:
            return self._evaluate(model)
        if "evaluate.default" not in getattr(self._app, "_registered_funcs", {"evaluate.default": None}):
            return {}
        return self._metrics(self._send("evaluate", self._sent(model)))

    @property
    def _by_client_fn(self) -> bool:
        return getattr(self._app, "_call", None) is not None

    def _sent(self, model: nn.Module) -> Any:
        from flwr.app import ArrayRecord, ConfigRecord

        state = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
        return self._records({"arrays": ArrayRecord(state), "config": ConfigRecord(self._config)})

    def _send(self, kind: str, content: Any) -> Any:
        message = self._message(
            content=content, dst_node_id=self._context.node_id, message_type=kind, ttl=TTL_S, group_id="octopus"
        )
        reply = self._app(message, self._context)
        if self._context.state:
            self._ctx.log("The app keeps a state between rounds, which is not carried over: every task begins anew.")
        if reply.has_error():
            raise RuntimeError(f"the app answered with an error: {reply.error}")
        return reply.content

    def _metrics(self, content: Any) -> dict[str, float]:
        """The reply's numbers; "num-examples" is the answer's weight."""
        metrics: dict[str, float] = {}
        for record in content.metric_records.values():
            for name, value in record.items():
                if name == "num-examples":
                    self._ctx.examples = int(value)
                elif isinstance(value, int | float):
                    metrics[name] = float(value)
        return metrics

    # client_fn: FitIns and EvaluateIns

    def _fit(self, model: nn.Module) -> tuple[list[tuple[str, Any]], dict[str, float]]:
        from flwr.common import FitIns, parameters_to_ndarrays
        from flwr.compat.common import recorddict_compat as compat

        order = FitIns(self._parameters(model), dict(self._config))
        done = compat.recorddict_to_fitres(
            self._send("train", compat.fitins_to_recorddict(order, keep_input=True)), keep_input=True
        )
        _require_ok(done.status, "fit")
        self._ctx.examples = int(done.num_examples)
        arrays = [("", array) for array in parameters_to_ndarrays(done.parameters)]
        return arrays, _numbers(done.metrics)

    def _evaluate(self, model: nn.Module) -> dict[str, float]:
        from flwr.common import Code, EvaluateIns
        from flwr.compat.common import recorddict_compat as compat

        order = EvaluateIns(self._parameters(model), dict(self._config))
        done = compat.recorddict_to_evaluateres(
            self._send("evaluate", compat.evaluateins_to_recorddict(order, keep_input=True))
        )
        if done.status.code == Code.EVALUATE_NOT_IMPLEMENTED:
            return {}
        _require_ok(done.status, "evaluate")
        self._ctx.examples = int(done.num_examples)
        return {"loss": float(done.loss), **_numbers(done.metrics)}

    def _parameters(self, model: nn.Module) -> Any:
        from flwr.common import ndarrays_to_parameters

        return ndarrays_to_parameters([tensor.detach().cpu().numpy() for tensor in model.state_dict().values()])


def _identify(node_id: int) -> None:
    """Newer versions of flwr (1.42 does) make messages in the name of the process's task, which their supervisor sets
    elsewhere."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:
        return
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, node_id


def _take(model: nn.Module, arrays: list[tuple[str, Any]]) -> None:
    """Lay the app's arrays into the model: by name where they have the state dict's names, else in its order."""
    state = model.state_dict()
    names = [name for name, _ in arrays]
    if len(arrays) != len(state):
        raise ValueError(f"the app gave {len(arrays)} arrays back, and the model has {len(state)} tensors")
    by_name = set(names) == set(state)
    with torch.no_grad():
        for place, (name, array) in zip(state, arrays, strict=True):
            tensor = state[name if by_name else place]
            given = torch.as_tensor(array)
            if given.shape != tensor.shape:
                raise ValueError(f"the app gave {place} back with the shape {tuple(given.shape)}, not "
                                 f"{tuple(tensor.shape)}")  # fmt: skip
            tensor.copy_(given)


def _require_ok(status: Any, what: str) -> None:
    if int(status.code.value) != 0:
        raise RuntimeError(f"the app's {what} failed: {status.message}")


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}
