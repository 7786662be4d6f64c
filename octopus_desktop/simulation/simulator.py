"""Runs a job on virtual silos: the round loop, the strategy and the fold of the coordinator, without its mailbox.

Deadlines and leases mean nothing here: every silo answers. ``cohort`` does the tasks that stand next to each other,
in this process or in several; the loop gets their answers in the order of the tasks. Needs torch.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octopus_desktop.aggregation import encodings, strategies
from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.encodings.sources import InMemory
from octopus_desktop.aggregation.facts import OF_MODEL, AnswerFacts, Best, Blob, below
from octopus_desktop.aggregation.fold import RejectedUpdates, fold
from octopus_desktop.aggregation.loops import make_loop
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.communication.contract import SERVER
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.personal import personal
from octopus_desktop.jobs.returned import returned
from octopus_desktop.jobs.toml import apply_overrides
from octopus_desktop.simulation import forks
from octopus_desktop.simulation.clock import Clock, Pace
from octopus_desktop.simulation.cohort import Outcome, Parts, Silos, Tasks, Together, local_silos
from octopus_desktop.simulation.garbage import released
from octopus_desktop.simulation.jobs import Job
from octopus_desktop.simulation.memory import Places
from octopus_desktop.simulation.silos import kept_models
from octopus_desktop.simulation.spread import Spread
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.training import initial
from octopus_desktop.training.central import central_metrics, evaluator_config
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.canonical import canonical_json, derive_seed
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same

if TYPE_CHECKING:
    from octopus_desktop.simulation.group import Group
    from octopus_desktop.training.engine import Engine

SiloData = Mapping[str, Mapping[str, DataSource]]
FOLD_THREADS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Progress: ``silo`` has done ``task`` of ``round``; ``done`` of ``total`` such steps are behind us. ``row`` is the
    newest row of the federation's rounds, when it changed."""

    silo: str
    task: str
    round: int
    rounds: int
    done: int
    total: int
    row: ev.Report | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulationResult:
    """``model`` is the final model's file below the work folder. ``rounds``: one row a round, ``first``: metrics of the
    model that the run began with. ``answers``: silo to its last evaluation's metrics. ``transferred``: bytes that a
    deployment would have carried, both ways. ``skipped``: what silos could not do, in words. ``best``, ``best_model``:
    of the round that the run's [run] best chose; ``reason``: why the run ended before its last round. ``slots``: files
    of the strategy's state after the last round; ``anew``: why the strategy did not begin with what it had gathered
    before ``first``. ``personal``: silo to its own final model, where [personal] keep asks for that."""

    model: Path
    digest: str
    size: int
    rounds: tuple[ev.Report, ...]
    first: Mapping[str, float]
    answers: Mapping[str, Mapping[str, float]]
    metrics: Mapping[str, float]
    seconds: float
    transferred: int
    config: RunConfig
    silos: tuple[str, ...]
    skipped: tuple[str, ...] = ()
    virtual_seconds: float = 0.0
    dropped: int = 0
    opened: float = 0.0
    best: Best | None = None
    best_model: Path | None = None
    reason: str = ""
    slots: Mapping[str, Path] = field(default_factory=dict)
    anew: str = ""
    personal: Mapping[str, Path] = field(default_factory=dict)


@dataclass
class _Run:
    job: Job
    config: RunConfig
    data: SiloData
    work: Path
    progress: Callable[[Step], None]
    silos: Silos
    spread: Spread | None = None
    places: Places | None = None
    dropout: float = 0.0
    dropped: int = 0
    held: dict[str, int] = field(default_factory=dict)  # an update's name to its place in memory
    rows: dict[int, ev.Report] = field(default_factory=dict)
    last: dict[str, Mapping[str, float]] = field(default_factory=dict)
    errors: list[tuple[str, UserError]] = field(default_factory=list)
    transferred: int = 0
    done: int = 0
    total: int = 0

    def close(self) -> None:
        self.silos.close()
        if self.places:
            self.places.close()
        released()


