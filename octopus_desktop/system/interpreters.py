"""Other Python environments on this machine: what is in them, and whether our training part runs there.

An environment is looked at by its own interpreter, in a process of its own. Knows no job, and imports no torch.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import octopus_desktop

QUICK_S = 30.0
WHOLE_S = 300.0
PARTS = ("octopus_desktop.training.worker", "octopus_desktop.training.engine")
_KEPT = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "CUDA_HOME")
_PROBE = """
import importlib, importlib.metadata as metadata, json, os, platform, sys
whole, parts = sys.argv[1] == "whole", sys.argv[2:]
packages = {}
for one in metadata.distributions():
    try:
        packages.setdefault(one.metadata["Name"], one.version)
    except Exception:
        pass
told = {"python": platform.python_version(), "prefix": sys.prefix, "base": sys.base_prefix, "paths": sys.path,
        "packages": packages, "torch": packages.get("torch", ""), "cuda": "", "fault": ""}
if whole:
    try:
        import torch
        told["torch"] = torch.__version__
        told["cuda"] = (torch.version.cuda or "") if torch.cuda.is_available() else ""
        for part in parts:
            importlib.import_module(part)
    except BaseException as error:
        told["fault"] = f"{type(error).__name__}: {error}"
sys.stdout.write("\\n" + json.dumps(told) + "\\n")
sys.stdout.flush()
os._exit(0)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class InterpreterFacts:
    """``packages``: canonical name -> version. ``paths``: folders that it reads. ``cuda``: the version that torch can
    use here, "" for none; ``torch`` and ``cuda`` are certain after a whole look only. ``fault``: why training cannot
    run there."""

    python: str = ""
    torch: str = ""
    cuda: str = ""
    paths: tuple[str, ...] = ()
    packages: dict[str, str] = field(default_factory=dict)
    fault: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interpreter:
    """What workers are started with: ``python`` "" for this process's own, ``paths`` what another one reads."""

    python: str = ""
    paths: tuple[str, ...] = ()


def own() -> InterpreterFacts:
    """This process's own environment, as a quick look sees it."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        name = one.metadata["Name"]
        if name:
            found.setdefault(canonical(name), one.version)
    return InterpreterFacts(python=platform.python_version(), torch=found.get("torch", ""), packages=found)


def interpreter(place: Path) -> Path | None:
    """The interpreter at a path that names one, or a virtual environment's folder; None when there is none. A link is
    kept: it is how an environment's interpreter knows where it belongs."""
    inside = (
        place / "bin" / "python",
        place / "bin" / "python3",
        place / "Scripts" / "python.exe",
        place / "python.exe",
    )
    for candidate in [place, *inside]:
        if candidate.is_file() and os.access(candidate, os.X_OK):
            return candidate
    return None


def examine(python: Path, *, whole: bool) -> InterpreterFacts:
    """Look at an environment by its interpreter. ``whole``: import torch and our training part there as well, which
    takes seconds. What goes wrong is the ``fault``."""
    with tempfile.TemporaryDirectory(prefix="octopus-look-") as folder:
        words = [str(python), "-c", _PROBE, "whole" if whole else "quick", *PARTS]
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"HOME": folder, "PYTHONPATH": own_code(Path(folder)), "PYTHONDONTWRITEBYTECODE": "1"}
        limit = WHOLE_S if whole else QUICK_S
        try:
            done = subprocess.run(
                words, env=environment, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit
            )
        except OSError as error:
            return InterpreterFacts(fault=f"It does not start: {error.strerror or error}.")
        except subprocess.TimeoutExpired:
            return InterpreterFacts(fault=f"It did not answer within {limit:.0f} s.")
    try:
        told = json.loads(done.stdout.decode(errors="replace").strip().splitlines()[-1])
        packages = {canonical(str(n)): str(v) for n, v in told["packages"].items() if n and v}
        paths = _paths([told["prefix"], told["base"], *told["paths"]], folder)
        return InterpreterFacts(
            python=str(told["python"]),
            torch=str(told["torch"]),
            cuda=str(told["cuda"]),
            paths=paths,
            packages=packages,
            fault=_fault(str(told["fault"]), str(told["python"]), packages),
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or [f"it ended with {done.returncode}"]
        return InterpreterFacts(fault=f"It is no Python that can be used: {said[0][:300]}.")


def own_code(folder: Path) -> str:
    """A folder for ``PYTHONPATH`` where another interpreter finds our code and nothing else of ours; made below
    ``folder`` when we are installed among other packages."""
    package = Path(octopus_desktop.__file__).resolve().parent
    if "-packages" not in str(package.parent):
        return str(package.parent)
    place = folder / "octopus-code"
    place.mkdir(exist_ok=True)
    link = place / package.name
    if not link.exists():
        link.symlink_to(package, target_is_directory=True)
    return str(place)


def canonical(name: str) -> str:
    """A distribution's name as PEP 503 compares them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _fault(said: str, python: str, packages: dict[str, str]) -> str:
    if tuple(map(int, python.split(".")[:2])) < (3, 11):
        return f"Python {python} is too old; 3.11 or newer is needed."
    absent = [name for name in ("torch", "numpy") if name not in packages]
    if absent:
        return f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed there."
    return f"Training cannot run there: {said[:300]}" if said else ""


def _paths(found: Iterable[str], folder: str) -> tuple[str, ...]:
    """Folders outside of the system's own that hold the environment; none below another."""
    kept: list[str] = []
    for text in found:
        place = Path(text)
        if not text or not place.is_absolute() or not place.is_dir() or place.is_relative_to(folder):
            continue
        if place in (Path("/"), Path("/usr"), Path("/usr/local")) or place.is_relative_to("/usr/lib"):
            continue
        if place == Path.home() or not any(place.is_relative_to(k) for k in kept):
            kept.append(text)
    return tuple(p for p in kept if Path(p) != Path.home())
