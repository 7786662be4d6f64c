"""A static look at a job's code: what a reviewer should read twice. Advice, not a wall: the sandbox is the wall.

Nothing is imported or run; files are parsed. Each finding names severity (high | medium | low | info), rule, path,
line, what was seen, and what to do. Knows no SDK: that a trainer derives from ``ClientTrainer`` is told by the name.
"""

from __future__ import annotations

import ast
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from octopus_desktop.jobs import applications, requirements
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import Finding

ORDER = ("high", "medium", "low", "info")
LARGE_BYTES = 1 << 20
LONG_LINE = 1000
MOST_FINDINGS = 500
CODE = "code/"
STRATEGY_BASES = ("Synchronous", "Asynchronous", "Pairwise", "Common")
_TEXT_SUFFIXES = (".py", ".toml", ".json", ".txt", ".md", ".csv", ".yaml", ".yml", ".cfg", ".ini", ".rst")
_NATIVE = {b"\x7fELF": "a Linux binary", b"MZ": "a Windows binary", b"\xcf\xfa\xed\xfe": "a macOS binary"}
_NATIVE_SUFFIXES = (".so", ".dll", ".dylib", ".pyd", ".a", ".o", ".exe", ".pyc")
_ENCODED = re.compile(r"[A-Za-z0-9+/=_-]{400,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    severity: str
    text: str
    advice: str


RULES: Mapping[str, Rule] = {
    "network": Rule(
        severity="high",
        text="can open network connections ({seen})",
        advice="A job needs no network of its own; workers have none. Ask the author why it is there.",
    ),
    "process": Rule(
        severity="high",
        text="starts, ends or replaces processes ({seen})",
        advice="Training needs no other programs. Ask the author why it is there.",
    ),
    "eval": Rule(
        severity="high",
        text="runs code that is made at run time ({seen})",
        advice="What it runs cannot be read here. Ask for plain code.",
    ),
    "native": Rule(
        severity="high",
        text="reaches native code ({seen})",
        advice="Native code cannot be reviewed here and passes by Python's rules. Ask for plain PyTorch.",
    ),
    "pickle": Rule(
        severity="high",
        text="loads a format that can run code ({seen})",
        advice="Ask for safetensors, or torch.load(..., weights_only=True).",
    ),
    "introspection": Rule(
        severity="high",
        text="reaches into the interpreter ({seen})",
        advice="Such names serve to get around restrictions. Ask the author why it is there.",
    ),
    "syntax": Rule(
        severity="high", text="is not valid Python: {seen}", advice="It cannot run. Ask for a repaired package."
    ),
    "hidden-text": Rule(
        severity="high",
        text="holds invisible or direction-changing characters ({seen})",
        advice="What you see is not what runs. Reject it unless the author has a reason.",
    ),
    "binary": Rule(severity="high", text="is {seen}, which cannot be read", advice="Ask for source code in its place."),
    "own-strategy": Rule(
        severity="medium",
        text="combines all silos' updates at the federation's server ({seen})",
        advice="It makes the model that every silo gets, and sees each silo's update. It runs there, not at your site.",
    ),
    "file": Rule(
        severity="medium",
        text="reads or writes files by itself ({seen})",
        advice="Data comes through ctx.dataset(alias). See which path it opens, and why.",
    ),
    "environment": Rule(
        severity="medium",
        text="looks at the machine or its environment ({seen})",
        advice="See that nothing of it goes into metrics or the model.",
    ),
    "dynamic-import": Rule(
        severity="medium",
        text="imports modules by computed names ({seen})",
        advice="See which modules these can be.",
    ),
    "data-file": Rule(
        severity="medium",
        text="is not text ({seen})",
        advice="See what reads it. Models and data do not belong into code/.",
    ),
    "threads": Rule(
        severity="low",
        text="starts threads or workers of its own ({seen})",
        advice="The runtime gives the workers; more of them cost speed and reproducibility.",
    ),
    "large": Rule(severity="low", text="is large ({seen})", advice="See what it is for."),
    "obscure": Rule(severity="low", text="is hard to read ({seen})", advice="Ask for readable source."),
    "requirements": Rule(
        severity="low",
        text="wants packages beside PyTorch ({seen})",
        advice="Only what you installed is there; they are code of third parties.",
    ),
}

_MODULES: Mapping[str, tuple[str, ...]] = {
    "network": (
        "socket", "ssl", "http", "urllib", "urllib3", "requests", "httpx", "aiohttp", "ftplib", "smtplib", "poplib",
        "imaplib", "telnetlib", "xmlrpc", "socketserver", "paramiko", "websocket", "websockets", "grpc", "zmq", "boto3",
        "botocore", "paho", "huggingface_hub", "wandb", "mlflow", "torch.hub", "torch.distributed.rpc", "webbrowser",
    ),
    "process": ("subprocess", "pty", "pexpect", "signal"),
    "native": ("ctypes", "cffi", "cppyy", "numba", "triton", "torch.utils.cpp_extension", "mmap"),
    "pickle": ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"),
    "introspection": ("gc", "inspect", "builtins", "code", "codeop", "faulthandler", "_thread"),
    "environment": ("getpass", "platform", "psutil", "pwd", "grp", "netifaces", "uuid"),
    "dynamic-import": ("importlib", "imp", "runpy", "pkgutil", "zipimport"),
    "threads": ("threading", "multiprocessing", "concurrent", "asyncio", "torch.multiprocessing"),
    "file": ("shutil", "tempfile", "glob", "sqlite3", "zipfile", "tarfile"),
}  # fmt: skip
_NAMES: Mapping[str, tuple[str, ...]] = {
    "eval": ("eval", "exec", "compile", "types.FunctionType", "types.CodeType"),
    "process": (
        "os.system", "os.popen", "os.fork", "os.forkpty", "os.kill", "os.killpg", "os._exit", "os.abort", "os.setuid",
        "os.posix_spawn", "os.posix_spawnp", "os.startfile",
    ),
    "dynamic-import": ("__import__",),
    "introspection": (
        "globals", "vars", "locals", "sys.modules", "sys.settrace", "sys.setprofile", "sys._getframe", "sys.meta_path",
        "sys.addaudithook", "breakpoint",
    ),
    "environment": ("os.environ", "os.getenv", "os.environb", "os.uname", "os.getlogin", "os.cpu_count", "sys.argv"),
    "file": (
        "open", "io.open", "os.open", "os.listdir", "os.scandir", "os.walk", "os.remove", "os.unlink", "os.rename",
        "os.replace", "os.makedirs", "os.mkdir", "os.rmdir", "os.chmod", "os.chdir", "os.symlink", "os.link",
        "pathlib.Path", "torch.save", "torch.from_file", "numpy.save", "numpy.savez", "numpy.savetxt",
        "numpy.loadtxt", "numpy.genfromtxt", "numpy.fromfile", "numpy.memmap", "pandas.read_csv", "pandas.read_parquet",
        "pandas.read_excel", "pandas.read_json", "pandas.read_sql", "safetensors.torch.save_file", "sys.path",
        "safetensors.torch.load_file", "torch.jit.load",
    ),
    "pickle": ("pandas.read_pickle", "torch.package.PackageImporter"),
    "threads": ("os.register_at_fork",),
    "native": ("torch.ops.load_library", "torch.classes.load_library"),
}  # fmt: skip
_PREFIXES = {"os.exec": "process", "os.spawn": "process", "torch.hub.": "network"}
_ATTRIBUTES = {
    "__globals__", "__builtins__", "__subclasses__", "__code__", "__closure__", "__mro__", "__bases__", "__loader__",
    "__getattribute__", "f_globals", "f_locals", "f_back", "gi_frame", "tb_frame", "__reduce__", "__reduce_ex__",
    "__setstate__",
}  # fmt: skip
_BY_MODULE = {module: rule for rule, modules in _MODULES.items() for module in modules}
_BY_NAME = {name: rule for rule, names in _NAMES.items() for name in names}


def find(files: Mapping[str, bytes], requirements: tuple[str, ...] = (), strategy: str = "") -> list[Finding]:
    """All findings in a package's files, the gravest first. ``strategy``: the run's, which may be the package's own."""
    found: dict[tuple[str, str, int], Finding] = {}
    if ":" in strategy:
        _add(found, "own-strategy", *_own_strategy(files, strategy), strategy)
    if requirements:
        _add(found, "requirements", "job.toml", 0, ", ".join(requirements)[:200])
    for path, data in sorted(files.items()):
        for rule, line, seen in _file(path, data):
            _add(found, rule, path, line, seen)
    ordered = sorted(found.values(), key=lambda f: (ORDER.index(f.severity), f.path, f.line))
    return ordered[:MOST_FINDINGS]


def check_trainer(files: Mapping[str, bytes], trainer: str) -> None:
    """Raises UserError OCT-JOB-TRAINER unless ``module:Class`` is there and derives from ClientTrainer, as far as can
    be told without running it."""
    module, _, name = trainer.partition(":")
    if module in requirements.IMPLIED and f"{CODE}{module}.py" not in files:
        applications.check(files, module, name)
        return
    _require_class(files, trainer, ("ClientTrainer",), lambda why: _no_trainer(trainer, why))


def check_strategy(files: Mapping[str, bytes], entry: str) -> None:
    """Raises UserError OCT-JOB-STRATEGY unless ``module:Class`` is there and derives from one of the SDK's strategies,
    as far as can be told without running it."""
    _require_class(files, entry, STRATEGY_BASES, lambda why: _no_strategy(entry, why))


def _require_class(
    files: Mapping[str, bytes], entry: str, wanted: tuple[str, ...], refused: Callable[[str], UserError]
) -> None:
    module, _, name = entry.partition(":")
    path = _place(files, module)
    try:
        tree = _parse(files[path])
    except KeyError:
        raise refused(f"{CODE}{module.replace('.', '/')}.py is not in the job") from None
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        raise refused(f"{path}, line {line}: {getattr(error, 'msg', error)}") from None
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    if name not in classes:
        import difflib

        near = difflib.get_close_matches(name, classes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise refused(f"{path} has no class {name!r}{hint}")
    aliases = _aliases(tree)
    bases, queue = [], [name]
    while queue:
        for expression in classes[queue.pop()].bases:
            dotted = _dotted(expression, aliases)
            bases.append(dotted)
            if dotted in classes and dotted not in bases[:-1]:
                queue.append(dotted)
    foreign = [b for b in bases if b not in classes]
    own = {"/".join(p.split("/")[1:]).removesuffix(".py").replace("/", ".") for p in files if p.endswith(".py")}
    ours = [b for b in foreign if b.rpartition(".")[0].lstrip(".") in own]
    if not any(b.rpartition(".")[2] in wanted for b in foreign) and not ours:
        raise refused(f"{path}, line {classes[name].lineno}: {name} does not derive from {' or '.join(wanted)}")


def _place(files: Mapping[str, bytes], module: str) -> str:
    base = CODE + module.replace(".", "/")
    return base + ".py" if base + ".py" in files else base + "/__init__.py"


def _own_strategy(files: Mapping[str, bytes], entry: str) -> tuple[str, int]:
    """Where the class of a package's own strategy stands: path and line, 0 when it is not found."""
    module, _, name = entry.partition(":")
    path = _place(files, module)
    try:
        tree = _parse(files.get(path, b""))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return path, 0
    return path, next((n.lineno for n in ast.walk(tree) if isinstance(n, ast.ClassDef) and n.name == name), 0)


def _add(found: dict[tuple[str, str, int], Finding], rule: str, path: str, line: int, seen: str) -> None:
    known = RULES[rule]
    found.setdefault(
        (path, rule, line),
        Finding(
            severity=known.severity,
            rule=rule,
            path=path,
            line=line,
            text=known.text.format(seen=seen),
            advice=known.advice,
        ),
    )


def _file(path: str, data: bytes) -> Iterator[tuple[str, int, str]]:
    if len(data) > LARGE_BYTES:
        yield "large", 0, f"{len(data) / (1 << 20):.1f} MiB"
    for magic, what in _NATIVE.items():
        if data.startswith(magic) and b"\0" in data[:4096]:
            yield "binary", 0, what
            return
    if path.endswith(_NATIVE_SUFFIXES):
        yield "binary", 0, f"a file for machines ({path.rpartition('.')[2]})"
        return
    try:
        text = data.decode("utf-8")
        if "\0" in text:
            raise ValueError("NUL")
    except ValueError:
        yield (
            ("binary", 0, "Python source that is not UTF-8")
            if path.endswith(".py")
            else ("data-file", 0, "binary data")
        )
        return
    yield from _text(path, text)
    if path.endswith(".py"):
        yield from _python(data)
    elif not path.endswith(_TEXT_SUFFIXES):
        yield "data-file", 0, "of an unusual kind"


def _text(path: str, text: str) -> Iterator[tuple[str, int, str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.isascii():
            hidden = [c for c in line if unicodedata.category(c) == "Cf" and c != "\ufeff"]
            if hidden:
                yield "hidden-text", number, ", ".join(sorted({f"U+{ord(c):04X}" for c in hidden}))
        if path.endswith(".py"):
            if len(line) > LONG_LINE:
                yield "obscure", number, f"a line of {len(line)} characters"
            elif _ENCODED.search(line):
                yield "obscure", number, "a long encoded text"


def _python(data: bytes) -> Iterator[tuple[str, int, str]]:
    try:
        tree = _parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        yield "syntax", getattr(error, "lineno", 0) or 0, str(getattr(error, "msg", error))
        return
    aliases = _aliases(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _module(name.name, node.lineno)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from _module(node.module or "", node.lineno)
            for name in node.names:
                yield from _name(f"{node.module}.{name.name}", node.lineno)
                yield from _module(f"{node.module}.{name.name}", node.lineno, exact=True)
        elif isinstance(node, ast.Call):
            yield from _call(node, aliases)
        elif isinstance(node, ast.Attribute):
            if node.attr in _ATTRIBUTES:
                yield "introspection", node.lineno, node.attr
            yield from _name(_dotted(node, aliases), node.lineno)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield from _name(aliases.get(node.id, node.id), node.lineno)


def _call(node: ast.Call, aliases: Mapping[str, str]) -> Iterator[tuple[str, int, str]]:
    name = _dotted(node.func, aliases)
    words = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
    if name == "torch.load" and words.get("weights_only") is not True:
        yield "pickle", node.lineno, "torch.load without weights_only=True"
    elif name == "torch.load":
        yield "file", node.lineno, name
    elif name == "numpy.load":
        pickled = words.get("allow_pickle", False) is not False or any(k.arg is None for k in node.keywords)
        yield ("pickle", node.lineno, "numpy.load with allow_pickle") if pickled else ("file", node.lineno, name)
    elif (
        name in ("getattr", "setattr", "delattr") and len(node.args) > 1 and not isinstance(node.args[1], ast.Constant)
    ):
        yield "obscure", node.lineno, f"{name} with a computed name"


def _module(module: str, line: int, *, exact: bool = False) -> Iterator[tuple[str, int, str]]:
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        rule = _BY_MODULE.get(".".join(parts[:length]))
        if rule:
            yield rule, line, f"import {module}"
            return
        if exact:
            return


def _name(name: str, line: int) -> Iterator[tuple[str, int, str]]:
    rule = _BY_NAME.get(name) or next((r for prefix, r in _PREFIXES.items() if name.startswith(prefix)), None)
    if rule:
        yield rule, line, name


def _aliases(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name, from the imports; ``np`` -> ``numpy``."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                aliases[name.asname or name.name.split(".")[0]] = name.name if name.asname else name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                aliases[name.asname or name.name] = "." * node.level + f"{node.module or ''}.{name.name}".lstrip(".")
    return aliases


def _dotted(node: ast.expr, aliases: Mapping[str, str]) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([aliases.get(node.id, node.id), *reversed(parts)])


def _parse(data: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid escapes and the like are the author's matter
        return ast.parse(data)


def _no_strategy(entry: str, why: str) -> UserError:
    return UserError(
        "OCT-JOB-STRATEGY",
        f"The strategy {entry!r} cannot be used",
        why,
        "Write 'class Mine(Synchronous)' (octopus_desktop.aggregation.sdk) below code/, and name it in [strategy] "
        "as module:Class",
    )


def _no_trainer(trainer: str, why: str) -> UserError:
    return UserError(
        "OCT-JOB-TRAINER",
        f"The trainer {trainer!r} cannot be used",
        why,
        "Write 'class MyTrainer(ClientTrainer)' below code/, and name it in job.toml as module:Class",
    )
