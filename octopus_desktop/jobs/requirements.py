"""What packages a job needs, and which of them an environment lacks. Pure; knows no environment but as a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion

IMPLIED = {"flower": "flwr", "fedml": "fedml"}
"""The kind of a trainer ("flower:client_app") -> the package that such an app imports."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """A requirement that is not met, and why: "not installed", "1.8 is installed"."""

    requirement: str
    why: str

    def __str__(self) -> str:
        return f"{self.requirement} ({self.why})"


def needed(trainer: str, requirements: Sequence[str]) -> tuple[str, ...]:
    """The job's requirements, with the one that its kind of trainer implies."""
    implied = IMPLIED.get(trainer.partition(":")[0], "")
    named = {canonicalize_name(r.name) for r in map(_read, requirements) if r is not None}
    return (*requirements, *([implied] if implied and implied not in named else []))


def mistake(requirement: str) -> str:
    """Why a requirement cannot be read; "" when it can. Only names with versions: nothing is ever downloaded here."""
    try:
        read = Requirement(requirement)
    except InvalidRequirement as error:
        return str(error).splitlines()[0]
    return "it names an address, and packages are what the administrator installed" if read.url else ""


def lacking(requirements: Sequence[str], packages: Mapping[str, str], python: str) -> list[Lack]:
    """What is not met. ``packages``: canonical name -> version; ``python``: the environment's version, "3.12.1"."""
    lacks = []
    for text in requirements:
        read = _read(text)
        if read is None or read.url:
            lacks.append(Lack(requirement=text, why="it cannot be read"))
            continue
        words = {"python_full_version": python, "python_version": ".".join(python.split(".")[:2])}
        if read.marker is not None and not read.marker.evaluate(words):
            continue
        version = packages.get(canonicalize_name(read.name))
        if version is None:
            lacks.append(Lack(requirement=text, why="not installed"))
        elif not _fits(read, version):
            lacks.append(Lack(requirement=text, why=f"{version} is installed"))
    return lacks


def _fits(requirement: Requirement, version: str) -> bool:
    try:
        return requirement.specifier.contains(version, prereleases=True)
    except InvalidVersion:
        return not str(requirement.specifier)


def _read(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None
