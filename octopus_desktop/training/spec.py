"""What a run's processes are told at their start, as JSON files that the parent writes. No torch here.

``python -m octopus_desktop.training.runner RUN_DIR`` reads ``RUN_DIR/runner.json`` (RunnerSpec).
``python -m octopus_desktop.server.coordinator RUN_DIR`` reads ``RUN_DIR/coordinator.json`` (CoordinatorSpec).
Both share ``RUN_DIR/mailbox.sqlite`` with their parent, speak ``wire.child`` on stdin and stdout, and end when
stdin ends.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.canonical import canonical_json

MAILBOX = "mailbox.sqlite"
SLURM = "slurm"  # a run's own folder for its allocation: the way to its runner, and its output
WORK = "work"  # the workers' folder, and all that the job's code can write: its memory at the silo too
GIVEN = "given"  # a task's files, where confined workers can read them
PRIVATE = "leaving"  # a runner's own folder, closed to the job's code: updates on their way out, and what was left out
KEPT_MODEL = "personal.safetensors"  # the silo's own model: in its memory's folder, and then in the run's


def beside(update: Path, name: str) -> Path:
    """Where workers write what a strategy has them return beside the update."""
    return update.with_name(f"{update.stem}-{name}{update.suffix}")


class _Json:
    def write(self, path: Path) -> None:
        """Atomically, so that a reader sees the whole file or none."""
        temporary = path.with_suffix(".new")
        temporary.write_bytes(canonical_json(asdict(self)))  # type: ignore[call-overload]
        os.replace(temporary, path)

    @classmethod
    def read(cls, path: Path) -> Self:
        value: dict[str, Any] = json.loads(path.read_text())
        return cls._from(value)

    @classmethod
    def _from(cls, value: dict[str, Any]) -> Self:
        return cls(**value)


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One approved dataset as the worker sees it. ``kind``: csv | parquet | npz | folder."""

    alias: str
    path: str
    kind: str
    digest: str
    columns: dict[str, str] = field(default_factory=dict)  # the need's columns; empty: all


@dataclass(frozen=True, kw_only=True)
class Further:
    """A further machine's share of a run: the node's id, how many workers, on which of its GPUs, in which Python there
    ("": the agent's own); ``paths``: alias -> where data lies there, when not where it does here."""

    node: str
    name: str
    workers: int
    devices: tuple[str, ...] = ()
    python: str = ""
    paths: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Allocated:
    """All workers in an allocation of the site's Slurm: under which profile (``system.slurm.Profile`` as a dict), by
    which name it is known in the queue, and how many workers each of its nodes has."""

    profile: dict[str, Any]
    name: str
    workers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunnerSpec(_Json):
    """A silo's share of a run. ``package`` is the unpacked, verified package directory (holding ``code/``)."""

    run_id: str
    silo: str
    package: str
    trainer: str
    config: dict[str, Any]  # RunConfig.to_dict()
    blobs: str
    workers: int = 1
    threads: int = 1
    devices: tuple[str, ...] = ()  # "cuda:0", ...; empty: CPU
    data: tuple[dict[str, Any], ...] = ()  # DataSource as dicts
    max_restarts: int = 3
    python: str = ""  # the interpreter of the workers; empty: this one
    python_paths: tuple[str, ...] = ()  # what that interpreter must be able to read
    shares: tuple[float, ...] | str = ()  # of each step's examples, by rank; "measured"; empty: as the job says
    package_digest: str = ""  # of the package's file: further machines get it by that
    further: tuple[dict[str, Any], ...] = ()  # Further as dicts, in the order of their ranks, which follow our own
    address: str = ""  # this machine's IP address as the further ones reach it
    slurm: dict[str, Any] = field(default_factory=dict)  # Allocated as a dict: the workers are there and none is here

    @property
    def allocated(self) -> Allocated | None:
        return Allocated(**{**self.slurm, "workers": tuple(self.slurm["workers"])}) if self.slurm else None

    @property
    def spans(self) -> bool:
        """Whether workers of one group are on more than one machine, and speak over their network."""
        return bool(self.further) or len(self.slurm.get("workers", ())) > 1

    @property
    def run_config(self) -> RunConfig:
        return RunConfig.from_dict(self.config)

    @property
    def sources(self) -> dict[str, DataSource]:
        return {item["alias"]: DataSource(**item) for item in self.data}

    @property
    def machines(self) -> list[Further]:
        return [Further(**{**item, "devices": tuple(item["devices"])}) for item in self.further]

    def for_machine(self, machine: Further) -> dict[str, Any]:
        """This specification as a further machine needs it; its own places come there."""
        return {
            **asdict(self),
            "package": "",
            "blobs": "",
            "workers": machine.workers,
            "devices": machine.devices,
            "python": machine.python,
            "python_paths": (),
            "data": tuple({**item, "path": machine.paths.get(item["alias"], item["path"])} for item in self.data),
        }


@dataclass(frozen=True, kw_only=True)
class CoordinatorSpec(_Json):
    """The server's share of a run. ``silos`` approved the run; their order is the order of sums. ``central_data``:
    DataSource as dicts, what the server itself evaluates models on."""

    run_id: str
    federation: str
    silos: tuple[str, ...]
    package: str
    trainer: str
    config: dict[str, Any]
    blobs: str
    central_data: tuple[dict[str, Any], ...] = ()

    @property
    def run_config(self) -> RunConfig:
        return RunConfig.from_dict(self.config)
