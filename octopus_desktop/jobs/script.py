"""A plain PyTorch script, read and never run: what it trains, how, and where that stands.

Gives ``ScriptReading``, from which ``jobs.script_trainer`` writes a trainer around the script's own functions. Knows
nothing of files, commands or torch.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from octopus_desktop.wire.errors import UserError

Function = ast.FunctionDef | ast.AsyncFunctionDef
Value = float | int | str | bool
PROVIDED = frozenset({"torch", "numpy", "octopus_desktop", "safetensors", "pyarrow", "__future__"})
READS = ("read_csv", "read_parquet", "loadtxt", "genfromtxt", "load", "open", "fromfile", "load_dataset")
_WRAPPERS = ("DataParallel", "DistributedDataParallel", "DDP", "compile")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One thing that was found, or is to be done: ``line`` from 1, 0 for the whole script."""

    what: str
    line: int
    text: str


@dataclass(slots=True, kw_only=True)
class ScriptReading:
    """``statements``: the lines that run when the script is started, the body of ``main()`` in the place of its call.
    ``roles``: local name -> model | optimizer | loss | loader | test_loader | device | args. ``options``: what
    argparse takes, with its defaults; None where there is none. ``modules``: imported top names that neither Python nor
    this runtime brings."""

    name: str
    tree: ast.Module
    functions: dict[str, Function]
    classes: dict[str, ast.ClassDef]
    globals: frozenset[str]
    statements: list[ast.stmt] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    options: dict[str, Value | None] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    found: list[Found] = field(default_factory=list)

    def trains(self, node: ast.AST) -> bool:
        """Whether a backward pass happens in it or in a function of the script that it calls."""
        return self._reaches(node, lambda call: method(call) == "backward", set())

    def evaluates(self, name: str) -> bool:
        """Whether this function of the script judges a model: it switches to evaluation and never goes backward."""
        function = self.functions.get(name)
        if function is None or self.trains(function):
            return False
        return any(
            (isinstance(n, ast.Call) and method(n) == "eval")
            or (isinstance(n, ast.Attribute) and n.attr in ("no_grad", "inference_mode"))
            for n in ast.walk(function)
        )

    def assigned(self, name: str) -> ast.expr | None:
        """What a name was last given at the level of ``statements``."""
        return next(
            (
                s.value
                for s in reversed(self.statements)
                if isinstance(s, ast.Assign) and name in bound(s) and isinstance(s.targets[0], ast.Name)
            ),
            None,
        )

    def constant(self, node: ast.expr) -> Value | None:
        """A literal, or a name that the script gives one."""
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str | bool):
            return node.value
        if isinstance(node, ast.Name):
            for statement in (*reversed(self.statements), *reversed(self.tree.body)):
                if isinstance(statement, ast.Assign) and node.id in bound(statement):
                    value = statement.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, int | float | str | bool):
                        return value.value
                    return None
        return None

    def _reaches(self, node: ast.AST, wanted: object, seen: set[str]) -> bool:
        assert callable(wanted)
        for call in (n for n in ast.walk(node) if isinstance(n, ast.Call)):
            if wanted(call):
                return True
            name = call.func.id if isinstance(call.func, ast.Name) else ""
            if name in self.functions and name not in seen:
                seen.add(name)
                if self._reaches(self.functions[name], wanted, seen):
                    return True
        return False


def read_script(source: str, name: str) -> ScriptReading:
    """``name``: the file's name, for messages.

    Raises:
        UserError: OCT-JOB-TRAINER: it is no valid Python, it trains when it is imported (with the line, and what to
            do), or there is no model or no training in it.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 0) or 0
        raise refused(name, line, str(getattr(error, "msg", error)), "Correct the script first.") from None
    functions = {n.name: n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}
    classes = {n.name: n for n in tree.body if isinstance(n, ast.ClassDef)}
    top = frozenset(n for s in tree.body if not _is_main(s) for n in bound(s))
    reading = ScriptReading(name=name, tree=tree, functions=functions, classes=classes, globals=top)
    _refuse_module_level(reading, source)
    reading.statements = _started(reading)
    reading.options = _options(reading)
    reading.modules = _modules(reading)
    _give_roles(reading)
    if "model" not in reading.roles.values():
        models = [c for c in classes.values() if is_module(c)]
        where = f"There is {models[0].name}, but main() never makes one." if models else "No class derives from Module."
        raise refused(
            name,
            0,
            f"No model was found. {where}",
            'Make the model in main(), as in model = Net(), and call main() under if __name__ == "__main__".',
        )
    if not any(reading.trains(s) for s in reading.statements):
        raise refused(
            name,
            0,
            "No training was found: nothing that main() does calls loss.backward().",
            'Call the training from main(), and main() under if __name__ == "__main__".',
        )
    return reading


def refused(name: str, line: int, why: str, next_step: str) -> UserError:
    place = f"{name}, line {line}" if line else name
    return UserError("OCT-JOB-TRAINER", f"No job can be made around {place}.", why, next_step)


def bound(statement: ast.stmt) -> list[str]:
    """The names that a statement gives a value at its own level."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [statement.name]
    if isinstance(statement, ast.Import):
        return [a.asname or a.name.split(".")[0] for a in statement.names]
    if isinstance(statement, ast.ImportFrom):
        return [a.asname or a.name for a in statement.names]
    return [n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)]