def simulate(
    job: Job,
    data: SiloData,
    overrides: Mapping[str, Any] | None = None,
    *,
    work: Path,
    config: RunConfig | None = None,
    pace: Pace | None = None,
    workers: int = 1,
    batched: bool = False,
    dropout: float = 0.0,
    virtual: bool = False,
    progress: Callable[[Step], None] = lambda step: None,
    first: Path | None = None,
    central: Mapping[str, DataSource] | None = None,
    runtime: Interpreter | None = None,
    group: Group | None = None,
    exact: bool = False,
) -> SimulationResult:
    """Run the job. The order of ``data`` is the order of sums: give the silos in the order that a deployment has.

    Args:
        overrides: tables of job.toml laid over the job's own, as a coordinator may.
        config: a whole configuration in place of the job's (then without ``overrides``).
        pace: simulated seconds that tasks take at each silo, for asynchronous runs and for rounds with a deadline.
        workers: processes that train silos, this one among them. No bit of the result depends on their number.
        batched: train the silos of a round in one go (``simulation.batched``); equal up to rounding. One process.
        dropout: with this probability a silo fails a training task (drawn by the run's seed). A round closes with those
            who answered then, unless the job names a quorum.
        virtual: count simulated seconds even where no pace is given.
        work: an empty folder, which afterwards holds the models of all rounds.
        first: the model to begin with, in place of a fresh one; its bytes are the same wherever a run begins with it.
            What the strategy had gathered is carried on where it lies beside the file (``simulation.forks``).
        central: the server's own data, for a job that evaluates there as well ([evaluation] central).
        runtime: another Python environment that each silo trains in, in a process of its own.
        group: this is rank 0 of several processes, and the others ``follow`` it (``simulation.spread``). Equal to one
            process up to rounding; with ``exact``, and for strategies that need each update, to the bit.

    Raises:
        UserError: what ended the run: of a silo's own code or data when the quorum fails by it, OCT-STRATEGY-PARAMETER,
            OCT-CONFIG-INVALID, OCT-RUN-QUORUM, OCT-MODEL-SHAPE when ``first`` is no model of this job.
    """
    began = time.time()
    work.mkdir(parents=True, exist_ok=True)
    settings = config or apply_overrides(job.manifest.config, overrides or {}, strategies=tuple(strategies.STRATEGIES))
    if not 0 <= dropout < 1:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "The simulated faults cannot be had.",
            f"dropout is {dropout}, of [0, 1).",
            "Correct it.",
        )
    pace = pace or Pace()
    if dropout and not settings.quorum:
        settings = replace(settings, quorum=1)
    order = tuple(data)
    strategy = require_runnable(settings, job.folder, len(order), _print)
    with ExitStack() as at_end:
        at_end.callback(strategy.close)
        strategy.cohort = len(order)
        # The virtual clock knows no progress, so a task is waited for until its round's deadline, not its lease's end.
        patient = replace(settings, lease_s=2 * settings.round_deadline_s)
        loop = make_loop(patient, order, strategy)
        asked = strategy.asynchronous[0] if settings.mode == "async" else settings.per_round or len(order)
        store = BlobStore(work / "blobs", durable=False)
        server = _server(job, settings, central)
        parts = (job.folder, job.manifest.trainer, settings, data, work)
        total = len(order) + settings.rounds * min(asked, len(order))
        silos = _silos(parts, min(workers, len(order)) - 1, batched, runtime, total)
        spread = Spread(group, silos, settings, order, work, batched=batched, exact=exact) if group else None
        run = _Run(job, settings, data, work, progress, spread or silos, spread, dropout=dropout, total=total)
        at_end.callback(run.close)
        clock = Clock(pace, settings.seed, virtual=pace.chosen or virtual or settings.mode == "async")
        began_with = _first_model(job, settings, store, work, first, runtime)
        found, anew = forks.state_beside(first, strategy, settings.strategy) if first else ({}, "")
        slots = {n: Blob(digest=store.adopt(path), size=path.stat().st_size) for n, path in found.items()}
        if runtime is None:  # another environment's workers write files
            _make_places(run, store.path(began_with.digest), min(asked, len(order)))
        opened = time.time()
        todo = deque(loop.apply(ev.Started(model=began_with, slots=slots, now=clock.now())))
        while True:
            if not todo:
                event = clock.next(loop.next_timer)
                if event is None:
                    raise RuntimeError(f"the round loop stands still: {loop.to_dict()}")
                todo.extend(loop.apply(event))
                continue
            instruction = todo.popleft()
            match instruction:
                case ev.Dispatch():
                    orders = [instruction]
                    while todo and isinstance(following := todo[0], ev.Dispatch) and _alike(following, instruction):
                        orders.append(following)
                        todo.popleft()
                    slots = loop.state.slots if instruction.task == "train" else {}
                    shared = {name: store.path(slots[name].digest) for name in strategy.shared if name in slots}
                    for answer in _answers(run, orders, strategy.configure(instruction.round), shared):
                        clock.later(answer, instruction.model.size + sum(b.size for b in answer.facts.blobs))
                case ev.Aggregate():
                    event = _aggregate(run, instruction, strategy, store, clock)
                    if server and isinstance(event, ev.Aggregated):
                        event = replace(event, metrics=_central(server, run, event, store))
                    todo += loop.apply(event)
                case ev.Report(round=round):
                    run.rows[round] = replace(instruction, bars=())
                    progress(_step(run, "", "round", round, instruction))
                case ev.Discard(blobs=blobs):
                    for blob in blobs:
                        if (place := run.held.pop(blob.digest, None)) is None:
                            store.remove(blob.digest)
                        elif run.places:
                            run.places.give_back(place)
                case ev.Fail(code=code, reason=reason):
                    if run.errors:
                        raise run.errors[-1][1]
                    raise UserError(code, "The simulated run failed.", reason, "Correct the job or its settings.")
                case ev.Complete(model=model, metrics=metrics, best=best, reason=reason):
                    return SimulationResult(
                        model=store.path(model.digest),
                        digest=model.digest,
                        size=model.size,
                        rounds=tuple(run.rows[number] for number in sorted(run.rows)),
                        first=loop.state.first,
                        answers=run.last,
                        metrics=metrics,
                        seconds=time.time() - began,
                        transferred=run.transferred,
                        config=settings,
                        silos=order,
                        skipped=tuple(f"{silo}: {error.what} [{error.code}]" for silo, error in run.errors),
                        virtual_seconds=clock.elapsed,
                        dropped=run.dropped,
                        opened=opened,
                        best=best,
                        best_model=store.path(best.model.digest) if best else None,
                        reason=reason,
                        slots={name: store.path(blob.digest) for name, blob in loop.state.slots.items()},
                        anew=anew,
                        personal=kept_models(work, order),
                    )
    raise AssertionError("a run ends by completing or failing")


