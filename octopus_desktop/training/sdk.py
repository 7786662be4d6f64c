"""What a researcher writes against: subclass ``ClientTrainer``, use the ``Context``, write ordinary PyTorch.

    from octopus_desktop.training.sdk import ClientTrainer, Context

    class Trainer(ClientTrainer):
        def build_model(self, ctx): return torch.nn.Linear(13, 1)
        def train(self, ctx, model): ...; return {"loss": 0.3}
        def evaluate(self, ctx, model): ...; return {"accuracy": 0.8}

A trainer object lives for one task; what must last from round to round is in the model. The runtime seeds Python, numpy
and torch per (run, round, silo, rank), pins threads and switches deterministic kernels on, so that the same package
gives the same bits in simulation and in deployment. Knows nothing of processes, files of models, or the network.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, DistributedSampler, Sampler, TensorDataset

from octopus_desktop.training import local
from octopus_desktop.training.data import SiloDataset
from octopus_desktop.training.local import Rows
from octopus_desktop.training.shares import Plan, SharedBatches
from octopus_desktop.training.steps import Enough
from octopus_desktop.wire.canonical import derive_seed

if TYPE_CHECKING:
    from torch import nn

    from octopus_desktop.training.anchored import Anchor
    from octopus_desktop.training.steps import Steps

__all__ = ["ClientTrainer", "Context", "Reporter", "Rows", "SiloDataset"]


class ClientTrainer:
    """Base class of a job's trainer. ``job.toml`` names it as ``module:Class``.

    Class attributes:
        find_unused_parameters: set True when some parameters take no part in the loss and the job runs on several
            workers (passed to DistributedDataParallel).
        uneven_steps: set True when workers may take unequal numbers of steps: batches that are not ``ctx.loader``'s. It
            costs a small message a step.
    """

    find_unused_parameters = False
    uneven_steps = False

    def build_model(self, ctx: Context) -> nn.Module:
        """The model's structure; its first weights count only on the server, where no data is at hand. All entries of
        its ``state_dict`` travel, buffers included."""
        raise TypeError(f"{type(self).__name__} must define build_model(ctx)")

    def train(self, ctx: Context, model: nn.Module) -> Mapping[str, float] | None:
        """Train in place on this silo's data. ``model`` holds the global weights, is in training mode, on
        ``ctx.device``, and is wrapped for data-parallel training when there are several workers. Returns this worker's
        metrics, or None. A trainer that has ``rows`` and ``losses`` gets this from here (``training.local``)."""
        if local.declared(type(self)):
            return local.train(self, ctx, model)
        raise TypeError(
            f"{type(self).__name__} must define train(ctx, model), or rows(ctx) and losses(ctx, model, batch)"
        )

    def evaluate(self, ctx: Context, model: nn.Module) -> Mapping[str, float]:
        """Judge the model on this silo's data; in evaluation mode, without gradients. No metrics by default; the means
        of ``scores`` over the test rows where there are ``rows`` and ``losses``."""
        return local.evaluate(self, ctx, model) if local.declared(type(self)) else {}

    # In place of ``train`` and ``evaluate``, for plain SGD by hyperparameters. Simulation can train many such silos in
    # one go (``octopus simulate --batched``).

    def rows(self, ctx: Context) -> Rows:
        """This silo's examples, as tensors of equal length."""
        raise TypeError(f"{type(self).__name__} does not define rows(ctx)")

    def losses(self, ctx: Context, model: nn.Module, batch: Sequence[torch.Tensor]) -> torch.Tensor:
        """The loss of each example of a batch of ``rows(ctx).train``, shape (examples,); their mean is what is trained
        on. Without ``.item()`` and without branches on values."""
        raise TypeError(f"{type(self).__name__} does not define losses(ctx, model, batch)")

    def scores(self, ctx: Context, model: nn.Module, batch: Sequence[torch.Tensor]) -> Mapping[str, torch.Tensor]:
        """Metrics of each example of ``rows(ctx).test``, each of shape (examples,)."""
        return {}


class Reporter(Protocol):
    """Where a task's live reports go. Called from the training thread; must be quick."""

    def metrics(self, round: int, task: str, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, round: int, task: str, fraction: float, epoch: int) -> None: ...

    def log(self, level: str, text: str) -> None: ...

    def span(self, round: int, step: str, start: float, end: float) -> None: ...