def method(call: ast.AST) -> str:
    """``backward`` of ``loss.backward()``, ``DataLoader`` of ``DataLoader(…)`` or ``data.DataLoader(…)``."""
    if not isinstance(call, ast.Call):
        return ""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def made(value: ast.expr) -> ast.expr:
    """Without ``.to(device)``, ``.cuda()``, ``DataParallel(…)``: the runtime does that."""
    while isinstance(value, ast.Call):
        if isinstance(value.func, ast.Attribute) and value.func.attr in ("to", "cuda", "cpu", "train", "float"):
            value = value.func.value
        elif method(value) in _WRAPPERS and value.args:
            value = value.args[0]
        else:
            break
    return value


def is_module(node: ast.ClassDef) -> bool:
    """By the name of its base: ``nn.Module``, or another class that is called a module or net."""
    return any(ast.unparse(b).rpartition(".")[2] in ("Module", "Sequential", "LightningModule") for b in node.bases)


def loads(node: ast.AST) -> Iterator[ast.Name]:
    return (n for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load))


def known_builtin(name: str) -> bool:
    return hasattr(builtins, name)


def _is_main(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.If) and "__name__" in ast.unparse(statement.test)


def _refuse_module_level(reading: ScriptReading, source: str) -> None:
    """A silo imports the script: what stands outside of functions would run there, at each worker's start."""
    lines = source.splitlines()
    for statement in reading.tree.body:
        if _is_main(statement) or isinstance(
            statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom
        ):
            continue
        what = _runs(reading, statement)
        if not what:
            continue
        last = max((s.end_lineno or s.lineno) for s in reading.tree.body if not _is_main(s))
        shown = lines[statement.lineno - 1].strip()[:80]
        raise refused(
            reading.name,
            statement.lineno,
            f"'{shown}' {what} as soon as the script is imported, and a silo's workers import it.",
            f"Put lines {statement.lineno} to {last}, or what of them does work, into a function 'def main():', call "
            f"it under 'if __name__ == \"__main__\":', and give this command again.",
        )


def _runs(reading: ScriptReading, statement: ast.stmt) -> str:
    if reading.trains(statement):
        return "trains"
    for call in (n for n in ast.walk(statement) if isinstance(n, ast.Call)):
        name = method(call)
        if name in ("parse_args", "parse_known_args"):
            return "reads the command line"
        if name == "DataLoader" or any(k.arg == "download" for k in call.keywords):
            return "opens the data"
        if name in READS and name != "load":
            return "reads a file"
        if name in reading.classes and is_module(reading.classes[name]):
            return "makes a model that only this script's own functions know"
        if name in reading.functions and isinstance(statement, ast.Expr):
            return f"calls {name}()"
    return ""


def _started(reading: ScriptReading) -> list[ast.stmt]:
    """What runs when the script is started: the block under ``__name__``, with the body of the functions that it only
    calls (main) in the place of the call."""
    block = next((s for s in reading.tree.body if _is_main(s)), None)
    if not isinstance(block, ast.If):
        main = reading.functions.get("main")
        if main is None:
            raise refused(
                reading.name,
                0,
                'It has neither main() nor a block under if __name__ == "__main__", so where it begins is not clear.',
                'Put what starts the training into def main():, called under if __name__ == "__main__".',
            )
        return list(main.body)
    return list(_inlined(reading, block.body, ()))


