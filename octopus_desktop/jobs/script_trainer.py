"""Writes a trainer around the functions of a script that ``jobs.script`` has read.

The training's own lines are carried over as they stand: what the script's ``main()`` did with the model, the loader and
the optimiser, the trainer does with the model that the federation sends and the data that the silo approved. Names that
the script defines are reached as ``script.NAME``. Knows nothing of files or commands.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from octopus_desktop.jobs import script_templates as templates
from octopus_desktop.jobs.script import (
    READS,
    Found,
    ScriptReading,
    Value,
    bound,
    known_builtin,
    loads,
    made,
    method,
    refused,
)

ALIAS = "training"
BATCH = 32
_DISTRIBUTIONS = {"sklearn": "scikit-learn", "PIL": "pillow", "cv2": "opencv-python", "yaml": "pyyaml"}
_METRICS = {"correct": "accuracy", "acc": "accuracy", "loss": "loss", "f1": "f1", "auc": "auc"}
_PASSED_OVER = ("save", "print", "tqdm", "close", "add_scalar", "log", "info", "save_model", "flush", "show", "plot")


@dataclass(slots=True, kw_only=True)
class Scaffold:
    """``trainer``: the text of the trainer's module. ``data_kind``: table | arrays | folder. ``todo``: what a person
    should look at, by line of the script."""

    trainer: str
    hyperparameters: dict[str, Value]
    data_kind: str
    requirements: tuple[str, ...]
    todo: list[Found] = field(default_factory=list)


def scaffold(reading: ScriptReading, module: str) -> Scaffold:
    """``module``: the name by which the script can be imported from ``code/``.

    Raises:
        UserError: OCT-JOB-TRAINER: the training needs something that cannot be found without running the script.
    """
    return _Writer(reading, module).write()


class _Writer:
    def __init__(self, reading: ScriptReading, module: str) -> None:
        self._reading, self._module = reading, module
        self._values: dict[str, Value] = {k: v for k, v in reading.options.items() if v is not None}
        self._todo: list[Found] = []
        self._held_out = False

    def write(self) -> Scaffold:
        reading = self._reading
        models = [name for name, role in reading.roles.items() if role == "model"]
        if len(models) > 1:
            raise refused(
                reading.name,
                0,
                f"It makes {len(models)} models ({', '.join(models)}), and one model travels.",
                "Put them into one Module that holds all of them, or write the trainer by hand (octopus jobs new DIR).",
            )
        self._model = models[0]
        self._training, self._range = self._find_training()
        kind, data = self._data()
        build = self._body(self._build(), model=False)
        train = self._train()
        evaluate = self._evaluate()
        self._look()
        uses_args = any("self._arguments(ctx)" in line for line in (*build, *train, *evaluate))
        text = templates.TRAINER.format(
            script=reading.name,
            module=self._module,
            argparse="from argparse import Namespace\n\n" if uses_args else "",
            numpy="import numpy as np\n" if "np." in data else "",
            build=_indented(build),
            train=_indented(train),
            evaluate=templates.EVALUATE.format(body=_indented(evaluate)) if evaluate else "",
            data=data,
            arguments=self._arguments() if uses_args else "",
        )
        return Scaffold(
            trainer=text,
            hyperparameters=self._values,
            data_kind=kind,
            requirements=tuple(_DISTRIBUTIONS.get(m, m) for m in reading.modules),
            todo=self._todo,
        )

    # what is trained

    def _find_training(self) -> tuple[list[ast.stmt], ast.For | None]:
        """The statements that train, and the loop over epochs around them, if there is one."""
        reading = self._reading
        for statement in reading.statements:
            if not reading.trains(statement):
                continue
            if isinstance(statement, ast.For) and self._counts(statement.iter):
                return statement.body, statement
            break
        return [s for s in reading.statements if reading.trains(s)], None

    def _counts(self, node: ast.expr) -> bool:
        return method(_bare(node)) == "range"

    def _train(self) -> list[str]:
        kept = self._kept(self._training)
        passes: list[ast.stmt] = list(kept)
        metrics: dict[str, str] = {}
        for statement in kept:
            metrics |= self._metrics(statement) if isinstance(statement, ast.Assign) else {}
        if self._range is not None:
            loop = copy.deepcopy(self._range)
            loop.body, loop.orelse = kept, []
            passes = self._epochs(loop)
        lines = self._body(passes, model=True, loader="train")
        if metrics:
            lines.append(f"return {{{', '.join(f'{k!r}: float({v})' for k, v in metrics.items())}}}")
        return lines

    def _epochs(self, loop: ast.For) -> list[ast.stmt]:
        """The loop over epochs, told to the administrator's window; its number is a hyperparameter."""
        count = _bare(loop.iter)
        assert isinstance(count, ast.Call)
        bounds = list(count.args)
        last = bounds[0] if len(bounds) == 1 else bounds[1]
        number = self._reading.constant(last)
        if isinstance(number, int) and len(bounds) == 1:
            self._values.setdefault("epochs", number)
            bounds = [_expression('int(ctx.hyperparameters["epochs"])')]
            self._todo.append(
                Found(what="epochs", line=loop.lineno, text=f"each silo trains {number} epochs in every round; 1 to 5 "
                      "are usual: set 'epochs' under [hyperparameters]")
            )  # fmt: skip
        if len(bounds) == 1:
            loop.iter = _call("ctx.epochs", bounds)
            return [loop]
        numbers = ast.Assign(targets=[ast.Name(id="numbers", ctx=ast.Store())], value=_call("range", bounds))
        loop.iter = _expression("zip(numbers, ctx.epochs(len(numbers)))")
        loop.target = ast.Tuple(elts=[loop.target, ast.Name(id="_", ctx=ast.Store())], ctx=ast.Store())
        return [ast.copy_location(numbers, loop), loop]

    def _kept(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        """Without what a silo does not do: judging after each epoch, saving, drawing, and what is made of these."""
        lost: set[str] = set()
        kept: list[ast.stmt] = []
        for statement in body:
            calls = [n for n in ast.walk(statement) if isinstance(n, ast.Call)]
            judges = any(self._reading.evaluates(method(c)) for c in calls)
            aside = isinstance(statement, ast.Expr) and method(statement.value) in _PASSED_OVER
            made_of_lost = any(n.id in lost for n in loads(statement))
            if (judges or aside or made_of_lost) and not self._reading.trains(statement):
                lost |= set(bound(statement))
                continue
            kept.append(statement)
        return kept

    # how it is judged

    def _evaluate(self) -> list[str]:
        reading = self._reading
        everywhere: list[ast.stmt] = [*reading.statements, *(self._range.body if self._range else [])]
        judged = [
            s for s in everywhere
            if isinstance(s, ast.Assign | ast.Expr) and reading.evaluates(method(s.value)) and not reading.trains(s)
        ]  # fmt: skip
        if not judged:
            self._todo.append(
                Found(what="evaluate", line=0, text="no function judges the model on test data: write evaluate(), so "
                      "that the federation sees how good the model is")
            )  # fmt: skip
            return []
        statement = next((s for s in judged if self._metrics(s)), judged[0])
        metrics = self._metrics(statement)
        function = reading.functions[method(statement.value)]
        if not metrics:
            self._todo.append(
                Found(what="evaluate", line=function.lineno, text=f"{function.name}() returns nothing: let it return "
                      "its loss and accuracy, and return them from evaluate() as {'accuracy': …}")
            )  # fmt: skip
        lines = self._body([statement], model=True, loader="evaluate")
        if isinstance(statement, ast.Expr) and metrics:
            lines[-1] = (
                f"{', '.join(metrics)}{',' if len(metrics) == 1 and self._is_tuple(function) else ''} = {lines[-1]}"
            )
        said = ", ".join(f"{k!r}: float({v})" for k, v in metrics.items())
        return [*lines, f"return {{{said}}}"]

    def _metrics(self, statement: ast.stmt) -> dict[str, str]:
        """Name -> the expression that holds it, of what a function of the script returns; {} when that is no number."""
        value = statement.value if isinstance(statement, ast.Assign | ast.Expr) else None
        function = self._reading.functions.get(method(value)) if value is not None else None
        if function is None:
            return {}
        returned = [n.value for n in ast.walk(function) if isinstance(n, ast.Return) and n.value is not None]
        if not returned or any(isinstance(r, ast.Dict | ast.List | ast.Constant) for r in returned):
            return {}
        no_numbers = {a.arg for a in function.args.args}  # the model itself, back again
        for inner in (n for n in ast.walk(function) if isinstance(n, ast.Assign)):
            if isinstance(inner.value, ast.List | ast.Dict | ast.ListComp):
                no_numbers |= set(bound(inner))
        if any(n.id in no_numbers for r in returned for n in getattr(r, "elts", [r]) if isinstance(n, ast.Name)):
            return {}
        if isinstance(statement, ast.Assign):
            names = bound(statement)
        else:
            names = [_called(part, number) for number, part in enumerate(getattr(returned[-1], "elts", [returned[-1]]))]
        return {name: name for name in names if name != "_"} if len(set(names)) == len(names) else {}

    def _is_tuple(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
        return any(isinstance(n, ast.Return) and isinstance(n.value, ast.Tuple) for n in ast.walk(function))

    # the lines

    def _build(self) -> list[ast.stmt]:
        value = self._reading.assigned(self._model)
        assert value is not None
        return [ast.copy_location(ast.Return(value=made(value)), value)]

    def _body(self, wanted: Sequence[ast.stmt], *, model: bool, loader: str = "") -> list[str]:
        """The lines for ``wanted``, after those that make what they need."""
        statements = self._reading.statements
        lines: dict[int, str] = {}  # by the place in the script, so that each comes after what it needs
        makers: dict[int, ast.stmt] = {}
        local: set[str] = {"ctx"}
        together = {name for statement in wanted for name in _inner(statement)}
        todo: list[ast.AST] = list(wanted)
        while todo:
            node = todo.pop()
            own = together if node in wanted else _inner(node)
            for name in [*loads(node), *(n for n in ast.walk(node) if isinstance(n, ast.Name) and n.id in own)]:
                if name.id in local:
                    continue
                maker = self._maker(name.id)
                place = statements.index(maker) if maker in statements else -1 - len(local)
                role = self._reading.roles.get(name.id, "")
                given = self._given(name.id, role if model or role != "model" else "", loader, todo)
                if given is not None:
                    lines[place] = given
                elif maker is not None and maker not in wanted:
                    self._refuse_own_data(maker)
                    makers[place] = maker
                    local |= set(bound(maker))
                    todo.append(maker)
                elif name.id not in own and name.id not in self._reading.globals and not known_builtin(name.id):
                    raise refused(
                        self._reading.name,
                        getattr(name, "lineno", 0),
                        f"The training uses {name.id!r}, and where that comes from is not clear.",
                        "Make it at the beginning of main(), in a line of its own, or give it as a parameter.",
                    )
                if given is not None or name.id in own:
                    local.add(name.id)
        lines |= {place: self._text(maker, local) for place, maker in makers.items()}
        return [*(lines[i] for i in sorted(lines) if lines[i]), *(self._text(s, local) for s in wanted)]

    def _refuse_own_data(self, maker: ast.stmt) -> None:
        for call in (n for n in ast.walk(maker) if isinstance(n, ast.Call)):
            if method(call) in READS or any(k.arg == "download" for k in call.keywords):
                raise refused(
                    self._reading.name,
                    maker.lineno,
                    f"The training uses {' and '.join(bound(maker))}, which the script reads from a file of its own.",
                    "At a silo the data come from the runtime: make a DataLoader in main(), and pass that.",
                )

    def _given(self, name: str, role: str, loader: str, todo: list[ast.AST]) -> str | None:
        """The line by which the runtime gives what the script made itself; None: it does not."""
        if role == "args":
            return f"{name} = self._arguments(ctx)"
        if role == "model" and name == self._model:
            return "" if name == "model" else f"{name} = model"
        if role == "device":
            return f"{name} = ctx.device"
        if role in ("loader", "test_loader"):
            size, more = self._loader_words(name)
            for node in (size, *more.values()):
                todo.append(node)
            words = "".join(f", {key}={self._text(node, self._local_names())}" for key, node in more.items())
            data = "self._data(ctx, test=True)" if role == "test_loader" and self._held_out else "self._data(ctx)"
            return f"{name} = ctx.loader({data}, batch_size={self._text(size, self._local_names())}{words})"
        return None

    def _local_names(self) -> set[str]:
        return {n for s in self._reading.statements if isinstance(s, ast.Assign) for n in bound(s)}

    def _loader_words(self, name: str) -> tuple[ast.expr, dict[str, ast.expr]]:
        value = self._reading.assigned(name)
        words: dict[str, ast.expr] = {}
        if isinstance(value, ast.Call) and method(value) == "DataLoader":
            words = {k.arg: k.value for k in value.keywords if k.arg}
            for spread in (k.value for k in value.keywords if not k.arg):
                table = self._reading.assigned(spread.id) if isinstance(spread, ast.Name) else spread
                if isinstance(table, ast.Dict):
                    for key, item in zip(table.keys, table.values, strict=True):
                        if isinstance(key, ast.Constant):
                            words.setdefault(str(key.value), item)
            if len(value.args) > 1:
                words.setdefault("batch_size", value.args[1])
        size = words.get("batch_size")
        number = self._reading.constant(size) if size is not None else BATCH
        if size is None or isinstance(number, int):
            self._values.setdefault("batch_size", number if number is not None else BATCH)
            size = _expression('int(ctx.hyperparameters["batch_size"])')
        return size, {k: v for k, v in words.items() if k in ("collate_fn", "drop_last")}

    def _maker(self, name: str) -> ast.stmt | None:
        return next(
            (s for s in reversed(self._reading.statements) if isinstance(s, ast.Assign) and name in bound(s)), None
        )

    def _text(self, node: ast.AST, local: Iterable[str] = ()) -> str:
        changed = _ThroughScript(self._reading.globals - set(local)).visit(copy.deepcopy(node))
        return ast.unparse(ast.fix_missing_locations(changed))

    def _arguments(self) -> str:
        missing = "".join(f'"{k}": None, ' for k, v in self._reading.options.items() if v is None)
        return templates.ARGUMENTS.format(missing=missing)

    # the data

    def _data(self) -> tuple[str, str]:
        """(kind of the need, the method that makes the examples)."""
        reading = self._reading
        names = [n for n, r in reading.roles.items() if r == "loader"] or [
            n for n, r in reading.roles.items() if r == "test_loader"
        ]
        value = reading.assigned(names[0]) if names else None
        first = value.args[0] if isinstance(value, ast.Call) and value.args else None
        source = reading.assigned(first.id) if isinstance(first, ast.Name) else first
        own = reading.classes.get(method(source)) if source is not None else None
        text = ast.unparse(own if own is not None else reading.tree)
        kind = "table" if "read_csv" in text or "genfromtxt" in text or "loadtxt" in text else "arrays"
        line = getattr(source, "lineno", 0)
        if own is not None:
            begins = _init(own)
            required = len(begins.args.args) - 1 - len(begins.args.defaults) if begins else 0
            if required == 1:
                if kind == "arrays" and not any(w in text for w in ("np.load", "numpy.load")):
                    kind = "folder"
                self._todo.append(
                    Found(what="data", line=own.lineno, text=f"{own.name} is given the path of the silo's approved "
                          f"{kind}; it may read that and nothing else")
                )  # fmt: skip
                return kind, templates.OWN_DATA.format(name=own.name, alias=ALIAS)
        self._todo.append(
            Found(what="data", line=line, text="the script's own data stay behind: _data() in the trainer reads the "
                  f"silo's approved {kind}; see that it gives examples in the shape that the model wants")
        )  # fmt: skip
        maker = (templates.TABLE if kind == "table" else templates.ARRAYS).format(alias=ALIAS)
        self._held_out = {"loader", "test_loader"} <= set(reading.roles.values())
        if self._held_out:
            self._todo.append(
                Found(what="data", line=line, text="the script tests on data of its own, so every fifth example of a "
                      "silo is for tests alone: see _data()")
            )  # fmt: skip
        return kind, (templates.HELD_OUT if self._held_out else templates.ALL).format(maker=maker)

    def _look(self) -> None:
        reading = self._reading
        for name, role in reading.roles.items():
            for function in reading.functions.values():
                given = {a.arg for a in (*function.args.args, *function.args.kwonlyargs)}
                names = {n.id for n in loads(function)} - given - {b for s in function.body for b in bound(s)}
                if name in names and name in reading.globals and role in ("device", "args"):
                    self._todo.append(
                        Found(what=role, line=function.lineno, text=f"{function.name}() uses the script's own {name}: "
                              "give it as a parameter")
                    )  # fmt: skip
        for found in reading.found:
            if found.what == "optimizer":
                text = "the optimiser begins anew in each round; what a scheduler should know of past rounds, take from"
                self._todo.append(Found(what="optimizer", line=found.line, text=f"{text} ctx.round"))
                break
        if reading.modules:
            self._todo.append(
                Found(what="requirements", line=0, text=f"{', '.join(reading.modules)} must be installed at the silos: "
                      "see 'requirements' in job.toml")
            )  # fmt: skip


class _ThroughScript(ast.NodeTransformer):
    """``Net`` -> ``script.Net``, for what the script defines."""

    def __init__(self, names: frozenset[str] | set[str]) -> None:
        self._names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        if node.id in self._names and isinstance(node.ctx, ast.Load):
            return ast.Attribute(value=ast.Name(id="script", ctx=ast.Load()), attr=node.id, ctx=ast.Load())
        return node


def _inner(node: ast.AST) -> set[str]:
    """Names that comprehensions, lambdas and loops inside of a node bind themselves."""
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    return names | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}


def _bare(node: ast.expr) -> ast.expr:
    """``range(3)`` of ``tqdm(range(3))``."""
    if isinstance(node, ast.Call) and method(node) in ("tqdm", "trange") and node.args:
        return _call("range", node.args[:1]) if method(node) == "trange" else node.args[0]
    return node


def _call(name: str, arguments: Sequence[ast.expr]) -> ast.expr:
    made_call = _expression(f"{name}()")
    assert isinstance(made_call, ast.Call)
    made_call.args = list(arguments)
    return made_call


def _expression(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def _called(part: ast.expr, number: int) -> str:
    """A name for one of the numbers that a function returns."""
    if isinstance(part, ast.Name):
        return part.id
    text = ast.unparse(part).lower()
    return next((n for word, n in _METRICS.items() if word in text), f"score{number + 1}")


def _init(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)


def _indented(lines: Sequence[str]) -> str:
    return "\n".join("        " + part for line in lines for part in line.splitlines())