class Silent:
    """Reports to nobody."""

    def metrics(self, round: int, task: str, step: int, values: Mapping[str, float]) -> None: ...

    def progress(self, round: int, task: str, fraction: float, epoch: int) -> None: ...

    def log(self, level: str, text: str) -> None: ...

    def span(self, round: int, step: str, start: float, end: float) -> None: ...


class ProgressOnly(Silent):
    """Passes on how far the work is, and lines of the log; for a pass whose points are no part of the curves."""

    def __init__(self, report: Reporter) -> None:
        self.progress = report.progress  # type: ignore[method-assign]
        self.log = report.log  # type: ignore[method-assign]


class Shelf:
    """What a worker keeps between tasks: opened datasets and values derived from them."""

    def __init__(self, open_dataset: Callable[[str], SiloDataset]) -> None:
        self.open_dataset = open_dataset
        self.values: dict[str, Any] = {}


class Context:
    """One task, as the trainer sees it.

    Attributes:
        round, rounds: 1-based number of this round, and how many there are; 0 while the first model is built.
        seed: this worker's seed of the round (63 bits), from (run seed, round, silo, rank).
        rank, world_size: this worker among the silo's workers.
        device: where the model is.
        silo: the silo's name.
        hyperparameters: from the approved configuration.
        config: the strategy's words for this round.
        examples: how many examples this worker trained on (or evaluated) in this task; the silo's answer is weighted
            by the sum over its workers. Set by the first ``loader``; assign to override.
    """

    def __init__(
        self,
        *,
        run_seed: int,
        round: int,
        rounds: int,
        silo: str,
        rank: int,
        world_size: int,
        device: torch.device,
        task: str,
        hyperparameters: Mapping[str, float | int | str | bool],
        config: Mapping[str, Any],
        shelf: Shelf,
        reporter: Reporter,
        pace: Steps | None = None,
    ) -> None:
        self.round, self.rounds, self.silo = round, rounds, silo
        self.rank, self.world_size, self.device = rank, world_size, device
        self.seed = derive_seed(run_seed, round, silo, rank)
        self.hyperparameters, self.config = hyperparameters, config
        self.examples: int | None = None
        self._run_seed, self._task, self._shelf, self._reporter = run_seed, task, shelf, reporter
        self._pace = pace
        self.anchor: Anchor | None = None  # for ``training.local``: where the strategy corrects steps by the loss at x
        self._loaders = 0
        self._rows: int | None = None  # of the first loader: what a pass over the data is
        self.passes = 0
        self._epoch, self._epochs = 0, 0

    def dataset(self, alias: str) -> SiloDataset:
        """The approved dataset behind this alias; read once, kept for the whole run."""
        return self._shelf.open_dataset(alias)

    def cached(self, name: str, make: Callable[[], Any]) -> Any:
        """``make()``, once per worker and then kept for all rounds: for tensors made from the data. ``make`` must
        depend on the data and hyperparameters alone; it runs under its own seed, and the result must not be changed.
        """
        if name not in self._shelf.values:
            with _random_state_kept():
                seed_everything(derive_seed(self._run_seed, "cached", self.silo, name))
                self._shelf.values[name] = make()
        return self._shelf.values[name]

    def loader(
        self,
        dataset: Dataset[Any] | Sequence[torch.Tensor] | torch.Tensor,
        batch_size: int,
        shuffle: bool | None = None,
        **options: Any,
    ) -> DataLoader[Any]:
        """This worker's share of a dataset, in batches. Tensors (one, or a sequence of equal length) are cut into
        batches directly, and come as tuples.

        ``batch_size`` is that of one worker among equals: a batch over all workers has batch_size × world_size
        examples, and with ``accumulate`` in job.toml so many of them make one step.

        When training, ``shuffle`` is on unless switched off, each pass has another order, and the shares of all
        workers are padded to equal length, so that no worker waits for a batch that another does not have. Where the
        workers have unequal shares, nothing is padded: each batch over all workers is split by the shares, and every
        worker comes to every step; one for whom no example is left gets one that counts nought. When
        evaluating, the order is kept and nothing is counted twice. ``options`` go to ``DataLoader``. A strategy may ask
        for all examples as one batch (FedSGD); ``batch_size`` is passed over then.
        """
        training = self._task == "train"
        if training and self.config.get("full_batch"):
            batch_size = max(1, len(dataset[0] if isinstance(dataset, tuple | list) else dataset))  # type: ignore[arg-type]
        direct = isinstance(dataset, torch.Tensor) or not isinstance(dataset, Dataset)
        if direct:
            parts = [dataset] if isinstance(dataset, torch.Tensor) else list(dataset)  # type: ignore[arg-type]
            dataset = TensorDataset(*(torch.as_tensor(t) for t in parts))
        count = len(dataset)  # type: ignore[arg-type]
        self._rows = count if self._rows is None else self._rows
        place = derive_seed(self._run_seed, self.round, self.silo, "loader", self._task, self._loaders + 1) >> 8
        if training and count and self._pace and self._pace.shares:
            return self._shared_loader(dataset, batch_size, shuffle is not False, place, direct, options)
        own = len(range(self.rank, count, self.world_size))
        if self.examples is None:
            self.examples = own
        self._loaders += 1
        sampler: Sampler[int]
        if training and count:
            sampler = _Passes(
                dataset, self.world_size, self.rank, shuffle=True if shuffle is None else shuffle, seed=place
            )
        else:
            sampler = _Share(count, self.rank, self.world_size, seed=place if shuffle else None)
        if direct and not options:
            plan = _equal_plan(len(sampler), batch_size, self.world_size) if training else None  # type: ignore[arg-type]
            return _Direct(self, dataset, BatchSampler(sampler, batch_size, False), plan)  # type: ignore[arg-type]
        generator = torch.Generator()
        generator.manual_seed(derive_seed(place, self.rank))
        chosen: dict[str, Any] = {"batch_size": batch_size, "sampler": sampler}
        if direct:  # a whole batch by one index: no call per example, no collating
            chosen = {"batch_size": None, "sampler": BatchSampler(sampler, batch_size, False)}
        plan = _equal_plan(len(sampler), batch_size, self.world_size)  # type: ignore[arg-type]
        return _Loader(self, dataset, plan if training else None, generator=generator, **chosen, **options)

    def _shared_loader(
        self, dataset: Any, batch_size: int, shuffle: bool, place: int, direct: bool, options: dict[str, Any]
    ) -> DataLoader[Any]:
        """``loader`` for workers of unequal shares."""
        assert self._pace
        whole = batch_size if self.config.get("full_batch") else batch_size * self.world_size
        sampler = SharedBatches(
            len(dataset), whole, self._pace.shares, self.rank, shuffle, place, bool(options.pop("drop_last", False))
        )
        if self.examples is None:
            self.examples = sampler.examples
        self._loaders += 1
        generator = torch.Generator()
        generator.manual_seed(derive_seed(place, self.rank))
        chosen = {"batch_size": None, "sampler": sampler} if direct else {"batch_sampler": sampler}
        return _Loader(self, dataset, sampler.plan, generator=generator, **chosen, **options)

    def backward(self, loss: torch.Tensor) -> None:
        """``loss.backward()``, with the loss scaled where job.toml asks for float16: small gradients would be lost in
        it otherwise. The optimiser gets the gradients of the loss itself, and a step that overflowed is left out."""
        (self._pace.scaled(loss) if self._pace else loss).backward()  # type: ignore[no-untyped-call]

    def epochs(self, count: int) -> Iterator[int]:
        """0 … count-1, and tells the administrator how far the round is."""
        self._epochs = count
        for epoch in range(count):
            self._epoch = epoch
            self.progress(epoch / count)
            yield epoch
        self.progress(1.0)

    def progress(self, fraction: float) -> None:
        """How much of this task's local work is done, 0 to 1. ``epochs`` does it for you."""
        self._reporter.progress(self.round, self._task, min(max(float(fraction), 0.0), 1.0), self._epoch)

    def report(self, step: int, **values: float) -> None:
        """Points of the training's curves, for the silo's own window; only the first worker's count."""
        if self.rank == 0:
            self._reporter.metrics(self.round, self._task, int(step), {k: float(v) for k, v in values.items()})

    def log(self, text: str) -> None:
        """A line in the run's log at this silo. It does not leave the silo."""
        self._reporter.log("info", str(text))

    def _batch_done(self, main: bool, batch: int, batches: int) -> None:
        if main and batch == batches:
            self.passes += 1
            if self._task == "train" and 0 < int(self.config.get("passes", 0)) <= self.passes:
                raise Enough
        if self._epochs:
            self.progress((self._epoch + batch / batches) / self._epochs)


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % (1 << 32))
    if torch.cuda.is_initialized() or torch.cuda.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)  # what manual_seed does on the processor, at a tenth of the time