def _inlined(reading: ScriptReading, body: Sequence[ast.stmt], inside: tuple[str, ...]) -> Iterator[ast.stmt]:
    for statement in body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        name = method(call) if call else ""
        function = reading.functions.get(name)
        if not isinstance(call, ast.Call) or function is None or name in inside or not _sets_up(function):
            yield statement
            continue
        names = [a.arg for a in function.args.args]
        given = {**dict(zip(names, call.args, strict=False)), **{k.arg: k.value for k in call.keywords if k.arg}}
        defaults = dict(zip(reversed(names), reversed(function.args.defaults), strict=False))
        for parameter in names:
            value = given.get(parameter, defaults.get(parameter))
            if value is not None and not (isinstance(value, ast.Name) and value.id == parameter):
                assign = ast.Assign(targets=[ast.Name(id=parameter, ctx=ast.Store())], value=value)
                yield ast.fix_missing_locations(ast.copy_location(assign, call))
        yield from _inlined(reading, function.body, (*inside, name))


def _sets_up(function: Function) -> bool:
    """Whether it makes an optimiser or a DataLoader and is not given a model: main, under whatever name."""
    names = {a.arg for a in function.args.args}
    calls = {method(n) for n in ast.walk(function)}
    return not names & {"model", "net"} and ("DataLoader" in calls or function.name in ("main", "run"))


def _options(reading: ScriptReading) -> dict[str, Value | None]:
    options: dict[str, Value | None] = {}
    for call in (n for n in ast.walk(reading.tree) if method(n) == "add_argument"):
        assert isinstance(call, ast.Call)
        flags = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        words = {k.arg: k.value for k in call.keywords if k.arg}
        long = next((f for f in flags if f.startswith("--")), flags[0] if flags else "")
        dest = words.get("dest")
        name = str(dest.value) if isinstance(dest, ast.Constant) else long.lstrip("-").replace("-", "_")
        if not name.isidentifier():
            continue
        action = ast.unparse(words["action"]).strip("'\"") if "action" in words else ""
        default: Value | None = {"store_true": False, "store_false": True}.get(action)
        try:
            given = ast.literal_eval(words["default"]) if "default" in words else default
        except ValueError:
            given = reading.constant(words["default"])
        options[name] = given if isinstance(given, int | float | str | bool) else None
    return options


def _modules(reading: ScriptReading) -> tuple[str, ...]:
    """Not those that only main() imports: it stays behind."""
    tops: set[str] = set()
    behind = {id(n) for statement in reading.statements for n in ast.walk(statement)}
    for node in (n for n in ast.walk(reading.tree) if id(n) not in behind):
        if isinstance(node, ast.Import):
            tops |= {a.name.split(".")[0] for a in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            tops.add(node.module.split(".")[0])
    return tuple(sorted(tops - PROVIDED - sys.stdlib_module_names))


def _give_roles(reading: ScriptReading) -> None:
    for statement in reading.tree.body:
        if isinstance(statement, ast.Assign) and _role(reading, statement.value) == "device":
            reading.roles |= dict.fromkeys(bound(statement), "device")
    for statement in reading.statements:
        if not isinstance(statement, ast.Assign):
            continue
        names = bound(statement)
        role = _role(reading, statement.value)
        for name in names:
            own = role
            if "loader" in name.lower() or "dl" in name.lower().split("_") or role == "loader":
                tests = any(word in name.lower() for word in ("test", "val", "eval"))
                own = "test_loader" if tests else "loader"
            if own and (len(names) == 1 or "loader" in own):
                reading.roles[name] = own
                reading.found.append(Found(what=own, line=statement.lineno, text=ast.unparse(statement)[:120]))


def _role(reading: ScriptReading, value: ast.expr) -> str:
    inner = made(value)
    name = method(inner)
    text = ast.unparse(value)
    if name in reading.classes and is_module(reading.classes[name]):
        return "model"
    if name in ("parse_args", "parse_known_args") or (
        name in reading.functions and any(method(n) == "parse_args" for n in ast.walk(reading.functions[name]))
    ):
        return "args"
    if name == "DataLoader":
        return "loader"
    if ".parameters()" in text and isinstance(inner, ast.Call):
        return "optimizer"
    if name == "device" or ("cuda" in text and "cpu" in text):
        return "device"
    if name.endswith("Loss"):
        return "loss"
    if name == "Sequential" or (name.startswith(("resnet", "vgg", "efficientnet", "mobilenet", "densenet"))):
        return "model"
    return "model" if name in reading.functions and _returns_model(reading, reading.functions[name]) else ""


def _returns_model(reading: ScriptReading, function: Function) -> bool:
    made_here: Mapping[str, ast.expr] = {
        n: s.value for s in function.body if isinstance(s, ast.Assign) for n in bound(s)
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Return) and node.value is not None:
            value = made_here.get(node.value.id, node.value) if isinstance(node.value, ast.Name) else node.value
            name = method(made(value))
            if name == "Sequential" or (name in reading.classes and is_module(reading.classes[name])):
                return True
    return False
