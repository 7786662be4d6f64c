"""What an operator's wish for a run comes to: overrides laid over the job's configuration, and the model of another run
to begin with.

A fork's first model, and with it the strategy's state where that can be carried on, stand in the configuration by their
digests, so what the silos approve is exactly that. The strategy's state goes along when the strategy is the same, the
other run has ended, its state belongs to that round (it is the last one), and the strategy keeps no memory at the
silos: theirs ended with the other run, and the server's part of SCAFFOLD or FedDyn means nothing without it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from octopus_desktop.aggregation import strategies
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.aggregation.state import State
from octopus_desktop.aggregation.strategies.base import MEMORY_WORDS
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.package import VerifiedPackage, unpack
from octopus_desktop.jobs.toml import apply_overrides
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import ENDED, JobRow, MemberRow, RoundRow, RunRow
from octopus_desktop.system.sandbox import plain_obstacle
from octopus_desktop.training import initial
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same

log = logging.getLogger(__name__)


def with_overrides(config: RunConfig, text: str) -> RunConfig:
    """Raises OCT-CONFIG-INVALID."""
    if not text.strip():
        return config
    try:
        overrides = json.loads(text)
        if not isinstance(overrides, dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "The run's overrides cannot be read.",
            f"They are no JSON object: {error}.",
            'Write them like {"run": {"rounds": 5}}.',
        ) from error
    return apply_overrides(config, overrides, strategies=sorted(strategies.STRATEGIES))


def central_sources(package: VerifiedPackage, config: RunConfig, text: str) -> list[dict[str, Any]]:
    """What the server evaluates on: ``text`` is JSON, alias to file. Raises OCT-CONFIG-INVALID, OCT-DATA-ALIAS,
    OCT-DATA-MISSING or OCT-DATA-KIND."""
    from octopus_desktop.simulation.layout import source  # numpy, which a server mostly does not need

    try:
        given = {str(alias): str(path) for alias, path in json.loads(text or "{}").items()}
    except (ValueError, AttributeError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID", "The server's own data cannot be read.", f"{error}.", 'Write {"patients": "a.csv"}.'
        ) from error
    if given and not config.central:
        raise UserError(
            "OCT-CONFIG-INVALID",
            "This run does not evaluate at the server.",
            "Data for that was given, and the silos are told that there is none.",
            "Set evaluation.central=true, or leave the data out.",
        )
    needs = {need.alias: need for need in package.manifest.data} if config.central else {}
    if given.keys() != needs.keys():
        raise UserError(
            "OCT-DATA-ALIAS",
            "The run evaluates at the server, and its data do not fit the job's.",
            f"The job asks for {', '.join(needs) or 'none'}; given: {', '.join(given) or 'none'}.",
            "Give each with --central-data ALIAS=FILE.",
        )
    return [asdict(source(needs[alias], Path(path))) for alias, path in given.items()]


def chosen(members: Sequence[MemberRow], wanted: Sequence[str], config: RunConfig) -> list[str]:
    """The silos to offer the run to: all active ones unless some are named. Raises OCT-ENROL-NAME or OCT-RUN-QUORUM."""
    known = {member.name for member in members}
    active = sorted(member.name for member in members if member.state == "active")
    silos = sorted(set(wanted)) or active
    for silo in silos:
        if silo not in active:
            raise UserError(
                "OCT-ENROL-NAME",
                f"The run cannot be offered to {silo!r}.",
                "Its enrolment was revoked." if silo in known else "The federation has no such silo.",
                f"Choose among: {', '.join(active) or 'none yet'}.",
            )
    if len(silos) < max(1, config.quorum):
        raise UserError(
            "OCT-RUN-QUORUM",
            "Too few silos for this run.",
            f"It needs {max(1, config.quorum)}, and it would be offered to {len(silos)}.",
            "Invite more silos, or lower run.quorum.",
        )
    return silos


def model_of(
    run: RunRow, rounds: list[RoundRow], round_: int, blobs: BlobStore, *, best: bool = False
) -> tuple[int, str]:
    """(round, digest) of a round's model, of the newest for 0, or of the best. Raises OCT-BLOB-MISSING."""
    if best and not run.best_round:
        raise UserError(
            "OCT-BLOB-MISSING",
            f"The run {run.id} has no best model.",
            "It has not completed, or its [run] best names no metric that the silos report.",
            "Export a round's model by its number.",
        )
    models = {row.round: row.model_digest for row in rounds if row.model_digest}
    number = (run.best_round if best else round_) or max(models, default=0)
    digest = models.get(number, "")
    if digest and blobs.has(digest):
        return number, digest
    kept = [str(r) for r, held in models.items() if blobs.has(held)]
    raise UserError(
        "OCT-BLOB-MISSING",
        f"The run {run.id} has no model of round {number}." if number else f"The run {run.id} has no model yet.",
        f"{'It is not kept any longer. ' if digest else ''}Rounds with a model: {', '.join(kept) or 'none'}.",
        "Wait for the round, or name another one.",
    )


