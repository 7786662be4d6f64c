"""``octopus simulate``: a job on virtual silos on this machine. torch is imported only when the command runs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from octopus_desktop.cli.common import emit, facts, json_option, table, wants_json
from octopus_desktop.cli.simulate_report import cell, plain, show, value_at
from octopus_desktop.wire.errors import UserError

if TYPE_CHECKING:
    from octopus_desktop.jobs.manifest import RunConfig
    from octopus_desktop.simulation.clock import Pace
    from octopus_desktop.simulation.group import Group
    from octopus_desktop.simulation.jobs import Job
    from octopus_desktop.simulation.simulator import SimulationResult, Step

_PATH = click.Path(path_type=Path)
SILOS_A_WORKER = 8  # with fewer, starting one more process costs more than it brings
MOST_LINES = 12


@click.command("simulate")
@click.argument("job", type=_PATH)
@click.option("--silo", "named", multiple=True, metavar="NAME:ALIAS=PATH", help="One silo's data; repeat for each.")
@click.option("--silos", default="", metavar="N|DIR|heart|digits", help="How many silos, or where their data lie.")
@click.option("--data", multiple=True, type=_PATH, help="Data to cut into silos (CSV, Parquet, NPZ); may be repeated.")
@click.option("--partition", "how", default="", metavar="WAY", help="by-column:NAME, iid, dirichlet:ALPHA or shards:K.")
@click.option("--label", default="", help="The label's column, for dirichlet and shards.")
@click.option("--partition-seed", default=0, show_default=True, help="Cuts the data in another way.")
@click.option("--rounds", type=int, help="In place of the job's.")
@click.option("--per-round", type=int, help="How many silos, drawn anew, train in each round; in place of the job's.")
@click.option("--seed", type=int, help="In place of the job's.")
@click.option("--ddp-workers", type=int, help="DDP workers of each silo, in place of the job's.")
@click.option("--strategy", help="In place of the job's.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="hyperparameters.batch_size=64 and the like."
)
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="SECONDS",
    help="Simulated seconds of one task at a silo (default 1): who is slow, in async mode or against a deadline. X for "
    "all, or drawn for each by the seed: lognormal:MEDIAN:SIGMA, uniform:LEAST:MOST.",
)
@click.option("--link", "links", multiple=True, metavar="MBIT", help="Simulated speed of the silos' links, as --speed.")
@click.option("--stragglers", metavar="P:FACTOR", help="A task takes FACTOR times as long with the probability P.")
@click.option("--dropout", type=float, default=0.0, metavar="P", help="A silo fails a task with this probability.")
@click.option(
    "--workers",
    type=int,
    help="Processes that train silos (default: one a core). The others start "
    "only where a run is long enough. Changes no bit.",
)
@click.option("--exact", is_flag=True, help="Under torchrun: gather each update in place of sums, so no bit differs.")
@click.option("--batched", is_flag=True, help="Train a round's silos in one go; equal to one by one up to rounding.")
@click.option("--compare", metavar="sync,async", help="Run the job in these modes, and show them in simulated time.")
@click.option(
    "--from",
    "first",
    type=click.Path(path_type=Path, exists=True),
    help="Begin with this model, and with the strategy's state beside it.",
)
@click.option("--runtime", type=_PATH, help="Train in the Python environment at this path.")
@click.option("--central-data", "central", multiple=True, metavar="ALIAS=FILE", help="The server's own data.")
@click.option("--metrics", "--csv", "metrics", type=_PATH, help="Write every round's metrics: .csv or .parquet.")
@click.option("--tensorboard", type=_PATH, metavar="DIR", help="Write events for TensorBoard below this folder.")
@click.option("--plot", type=_PATH, help="Draw the federation's curves: .svg, or .png with matplotlib.")
@click.option("--out", type=_PATH, help="Write the final model here (safetensors), with the strategy's state.")
@click.option("--personal", type=_PATH, metavar="DIR", help="Write each silo's own final model here ([personal] keep).")
@click.option("--best", is_flag=True, help="With --out: the best round's model ([run] best), not the last one.")
@click.option("--baselines", is_flag=True, help="Train each silo alone and one model on the pooled data as well.")
@json_option
def cli(
    job: Path,
    named: tuple[str, ...],
    silos: str,
    data: tuple[Path, ...],
    how: str,
    label: str,
    partition_seed: int,
    speeds: tuple[str, ...],
    links: tuple[str, ...],
    stragglers: str | None,
    dropout: float,
    workers: int | None,
    exact: bool,
    batched: bool,
    compare: str | None,
    first: Path | None,
    runtime: Path | None,
    central: tuple[str, ...],
    metrics: Path | None,
    tensorboard: Path | None,
    plot: Path | None,
    out: Path | None,
    personal: Path | None,
    best: bool,
    baselines: bool,
    **wishes: Any,
) -> None:
    """Run JOB (a folder or a package) on virtual silos, without a network.

    The same silos, data and seeds give the bit-identical model in a real federation.

    \b
    Under torchrun the silos are spread over its processes, on one machine or many; each needs the same JOB and data,
    and rank 0 alone prints and writes:
      torchrun --nproc-per-node 2 --no-python octopus simulate JOB --silos 1000 --per-round 100
      torchrun --nnodes 2 --rdzv-backend c10d --rdzv-endpoint HOST:29500 --no-python octopus simulate JOB …
    Updates are then summed by all-reduce, equal to one process up to rounding; with --exact, and for strategies that
    need each update, they are gathered, and equal to the bit.
    """
    if named and (silos or data or how):
        raise UserError(
            "OCT-CLI-USAGE",
            "Silos are given in two ways.",
            "--silo names each silo with its data; --silos, --data and --partition make silos.",
            "Use one of them.",
        )
    if runtime and (baselines or batched):
        raise _usage("--baselines and --batched cannot be had with --runtime.", "They train in this process.")
    overrides = _overrides(**wishes)
    _check_files(metrics, tensorboard, plot)
    from octopus_desktop.simulation import layout
    from octopus_desktop.simulation.jobs import open_job, runtime_for

    with contextlib.ExitStack() as at_end:
        folder = at_end.enter_context(tempfile.TemporaryDirectory(prefix="octopus-simulate-"))
        opened = at_end.enter_context(open_job(job, Path(folder)))
        work = Path(folder)
        group = _join(workers, runtime)
        if named:
            chosen = layout.explicit(opened, named)
        else:
            chosen = layout.choose(opened, silos, data, how, work, label=label, seed=partition_seed)
        if group and group.rank:
            from octopus_desktop.simulation.follower import follow

            if not follow(group, opened, chosen, work):
                sys.exit(1)  # rank 0 says why
            return
        if group:
            at_end.push(lambda kind, *_: group.leave(failed=kind is not None))
        options: dict[str, Any] = {
            "group": group,
            "exact": exact,
            "pace": _pace(speeds, links, stragglers, chosen, overrides, opened.manifest.config),
            "dropout": dropout,
            "workers": 1 if group else _workers(workers, len(chosen), batched, overrides, opened.manifest.config),
            "batched": batched,
            "first": first,
            "runtime": runtime_for(opened, runtime) if runtime else None,
            "central": layout.explicit(opened, [f"server:{w}" for w in central])["server"] if central else None,
        }
        if compare:
            if metrics or tensorboard or out or personal or baselines or best:
                raise _usage("--compare runs the job twice.", "Only --plot goes with it; leave the others out.")
            _compare(opened, chosen, overrides, compare.split(","), work, plot, options)
            return
        from octopus_desktop.simulation.simulator import simulate

        with _bars(list(chosen)) as progress:
            result = simulate(opened, chosen, overrides, work=work / "run", progress=progress, **options)
        scores: dict[str, dict[str, float]] = {}
        if baselines:
            from octopus_desktop.simulation.baselines import compare as judge

            judged = judge(opened, chosen, result.config, result.model, work / "baselines")
            scores = {name: dict(values) for name, values in judged.metrics.items()}
        written = _write(result, metrics, tensorboard, plot)
        if best and not result.best:
            raise UserError(
                "OCT-CLI-USAGE",
                "There is no best model.",
                "[run] best of the job names no metric that the silos report.",
                'Add --set run.best="max eval/accuracy", or leave --best out.',
            )
        if personal:
            written += _write_personal(result, personal)
        if out:
            written += _write_model(result, out, best)
        emit(plain(result, scores), lambda: show(result, scores, written, out))


def _join(workers: int | None, runtime: Path | None) -> Group | None:
    """The processes that torchrun started, when it did."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    from octopus_desktop.simulation.group import Group, launched

    if not launched():
        return None
    if runtime or (workers or 1) > 1:
        raise _usage("--workers and --runtime do not go with torchrun.", "torchrun's --nproc-per-node says how many.")
    return Group()


