"""The files of a job around a Flower app or a FedML trainer that somebody already has, as text, and what there is to
say of them. The application is parsed and never run; it goes into the job as it stands. Knows no command.
"""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from octopus_desktop.cli.job_from_script import FromScript
from octopus_desktop.jobs.applications import client_app
from octopus_desktop.jobs.script import is_module
from octopus_desktop.wire.errors import UserError

SUFFIXES = (".py", ".toml", ".json", ".txt", ".yaml", ".yml")
LEFT_OUT = ("__pycache__", "dist", "build", "data", "results", "outputs")
MOST_BYTES = 1 << 20
FEDML_ARGS = {"learning_rate": 0.01, "epochs": 1, "batch_size": 32}
IMPLIED = ("flwr", "fedml", "torch", "numpy")

JOB_TOML = """# What this job is, needs and does. 'octopus jobs check' finds mistakes and names their place.

[job]
name = "{name}"
version = "0.1.0"
trainer = "{trainer}"
model = "{model}"{model_note}
purpose = "Say here, for the silos' administrators, what this is good for."
requirements = {requirements}

[[data]]
alias = "training"
kind = "{kind}"                        # table | arrays | folder
description = "Say here what the silos' data are."

[resources]
workers = 1                          # an application of its own trains in one
memory_mib = 1024
hours = 0.1                          # what you expect, for the administrator to judge

[run]
rounds = {rounds}
seed = 1

[strategy]
name = "fedavg"

[hyperparameters]{hyperparameters}
"""
README = """# {name}

`code/` is the {what} as it was; `job.toml` says what the job needs.

## By hand

{todo}

## Try it, in an environment that has {framework}

    octopus jobs check {folder}
    octopus simulate {folder} --runtime VENV --silo site-a:training=A{suffix} --silo site-b:training=B{suffix}

Each silo's administrator registers such an environment too, and approves the job for it:

    octopus runtime add {framework} VENV
    octopus approvals approve {name} --runtime {framework}
"""


def is_app(place: Path) -> bool:
    """A Flower app's folder, or a script with a FedML trainer."""
    return place.is_dir() or (place.suffix == ".py" and bool(_fedml_classes(_tree(place))))


def from_app(place: Path, name: str, folder: str) -> FromScript:
    """A job around a Flower app (its folder, with pyproject.toml or client_app.py) or a FedML trainer (its script;
    everything beside it comes along). Raises OCT-JOB-TRAINER, OCT-CLI-USAGE."""
    return _flower(place, name, folder) if place.is_dir() else _fedml(place, name, folder)


def _flower(place: Path, name: str, folder: str) -> FromScript:
    files = _files(place)
    project = _project(files.get("code/pyproject.toml", ""))
    reference = client_app({path: text.encode() for path, text in files.items()})
    if not reference and "code/client_app.py" not in files:
        raise UserError(
            "OCT-JOB-TRAINER",
            f"{place} is no Flower app.",
            "There is no [tool.flwr.app.components] clientapp in its pyproject.toml, and no client_app.py.",
            "Give the folder that 'flwr new' made, the one with pyproject.toml.",
        )
    client = (reference or "client_app:app").partition(":")[0]
    config = project.get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
    rounds = config.get("num-server-rounds", 10)
    wanted = [str(w) for w in project.get("project", {}).get("dependencies", [])]
    return _made(
        name, folder, files, "flower:client_app", client,
        rounds=rounds if isinstance(rounds, int) and rounds > 0 else 10,
        requirements=_requirements(wanted, "flwr", ">=1.20"),
        hyperparameters="                    # [tool.flwr.app.config] stays as it is; what stands here comes over it",
        data='context.node_config["dataset-path"] is the file or folder of the silo\'s data',
    )  # fmt: skip


def _fedml(script: Path, name: str, folder: str) -> FromScript:
    files = _files(script.parent)
    [cls, *_] = _fedml_classes(_tree(script))
    read = {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("args", "self.args")
    }
    values: dict[str, Any] = {n: FEDML_ARGS.get(n, 0) for n in sorted(read)} | {"batch_size": FEDML_ARGS["batch_size"]}
    lines = "".join(f"\n{key} = {json.dumps(value)}" for key, value in values.items())
    unknown = sorted(set(values) - set(FEDML_ARGS))
    return _made(
        name, folder, files, f"fedml:{cls.name}", script.stem, rounds=10, requirements=["fedml"], hyperparameters=lines,
        data="train_data are batches of the arrays x and y of an NPZ, or of a table whose last column is the target",
        more=[("job.toml", f"args.{n}: a value is needed under [hyperparameters]") for n in unknown],
    )  # fmt: skip


