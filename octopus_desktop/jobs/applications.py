"""An application of another framework below ``code/``, looked at and never run. Pure; knows no framework."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Mapping

from octopus_desktop.wire.errors import UserError

CODE = "code/"
PROJECT = CODE + "pyproject.toml"


def check(files: Mapping[str, bytes], kind: str, name: str) -> None:
    """``kind``: flower | fedml; ``name``: what stands after it in ``trainer``. Raises OCT-JOB-TRAINER unless the
    application's file is there and makes what is named."""
    if kind == "flower":
        reference = client_app(files) or f"{name}:app"
        module, _, made = reference.partition(":")
        _must_make(files, f"flower:{name}", module, made)
        return
    makers = [
        path
        for path, data in files.items()
        if path.startswith(CODE) and path.endswith(".py") and name in _top(files, path)
    ]
    if len(makers) != 1:
        where = "nowhere below code/" if not makers else f"in {', '.join(sorted(makers))}"
        raise _unusable(f"fedml:{name}", f"the class {name} is defined {where}")


def client_app(files: Mapping[str, bytes]) -> str:
    """``module:name`` of the ClientApp that code/pyproject.toml names; "" where it names none."""
    try:
        project = tomllib.loads(files.get(PROJECT, b"").decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _unusable("flower", f"{PROJECT}: {error}") from None
    found = project
    for key in ("tool", "flwr", "app", "components"):
        found = found.get(key, {}) if isinstance(found, dict) else {}
    return str(found.get("clientapp", "")) if isinstance(found, dict) else ""


def _must_make(files: Mapping[str, bytes], trainer: str, module: str, name: str) -> None:
    base = CODE + module.replace(".", "/")
    path = next((p for p in (f"{base}.py", f"{base}/__init__.py") if p in files), "")
    if not path:
        raise _unusable(trainer, f"{base}.py is not in the job")
    if name not in _top(files, path):
        raise _unusable(trainer, f"{path} makes no {name!r}")


def _top(files: Mapping[str, bytes], path: str) -> set[str]:
    """The names that a module defines or imports at its own level."""
    try:
        tree = ast.parse(files[path])
    except (SyntaxError, ValueError):
        return set()
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _unusable(trainer: str, why: str) -> UserError:
    return UserError(
        "OCT-JOB-TRAINER",
        f"The trainer {trainer!r} cannot be used",
        why,
        "Put the application below code/ as it is, and name it in job.toml: 'flower:client_app' or 'fedml:MyTrainer'",
    )
