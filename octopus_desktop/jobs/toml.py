"""job.toml read strictly: every mistake with its line, column and key, and what was probably meant.

``parse`` gives the typed manifest; ``apply_overrides`` lays a coordinator's wishes over a job's configuration, by
the same rules. Knows no zip and no strategy: which strategies exist is the caller's to say.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from octopus_desktop.jobs import encodings, requirements
from octopus_desktop.jobs.manifest import DataNeed, JobManifest, RunConfig
from octopus_desktop.jobs.personal import personal_mistakes
from octopus_desktop.jobs.toml_places import Path, Place, places
from octopus_desktop.wire.errors import UserError

MOST_BYTES = 256 << 10
DAY_S = 86_400.0
CARRIERS = ("auto", "grpc", "mqtt", "mqtt_s3", "torch_rpc", "mpi", "loopback")
COLUMN_TYPES = ("number", "integer", "text", "any")
_INT64 = (-(2**63), 2**63 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing that is off. Line and column from 1; 0: no text is at hand. ``key``: ``data[0].columns.age``."""

    line: int
    column: int
    key: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        place = f"line {self.line}, column {self.column}: " if self.line else ""
        return f"{place}{self.key + ': ' if self.key else ''}{self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Field:
    """What one key may hold. ``kind``: integer | number | text | texts | columns | yes. ``above``: ``low`` is
    exclusive."""

    kind: str
    low: float | None = None
    high: float | None = None
    above: bool = False
    choices: tuple[str, ...] = ()
    pattern: str = ""
    hint: str = ""
    required: bool = False


