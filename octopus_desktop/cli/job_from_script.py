"""The files of a job around a researcher's own script, as text, and what there is to say of them. Knows no command."""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from octopus_desktop.jobs.script import PROVIDED, Found, ScriptReading, Value, read_script
from octopus_desktop.jobs.script_trainer import ALIAS, Scaffold, scaffold
from octopus_desktop.wire.errors import UserError

MOST_BYTES = 1 << 20
_WORDS = {
    "model": "the model",
    "optimizer": "the optimiser",
    "loss": "the loss",
    "loader": "the training data",
    "test_loader": "the test data",
    "device": "the device",
    "args": "the options",
}

JOB_TOML = """# What this job is, needs and does. 'octopus jobs check' finds mistakes and names their place.

[job]
name = "{name}"
version = "0.1.0"
trainer = "{trainer}:Trainer"
purpose = "Say here, for the silos' administrators, what this is good for."
{requirements}
[[data]]
alias = "{alias}"
kind = "{kind}"
description = "Say here what the silos' data are."
{columns}
[resources]
workers = 1
memory_mib = 1024
hours = 0.1                          # what you expect, for the administrator to judge

[run]
rounds = 10
seed = {seed}

[strategy]
name = "fedavg"

[hyperparameters]
{hyperparameters}
"""

README = """# {name}

`code/{script}` is the script as it was; `code/{trainer}.py` runs its functions at a silo; `job.toml` says what the job
needs.

## By hand

{todo}

## Try it

    octopus jobs check {folder}
    octopus simulate {folder} --silo site-a:{alias}=A{suffix} --silo site-b:{alias}=B{suffix}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromScript:
    """``files``: path -> text. ``found`` and ``todo``: (place, words)."""

    files: dict[str, str]
    trainer: str
    found: list[tuple[str, str]]
    todo: list[tuple[str, str]]


def from_script(script: Path, name: str, folder: str) -> FromScript:
    """A job around ``script``, which is parsed and never run; modules beside it that it imports come along.

    Raises:
        UserError: OCT-JOB-TRAINER, as ``jobs.script`` says; OCT-CLI-USAGE: the file cannot be read.
    """
    source = _text(script)
    reading = read_script(source, script.name)
    beside = _beside(script, source)
    reading.modules = tuple(m for m in reading.modules if m not in beside)
    module = _module_name(script.stem, beside)
    trainer = "trainer" if module != "trainer" and "trainer" not in beside else "silo_trainer"
    made = scaffold(reading, module)
    found = [(_place(reading, f), f"{_WORDS[f.what]}: {f.text}") for f in reading.found]
    todo = [(_place(reading, f), f.text) for f in made.todo]
    suffix = {"table": ".csv", "arrays": ".npz", "folder": "/"}[made.data_kind]
    lines = "\n".join(f"- {place}: {text}" for place, text in todo)
    files = {
        "job.toml": _job_toml(made, name, trainer),
        f"code/{trainer}.py": made.trainer,
        f"code/{module}.py": source,
        **{f"code/{other}.py": text for other, text in beside.items()},
        "README.md": README.format(
            name=name, script=f"{module}.py", trainer=trainer, todo=lines, folder=folder, alias=ALIAS, suffix=suffix
        ),
    }
    return FromScript(files=files, trainer=f"code/{trainer}.py", found=found, todo=todo)


def _job_toml(made: Scaffold, name: str, trainer: str) -> str:
    wanted = ", ".join(json.dumps(r) for r in made.requirements)
    columns = '\n[data.columns]\nx = "any"                            # the inputs, one row an example\ny = "any"\n'
    own_arrays = made.data_kind == "arrays" and "arrays()" in made.trainer
    seed = made.hyperparameters.get("seed", 1)
    return JOB_TOML.format(
        name=name,
        trainer=trainer,
        requirements=f"requirements = [{wanted}]\n" if wanted else "",
        alias=ALIAS,
        kind=made.data_kind,
        columns=columns if own_arrays else "",
        seed=seed if isinstance(seed, int) and seed >= 0 else 1,
        hyperparameters="\n".join(f"{key} = {_toml(value)}" for key, value in made.hyperparameters.items()),
    )


def _toml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value)
    return repr(value)


def _text(script: Path) -> str:
    try:
        if script.stat().st_size > MOST_BYTES:
            raise ValueError("it is larger than 1 MiB")
        return script.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError("OCT-CLI-USAGE", f"{script} cannot be read.", f"{why}.", "Give a Python script.") from error


def _beside(script: Path, source: str) -> dict[str, str]:
    """Modules in the script's own folder that it imports, and that these import."""
    found: dict[str, str] = {}
    todo = [source]
    while todo:
        for name in _imports(todo.pop()):
            file = script.parent / f"{name}.py"
            if name != script.stem and name not in found and file.is_file():
                found[name] = _text(file)
                todo.append(found[name])
    return found


def _imports(source: str) -> set[str]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return set()
    names = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    return names | {
        n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level
    }


def _module_name(stem: str, beside: dict[str, str]) -> str:
    name = re.sub(r"\W+", "_", stem).strip("_") or "script"
    if name in sys.stdlib_module_names or name in PROVIDED or not name.isidentifier() or name in beside:
        name = f"script_{name}"
    return name


def _place(reading: ScriptReading, found: Found) -> str:
    return f"{reading.name}, line {found.line}" if found.line else reading.name