def _made(
    name: str,
    folder: str,
    files: dict[str, str],
    trainer: str,
    client: str,
    *,
    rounds: int,
    requirements: list[str],
    hyperparameters: str,
    data: str,
    more: list[tuple[str, str]] | None = None,
) -> FromScript:
    model, others = _model(files, client)
    kind = _kind(files)
    framework = "flwr" if trainer.startswith("flower") else "fedml"
    found = [("the client", f"{client.replace('.', '/')}.py"), ("the model", model)] if model else []
    todo = list(more or [])
    if not model:
        todo.append(("job.toml", 'model: a class or function that gives the model without arguments, "module:Net"'))
    elif others:
        todo.append(("job.toml", f"model: {model}, or one of {', '.join(others)}?"))
    todo.append(("code", data + (f"; job.toml says kind = {kind!r}" if kind else "")))
    todo += [("code", f"{where}: the workers have no network; read the silo's data there") for where in _loaders(files)]
    suffix = {"table": ".csv", "folder": "/"}.get(kind, ".npz")
    text = JOB_TOML.format(
        name=name,
        trainer=trainer,
        model=model or "module:Net",
        model_note="" if model else "                   # say here what gives the model",
        requirements=json.dumps(requirements),
        kind=kind or "arrays",
        rounds=rounds,
        hyperparameters=hyperparameters,
    )
    readme = README.format(
        name=name,
        folder=folder,
        framework=framework,
        suffix=suffix,
        what="Flower app" if framework == "flwr" else "FedML trainer",
        todo="\n".join(f"- {place}: {words}" for place, words in todo),
    )
    return FromScript(
        files={"job.toml": text, **files, "README.md": readme}, trainer="job.toml", found=found, todo=todo
    )


def _files(place: Path) -> dict[str, str]:
    """The application's sources, below ``code/``. Raises OCT-CLI-USAGE when they are too much or unreadable."""
    files: dict[str, str] = {}
    for path in sorted(place.rglob("*")):
        inner = path.relative_to(place)
        hidden = any(part.startswith(".") or part in LEFT_OUT or part.endswith(".egg-info") for part in inner.parts)
        if hidden or path.suffix not in SUFFIXES or not path.is_file() or path.is_symlink():
            continue
        try:
            if path.stat().st_size > MOST_BYTES or len(files) >= 500:
                raise ValueError("it is larger than 1 MiB" if len(files) < 500 else "there are over 500 files")
            files[f"code/{inner.as_posix()}"] = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise UserError(
                "OCT-CLI-USAGE", f"{path} cannot be taken along.", f"{why}.", "Give a folder with the app alone."
            ) from error
    return files


def _project(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(
            "OCT-JOB-TRAINER", "The app's pyproject.toml cannot be read.", f"{error}.", "Correct it."
        ) from None


def _requirements(wanted: list[str], framework: str, least: str) -> list[str]:
    """What the app asks for beside PyTorch, without extras: ``flwr[simulation]`` is for Flower's own simulator."""
    named = {re.split(r"[^A-Za-z0-9_.-]", text, maxsplit=1)[0].lower(): text for text in wanted}
    own = re.sub(r"\[[^]]*\]", "", named.get(framework, framework + least)).replace(" ", "")
    return [own, *(text for key, text in named.items() if key and key not in IMPLIED)]


def _model(files: Mapping[str, str], client: str) -> tuple[str, list[str]]:
    """(``module:Class`` of the model, other candidates); those that the client makes come first."""
    source = files.get(f"code/{client.replace('.', '/')}.py", "")
    called = {node.func.id for node in ast.walk(_parsed(source))
              if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args}  # fmt: skip
    found = [(f"{module}:{cls.name}", cls.name in called) for module, cls in _classes(files) if _makes_itself(cls)]
    names = [name for name, made in sorted(found, key=lambda pair: not pair[1])]
    certain = [name for name, made in found if made]
    return (names[0] if names else ""), ([] if len(certain) == 1 else names[1:])


def _classes(files: Mapping[str, str]) -> Iterator[tuple[str, ast.ClassDef]]:
    for path, text in files.items():
        if path.endswith(".py"):
            module = path.removeprefix("code/").removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            yield from ((module, n) for n in _parsed(text).body if isinstance(n, ast.ClassDef) and is_module(n))


def _makes_itself(cls: ast.ClassDef) -> bool:
    """Whether it can be made without arguments."""
    init = next((n for n in cls.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
    return init is None or len(init.args.args) - 1 <= len(init.args.defaults)


def _kind(files: Mapping[str, str]) -> str:
    text = "\n".join(files.values())
    for words, kind in (
        (("np.load(", "numpy.load("), "arrays"),
        (("read_csv(", "read_parquet("), "table"),
        (("ImageFolder(", "listdir(", ".glob("), "folder"),
    ):
        if any(word in text for word in words):
            return kind
    return ""


def _loaders(files: Mapping[str, str]) -> Iterator[str]:
    """Where data would be fetched from the network."""
    for path, text in files.items():
        for number, line in enumerate(text.splitlines(), 1):
            if "FederatedDataset(" in line or "load_dataset(" in line or "download=True" in line:
                yield f"{path.removeprefix('code/')}, line {number}"


def _fedml_classes(tree: ast.Module) -> list[ast.ClassDef]:
    """Classes that derive from fedml's ClientTrainer."""
    ours = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fedml"
        for alias in node.names
        if alias.name == "ClientTrainer"
    }
    return [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(b) in ours or ast.unparse(b).startswith("fedml.") for b in node.bases)
    ]


def _tree(path: Path) -> ast.Module:
    try:
        return _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return ast.Module(body=[], type_ignores=[])  # whoever reads it next says so


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])