class _random_state_kept:
    def __enter__(self) -> None:
        self._kept = (random.getstate(), np.random.get_state(), torch.get_rng_state())

    def __exit__(self, *_: object) -> None:
        random.setstate(self._kept[0])
        np.random.set_state(self._kept[1])
        torch.set_rng_state(self._kept[2])


class _Passes(DistributedSampler[Any]):
    """DistributedSampler whose every pass is the next epoch, so that no trainer forgets ``set_epoch``."""

    def __init__(self, dataset: Any, world_size: int, rank: int, *, shuffle: bool, seed: int) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=shuffle, seed=seed)
        self._pass = 0

    def __iter__(self) -> Iterator[Any]:
        self.set_epoch(self._pass)
        self._pass += 1
        return super().__iter__()

    def order(self) -> torch.Tensor:
        """The next pass as a tensor."""
        if self.shuffle and self.num_replicas == 1:  # what the base class does, without a list in between
            generator = torch.Generator()
            generator.manual_seed(self.seed + self._pass)
            self._pass += 1
            return torch.randperm(len(self.dataset), generator=generator)  # type: ignore[arg-type]
        return torch.tensor(list(self), dtype=torch.int64)


class _Share(Sampler[int]):
    """Every world_size-th example, none twice; a worker without any gets the first, with weight nought, so that
    trainers need not think of empty shares."""

    def __init__(self, count: int, rank: int, world_size: int, seed: int | None) -> None:
        order = list(range(count))
        if seed is not None:
            random.Random(seed).shuffle(order)
        self._own = order[rank::world_size] or order[:1]

    def __iter__(self) -> Iterator[int]:
        return iter(self._own)

    def __len__(self) -> int:
        return len(self._own)


