"""Python environments that jobs may train in: the built-in one, and those that the administrator registered.

Each is looked at by its own interpreter before it is used, so that what a job needs is known before it is approved.
"""

from __future__ import annotations

import asyncio
import functools
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

from octopus_desktop.daemon.core import Silo
from octopus_desktop.jobs.manifest import JobManifest
from octopus_desktop.jobs.requirements import Lack, lacking, needed
from octopus_desktop.system import interpreters
from octopus_desktop.system.interpreters import Interpreter
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

BUILT_IN = "built-in"


class Runtimes:
    """The noun ``runtime``. States: ok | broken.

    ``waiting``, set by ``app``: the jobs that wait for a decision and need packages: (name, what they need).
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self.waiting: Callable[[], Awaitable[Sequence[tuple[str, Sequence[str]]]]]

    async def add(self, name: str, path: str) -> pb.Runtime:
        """Register an environment; repeated under the same name, its path and what is in it are taken anew.

        Raises OCT-CONFIG-INVALID (the name), OCT-RUNTIME-BROKEN (nothing is there, or training cannot run in it).
        """
        name = name.strip()
        if not name or name == BUILT_IN or len(name) > 64:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"{name!r} cannot be a runtime's name.",
                f"{BUILT_IN!r} is the environment that comes with Octopus Desktop."
                if name == BUILT_IN
                else "It has 1 to 64 characters.",
                "Choose another name.",
            )
        place = Path(path).expanduser()
        python = interpreters.interpreter(place) if place.is_absolute() else None
        if python is None:
            raise _broken(
                name, f"There is no Python at {path}.", "Give the folder of a virtual environment, or its interpreter."
            )
        facts = await asyncio.to_thread(interpreters.examine, python, whole=True)
        if facts.fault:
            raise _broken(name, facts.fault, "Install what is missing into it, then add it again.")
        known = next((r for r in self._silo.all("runtime") if r.name == name), None)
        runtime = pb.Runtime(
            id=known.id if known else new_id("v"),
            name=name,
            path=str(python),
            added_at=known.added_at if known else round(time.time(), 3),
            places=known.places if known else (),
        )
        _fill(runtime, facts)
        with self._silo.change():
            self._silo.put("runtime", runtime)
            detail = {"name": name, "path": runtime.path, "python": runtime.python, "torch": runtime.torch}
            self._silo.record(self._silo.administrator, "runtime.added", runtime.id, detail)
            self._silo.answer(runtime)
        return runtime

    async def look(self, path: str, runtime_id: str = "") -> AsyncIterator[pb.CheckStep]:
        """What is in an environment, told as it is found: Python, packages, torch, our training part, and the jobs that
        wait for a decision. ``runtime_id``: a registered one; without either, the built-in one. Changes nothing."""
        if runtime_id:
            path = self._silo.need("runtime", runtime_id).path
        place = Path(path).expanduser() if path else Path(sys.executable)
        python = interpreters.interpreter(place) if place.is_absolute() else None
        if python is None:
            why, advice = f"There is no Python at {path}.", "Choose the folder of a virtual environment, or its Python."
            yield _step("Python", "failed", why, advice)
            for name in ("packages", "torch", "training"):
                yield _step(name, "untried", "The step before it failed.")
            return
        quick = await asyncio.to_thread(functools.partial(interpreters.examine, python, whole=False))
        if not quick.python:
            yield _step("Python", "failed", quick.fault, "Choose another environment.")
            for name in ("packages", "torch", "training"):
                yield _step(name, "untried", "The step before it failed.")
            return
        yield _step("Python", "ok", f"{quick.python} at {python}")
        yield _step("packages", "ok", f"{len(quick.packages)} are installed.")
        whole = await asyncio.to_thread(functools.partial(interpreters.examine, python, whole=True))
        torch = whole.torch or quick.torch
        if torch:
            with_cuda = (
                f"CUDA {whole.cuda} can be used." if whole.cuda else "No GPU can be used: it trains on processors."
            )
            yield _step("torch", "ok", f"{torch}. {with_cuda}")
        else:
            yield _step("torch", "failed", "It is not installed there.", f"{python} -m pip install torch numpy")
        if whole.fault:
            yield _step("training", "failed", whole.fault, "Install what is missing into it, then look again.")
        else:
            yield _step("training", "ok", "The training part of Octopus Desktop runs in it.")
        for name, wanted in await self.waiting():
            lacks = lacking(wanted, quick.packages, quick.python)
            if lacks:
                install = f"{python} -m pip install {' '.join(shlex.quote(lack.requirement) for lack in lacks)}"
                yield _step(name, "failed", f"It lacks {_listed(lacks)}.", install)
            else:
                yield _step(name, "ok", f"It has {', '.join(wanted) or 'all that the job needs'}.")

    async def check(self, runtime_id: str) -> pb.Runtime:
        """Look at it again, as a whole."""
        python = Path(self._silo.need("runtime", runtime_id).path)
        facts = await asyncio.to_thread(interpreters.examine, python, whole=True)
        with self._silo.change():
            runtime = self._silo.need("runtime", runtime_id)
            before = runtime.state
            _fill(runtime, facts)
            self._silo.put("runtime", runtime)
            if runtime.state != before:
                detail = {"name": runtime.name, "state": runtime.state, "error": runtime.error}
                self._silo.record("daemon", "runtime.checked", runtime.id, detail)
            self._silo.answer(runtime)
        return runtime

    def remove(self, runtime_id: str, in_use: bool) -> None:
        """Take it out of the list; nothing on disk is touched. ``in_use``: a run that is not over trains in it."""
        runtime = self._silo.need("runtime", runtime_id)
        if in_use:
            raise UserError(
                "OCT-RUN-STATE",
                f"The runtime {runtime.name} is in use.",
                "A run that is not over was approved for it.",
                "Stop that run first, or wait for its end.",
            )
        with self._silo.change():
            self._silo.drop("runtime", runtime_id)
            self._silo.record(self._silo.administrator, "runtime.removed", runtime_id, {"name": runtime.name})
            self._silo.answer(pb.Ack())

    async def serve(self, runtime_id: str, manifest: JobManifest) -> Interpreter:
        """The interpreter for a job, when it has now what the job needs.

        Raises OCT-PACKAGE-MISSING, OCT-RUNTIME-UNKNOWN, OCT-RUNTIME-BROKEN.
        """
        wanted = needed(manifest.trainer, manifest.requirements)
        if not runtime_id:
            facts = await asyncio.to_thread(interpreters.own)
            self._require(BUILT_IN, lacking(wanted, facts.packages, facts.python), wanted)
            return Interpreter()
        runtime = self._silo.need("runtime", runtime_id)
        facts = await asyncio.to_thread(functools.partial(interpreters.examine, Path(runtime.path), whole=False))
        if facts.fault:
            raise _broken(runtime.name, facts.fault, f"Repair it, and check it: octopus runtime check {runtime.name}.")
        self._require(runtime.name, lacking(wanted, facts.packages, facts.python), wanted)
        return Interpreter(python=runtime.path, paths=facts.paths)

    def matches(self, manifest: JobManifest) -> list[pb.RuntimeMatch]:
        """Each environment with what it lacks for the job, the built-in one first; what is broken fits nothing."""
        mine, wanted = interpreters.own(), needed(manifest.trainer, manifest.requirements)
        lacks = [str(lack) for lack in lacking(wanted, mine.packages, mine.python)]
        found = [pb.RuntimeMatch(name=BUILT_IN, fits=not lacks, lacks=lacks)]
        for runtime in sorted(self._silo.all("runtime"), key=lambda r: r.added_at):
            lacks = [str(lack) for lack in lacking(wanted, runtime.packages, runtime.python)]
            fault = "" if runtime.state == "ok" else runtime.error or "It cannot be used."
            match = pb.RuntimeMatch(runtime_id=runtime.id, name=runtime.name, lacks=lacks, fault=fault)
            match.fits = not (lacks or fault)
            found.append(match)
        return found

    def words(self, manifest: JobManifest) -> tuple[str, str]:
        """What the review says of the job's requirements, and why it can be run in no runtime here ("" when it can)."""
        wanted = needed(manifest.trainer, manifest.requirements)
        if not wanted:
            return "", ""
        short = self._lacks(wanted)
        able = [name for name, lacks in short.items() if not lacks]
        said = [f"It needs {', '.join(wanted)} beside PyTorch."]
        said += [f"The runtime {name} lacks {_listed(lacks)}." for name, lacks in short.items() if lacks]
        said += [f"It can train in the runtime {' or '.join(able)}."] if able else []
        return " ".join(said), "" if able else "No runtime here has what it needs."

    def _lacks(self, wanted: Sequence[str]) -> dict[str, list[Lack]]:
        """Runtime's name -> what it lacks, the built-in one first; broken ones are left out."""
        mine = interpreters.own()
        found = {BUILT_IN: lacking(wanted, mine.packages, mine.python)}
        for runtime in sorted(self._silo.all("runtime"), key=lambda r: r.added_at):
            if runtime.state == "ok":
                found[runtime.name] = lacking(wanted, runtime.packages, runtime.python)
        return found

    def _require(self, name: str, lacks: Sequence[Lack], wanted: Sequence[str]) -> None:
        if not lacks:
            return
        able = [other for other, missing in self._lacks(wanted).items() if not missing and other != name]
        install = f"'{sys.executable} -m pip install'" if name == BUILT_IN else "pip"
        raise UserError(
            "OCT-PACKAGE-MISSING",
            f"The runtime {name} lacks what the job needs: {_listed(lacks)}.",
            "A job's requirements are never installed by themselves: they are code that you answer for.",
            f"Approve it for the runtime {able[0]} (--runtime {able[0]})."
            if able
            else f"Install them with {install}, or add a runtime that has them (octopus runtime add NAME PATH).",
        )


def _step(name: str, state: str, detail: str, next_step: str = "") -> pb.CheckStep:
    return pb.CheckStep(name=name, ok=state == "ok", state=state, detail=detail, next_step=next_step)


def _fill(runtime: pb.Runtime, facts: interpreters.InterpreterFacts) -> None:
    runtime.state, runtime.error = ("broken", facts.fault) if facts.fault else ("ok", "")
    runtime.checked_at = round(time.time(), 3)
    if not facts.python:
        return  # it did not even start: what was known of it stays
    runtime.python, runtime.torch, runtime.cuda = facts.python, facts.torch, facts.cuda
    runtime.packages.clear()
    runtime.packages.update(facts.packages)
    del runtime.paths[:]
    runtime.paths.extend(facts.paths)


def _listed(lacks: Sequence[Lack]) -> str:
    return ", ".join(map(str, lacks))


def _broken(name: str, why: str, next_step: str) -> UserError:
    return UserError("OCT-RUNTIME-BROKEN", f"The runtime {name} cannot be used.", why, next_step)