_ENTRY = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*"
_NAME = {"pattern": r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", "hint": "1 to 64 letters, digits, '.', '_' and '-'"}
_JOB = {
    "name": _Field(kind="text", required=True, **_NAME),  # type: ignore[arg-type]
    "version": _Field(
        kind="text", required=True, pattern=r"[0-9A-Za-z][0-9A-Za-z.+-]{0,31}", hint='a version such as "1.0.0"'
    ),
    "trainer": _Field(
        kind="text",
        required=True,
        pattern=_ENTRY,
        hint='"module:Class", such as "trainer:HeartTrainer" for class HeartTrainer in code/trainer.py',
    ),
    "purpose": _Field(kind="text", high=2000),
    "requirements": _Field(kind="texts"),
    "model": _Field(
        kind="text",
        pattern=_ENTRY,
        hint='"module:Class", such as "task:Net" for class Net in code/task.py',
    ),
}
_DATA = {
    "alias": _Field(
        kind="text", required=True, pattern=r"[A-Za-z][A-Za-z0-9_-]{0,63}", hint="letters, digits, '_' and '-'"
    ),
    "kind": _Field(kind="text", choices=("table", "arrays", "folder")),
    "columns": _Field(kind="columns"),
    "min_rows": _Field(kind="integer", low=0, high=2**53),
    "description": _Field(kind="text", high=2000),
}
_RESOURCES = {
    "workers": _Field(kind="integer", low=0, high=1024),
    "threads_per_worker": _Field(kind="integer", low=1, high=1024),
    "gpus": _Field(kind="integer", low=0, high=1024),
    "memory_mib": _Field(kind="integer", low=0, high=2**31),
    "hours": _Field(kind="number", low=0, high=10_000),
}
_RUN = {
    "rounds": _Field(kind="integer", low=1, high=1_000_000),
    "seed": _Field(kind="integer", low=0, high=2**63 - 1),
    "mode": _Field(kind="text", choices=("sync", "async")),
    "quorum": _Field(kind="integer", low=0, high=100_000),
    "per_round": _Field(kind="integer", low=0, high=100_000),
    "round_deadline_s": _Field(kind="number", low=0, above=True, high=90 * DAY_S),
    "lease_s": _Field(kind="number", low=0, above=True, high=7 * DAY_S),
    "update": _Field(kind="text", choices=("weights", "difference")),
    "encoding": _Field(kind="text", choices=encodings.ENCODINGS),
    "best": _Field(
        kind="text",
        pattern=r"(max|min) (eval|eval_personal|central)/[^\s]{1,100}",
        hint='"max" or "min" and a metric of the model: "max eval/accuracy" or "min eval/loss"',
    ),
    "patience": _Field(kind="integer", low=0, high=1_000_000),
    "min_delta": _Field(kind="number", low=0, high=1e12),
    "late": _Field(kind="text", choices=("drop", "next")),
    "keep_models": _Field(kind="integer", low=0, high=1_000_000),
    "most_norm": _Field(kind="number", low=0, high=1e30),
}
_TRAINING = {
    "precision": _Field(kind="text", choices=("float32", "bf16", "fp16")),
    "accumulate": _Field(kind="integer", low=1, high=100_000),
    "clip_norm": _Field(kind="number", low=0, high=1e30),
    "compile": _Field(kind="yes"),
    "parallel": _Field(kind="text", choices=("ddp", "fsdp")),
    "shares": _Field(kind="text", choices=("equal", "measured")),
    "stall_s": _Field(kind="number", low=0, high=7 * DAY_S),
}
_PERSONAL = {
    "layers": _Field(kind="texts"),
    "finetune_steps": _Field(kind="integer", low=0, high=1_000_000),
    "finetune_epochs": _Field(kind="integer", low=0, high=100_000),
    "keep": _Field(kind="yes"),
}
_EVALUATION = {"central": _Field(kind="yes"), "share": _Field(kind="yes")}
_COMMUNICATION = {"carrier": _Field(kind="text", choices=CARRIERS)}
_TABLES: dict[str, dict[str, _Field]] = {
    "job": _JOB,
    "resources": _RESOURCES,
    "training": _TRAINING,
    "run": _RUN,
    "communication": _COMMUNICATION,
    "personal": _PERSONAL,
    "evaluation": _EVALUATION,
}
_FREE = ("strategy", "privacy", "hyperparameters")  # their keys are the strategy's, the filters' and the code's own
_CONFIG = (
    "resources", "training", "run", "encoding", "strategy", "personal", "evaluation", "communication", "privacy",
    "hyperparameters",
)  # fmt: skip
_KNOWN = ("job", "data", *_CONFIG)
_WORDS = {"integer": "a whole number", "number": "a number", "text": "a text in quotes", "texts": "a list of texts",
          "yes": "true or false"}  # fmt: skip


def parse(text: str, *, strategies: Collection[str] = ()) -> JobManifest:
    """The manifest. ``strategies``: names that are known; empty: any.

    Raises UserError OCT-JOB-TOML: ``what`` has the first mistake's place, ``why`` the others.
    """
    manifest, mistakes = examine(text, strategies=strategies)
    if manifest is None or mistakes:
        raise _error("job.toml", mistakes)
    return manifest


def examine(text: str, *, strategies: Collection[str] = ()) -> tuple[JobManifest | None, list[Mistake]]:
    """The manifest, or None with all mistakes, in the order of their lines."""
    if len(text.encode()) > MOST_BYTES:
        return None, [Mistake(line=1, column=1, key="", text=f"the file is over {MOST_BYTES >> 10} KiB")]
    try:
        value = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        return None, [_syntax(error, text)]
    except RecursionError:
        return None, [Mistake(line=1, column=1, key="", text="arrays or tables are nested too deeply")]
    reader = _Reader(places(text.replace("\r\n", "\n")))
    manifest = _manifest(reader, value, strategies)
    if reader.mistakes:
        return None, sorted(reader.mistakes, key=lambda m: (m.line, m.column))
    return manifest, []


def apply_overrides(config: RunConfig, overrides: Mapping[str, Any], *, strategies: Collection[str] = ()) -> RunConfig:
    """``config`` with a coordinator's wishes laid over it, checked like job.toml.

    ``overrides`` has the tables of job.toml ({"run": {"rounds": 5}, "strategy": {"name": "fedavg"}}); keys of [run] and
    [communication] may also stand alone ({"rounds": 5}), and "strategy" may be a name. A strategy of another name
    begins with no parameters of the old one, and so does an encoding ("encoding": a name, or a table of parameters).

    Raises UserError OCT-CONFIG-INVALID.
    """
    reader = _Reader({})
    tables: dict[str, Any] = {}
    for key, value in overrides.items():
        if key in _CONFIG and not (key == "encoding" and isinstance(value, str)):
            tables[key] = {"name": value} if key == "strategy" and isinstance(value, str) else value
    for key, value in overrides.items():
        home = "run" if key in _RUN and key not in tables else "communication" if key in _COMMUNICATION else ""
        if home and isinstance(tables.setdefault(home, {}), dict):
            tables[home] = {**tables[home], key: value}
        elif key not in tables and not home:
            reader.unknown((), key, (*_KNOWN[2:], *_RUN, *_COMMUNICATION))
    merged = _config(reader, tables, strategies, config)
    if reader.mistakes:
        raise _error("The run's settings", reader.mistakes, "OCT-CONFIG-INVALID")
    return merged


class _Reader:
    """Collects mistakes while values are taken out of tables."""

    def __init__(self, found: dict[Path, Place]) -> None:
        self._places = found
        self.mistakes: list[Mistake] = []

    def mistake(self, path: Path, text: str, advice: str = "") -> None:
        known = path
        while known and known not in self._places:
            known = known[:-1]
        line, column = self._places.get(known, (1, 1) if self._places else (0, 0))
        self.mistakes.append(Mistake(line=line, column=column, key=_dotted(path), text=text, advice=advice))

    def unknown(self, path: Path, key: str, known: Collection[str]) -> None:
        near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
        homes = [f"[{name}]" for name, fields in _TABLES.items() if key in fields and (name,) != path]
        if key in _DATA and not homes and path != ("data",):
            homes = ["[[data]]"]
        if near:
            advice = f"Did you mean {near[0]!r}?"
        elif homes:
            advice = f"It belongs into {homes[0]}"
        else:
            advice = f"Known here: {', '.join(known)}"
        self.mistake((*path, key), "there is no such key" if path else "there is no such table or key", advice)

    def table(self, value: Any, path: Path, fields: Mapping[str, _Field]) -> dict[str, Any]:
        """The good values of a table with fixed keys."""
        if not self.is_table(value, path):
            return {}
        good = {}
        for key, item in value.items():
            if key not in fields:
                self.unknown(path, key, tuple(fields))
            elif self._fits(item, (*path, key), fields[key]):
                good[key] = item
        for key, field in fields.items():
            misspelt = any(
                difflib.get_close_matches(other, [key], cutoff=0.6) for other in value if other not in fields
            )
            if field.required and key not in value and not misspelt:
                self.mistake((*path, key), "it is missing", f"Add a line: {key} = …  ({field.hint or field.kind})")
        return good

    def scalars(self, value: Any, path: Path) -> dict[str, Any]:
        """The good values of a table with free keys: numbers, texts and booleans."""
        if not self.is_table(value, path):
            return {}
        good = {}
        for key, item in value.items():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}", key):
                self.mistake((*path, key), "this is no usable name", "Begin with a letter; use letters, digits, '_'")
            elif not isinstance(item, str | bool | int | float):
                self.mistake(
                    (*path, key), f"it is {_kind(item)}", "Only numbers, texts and true or false may stand here"
                )
            elif self._finite(item, (*path, key)):
                good[key] = item
        return good

    def is_table(self, value: Any, path: Path) -> bool:
        if isinstance(value, dict):
            return True
        self.mistake(path, f"it is {_kind(value)}, and a table is needed", f"Write [{_dotted(path)}] on a line")
        return False

    def _fits(self, value: Any, path: Path, field: _Field) -> bool:
        if field.kind == "columns":
            return self._columns(value, path)
        if field.kind == "texts":
            if isinstance(value, list) and all(isinstance(item, str) and item.strip() for item in value):
                return True
            example = 'Write it like ["head.*"]' if path[0] == "personal" else 'Write it like ["scipy>=1.11"]'
            self.mistake(path, f"it is {_kind(value)}, and {_WORDS['texts']} is needed", example)
            return False
        good = {
            "integer": isinstance(value, int) and not isinstance(value, bool),
            "number": isinstance(value, int | float) and not isinstance(value, bool),
            "text": isinstance(value, str),
            "yes": isinstance(value, bool),
        }[field.kind]
        if not good:
            self.mistake(
                path, f"it is {_kind(value)}, and {_WORDS[field.kind]} is needed", _example(path, field, value)
            )
            return False
        if field.kind == "yes":
            return True
        return self._text(value, path, field) if field.kind == "text" else self._number(value, path, field)

    def _text(self, value: str, path: Path, field: _Field) -> bool:
        if field.choices and value not in field.choices:
            near = difflib.get_close_matches(value.lower(), field.choices, n=1, cutoff=0.5)
            advice = f"Did you mean {near[0]!r}? " if near else ""
            self.mistake(path, f"{value!r} is not allowed", f"{advice}Choose one of: {', '.join(field.choices)}")
        elif field.pattern and not re.fullmatch(field.pattern, value):
            self.mistake(path, f"{value!r} is not allowed", f"It is {field.hint}")
        elif field.high is not None and len(value) > field.high:
            self.mistake(path, f"it has {len(value)} characters", f"At most {field.high:.0f} are allowed")
        else:
            return True
        return False

    def _number(self, value: float, path: Path, field: _Field) -> bool:
        if not self._finite(value, path):
            return False
        low, high = field.low, field.high
        below = low is not None and (value <= low if field.above else value < low)
        if below or (high is not None and value > high):
            words = "above" if field.above else "at least"
            self.mistake(path, f"{value} is out of range", f"It is {words} {low} and at most {high}")
            return False
        return True

    def _finite(self, value: Any, path: Path) -> bool:
        if isinstance(value, float) and not math.isfinite(value):
            self.mistake(path, f"{value} is not a finite number", "Write an ordinary number")
            return False
        if isinstance(value, int) and not _INT64[0] <= value <= _INT64[1]:
            self.mistake(path, "the number has more than 64 bits", "Write a smaller number")
            return False
        return True

    def _columns(self, value: Any, path: Path) -> bool:
        if not isinstance(value, dict):
            self.mistake(
                path,
                f"it is {_kind(value)}, and a table is needed",
                'Write it like { age = "number", sex = "integer" }',
            )
            return False
        before = len(self.mistakes)
        for name, kind in value.items():
            if not isinstance(kind, str):
                self.mistake((*path, name), f"it is {_kind(kind)}", f"Choose one of: {', '.join(COLUMN_TYPES)}")
            else:
                self._text(kind, (*path, name), _Field(kind="text", choices=COLUMN_TYPES))
        return len(self.mistakes) == before


