"""One worker's work on one task, without any process around it: the simulator and the DDP workers both drive it.

The result is a function of (package, configuration, silo, data, incoming model, round, rank, world size, threads) and
of nothing else; above all not of the tasks that this engine did before. Knows nothing of sockets, mailboxes or leases.

A process uses engines from one thread at a time. With ``world_size`` > 1 the caller has made the process group.
"""

from __future__ import annotations

import contextlib
import gc
import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.training import local
from octopus_desktop.training import state as files
from octopus_desktop.training.calls import (
    build_model,
    call_trainer,
    initial_model,
    no_weight,
    only_deterministic_kernels,
)
from octopus_desktop.training.corrections import Corrections
from octopus_desktop.training.data import SiloDataset
from octopus_desktop.training.gradient import FullGradient, whole_pass
from octopus_desktop.training.loading import OutOfMemory, PackageCode
from octopus_desktop.training.numerics import Numerics
from octopus_desktop.training.parallel import Parallel, gather_json
from octopus_desktop.training.personal import PersonalLayers
from octopus_desktop.training.sdk import ClientTrainer, Context, ProgressOnly, Reporter, Shelf, Silent, seed_everything
from octopus_desktop.training.shares import by_speed, checked
from octopus_desktop.training.spec import KEPT_MODEL, DataSource, beside
from octopus_desktop.training.steps import Steps
from octopus_desktop.training.task import TaskInput, TaskResult
from octopus_desktop.training.uncompiled import leave_compiler_out
from octopus_desktop.wire.canonical import derive_seed
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import Layout, read_layout

MOST_METRICS = 200
__all__ = ["Engine", "TaskInput", "TaskResult", "build_model", "call_trainer", "initial_model", "no_weight"]
Spans = list[tuple[str, str, float, float]]


