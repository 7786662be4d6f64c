"""Stands in for packages that are not installed, while a model of an application is built and nothing else.

An application's model often lies in a module that also imports its framework or its data's loader, and the server,
which builds the first model, has neither. What such a package gives may be imported, called, derived from and used as
a decorator, all without effect; only the model's own code may not hang on it, and whoever asks it for a truth, a number
or an instance gets the ImportError after all.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from octopus_desktop.wire.errors import UserError


@lru_cache(maxsize=16)
def missing(root: Path) -> frozenset[str]:
    """Top names that the sources below ``root`` import and that neither they nor this environment have."""
    own = {path.stem for path in root.iterdir()}
    wanted: set[str] = set()
    for path in root.rglob("*.py"):
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue  # its import says so
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                wanted.add(node.module.partition(".")[0])
    return frozenset(n for n in wanted - own if n not in sys.stdlib_module_names and find_spec(n) is None)


@contextmanager
def stood_in(root: Path) -> Iterator[None]:
    """Inside, what ``missing`` names can be imported. Modules that were imported meanwhile are forgotten at the end."""
    names = missing(root)
    if not names:
        yield
        return
    forget = names | {path.stem for path in root.iterdir()}
    before, finder = set(sys.modules), _Finder(names)
    sys.meta_path.append(finder)  # type: ignore[arg-type]
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError | ImportError):
            raise
        words = f"{type(error).__name__}: {error} (not installed here: {', '.join(sorted(names))})"
        raise ImportError(words).with_traceback(error.__traceback__) from error
    finally:
        sys.meta_path.remove(finder)  # type: ignore[arg-type]
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in forget:
                del sys.modules[name]


class _Finder:
    """Asked last, when nobody else knows a module."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in self._names:
            return None
        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to execute."""


class _Module(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self.__name__}.{name}")


class Absent:
    """A thing of a package that is not installed."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Absent:
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Absent:
        return Absent(f"{self._name}()")

    def __getitem__(self, key: Any) -> Absent:
        return self

    def __or__(self, other: Any) -> Absent:
        return self

    __ror__ = __or__

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (type(self._name.rpartition(".")[2], (), {"__new__": self._refuse}),)

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise ImportError(
            f"{self._name} was asked for, and the package {self._name.partition('.')[0]} is not installed here"
        )

    __bool__ = __int__ = __index__ = __float__ = __iter__ = __len__ = __array__ = _refuse