def _manifest(reader: _Reader, value: dict[str, Any], strategies: Collection[str]) -> JobManifest | None:
    for key in value:
        if key not in _KNOWN:
            reader.unknown((), key, _KNOWN)
    if "job" not in value:
        reader.mistake(("job",), "the table is missing", "Begin the file with [job], name, version and trainer")
    job = reader.table(value.get("job", {}), ("job",), _JOB) if "job" in value else {}
    for requirement in job.get("requirements", ()):
        if why := requirements.mistake(requirement):
            reader.mistake(("job", "requirements"), f"{requirement!r}: {why}", 'Write it like "scipy>=1.11"')
    kind = str(job.get("trainer", "")).partition(":")[0]
    if kind in requirements.IMPLIED and "model" not in job:
        reader.mistake(
            ("job", "trainer"), f"a {kind} application's model is not named", 'Add model = "task:Net" to [job]'
        )
    needs = _needs(reader, value.get("data", []))
    config = _config(reader, {k: v for k, v in value.items() if k in _KNOWN[2:]}, strategies, RunConfig())
    if reader.mistakes:
        return None
    job["requirements"] = tuple(job.get("requirements", ()))
    return JobManifest(**job, data=needs, config=config)


def _needs(reader: _Reader, value: Any) -> tuple[DataNeed, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        reader.mistake(
            ("data",), f"it is {_kind(value)}, and a list of tables is needed", "Write [[data]] for each need"
        )
        return ()
    needs: list[DataNeed] = []
    for index, item in enumerate(value):
        before = len(reader.mistakes)
        good = reader.table(item, ("data", index), _DATA)
        if len(reader.mistakes) > before:
            continue
        if any(need.alias == good["alias"] for need in needs):
            reader.mistake(("data", index, "alias"), f"{good['alias']!r} stands there twice", "Give each an own alias")
            continue
        needs.append(DataNeed(**good))
    return tuple(needs)


def _config(reader: _Reader, tables: Mapping[str, Any], strategies: Collection[str], base: RunConfig) -> RunConfig:
    """``base`` with the tables laid over it; mistakes go to the reader."""
    run: dict[str, Any] = reader.table(tables.get("run", {}), ("run",), _RUN)
    run.update(
        {key: float(item) for key, item in run.items() if key.endswith("_s") or key in ("min_delta", "most_norm")}
    )
    if run.get("patience", base.patience) and not run.get("best", base.best):
        reader.mistake(("run", "patience"), "it needs to know which model is better", 'Add best = "max eval/accuracy"')
    personal = reader.table(tables.get("personal", {}), ("personal",), _PERSONAL)
    for key, text, advice in personal_mistakes(personal, base):
        reader.mistake(("personal", key), text, advice)
    evaluation = reader.table(tables.get("evaluation", {}), ("evaluation",), _EVALUATION)
    communication = reader.table(tables.get("communication", {}), ("communication",), _COMMUNICATION)
    resources = reader.table(tables.get("resources", {}), ("resources",), _RESOURCES)
    free = {name: reader.scalars(tables.get(name, {}), (name,)) for name in _FREE}
    parameters = free["strategy"]
    name = parameters.pop("name", base.strategy)
    if not isinstance(name, str):
        reader.mistake(("strategy", "name"), f"it is {_kind(name)}, and a text in quotes is needed")
        name = base.strategy
    elif ":" in name:
        if not re.fullmatch(_ENTRY, name):
            hint = 'A strategy of the package is "module:Class", such as "strategy:Mine" for code/strategy.py'
            reader.mistake(("strategy", "name"), f"{name!r} is not allowed", hint)
    elif strategies and name not in strategies:
        near = difflib.get_close_matches(name.lower(), strategies, n=1)
        advice = f"Did you mean {near[0]!r}? " if near else ""
        known = f'{advice}Known: {", ".join(sorted(strategies))}; one of the package is "module:Class"'
        reader.mistake(("strategy", "name"), f"there is no strategy {name!r}", known)
    old = base.strategy_parameters if name == base.strategy else {}
    if "hours" in resources:
        resources["hours"] = float(resources["hours"])  # 2 and 2.0 are one configuration, so they are one digest
    training = reader.table(tables.get("training", {}), ("training",), _TRAINING)
    training.update({key: float(training[key]) for key in ("clip_norm", "stall_s") if key in training})
    encoding = run.get("encoding", base.encoding)
    shape = base.encoding_parameters if encoding == base.encoding else {}
    given = reader.scalars(tables.get("encoding", {}), ("encoding",))
    for key, text, advice in encodings.mistakes(encoding, given):
        reader.mistake(("encoding", key), text, advice)
    return replace(
        base,
        **run,
        encoding_parameters={**shape, **given},
        carrier=communication.get("carrier", base.carrier),
        resources=replace(base.resources, **resources),
        training=replace(base.training, **training),
        strategy=name,
        strategy_parameters={**old, **parameters},
        privacy={**base.privacy, **free["privacy"]},
        hyperparameters={**base.hyperparameters, **free["hyperparameters"]},
        personal_layers=tuple(personal.get("layers", base.personal_layers)),
        personal_steps=personal.get("finetune_steps", base.personal_steps),
        personal_epochs=personal.get("finetune_epochs", base.personal_epochs),
        personal_keep=personal.get("keep", base.personal_keep),
        central=evaluation.get("central", base.central),
        share_metrics=evaluation.get("share", base.share_metrics),
    )


def _syntax(error: tomllib.TOMLDecodeError, text: str) -> Mistake:
    found = re.search(r"\(at (?:line (\d+), column (\d+)|end of document)\)", str(error))
    words = re.sub(r"\s*\(at .*\)$", "", str(error))
    if found and found[1]:
        line, column = int(found[1]), int(found[2])
    else:
        line, column = text.count("\n") + 1, 1
    shown = text.splitlines()[line - 1].strip()[:80] if line <= len(text.splitlines()) else ""
    return Mistake(line=line, column=column, key="", text=words, advice=f"Correct this line: {shown}" if shown else "")


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        bare = part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else repr(part)
        text += f".{bare}" if text else bare
    return text


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, dict | list):
        return "a table" if isinstance(value, dict) else "a list"
    return "a date or time"


def _example(path: Path, field: _Field, value: Any) -> str:
    key = path[-1]
    if field.kind == "text":
        return f'Write it in quotes: {key} = "{value}"' if isinstance(value, int | float) else f'Write {key} = "…"'
    if field.kind == "yes":
        return f"Write {key} = true"
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d+\s*", value):
        return f"Leave out the quotes: {key} = {value.strip()}"
    return f"Write {key} = {10 if field.kind == 'integer' else 0.5}"


def _error(what: str, mistakes: list[Mistake], code: str = "OCT-JOB-TOML") -> UserError:
    first, *others = mistakes
    return UserError(
        code, f"{what}, {first}", "; ".join(f"also {m}" for m in others), first.advice or "Correct the line"
    )