def _equal_plan(own: int, batch_size: int, workers: int) -> Plan:
    """Examples here and everywhere in the n-th batch of ``own`` examples on each of ``workers``."""

    def examples(number: int) -> tuple[int, int]:
        here = min(batch_size, own - (number - 1) * batch_size)
        return here, here * workers

    return examples


class _Loader(DataLoader[Any]):
    """A DataLoader that tells its context how far a pass is, and what the next batch holds."""

    def __init__(self, ctx: Context, dataset: Any, plan: Plan | None, **options: Any) -> None:
        super().__init__(dataset, **options)
        self._ctx, self._plan, self._main = ctx, plan, len(dataset) == ctx._rows

    def __iter__(self) -> Any:
        batches = len(self)
        for number, batch in enumerate(super().__iter__(), 1):
            if self._plan and self._ctx._pace and self._ctx._pace.listening:
                self._ctx._pace.batch(*self._plan(number), number, number == batches)
            yield batch
            self._ctx._batch_done(self._main, number, batches)


class _Direct(DataLoader[Any]):
    """Tensors cut into batches by one index each, without DataLoader's machinery, which costs a small model's whole
    step. To a trainer it is a DataLoader like any other, without workers."""

    num_workers, pin_memory, drop_last, timeout, prefetch_factor, persistent_workers = 0, False, False, 0, None, False
    batch_size, worker_init_fn, multiprocessing_context, generator = None, None, None, None
    collate_fn: Any = None
    _ctx: Context
    _plan: Plan | None
    _main: bool

    def __init__(self, ctx: Context, dataset: TensorDataset, batches: BatchSampler, plan: Plan | None) -> None:
        self.__dict__.update(  # not by DataLoader's __setattr__, which looks at each name
            dataset=dataset, sampler=batches, batch_sampler=None, _ctx=ctx, _plan=plan, _main=len(dataset) == ctx._rows
        )

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Any:
        count, size = len(self), int(self.sampler.batch_size)  # type: ignore[attr-defined]
        places = self.sampler.sampler  # type: ignore[attr-defined]
        order = places.order() if isinstance(places, _Passes) else torch.tensor(list(places), dtype=torch.int64)
        tensors = self.dataset.tensors  # type: ignore[attr-defined]
        for number, where in enumerate(order.split(size) if len(order) else (), 1):
            if self._plan and self._ctx._pace and self._ctx._pace.listening:
                self._ctx._pace.batch(*self._plan(number), number, number == count)
            yield [tensor[where] for tensor in tensors]
            self._ctx._batch_done(self._main, number, count)