def _print(level: str, source: str, text: str) -> None:
    """What a job's own strategy prints, and why it is not confined."""
    print(f"{source}: {text}", file=sys.stderr)


def _server(job: Job, config: RunConfig, central: Mapping[str, DataSource] | None) -> Engine | None:
    """What evaluates each model where a deployment's server would."""
    if not config.central and not central:
        return None
    if not config.central or (central or {}).keys() != {need.alias for need in job.manifest.data}:
        raise UserError(
            "OCT-DATA-ALIAS",
            "The run's evaluation at the server and the data that are given for it do not fit.",
            f"[evaluation] central is {str(config.central).lower()}; given: {', '.join(central or {}) or 'none'}.",
            "Give each of the job's datasets with --central-data ALIAS=FILE, or set evaluation.central=false.",
        )
    from octopus_desktop.training.engine import Engine

    told, threads = evaluator_config(config), max(1, config.resources.threads_per_worker)
    return Engine(job.folder, job.manifest.trainer, told, SERVER, central or {}, threads=threads)


def _central(server: Engine, run: _Run, event: ev.Aggregated, store: BlobStore) -> dict[str, float]:
    from octopus_desktop.training.engine import TaskInput

    model = store.path(event.model.digest)
    task = TaskInput(task="evaluate", round=event.round, rounds=run.config.rounds, model=model)
    try:
        return central_metrics(server.run(task, run.work / "none").metrics)
    except UserError as error:
        run.errors.append((SERVER, error))
        return {}


def _first_model(
    job: Job, config: RunConfig, store: BlobStore, work: Path, first: Path | None, runtime: Interpreter | None
) -> Blob:
    import torch

    from octopus_desktop.training.engine import initial_model

    torch.set_num_threads(1)  # as in the process that builds it for a coordinator
    out = work / "initial.safetensors"
    if runtime is None:
        digest = initial_model(job.folder, job.manifest.trainer, config, out).digest
    else:
        spec = work / "initial.json"
        told = {"package": str(job.folder), "trainer": job.manifest.trainer, "config": config.to_dict()}
        spec.write_bytes(canonical_json(told))
        digest, _ = initial.build(spec, out, runtime.python)
    built = read_layout(out)
    personal(config.personal_layers, (spec.name for spec in built))
    if first:
        require_same(built, read_layout(first), f"The model in {first.name}")
        out.unlink()
        return Blob(digest=store.adopt(first), size=first.stat().st_size)
    return Blob(digest=store.adopt_hashed(out, digest), size=store.path(digest).stat().st_size)


def _silos(
    parts: Parts,
    helpers: int,
    batched: bool,
    runtime: Interpreter | None,
    total: int,
) -> Silos:
    if helpers > 0 and runtime is None and not batched:
        return Together(helpers, *parts, total=total)
    return local_silos(parts, batched, runtime)


def _make_places(run: _Run, model: Path, at_once: int) -> None:
    """Updates stay in memory where nothing has to be done to their files."""
    config = run.config
    plain = not config.privacy and config.encoding == "none" and not config.personal_layers
    if plain and config.resources.workers <= 1 and not returned(config.strategy):
        run.places = Places.make(model, 2 * len(run.data), at_once, run.work)
    run.silos.use(run.places, model)
    if run.places:
        run.places.forget_name()


