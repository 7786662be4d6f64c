"""A job to simulate, from its folder or its package: unpacked where the engine can read it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from octopus_desktop.aggregation.strategies import STRATEGIES
from octopus_desktop.jobs import package, toml
from octopus_desktop.jobs.manifest import JobManifest
from octopus_desktop.jobs.requirements import lacking, needed
from octopus_desktop.system import interpreters
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.wire.errors import UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """``folder`` holds job.toml and code/, the package's files and no others. ``home``: the folder that was given, or
    None for a package."""

    folder: Path
    manifest: JobManifest
    home: Path | None = None


def runtime_for(job: Job, place: Path) -> Interpreter:
    """The Python environment at ``place``, when it has what the job needs.

    Raises:
        UserError: OCT-RUNTIME-BROKEN, OCT-PACKAGE-MISSING.
    """
    python = interpreters.interpreter(place.expanduser().absolute())
    facts = interpreters.examine(python, whole=True) if python else None
    if python is None or facts is None or facts.fault:
        raise UserError(
            "OCT-RUNTIME-BROKEN",
            f"The runtime {place} cannot be used.",
            facts.fault if facts else "There is no Python at that place.",
            "Give the folder of a virtual environment with PyTorch, or its interpreter.",
        )
    lacks = lacking(needed(job.manifest.trainer, job.manifest.requirements), facts.packages, facts.python)
    if lacks:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            f"The runtime {place} lacks what the job needs: {', '.join(map(str, lacks))}.",
            "The job names it under 'requirements'.",
            f"Install it there: {python} -m pip install …",
        )
    return Interpreter(python=str(python), paths=facts.paths)


@contextmanager
def open_job(place: Path, work: Path) -> Iterator[Job]:
    """The job at ``place``, unpacked below ``work``. The files are those that a package would hold.

    Raises:
        UserError: OCT-JOB-*, as ``jobs.package`` says.
    """
    folder = work / "package"
    if place.is_dir():
        for name, content in package.read_folder(place).items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    elif place.exists():
        package.unpack(place, folder)
    else:
        raise UserError(
            "OCT-JOB-UNKNOWN", f"There is no job at {place}.", "", "Give a job's folder or its .octojob package."
        )
    text = (folder / "job.toml").read_text(encoding="utf-8")
    manifest = toml.parse(text, strategies=STRATEGIES)
    yield Job(folder=folder, manifest=manifest, home=place if place.is_dir() else None)
