"""The parts of runs on a further machine: what each needs is brought here and checked, then its process is started.

For each run the words come in order and are done in order. The package comes by its digest over the agent's own link
and is verified again; the data must lie where it is said to be on this machine, with the content that was approved, and
the environment must have what the job needs. Knows no link: ``fetch`` brings blobs, ``say`` sends words. torch is
imported by the workers alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from octopus_desktop.jobs.requirements import lacking, needed
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.system import interpreters
from octopus_desktop.system.paths import NodeHome, private_dir
from octopus_desktop.system.processes import kill_group, leashed
from octopus_desktop.training.presence import check_data
from octopus_desktop.training.spec import DataSource, RunnerSpec
from octopus_desktop.wire.child import decode, encode
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.envelope_pb2 import BlobRef

MODULE = "octopus_desktop.training.share"
LINE_BYTES = 8 << 20
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")  # it names a folder
HIDDEN = ("OCTOPUS_PASSPHRASE_FILE", "CREDENTIALS_DIRECTORY", "DBUS_SESSION_BUS_ADDRESS")

Fetch = Callable[[str, BlobRef], Awaitable[None]]
Say = Callable[[str, dict[str, Any]], None]

log = logging.getLogger("octopus.node")


class Shares:
    """All parts of runs on this machine.

    Args:
        fetch: brings a blob of a run into ``blobs``; raises UserError.
        say: sends words of a run's part to its runner.
    """

    def __init__(self, home: NodeHome, fetch: Fetch, say: Say) -> None:
        self._home, self._fetch, self._say = home, fetch, say
        private_dir(home.root / "blobs")
        self.blobs = BlobStore(home.root / "blobs")
        self._queues: dict[str, asyncio.Queue[dict[str, Any]]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def told(self, run_id: str, words: dict[str, Any]) -> None:
        """Words of a run's runner."""
        if not _RUN.fullmatch(run_id):
            return
        if run_id not in self._tasks:
            if words.get("do") not in ("start", "close"):
                return
            self._queues[run_id] = asyncio.Queue()
            task = self._tasks[run_id] = asyncio.create_task(self._serve(run_id, self._queues[run_id]))
            task.add_done_callback(lambda _: self._forget(run_id, task))
        self._queues[run_id].put_nowait(words)

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._tasks.get(run_id) is task:
            del self._tasks[run_id], self._queues[run_id]

    async def stop(self) -> None:
        """End every process of every run here."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, run_id: str, queue: asyncio.Queue[dict[str, Any]]) -> None:
        share = _Process(lambda words: self._say(run_id, words))
        held: set[str] = set()
        place = self._home.root / "runs" / run_id
        try:
            while True:
                words = await queue.get()
                if words["do"] == "close":
                    await asyncio.to_thread(shutil.rmtree, place, True)
                    return
                try:
                    await self._do(run_id, share, place, held, words)
                except (UserError, OSError) as error:
                    log.warning("%s: %s", run_id, error)
                    self._say(run_id, {"word": "refused", "generation": words.get("generation"), "why": str(error)})
                except (KeyError, TypeError, ValueError) as error:
                    log.warning("%s: words that cannot be read: %r", run_id, error)
        finally:
            await share.end()
            for digest in held:
                self.blobs.remove(digest)

    async def _do(self, run_id: str, share: _Process, place: Path, held: set[str], words: dict[str, Any]) -> None:
        word = words.pop("do")
        if word == "start":
            spec = words.pop("spec")
            if not share.alive:
                await self._prepare(run_id, place, held, spec)
                await share.start(place)
        elif word == "task":
            refs = {"model": words["model"], **{f"shared/{name}": ref for name, ref in words["shared"].items()}}
            new = {digest for digest, _ in refs.values()}
            for digest, size in refs.values():
                held.add(digest)
                await self._fetch(run_id, BlobRef(digest=digest, size=int(size)))
            for old in held - new:
                self.blobs.remove(old)
            held.intersection_update(new)
            words["model"] = str(self.blobs.path(words["model"][0]))
            words["shared"] = {name: str(self.blobs.path(ref[0])) for name, ref in words["shared"].items()}
        share.say(word, **words)

    async def _prepare(self, run_id: str, place: Path, held: set[str], told: dict[str, Any]) -> None:
        """Package and data, checked; then what the share is told."""
        from octopus_desktop.jobs import package as packages

        for source in (DataSource(**item) for item in told["data"]):
            await asyncio.to_thread(check_data, source)
        digest, size = told["package_digest"], int(told.pop("package_size"))
        await self._fetch(run_id, BlobRef(digest=digest, size=size))
        path = self.blobs.path(digest)
        try:
            verified = await asyncio.to_thread(packages.verify, path)
            packages.require_signature(verified)
            await asyncio.to_thread(shutil.rmtree, place, True)
            private_dir(place)
            await asyncio.to_thread(packages.unpack, path, place / "package")
        finally:
            self.blobs.remove(digest)
        lists = {name: tuple(told[name]) for name in ("devices", "data", "further")}
        wanted = needed(verified.manifest.trainer, verified.manifest.requirements)
        paths = await asyncio.to_thread(environment, told["python"], wanted)
        places = {"package": str(place / "package"), "blobs": str(self.blobs.root), "python_paths": paths}
        RunnerSpec(**{**told, **lists, **places}).write(place / "runner.json")


class _Process:
    """One run's share: a child on a leash, in a session of its own."""

    def __init__(self, heard: Callable[[dict[str, Any]], None]) -> None:
        self._heard = heard
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    async def start(self, place: Path) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *leashed(MODULE, str(place)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            start_new_session=True,
            cwd=place,
            env={name: value for name, value in os.environ.items() if name not in HIDDEN},
        )
        self._reading = asyncio.create_task(self._read(self._process))

    def say(self, word: str, **fields: Any) -> None:
        if self.alive and self._process and self._process.stdin:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError, RuntimeError):
                self._process.stdin.write(encode(word, **fields).encode())

    async def end(self) -> None:
        """At once, with everything it started."""
        if self._process:
            kill_group(self._process.pid)
            await self._process.wait()
        if self._reading:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        generation = None
        while line := await process.stdout.readline():
            words = decode(line)
            if words:
                generation = words.get("generation", generation)
                self._heard(words)
        kill_group(process.pid)
        self._heard({"word": "ended", "generation": generation, "why": "its process was killed"})


def environment(python: str, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """The folders that workers in this environment read; ``python`` "" for the agent's own.

    Raises OCT-RUNTIME-BROKEN, OCT-PACKAGE-MISSING.
    """
    facts = interpreters.examine(Path(python), whole=False) if python else interpreters.own()
    if facts.fault:
        raise UserError(
            "OCT-RUNTIME-BROKEN",
            "The job's environment on this node cannot be used.",
            facts.fault,
            "Repair it, or say where it is now: octopus runtime place.",
        )
    if lacks := lacking(wanted, facts.packages, facts.python):
        raise UserError(
            "OCT-PACKAGE-MISSING",
            f"This node's environment lacks what the job needs: {', '.join(map(str, lacks))}.",
            "Each node trains in an environment of its own.",
            "Install it there, or name an environment there that has it: octopus runtime place.",
        )
    return facts.paths


def words_of(text: str) -> dict[str, Any] | None:
    """Words from the other side; None when they cannot be read."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