def _alike(one: ev.Dispatch, other: ev.Dispatch) -> bool:
    return (one.task, one.round, one.model) == (other.task, other.round, other.model)


def _answers(
    run: _Run, orders: list[ev.Dispatch], words: Mapping[str, Any], shared: Mapping[str, Path]
) -> list[ev.Answered]:
    """What the silos answer, in the order of the tasks."""
    found: dict[str, Outcome] = {}
    if orders[0].task == "train" and run.dropout:
        found = {order.silo: _dropped(order) for order in orders if _drops(run, order)}
        run.dropped += len(found)
    able = [order for order in orders if order.silo not in found]
    training = run.places is not None and orders[0].task == "train"
    places = [run.places.take() if training and run.places else -1 for _ in able]

    def done(outcome: Outcome) -> None:
        found[outcome.order.silo] = outcome
        run.done += 1
        run.progress(_step(run, outcome.order.silo, outcome.order.task, outcome.order.round, None))

    if able:
        run.silos.run(Tasks(orders=able, places=places, words=words, shared=shared), done)
    return [_answer(run, found[order.silo]) for order in orders]


def _drops(run: _Run, order: ev.Dispatch) -> bool:
    drawn = derive_seed(run.config.seed, "dropout", order.round, order.silo, order.epoch)
    return drawn < run.dropout * (1 << 63)


def _dropped(order: ev.Dispatch) -> Outcome:
    error = UserError("OCT-RUN-WORKERS", "The silo dropped out.", "The simulation's dropout says so.", "")
    return Outcome(order=order, facts=AnswerFacts(silo=order.silo), error=error, simulated=True)


def _answer(run: _Run, outcome: Outcome) -> ev.Answered:
    order, facts, error = outcome.order, outcome.facts, outcome.error
    if error and not outcome.simulated:
        run.errors.append((order.silo, error))
    elif not error:
        run.last[order.silo] = below(facts.metrics, *OF_MODEL)
        run.transferred += order.model.size + sum(blob.size for blob in facts.blobs)
    if outcome.place >= 0 and run.places:
        if facts.update:
            run.held[facts.update.digest] = outcome.place
        else:
            run.places.give_back(outcome.place)
    return ev.Answered(
        silo=order.silo,
        round=order.round,
        task=order.task,
        epoch=order.epoch,
        facts=facts,
        now=time.time(),
        error=f"{error.what} {error.why}" if error else "",
        error_code=error.code if error else "",
    )


def _source(run: _Run, update: Blob | None, store: BlobStore) -> Path | InMemory | None:
    if update and run.places and update.digest in run.held:
        return run.places.source(run.held[update.digest])
    return store.path(update.digest) if update else None


def _aggregate(
    run: _Run, order: ev.Aggregate, strategy: strategies.Strategy, store: BlobStore, clock: Clock
) -> ev.Aggregated | ev.Rejected:
    weights = strategies.weighing(strategy, order.answers)
    bases = [store.path(a.base) if a.staleness and a.base else None for a in order.answers]
    together = run.spread.together(order.answers, run.held, weights) if run.spread else None
    if together:
        updates, weights, bases = *together, []
    else:
        updates = [(a.silo, _source(run, a.update, store)) for a in order.answers]
    try:
        folded = fold(
            strategy,
            model=store.path(order.model.digest),
            updates=updates,
            returned={n: [store.path(a.returned[n].digest) for a in order.answers] for n in strategy.returns},
            weights=weights,
            slots={name: store.path(blob.digest) for name, blob in order.slots.items()},
            encoding=encodings.make(run.config.encoding, run.config.encoding_parameters),
            bases=bases,
            most_norm=run.config.most_norm,
            round=order.round,
            store=store,
            label="simulation",
            threads=FOLD_THREADS,
        )
    except RejectedUpdates as rejected:
        run.errors += rejected.faults.items()
        faults = {silo: (error.code, f"{error.what} {error.why}") for silo, error in rejected.faults.items()}
        return ev.Rejected(round=order.round, faults=faults, now=clock.now())
    return ev.Aggregated(
        round=order.round,
        model=Blob(digest=folded.model.digest, size=folded.model.size),
        slots={name: Blob(digest=w.digest, size=w.size) for name, w in folded.slots.items()},
        now=clock.now(),
    )


def _step(run: _Run, silo: str, task: str, round: int, row: ev.Report | None) -> Step:
    total = max(run.total, run.done)
    return Step(silo=silo, task=task, round=round, rounds=run.config.rounds, done=run.done, total=total, row=row)