class Engine:
    """Keeps the package's code, the datasets and the model's structure warm between tasks.

    Args:
        shares: of each step's examples, by rank; "measured": by the speed of each rank in the round before, so that the
            bits cannot be had again; empty: as the job's configuration says.
        trained: told when the trainer's ``train`` returned, before this rank waits for the others, with ``passes``.

    Attributes:
        passes: forward passes for training that this rank began in the task so far, where there are several ranks.

    Raises (constructor and ``run``):
        UserError: OCT-JOB-TRAINER, OCT-DATA-*, OCT-RUN-TRAINER, OCT-RUN-MEMORY, OCT-MODEL-*,
            OCT-DISK-FULL.
    """

    def __init__(
        self,
        package: Path,
        trainer: str,
        config: RunConfig,
        silo: str,
        sources: Mapping[str, DataSource],
        *,
        rank: int = 0,
        world_size: int = 1,
        device: str = "cpu",
        threads: int = 1,
        report: Reporter | None = None,
        shares: Sequence[float] | str = (),
        trained: Callable[[int], None] | None = None,
    ) -> None:
        self.config, self.silo, self.rank, self.world_size = config, silo, rank, world_size
        self._sources = dict(sources)
        self._device, self._threads = torch.device(device), threads
        self._report: Reporter = report or Silent()
        self._parallel = Parallel(config, self._device, rank, world_size)
        self._trained = trained
        self._own_group: Any = None
        self._numerics = Numerics(config.training, self._device, self._report)
        chosen = shares or config.training.shares
        self._measured = chosen == "measured" and world_size > 1
        self.shares: tuple[float, ...] = ()
        if self._measured:
            self.shares = (1.0,) * world_size  # until a round was measured
        elif not isinstance(chosen, str) and world_size > 1:
            self.shares = checked(chosen, world_size)
        self._datasets: dict[str, SiloDataset] = {}
        self._shelf = Shelf(self._dataset)
        self._model: nn.Module | None = None
        self._state: dict[str, torch.Tensor] | None = None  # the model's, while no foreign code runs
        self._clean = False  # the model has no gradients
        self._passes = 0  # over the data, in the last training
        self._unsaved: dict[str, torch.Tensor] = {}  # non-persistent buffers as built
        self._needs_grad: dict[str, bool] = {}
        if not config.training.compile:
            leave_compiler_out()
        self._fix_numerics()
        self._code = PackageCode(package, trainer)

    @property
    def passes(self) -> int:
        return self._parallel.passes

    def warm_up(self) -> None:
        """Do ahead of the first task what does not depend on it: open the datasets, build the model's structure."""
        self._fix_numerics()
        for alias in self._sources:
            self._dataset(alias)
        with self._code.active(), self._memory("building the model"):
            self._structure()

    def run(self, task: TaskInput, out: Path | files.Held, *, digest: bool = True, durable: bool = False) -> TaskResult:
        """Do one task; rank 0 of a "train" task writes the update to ``out``: a file, or memory in the model's layout
        (the result names no file then).

        ``digest``: hash the update while it is written. ``durable``: it is on the disk when this returns.
        """
        self._fix_numerics()
        spans: Spans = []
        with self._code.active(), self._memory(task.task):
            try:
                return self._run(task, out, spans, digest, durable)
            finally:
                self._forget()

    def _run(self, task: TaskInput, out: Path | files.Held, spans: Spans, digest: bool, durable: bool) -> TaskResult:
        started = time.time()
        self._parallel.require_plain(task.config, self.shares)
        layout = task.held.layout if task.held else read_layout(task.model)
        model = self._structure()
        state = self._state or files.tensors_of(model)
        self._state = None
        if not files.fits(state, layout):
            self._model = None  # an earlier task may have changed its structure
            model = self._structure()
            state = files.tensors_of(model)
            files.require_fit(state, layout, "The package's model")
        self._restore(model)
        self._clean = False
        if task.held:
            files.load_held(state, task.held)
        else:
            files.load_into(state, task.model, layout)
        own = self._personal(task, state)
        self._span(task, spans, "load", started)

        metrics: dict[str, float] = {}
        examples = self._evaluate(task, model, metrics, spans)
        if self.config.personal_steps or self.config.personal_epochs:
            self._try_out(task, model, metrics, spans)
        elif task.task == "evaluate":
            self._keep(task, model)
        if task.task == "evaluate":
            return TaskResult(
                examples=examples, steps=0, metrics=metrics, update=None, train_seconds=0.0, spans=tuple(spans)
            )
        returned = self._returned(task, model, layout, out, spans)
        examples, steps, seconds = self._train(task, model, metrics, spans, own.names)
        started = time.time()
        model.zero_grad(set_to_none=True)
        self._clean = True
        state = files.tensors_of(model)
        files.require_fit(state, layout, "The trained model")
        own.take_out(state, task.round)
        written: files.Written | None = None
        if isinstance(out, files.Held):
            files.write_held(state, out, task.held if self.config.update == "difference" else None)
        else:
            base = task.model if self.config.update == "difference" else None
            written = self._parallel.write(state, layout, out, base, digest, durable)
        self._state = state
        self._span(task, spans, "save", started)
        return TaskResult(
            examples=examples,
            steps=steps,
            metrics=metrics,
            update=out if isinstance(out, Path) and written else None,
            train_seconds=seconds,
            spans=tuple(spans),
            digest=written.digest if written else "",
            size=written.size if written else 0,
            returned=returned,
        )

    def _returned(
        self, task: TaskInput, model: nn.Module, layout: Layout, out: Path | files.Held, spans: Spans
    ) -> dict[str, Path]:
        """Write what the strategy has this silo return beside the update, of the model as it came."""
        if "gradient" not in task.config.get("returns", ()):
            return {}
        assert isinstance(out, Path)
        started = time.time()
        with self._as_it_came(model):
            found = self._gradient(task, model)
        state = {name: found.get(name, torch.zeros_like(t)) for name, t in files.tensors_of(model).items()}
        place = beside(out, "gradient")
        if self.rank == 0:
            files.write(state, layout, place, digest=False, what="gradient over all examples")
        self._span(task, spans, "gradient", started)
        return {"gradient": place} if self.rank == 0 else {}

    def _gradient(self, task: TaskInput, model: nn.Module) -> dict[str, torch.Tensor]:
        """∇f(x) over all training examples of all workers, by name."""
        pace = whole_pass(self.config.training, self.world_size, self.shares, self._device)
        ctx, trainer = self._context(task, "train", pace, ProgressOnly(self._report)), self._trainer()
        model.train()
        wrapped = self._parallel.wrapped(model, trainer, pace, self._numerics.compiled)
        gradient = FullGradient(model, pace)
        seed_everything(ctx.seed)
        try:
            with self._parallel.evenly(wrapped, trainer, pace), pace, gradient:
                self._call("train", lambda: trainer.train(ctx, wrapped))
        finally:
            wrapped = None
        return gradient.required()

    @contextlib.contextmanager
    def _as_it_came(self, model: nn.Module) -> Iterator[None]:
        """Whatever is done inside, the model is afterwards as it was before."""
        with torch.no_grad():
            before = {name: tensor.detach().clone() for name, tensor in files.tensors_of(model).items()}
        try:
            yield
        finally:
            self._restore(model)
            with torch.no_grad():
                for name, tensor in files.tensors_of(model).items():
                    tensor.copy_(before[name])

    def _evaluate(self, task: TaskInput, model: nn.Module, metrics: dict[str, float], spans: Spans) -> int:
        started = time.time()
        ctx = self._context(task, "evaluate")
        seed_everything(derive_seed(ctx.seed, "evaluate"))
        model.eval()
        with torch.no_grad(), self._numerics.autocast():
            mine = self._call("evaluate", lambda: self._trainer().evaluate(ctx, model))
        examples = max(0, int(ctx.examples or 0))
        total, merged = (examples, self._numbers(mine or {})) if ctx.world_size == 1 else self._merge(mine, examples)
        if merged:
            metrics.update({f"eval/{k}": v for k, v in merged.items()}, **{"eval/examples": float(total)})
        self._span(task, spans, "evaluate", started)
        return total

    def _personal(self, task: TaskInput, state: dict[str, torch.Tensor]) -> PersonalLayers:
        """The silo's own layers, put into the model."""
        patterns = self.config.personal_layers
        own = PersonalLayers(patterns, state, task.keep, rank=self.rank, world_size=self.world_size)
        own.put_in(state, task.round if task.task == "train" else task.round + 1)
        return own

    def _try_out(self, task: TaskInput, model: nn.Module, metrics: dict[str, float], spans: Spans) -> None:
        """``eval_personal/…``: of the model after some training of this silo alone; then the model as it came."""
        started = time.time()
        after: dict[str, float] = {}
        told, self._trained = self._trained, None  # who watches for unequal numbers of steps waits for the training
        with self._as_it_came(model):
            try:
                self._fine_tune(task, model)
            finally:
                self._trained = told
            self._evaluate(task, model, after, [])
            if task.task == "evaluate":
                self._keep(task, model)
        metrics.update({f"eval_personal/{name.partition('/')[2]}": value for name, value in after.items()})
        self._span(task, spans, "fine-tune", started)

    def _fine_tune(self, task: TaskInput, model: nn.Module) -> None:
        """Some steps, or passes over the data: a trainer that makes fewer in its ``train`` is called again. A call that
        takes no batch from ``ctx.loader`` counts as one pass."""
        steps, passes = self.config.personal_steps, self.config.personal_epochs
        while steps or passes > 0:
            few = replace(task, config={"steps": steps} if steps else {"passes": passes}, keep=None)
            self._passes = 0
            try:
                self._train(few, model, {}, [])
            except UserError as error:
                if error.code != "OCT-MODEL-WEIGHT":  # a trainer may count its examples only at its end
                    raise
            steps, passes = 0, passes - max(1, self._passes)

    def _keep(self, task: TaskInput, model: nn.Module) -> None:
        """Leave the silo's own model where the runner finds it. It is never sent."""
        if self.config.personal_keep and self.rank == 0 and task.keep:
            task.keep.mkdir(parents=True, exist_ok=True)
            state, layout = files.tensors_of(model), read_layout(task.model)
            files.write(state, layout, task.keep / KEPT_MODEL, digest=False, what="silo's own model")

    def _train(
        self,
        task: TaskInput,
        model: nn.Module,
        metrics: dict[str, float],
        spans: Spans,
        own: Collection[str] = (),
    ) -> tuple[int, int, float]:
        started = time.time()
        pace = self._numerics.steps(self.world_size, self.shares, self._measured)
        ctx = self._context(task, "train", pace)
        trainer = self._trainer()
        model.train()
        wrapped = self._parallel.wrapped(model, trainer, pace, self._numerics.compiled)
        corrections = Corrections(
            task.config, model, task.shared, task.keep, task.round, pace, own, self.rank, self.world_size
        )
        if task.config.get("mime", {}).get("corrected"):
            local.require_declared(trainer)
            ctx.anchor = corrections.anchor
        seed_everything(ctx.seed)
        clock = time.perf_counter()
        mine = None
        try:
            with self._numerics.autocast(), self._parallel.evenly(wrapped, trainer, pace), pace, corrections:
                mine = self._call("train", lambda: trainer.train(ctx, wrapped))
        finally:
            wrapped = None
        seconds, self._passes = time.perf_counter() - clock, ctx.passes
        if self._trained:
            self._trained(self.passes)
        examples = ctx.examples
        if examples is not None and (not isinstance(examples, int) or examples < 0):
            raise no_weight(f"The trainer set ctx.examples to {examples!r}.")
        total, merged = self._merge(mine, examples or 0)
        if total <= 0:
            raise no_weight(
                "The trainer used no ctx.loader and did not set ctx.examples."
                if examples is None
                else "The training data is empty, or the trainer set ctx.examples to 0."
            )
        metrics.update({f"train/{k}": v for k, v in merged.items()})
        if task.config.get("scaffold"):
            metrics["train/rate_sum"] = corrections.rate_sum
        if self.rank == 0:
            corrections.remember()
        if self._measured:
            self.shares = by_speed(self._gather(pace.speed()))
        self._span(task, spans, "train", started)
        return total, corrections.steps, seconds

    def _structure(self) -> nn.Module:
        if self._model is None:
            built = build_model(self._trainer(), self.config, self._shelf, self._code.root)
            self._model = built if self._parallel.sharded else built.to(self._device)  # shards go there by themselves
            names = set(self._model.state_dict())
            self._unsaved = {n: b.detach().clone() for n, b in self._model.named_buffers() if n not in names}
            self._needs_grad = {n: p.requires_grad for n, p in self._model.named_parameters()}
            self._state, self._clean = None, False
            self._parallel.spread(self._model)
        return self._model

    def _restore(self, model: nn.Module) -> None:
        """What a fresh model has and the file does not hold."""
        if not self._clean:
            model.zero_grad(set_to_none=True)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad != (needed := self._needs_grad.get(name, True)):
                parameter.requires_grad_(needed)
        if self._unsaved:
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    if name in self._unsaved:
                        buffer.copy_(self._unsaved[name])

    def _forget(self) -> None:
        """Leave nothing of the task behind: gradients, and DDP's gloo work, which must not live until exit."""
        if self._model is not None and not self._clean:
            self._model.zero_grad(set_to_none=True)
            self._clean = True
        if self.world_size > 1:
            gc.collect()

    @contextlib.contextmanager
    def _memory(self, phase: str) -> Iterator[None]:
        """What lacks memory outside of the trainer's own calls is told like what lacks it inside."""
        try:
            yield
        except (MemoryError, RuntimeError) as error:
            if OutOfMemory.is_it(error):
                raise OutOfMemory(phase, error, self._code.root) from error
            raise

    def _trainer(self) -> ClientTrainer:
        return self._call("__init__", lambda: self._code.cls())

    def _call(self, phase: str, work: Callable[[], Any]) -> Any:
        return call_trainer(phase, work, self._code.root)

    def _context(
        self, task: TaskInput, phase: str, pace: Steps | None = None, report: Reporter | None = None
    ) -> Context:
        together = phase == "evaluate" and self._parallel.sharded
        return Context(
            run_seed=self.config.seed,
            round=task.round,
            rounds=task.rounds,
            silo=self.silo,
            rank=0 if together else self.rank,
            world_size=1 if together else self.world_size,
            device=self._device,
            task=phase,
            hyperparameters=self.config.hyperparameters,
            config=task.config,
            shelf=self._shelf,
            reporter=report or self._report,
            pace=pace,
        )

    def _dataset(self, alias: str) -> SiloDataset:
        if alias not in self._datasets:
            if alias not in self._sources:
                raise UserError(
                    "OCT-DATA-ALIAS",
                    f"The job's code asked for the data {alias!r}, which was not approved for it.",
                    f"Approved here: {', '.join(sorted(self._sources)) or 'none'}.",
                    "The job must name each dataset that it reads under [[data]] in job.toml.",
                )
            self._datasets[alias] = SiloDataset(self._sources[alias])
        return self._datasets[alias]

    def _merge(self, mine: Mapping[str, Any] | None, examples: int) -> tuple[int, dict[str, float]]:
        """Sum of examples, and metrics averaged by examples over the ranks that have each of them, in ranks' order."""
        own = self._numbers(mine or {})
        if self.world_size == 1:
            return examples, own
        everyone = self._gather({"examples": examples, "metrics": own})
        total = sum(int(one["examples"]) for one in everyone)
        merged: dict[str, float] = {}
        for name in sorted({n for one in everyone for n in one["metrics"]}):
            having = [one for one in everyone if name in one["metrics"]]
            weight = sum(one["examples"] for one in having)
            if weight:
                merged[name] = sum(one["metrics"][name] * one["examples"] for one in having) / weight
        return total, merged

    def _gather(self, value: Any) -> list[Any]:
        """Each rank's value, in ranks' order. In a group of our own: a rank that still waits in a training step must
        not take this for a part of it."""
        if self._own_group is None:
            self._own_group = dist.new_group(backend="gloo")
        return gather_json(value, self.world_size, self._own_group)

    def _numbers(self, values: Mapping[str, Any]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        for name, value in list(values.items())[:MOST_METRICS]:
            try:
                number = float(value)
            except (TypeError, ValueError):
                number = math.nan
            if math.isfinite(number):
                numbers[str(name)[:100]] = number
            else:
                self._report.log("warning", f"The metric {str(name)[:100]!r} is not a finite number and was left out.")
        return numbers

    def _span(self, task: TaskInput, spans: Spans, step: str, started: float) -> None:
        ended = time.time()
        spans.append((f"worker {self.rank}", step, started, ended))
        self._report.span(task.round, step, started, ended)

    def _fix_numerics(self) -> None:
        """Process-wide switches on which bits depend; set again for each task, since foreign code may have changed
        them and several engines may share a process."""
        only_deterministic_kernels()
        torch.backends.cudnn.benchmark = False
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        if torch.get_num_interop_threads() != 1:
            try:
                torch.set_num_interop_threads(1)
            except RuntimeError:  # parallel work has begun: no op here uses inter-op threads, so nothing is lost
                pass