def _check_files(metrics: Path | None, tensorboard: Path | None, plot: Path | None) -> None:
    """Before the run, not after it."""
    from octopus_desktop.simulation.reports import require

    if metrics and metrics.suffix.lower() not in (".csv", ".parquet"):
        raise _usage(f"Metrics cannot be written to {metrics.name}.", "Let it end in .csv or .parquet.")
    if plot and plot.suffix.lower() not in (".svg", ".png"):
        raise _usage(f"Curves cannot be drawn to {plot.name}.", "Let it end in .svg or .png.")
    if tensorboard:
        require("tensorboard", "tensorboard")
    if plot and plot.suffix.lower() == ".png":
        require("matplotlib", "plots")


def _write(
    result: SimulationResult, metrics: Path | None, tensorboard: Path | None, plot: Path | None
) -> list[tuple[str, Path]]:
    from octopus_desktop.simulation import reports

    if metrics:
        reports.write(metrics, result)
    if tensorboard:
        reports.write_events(tensorboard, result)
    if plot:
        reports.plot(plot, reports.panels_of(result))
    return [(n, p) for n, p in (("metrics", metrics), ("tensorboard", tensorboard), ("plot", plot)) if p]


def _write_personal(result: SimulationResult, folder: Path) -> list[tuple[str, Path]]:
    if not result.personal:
        raise _usage(
            "No silo has a model of its own.", "Set personal.keep=true and personal.finetune_epochs=1 or the like."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if missing := [silo for silo in result.silos if silo not in result.personal]:
        click.secho(f"No own model here of {', '.join(missing)}: they failed, or another machine has it.", err=True)
    for silo, model in result.personal.items():
        shutil.copyfile(model, folder / f"{silo}.safetensors")
    return [("silos' own models", folder)]


def _write_model(result: SimulationResult, out: Path, best: bool) -> list[tuple[str, Path]]:
    from octopus_desktop.simulation import forks

    chosen = result.best_model if best and result.best_model else result.model
    slots = result.slots if chosen == result.model else {}  # the state is that of the last round
    state = forks.save(chosen, slots, result.config.strategy, out)
    return [("strategy's state", state)] if state else []


def _workers(wish: int | None, silos: int, batched: bool, overrides: dict[str, Any], config: RunConfig) -> int:
    """One a core, where each has some silos to train."""
    several = int(overrides.get("resources", {}).get("workers", config.resources.workers)) > 1
    if wish is not None and wish < 1:
        raise _usage("--workers must be at least 1.", "Say how many processes train silos.")
    if wish is not None and wish > 1 and (batched or several):
        with_what = "--batched, which is one process" if batched else "several DDP workers in each silo"
        raise _usage(f"--workers does not go with {with_what}.", "Leave one of the two out.")
    if batched or several:
        return 1
    if wish is None:
        asked = overrides.get("run", {}).get("per_round", config.per_round) or silos
        return max(1, min(os.cpu_count() or 1, asked // SILOS_A_WORKER))
    return wish


def _compare(
    job: Job,
    data: Any,
    overrides: dict[str, Any],
    modes: list[str],
    work: Path,
    plot: Path | None,
    options: dict[str, Any],
) -> None:
    from octopus_desktop.simulation import modes as both
    from octopus_desktop.simulation import reports

    with _bars(list(data)) as progress:
        results = both.compare(job, data, overrides, modes, work=work / "compare", progress=progress, **options)
    judged = both.judge(job, data, results, work / "compare")
    metric = both.common_metric(judged)
    curves = both.against_time(judged, metric)
    if plot:
        reports.plot(plot, {metric: curves}, "simulated seconds")
    ends = {mode: result.virtual_seconds for mode, result in results.items()}
    moments = [max(ends.values()) * step / 10 for step in range(1, 11)]

    def show() -> None:
        table(
            f"\n{metric} against simulated time",
            ["seconds", *results],
            [(f"{moment:.1f}", *(cell(value_at(curve, moment)) for curve in curves.values())) for moment in moments],
            right=["seconds", *results],
        )
        facts("", [(f"{mode} took", f"{end:.1f} simulated seconds") for mode, end in ends.items()])

    told = {mode: {**plain(result, {}), "virtual_seconds": ends[mode]} for mode, result in results.items()}
    emit({"metric": metric, "modes": told, "curves": {m: [list(p) for p in c] for m, c in curves.items()}}, show)


def _usage(what: str, next_step: str) -> UserError:
    return UserError("OCT-CLI-USAGE", what, "", next_step)


def _pace(
    speeds: Sequence[str],
    links: Sequence[str],
    stragglers: str | None,
    silos: Collection[str],
    overrides: dict[str, Any],
    config: RunConfig,
) -> Pace:
    from octopus_desktop.simulation.clock import Pace, by_silo

    seed = int(overrides.get("run", {}).get("seed", config.seed))
    probability, _, factor = (stragglers or "0:1").partition(":")
    try:
        straggling, times = float(probability), float(factor)
    except ValueError:
        raise _usage(f"--stragglers {stragglers} cannot be used.", "Write P:FACTOR, such as 0.1:20.") from None
    return Pace(
        seconds=by_silo("--speed", speeds, silos, seed),
        mbit=by_silo("--link", links, silos, seed),
        straggling=straggling,
        factor=times,
    )


def _overrides(
    rounds: int | None,
    per_round: int | None,
    seed: int | None,
    ddp_workers: int | None,
    strategy: str | None,
    settings: tuple[str, ...],
) -> dict[str, Any]:
    """The options as tables of job.toml."""
    tables: dict[str, Any] = {}

    def put(table_name: str, key: str, value: Any) -> None:
        tables.setdefault(table_name, {})[key] = value

    for key, value in (("rounds", rounds), ("per_round", per_round), ("seed", seed)):
        if value is not None:
            put("run", key, value)
    if ddp_workers is not None:
        put("resources", "workers", ddp_workers)
    if strategy:
        put("strategy", "name", strategy)
    for setting in settings:
        name, equals, text = setting.partition("=")
        table_name, dot, key = name.partition(".")
        if not (equals and dot and key):
            raise UserError(
                "OCT-CLI-USAGE",
                f"{setting!r} is no setting.",
                "A table of job.toml, a key and a value are wanted.",
                "Write --set hyperparameters.learning_rate=0.1.",
            )
        try:
            put(table_name, key, json.loads(text))
        except ValueError:
            put(table_name, key, text)
    return tables


@contextlib.contextmanager
def _bars(silos: list[str]) -> Iterator[Callable[[Step], None]]:
    """Progress bars with the time that is left; nothing under --json."""
    if wants_json():
        with contextlib.redirect_stdout(sys.stderr):  # what the job's code prints is no part of the answer
            yield lambda step: None
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        whole = bars.add_task("rounds", total=None, note="")
        # many silos are one line: nobody reads a thousand, and drawing them costs more than training them
        few = len(silos) <= MOST_LINES
        lines = {name: bars.add_task(f"  {name}", total=None, note="") for name in silos} if few else {}
        tasks = None if few else bars.add_task("  tasks of silos", total=None, note="")
        told = 0.0

        def progress(step: Step) -> None:
            nonlocal told
            if step.row:
                bars.update(whole, total=step.rounds, completed=step.row.round, note=_words(step.row.metrics))
            elif lines:
                bars.update(whole, total=step.rounds)
                bars.update(lines[step.silo], total=step.rounds + 1, advance=1, note=step.task)
            elif tasks is not None and (time.monotonic() - told > 0.1 or step.done == step.total):
                told = time.monotonic()
                bars.update(whole, total=step.rounds)
                bars.update(tasks, total=step.total, completed=step.done, note=step.task)

        yield progress


def _words(metrics: Any) -> str:
    """One metric, of the model where it is known: a line of a terminal holds no more."""
    names = [name for name in sorted(metrics) if not name.endswith("/examples")]
    return f"{names[0]} {metrics[names[0]]:.4g}" if names else ""
