"""Many silos trained in one go by ``torch.func``: for small models, where calls cost more than arithmetic. Needs torch.

The silos' models are stacked, and each step computes all of them by ``vmap``. Silos of unequal size are padded with
examples that count nought, and those with fewer steps drop out of the stack. Examples, their order and their batches
are those of one-by-one training; sums of products come in another order, so a round's models differ from those of
one-by-one by rounding: at most ``TOLERANCE`` in any weight on the digits example. Dropout draws other numbers.

For trainers that declare their training (``ClientTrainer.rows``, ``losses``), without BatchNorm. One copy of the
package's code serves all silos here: its module globals are common to them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vmap

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.jobs import returned
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.simulation.cohort import Done, Outcome, Tasks
from octopus_desktop.simulation.memory import Models, Places
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training import local
from octopus_desktop.training.data import SiloDataset
from octopus_desktop.training.engine import build_model, call_trainer, no_weight
from octopus_desktop.training.loading import PackageCode
from octopus_desktop.training.sdk import ClientTrainer, Context, Shelf, Silent, seed_everything
from octopus_desktop.training.spec import DataSource
from octopus_desktop.training.state import TORCH_TYPES, Held
from octopus_desktop.training.uncompiled import leave_compiler_out
from octopus_desktop.wire.canonical import derive_seed, digest
from octopus_desktop.wire.errors import UserError

TOLERANCE = 1e-5
THREADS = 1  # a stack fits the caches: a second thread brings little, and loses much where others use the cores
MOST_STACKED = 256
MOST_STACK_BYTES = 256 << 20  # of the stacked weights; gradients and momentum come on top
EVALUATED_ROWS = 1 << 14


@dataclass(frozen=True, slots=True)
class _Trained:
    """What came of a stack: weights by name, (silos, …), and for each silo its steps and mean loss."""

    weights: Mapping[str, torch.Tensor]
    steps: Sequence[int]
    losses: Sequence[float]


class Batched:
    """The virtual silos of a run, computed together.

    Raises:
        UserError: OCT-CONFIG-INVALID saying what stands in the way, OCT-JOB-TRAINER, OCT-RUN-TRAINER.
    """

    def __init__(
        self, package: Path, trainer: str, config: RunConfig, data: Mapping[str, Mapping[str, DataSource]], work: Path
    ) -> None:
        self._config, self._data, self._store = config, data, BlobStore(work / "blobs", durable=False)
        _require_plain(config)
        leave_compiler_out()
        self._code = PackageCode(package, trainer)
        cls: type[ClientTrainer] = self._code.cls
        if not local.declared(cls):
            raise _cannot(f"{cls.__name__} does not define rows(ctx) and losses(ctx, model, batch)")
        if cls.train is not ClientTrainer.train or cls.evaluate is not ClientTrainer.evaluate:
            raise _cannot(f"{cls.__name__} has a train or evaluate of its own beside rows and losses")
        self._recipe = local.recipe(config.hyperparameters)
        self._trainer: ClientTrainer = call_trainer("__init__", cls, self._code.root)
        with self._code.active():
            self._model = build_model(self._trainer, config, Shelf(_no_data), self._code.root)
        _require_batchable(self._model)
        self._loss = _Loss(self._trainer, self._model)
        self._models = Models()
        self._rows: dict[str, local.Rows] = {}
        self._counts: dict[str, tuple[int, int]] = {}  # of rows to train on, and to test; asking tensors is slow
        self._places: Places | None = None
        torch.set_num_threads(THREADS)

    def use(self, places: Places | None, model: Path) -> None:
        if places is None:
            raise _cannot("the updates of one round are larger than what is held in memory")
        self._places = places

    def run(self, tasks: Tasks, done: Done) -> None:
        began = time.perf_counter()
        held = self._models.get(self._store.path(tasks.orders[0].model.digest))
        found: dict[str, dict[str, float]] = {}
        with self._code.active():
            ready = list(self._opened(tasks, done))
            orders = [order for order, _ in ready]
            if orders:
                found = self._evaluate(orders, held, tasks.words)
            if not orders or orders[0].task == "evaluate":
                for order in orders:
                    done(Outcome(order=order, facts=self._facts(order, found[order.silo], 0)))
                return
            able = []
            for order, place in ready:
                if self._counts[order.silo][0]:
                    able.append((order, place))
                else:
                    error = no_weight("The training data is empty.")
                    done(Outcome(order=order, facts=AnswerFacts(silo=order.silo), error=error, place=place))
            for part in self._stacks(able, held):
                trained = self._train([order for order, _ in part], held, tasks.words)
                sound = self._hand_over(trained, [place for _, place in part], held)
                seconds = (time.perf_counter() - began) / len(able)
                for number, (order, place) in enumerate(part):
                    if not sound[number]:
                        error = _diverged(order.silo)
                        done(Outcome(order=order, facts=AnswerFacts(silo=order.silo), error=error, place=place))
                        continue
                    metrics = found[order.silo]
                    if not 0 < int(tasks.words.get("steps", 0)) <= trained.steps[number]:  # ended early: no report
                        metrics["train/loss"] = trained.losses[number]
                    facts = self._facts(order, metrics, trained.steps[number], held, seconds)
                    done(Outcome(order=order, facts=facts, place=place))

    def close(self) -> None:
        self._rows.clear()

    def _call(self, phase: str, work: Callable[[], Any]) -> Any:
        return call_trainer(phase, work, self._code.root)

    # steps

    def _opened(self, tasks: Tasks, done: Done) -> Iterator[tuple[ev.Dispatch, int]]:
        """The tasks of silos whose rows could be had."""
        for order, place in zip(tasks.orders, tasks.places, strict=True):
            try:
                if order.silo not in self._rows:
                    ctx = self._context(order, tasks.words, order.task)
                    seed_everything(ctx.seed)
                    rows = self._rows[order.silo] = self._call("rows", partial(self._trainer.rows, ctx))
                    self._counts[order.silo] = len(rows.train[0]), len(rows.test[0]) if rows.test else 0
                yield order, place
            except UserError as error:
                done(Outcome(order=order, facts=AnswerFacts(silo=order.silo), error=error, place=place))

    @torch.no_grad()
    def _evaluate(
        self, orders: Sequence[ev.Dispatch], held: Held, words: Mapping[str, Any]
    ) -> dict[str, dict[str, float]]:
        """Of one model on the rows of all silos at once, each silo's own means."""
        metrics: dict[str, dict[str, float]] = {order.silo: {} for order in orders}
        having = [o.silo for o in orders if self._counts[o.silo][1]]
        if not having or type(self._trainer).scores is ClientTrainer.scores:
            return metrics
        for name, tensor in self._model.state_dict().items():
            tensor.copy_(held.tensors[name])
        self._model.eval()
        ctx = self._context(orders[0], words, "evaluate")
        whole = [torch.cat(parts) for parts in zip(*(self._rows[s].test for s in having), strict=True)]
        pieces = [
            self._call("scores", partial(self._trainer.scores, ctx, self._model, piece))
            for piece in zip(*(t.split(EVALUATED_ROWS) for t in whole), strict=True)
        ]
        counts = torch.tensor([self._counts[s][1] for s in having])
        ends = counts.cumsum(0)
        for name in pieces[0]:
            sums = torch.cat([torch.zeros(1, dtype=torch.float64), *(p[name].double() for p in pieces)]).cumsum(0)
            means = (sums[ends] - sums[ends - counts]) / counts
            for silo, value in zip(having, means.tolist(), strict=True):
                metrics[silo][f"eval/{name}"] = value
        for silo, count in zip(having, counts.tolist(), strict=True):
            metrics[silo]["eval/examples"] = float(count)
        return metrics

    def _stacks(self, able: list[tuple[ev.Dispatch, int]], held: Held) -> Iterator[list[tuple[ev.Dispatch, int]]]:
        """Silos that are computed together, those with most examples first, so that little is padded."""
        able = sorted(able, key=lambda one: -self._counts[one[0].silo][0])
        most = max(1, min(MOST_STACKED, MOST_STACK_BYTES // max(1, held.body.numel())))
        for start in range(0, len(able), most):
            yield able[start : start + most]

    def _train(self, orders: Sequence[ev.Dispatch], held: Held, words: Mapping[str, Any]) -> _Trained:
        """``orders``: by falling numbers of examples."""
        recipe, rows = self._recipe, [self._rows[order.silo].train for order in orders]
        counts = [self._counts[order.silo][0] for order in orders]
        size = counts[0] if words.get("full_batch") else min(recipe.batch_size, counts[0])
        passes = [-(-count // size) for count in counts]
        limit = int(words.get("steps", 0)) or max(passes) * recipe.epochs
        steps = [min(limit, each * recipe.epochs) for each in passes]
        where = self._batches(orders, counts, passes, size)
        tensors = [torch.cat(parts) for parts in zip(*rows, strict=True)]

        trained = {n: p for n, p in self._model.named_parameters() if p.requires_grad}
        start = {name: held.tensors[name] for name in trained}
        weights = {n: t.unsqueeze(0).repeat(len(orders), *([1] * t.dim())) for n, t in start.items()}
        moved = {n: torch.zeros_like(t) for n, t in weights.items()} if recipe.momentum else {}
        fixed = {n: t for n, t in held.tensors.items() if n not in trained}
        self._model.train()
        self._loss.ctx = self._context(orders[0], words, "train")
        seed_everything(self._loss.ctx.seed)
        proximal, total = float(words.get("proximal", 0.0)), torch.zeros(len(orders), dtype=torch.float64)
        for step in range(steps[0]):
            active = sum(1 for own in steps if own > step)
            place = where[:active, step]
            counted = place >= 0
            batch = [t[place.clamp(min=0)] for t in tensors]
            now = {n: t[:active].detach().requires_grad_() for n, t in weights.items()}
            each = self._call("losses", partial(self._loss.of, now, fixed, batch))
            if each.shape != counted.shape:
                raise _cannot(f"losses gave the shape {list(each.shape[1:])} for {counted.shape[1]} examples")
            number = counted.sum(1)
            means = torch.where(counted, each, 0.0).sum(1) / number
            gradients = torch.autograd.grad(means.sum(), list(now.values()), allow_unused=True)
            with torch.no_grad():
                total[:active] += means.double() * number
                for (name, value), gradient in zip(now.items(), gradients, strict=True):
                    if gradient is None:
                        continue
                    if proximal:
                        gradient = gradient.add(value - start[name], alpha=proximal)
                    if recipe.weight_decay:
                        gradient = gradient.add(value, alpha=recipe.weight_decay)
                    if recipe.momentum:
                        gradient = moved[name][:active].mul_(recipe.momentum).add_(gradient)
                    weights[name][:active].sub_(gradient, alpha=recipe.learning_rate)
        seen = [count * recipe.epochs for count in counts]
        return _Trained(weights, steps, [t / n for t, n in zip(total.tolist(), seen, strict=True)])

    def _batches(
        self, orders: Sequence[ev.Dispatch], counts: Sequence[int], passes: Sequence[int], size: int
    ) -> torch.Tensor:
        """(silos, steps, batch): rows of all silos' examples one behind the other; -1 where a batch is shorter. The
        order is that of the first ``Context.loader`` of one-by-one training."""
        epochs = self._recipe.epochs
        where = torch.full((len(orders), max(passes) * epochs, size), -1)
        generator, first = torch.Generator(), 0
        for number, order in enumerate(orders):
            seed = derive_seed(self._config.seed, order.round, order.silo, "loader", "train", 1) >> 8
            each, count = passes[number], counts[number]
            for epoch in range(epochs):
                generator.manual_seed(seed + epoch)
                places = torch.randperm(count, generator=generator).add_(first)
                where[number, epoch * each : (epoch + 1) * each].view(-1)[:count] = places
            first += count
        return where

    @torch.no_grad()
    def _hand_over(self, trained: _Trained, places: Sequence[int], held: Held) -> list[bool]:
        """Write the updates where they are folded from; whether each is finite."""
        assert self._places is not None and min(places) >= 0
        difference = self._config.update == "difference"
        at, sound = torch.tensor(places), torch.ones(len(places), dtype=torch.bool)
        first = held.layout.tensors[0].begin
        for spec in held.layout:
            out = self._places.rows[:, spec.begin - first : spec.end - first].view(TORCH_TYPES[spec.dtype])
            before = held.tensors[spec.name]
            if (value := trained.weights.get(spec.name)) is not None:
                if not value.sum().isfinite():  # a sum carries every NaN and infinity, but may overflow by itself
                    sound &= value.flatten(1).isfinite().all(1)
                out[at] = (value - before if difference else value).flatten(1)
            else:
                out[at] = (
                    torch.zeros_like(before).flatten() if difference and spec.dtype != "BOOL" else before.flatten()
                )
        return [bool(one) for one in sound.tolist()]

    def _facts(
        self, order: ev.Dispatch, metrics: dict[str, float], steps: int, held: Held | None = None, seconds: float = 0.0
    ) -> AnswerFacts:
        update = None
        if held is not None:
            name = digest(f"{order.silo} {order.round} {order.epoch}".encode())
            update = Blob(digest=name, size=held.layout.size)
        examples = self._counts[order.silo][0 if held is not None else 1]
        return AnswerFacts(
            silo=order.silo, examples=examples, steps=steps, metrics=metrics, update=update, train_seconds=seconds
        )

    def _context(self, order: ev.Dispatch, words: Mapping[str, Any], task: str) -> Context:
        sources = self._data[order.silo]
        return Context(
            run_seed=self._config.seed,
            round=order.round,
            rounds=self._config.rounds,
            silo=order.silo,
            rank=0,
            world_size=1,
            device=torch.device("cpu"),
            task=task,
            hyperparameters=self._config.hyperparameters,
            config=words,
            shelf=Shelf(lambda alias: SiloDataset(sources[alias]) if alias in sources else _no_data(alias)),
            reporter=Silent(),
        )


class _Loss(nn.Module):
    """The trainer's loss as a function of weights: the model it sees is an ordinary module with these in it."""

    ctx: Context

    def __init__(self, trainer: ClientTrainer, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._trainer = trainer

    def forward(self, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        return self._trainer.losses(self.ctx, self.model, batch)

    def of(
        self, weights: Mapping[str, torch.Tensor], fixed: Mapping[str, torch.Tensor], batch: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Losses (silos, examples) of stacked weights (silos, …) on batches (silos, examples, …)."""
        common = {f"model.{name}": value for name, value in fixed.items()}

        def one(own: Mapping[str, torch.Tensor], *examples: torch.Tensor) -> torch.Tensor:
            return functional_call(self, {**common, **own}, (examples,))

        named = {f"model.{name}": value for name, value in weights.items()}
        return vmap(one, randomness="different")(named, *batch)


def _require_plain(config: RunConfig) -> None:
    """What batched training leaves out must not be asked for."""
    returned_words = returned.told(config.strategy)
    obstacles = {
        "several DDP workers in each silo": config.resources.workers > 1,
        "privacy filters": bool(config.privacy),
        f"the encoding {config.encoding!r}": config.encoding != "none",
        f"the strategy {config.strategy!r}, which keeps a memory at each silo": config.strategy
        in ("scaffold", "feddyn"),
        f"the strategy {config.strategy!r}, which has each silo return {returned_words}": bool(returned_words),
        "personal layers or fine-tuning": config.is_personal,
        f"[training] {', '.join(config.training.chosen())}": bool(config.training.chosen()),
    }
    if there := [what for what, found in obstacles.items() if found]:
        raise _cannot(f"the run asks for {there[0]}")


def _require_batchable(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats:
            raise _cannot(f"{name or 'the model'} is a {type(module).__name__}, whose statistics change in training")


def _no_data(alias: str) -> SiloDataset:
    raise UserError(
        "OCT-DATA-ALIAS",
        f"The job's code asked for the data {alias!r}, which it does not name, or while the model was built.",
        "The model is built without data, and the job names each dataset that it reads.",
        "Name it under [[data]] in job.toml, and read it in rows(ctx).",
    )


def _cannot(why: str) -> UserError:
    return UserError(
        "OCT-CONFIG-INVALID",
        "This job's silos cannot be trained in batches.",
        f"{why[0].upper()}{why[1:]}.",
        "Leave --batched out, or see ClientTrainer.rows and losses for what a trainer has to declare.",
    )


def _diverged(silo: str) -> UserError:
    return UserError(
        "OCT-MODEL-NAN",
        f"The update of {silo} holds NaN or infinity.",
        "The local training diverged, often by too large a learning rate or by unscaled inputs.",
        "Correct the training.",
    )