def require_allowed(config: RunConfig, job: JobRow, allowed: bool) -> None:
    """The package's own strategy would run on this server. Raises OCT-STRATEGY-FOREIGN unless the operator said yes."""
    if not config.own_strategy:
        return
    if not allowed:
        why = plain_obstacle()
        how = f"without a sandbox: {why}" if why else "in a sandbox without network, files and other processes."
        file = f"code/{config.strategy.partition(':')[0].replace('.', '/')}.py"
        raise UserError(
            "OCT-STRATEGY-FOREIGN",
            f"{job.name}@{job.version} brings a strategy of its own, {config.strategy}, and nobody allowed it.",
            f"Code of the package would run on this server and make the federation's model, {how} "
            f"Its author is {job.author} ({job.author_fingerprint}).",
            f"Read {file} of the package; then start the run with --allow-own-strategy, or set strategy.name to one "
            "of ours.",
        )
    log.warning("the operator allows %s@%s its own strategy %s", job.name, job.version, config.strategy)


def tried(config: RunConfig, job: JobRow, blobs: BlobStore, silos: int) -> strategies.Strategy:
    """The run's strategy, asked for once before anybody is offered the run, and closed: its facts and words stay.
    Blocks. Raises what ``require_runnable`` raises."""
    if not config.own_strategy:
        return require_runnable(config)
    with tempfile.TemporaryDirectory(prefix="octopus-strategy-") as folder:
        package = Path(folder, "package")
        unpack(blobs.path(job.digest), package)
        strategy = require_runnable(config, package, silos, lambda level, _, text: log.info("%s: %s", job.name, text))
        strategy.close()
        return strategy


async def forked(
    config: RunConfig,
    strategy: strategies.Strategy,
    job: JobRow,
    trainer: str,
    run: RunRow,
    model: tuple[int, str],
    blobs: BlobStore,
    journal: Callable[[], bytes | None],
) -> RunConfig:
    """``config`` for a run that begins with ``model`` (round, digest) of ``run``. ``journal``: that run's loop state.

    Raises:
        UserError: OCT-MODEL-SHAPE, when the job builds a model of another layout; what building it raises.
    """
    number, digest = model
    await asyncio.to_thread(_require_layout, config, job, trainer, blobs, digest, f"{run.id}:{number}")
    begun = replace(config, first_model=digest, forked_from=f"{run.id}:{number}")
    raw = journal() if run.state in ENDED else None
    if raw is None or RunConfig.from_dict(json.loads(run.config_json)).strategy != config.strategy:
        return begun
    if config.own_strategy and run.job_digest != job.digest:
        return begun  # a class of the same name in other code
    slots = state_of(run, raw, digest, blobs)
    if MEMORY_WORDS & strategy.configure(1).keys() or slots.keys() != strategy.slots().keys():
        return begun
    return replace(begun, first_slots=slots)


def state_of(run: RunRow, raw: bytes | None, digest: str, blobs: BlobStore) -> dict[str, str]:
    """What the strategy had gathered when it made this model, slot to digest; {} where that is not known any longer.
    ``raw``: the run's loop state."""
    if raw is None or run.state not in ENDED:
        return {}
    state = State.from_dict(json.loads(raw))
    slots = {name: blob.digest for name, blob in state.slots.items()}
    belongs = state.model is not None and state.model.digest == digest
    return slots if belongs and all(blobs.has(held) for held in slots.values()) else {}


def _require_layout(config: RunConfig, job: JobRow, trainer: str, blobs: BlobStore, digest: str, whose: str) -> None:
    """The package builds its own first model, in a process of its own, and that has the other one's layout."""
    with tempfile.TemporaryDirectory(prefix="octopus-fork-") as folder:
        package, spec, out = Path(folder, "package"), Path(folder, "spec.json"), Path(folder, "built.safetensors")
        unpack(blobs.path(job.digest), package)
        said = {"package": str(package), "trainer": trainer, "config": config.to_dict()}
        spec.write_bytes(canonical_json(said))
        initial.build(spec, out)
        require_same(read_layout(out), read_layout(blobs.path(digest)), f"The model of {whose}")
