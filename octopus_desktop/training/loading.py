"""Imports a package's trainer from its ``code/`` directory, apart from everything else that is imported.

Each ``PackageCode`` has its own copies of the package's modules: two virtual silos in one process share no globals.
They share what cannot change: a file's compiled code, which each of them executes for itself.
Knows nothing of what a trainer does. Not for use from several threads at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from octopus_desktop.training import adapters
from octopus_desktop.wire.errors import UserError

_RESERVED = frozenset({"torch", "numpy", "octopus_desktop", "safetensors", "pyarrow"})


class TrainerError(UserError):
    """OCT-RUN-TRAINER. ``places`` are the lines of the package on the way to the failure, without values of any kind:
    what may leave the silo; the exception's own message may quote data, and stays."""

    def __init__(self, phase: str, error: BaseException, code: Path) -> None:
        self.places = tuple(
            f"{Path(frame.filename).relative_to(code)}:{frame.lineno} in {frame.name}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(code)
        )
        self.kind = type(error).__name__
        lines = [
            f"{Path(frame.filename).relative_to(code)}:{frame.lineno} in {frame.name}: {frame.line}"
            for frame in traceback.extract_tb(error.__traceback__)
            if Path(frame.filename).is_relative_to(code)
        ]
        super().__init__(
            "OCT-RUN-TRAINER",
            f"The job's code failed in {phase} with {self.kind}.",
            "\n".join([str(error)[:2000] or "No message.", *(lines[-12:] or ["Outside of the package's own files."])]),
            "Ask the job's author to correct the package; nothing is wrong with this silo.",
        )

    def public(self, phase_what: str = "") -> str:
        """The failure without the exception's message."""
        return " ".join([phase_what or self.what, "At " + ", ".join(self.places[-6:]) + "." if self.places else ""])


class OutOfMemory(TrainerError):
    """OCT-RUN-MEMORY: what ran had more to hold than the device, or this machine, has room for."""

    def __init__(self, phase: str, error: BaseException, code: Path) -> None:
        super().__init__(phase, error, code)
        self.code = "OCT-RUN-MEMORY"
        self.what = f"The training ran out of memory in {phase}."
        self.next_step = (
            "End other programs on this device, or give the run another one. Otherwise ask the coordinator for a"
            ' smaller batch with [training] accumulate, for precision = "bf16", or for parallel = "fsdp" over GPUs.'
        )

    @staticmethod
    def is_it(error: BaseException) -> bool:
        """Whether an error says so: Python's own, torch's of a GPU, and what torch's allocator for CPUs raises."""
        words = ("DefaultCPUAllocator", "not enough memory")
        by_words = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
        return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or by_words


class _Compiled(SourceFileLoader):
    """Executes a file's code, compiled once in this process for as long as the file stays as it is."""

    def get_code(self, fullname: str) -> CodeType:
        stat = Path(self.path).stat()
        return _compile(self.path, stat.st_mtime_ns, stat.st_size)


@lru_cache(maxsize=256)
def _compile(path: str, changed: int, size: int) -> CodeType:
    code: CodeType = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    return code


@lru_cache(maxsize=16)
def _look(place: Path, changed: int) -> tuple[Path, frozenset[str]]:
    """A code directory's real path and the names that can be imported from it."""
    names = {
        p.stem if p.suffix == ".py" else p.name
        for p in place.iterdir()
        if p.suffix == ".py" or (p.is_dir() and p.name.isidentifier())
    }
    return place.resolve(), frozenset(names)


class _Finder:
    """Finds a package's own source files ahead of everything else; whatever it does not know is left to Python."""

    def __init__(self, root: Path, tops: frozenset[str]) -> None:
        self._root, self._tops = str(root), tops

    def find_spec(self, name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if name.partition(".")[0] not in self._tops:
            return None
        plain = Path(self._root, name + ".py")
        if path is None and plain.is_file() and not Path(self._root, name).is_dir():
            return spec_from_file_location(name, plain, loader=_Compiled(name, str(plain)))
        spec = PathFinder.find_spec(name, [self._root] if path is None else path, None)
        if spec and type(spec.loader) is SourceFileLoader:
            spec.loader = _Compiled(name, spec.loader.path)
        return spec


class PackageCode:
    """The modules below ``package/code``, importable inside ``active()`` only.

    Raises:
        UserError: OCT-JOB-TRAINER, when the trainer cannot be imported, is no ClientTrainer, or when a module of the
            package would hide one of Python's or of the runtime.
    """

    def __init__(self, package: Path, trainer: str) -> None:
        self.trainer = trainer
        self._modules: dict[str, ModuleType] = {}
        place = package / "code"
        if not place.is_dir():
            raise _unusable(trainer, f"The package has no code directory at {package.name}/code.")
        self.root, self._tops = _look(place, place.stat().st_mtime_ns)
        if hidden := sorted(t for t in self._tops if t in sys.stdlib_module_names or t in _RESERVED):
            raise _unusable(trainer, f"code/{hidden[0]} would hide the installed module of the same name.")
        self._finder = _Finder(self.root, self._tops)
        self.cls = self._import()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, ``import`` finds the package's modules first."""
        stashed = self._taken_out()
        sys.modules.update(self._modules)
        bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the package's bytes stay as approved
        sys.path.insert(0, str(self.root))
        sys.meta_path.insert(0, self._finder)  # type: ignore[arg-type]
        try:
            yield
        finally:
            sys.dont_write_bytecode = bytecode
            if self._finder in sys.meta_path:
                sys.meta_path.remove(self._finder)  # type: ignore[arg-type]
            if str(self.root) in sys.path:
                sys.path.remove(str(self.root))
            self._modules = self._taken_out()
            sys.modules.update(stashed)

    def _taken_out(self) -> dict[str, ModuleType]:
        """The imported modules of the package's names, out of ``sys.modules``. Only a package has more than its top."""
        out: dict[str, ModuleType] = {}
        for top in self._tops:
            if (module := sys.modules.pop(top, None)) is None:
                continue
            out[top] = module
            if hasattr(module, "__path__"):
                below = top + "."
                out |= {name: sys.modules.pop(name) for name in list(sys.modules) if name.startswith(below)}
        return out

    def _owns(self, name: str) -> bool:
        return name.partition(".")[0] in self._tops

    def _import(self) -> Any:
        from octopus_desktop.training.sdk import ClientTrainer

        name, colon, attribute = self.trainer.partition(":")
        if not colon or not name or not attribute.isidentifier():
            raise _unusable(self.trainer, "It must read module:Class.")
        if maker := adapters.made(self.root, self.trainer, self._tops):
            return maker
        with self.active():
            if not self._owns(name):
                raise _unusable(self.trainer, f"code/ holds no module {name!r}.")
            sys.path_importer_cache.pop(str(self.root), None)  # the folder may have been written a moment ago
            try:
                module = importlib.import_module(name)
            except (Exception, SystemExit) as error:
                failure = TrainerError("its import", error, self.root)
                raise _unusable(self.trainer, f"{failure.kind}: {failure.why}") from error
        found = getattr(module, attribute, None)
        if not (isinstance(found, type) and issubclass(found, ClientTrainer)):
            raise _unusable(self.trainer, f"{attribute!r} is not a class derived from ClientTrainer.")
        return found


def _unusable(trainer: str, why: str) -> UserError:
    return UserError(
        "OCT-JOB-TRAINER",
        f"The job's trainer {trainer!r} cannot be used.",
        why,
        "Correct the package's code or the line 'trainer' in job.toml (octopus jobs check).",
    )
