"""The workers of one run in an allocation of the site's Slurm: asked for, waited for, watched, given back.

One allocation serves the whole run: its workers stay warm between the rounds, and a run waits in the queue once, not
once a round. It is asked for when the first task is there, given back when the run pauses or ends, and asked for anew
when it ended by itself. Its parts (``slurm_part``, one on each node) dial in; the file system that they share with this
machine carries models and updates, this link carries words alone. No torch here; knows neither mail nor rounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import octopus_desktop
from octopus_desktop.system import slurm
from octopus_desktop.system.interpreters import own_code
from octopus_desktop.system.sandbox import SWITCH
from octopus_desktop.system.slurm_words import (
    NO_FOLDER,
    NO_PYTHON,
    NO_RUNTIME,
    Job,
    ended_fault,
    never_fault,
    words_of,
)
from octopus_desktop.training import slurm_door as door
from octopus_desktop.training.bench import PASSED_ON, Group, Listener, Serve, free_port, give, own_address
from octopus_desktop.training.spec import GIVEN, SLURM, WORK, RunnerSpec
from octopus_desktop.wire.errors import UserError

LOST_S = 10.0  # from the loss of a part until its group is begun anew with what is there
MODULE = "octopus_desktop.training.slurm_part"
LOOKS_S = (
    0.5,
    0.5,
    1.0,
    1.0,
    2.0,
    2.0,
    5.0,
    5.0,
    10.0,
    20.0,
    30.0,
)  # between looks at the queue; the last from then on
RUNNING_LOOK_S = 30.0  # its parts' links tell sooner
AWAY_S = (1.0, 2.0, 5.0, 10.0, 30.0)  # between attempts while the controller is away
AGAIN = ("OCT-SLURM-ENDED", "OCT-SLURM-TIME", "OCT-SLURM-MEMORY")  # after these another allocation may do
FIRST_STEP = (
    f'test -x "$1" || exit {NO_PYTHON}; test -r "$2/runner.json" || exit {NO_FOLDER}; '
    f'test -x "$3" || exit {NO_RUNTIME}; exec "$1" -m {MODULE} "$2"'
)
_NOT_THERE = ("CUDA_VISIBLE_DEVICES", "TMPDIR")  # this machine's own, which mean nothing on a node

Told = Callable[[str, str], None]


@dataclass(slots=True)
class _Part:
    """One node's end. ``address``, ``port``: where its rank 0 would listen."""

    writer: asyncio.StreamWriter
    address: str
    port: int


@dataclass(slots=True)
class _Allocation:
    """One allocation: its id, what the queue said last, who has dialled in."""

    id: str
    seen: Job | None = None
    parts: dict[int, _Part] = field(default_factory=dict)
    over: UserError | None = None
    look: asyncio.Event = field(default_factory=asyncio.Event)


class SlurmBench:
    """In place of ``bench.Bench``, whose contract it has.

    Args:
        told: (state, words) of the queue, for people; "" when there is no allocation.
    """

    def __init__(self, run_dir: Path, spec: RunnerSpec, listener: Listener, told: Told) -> None:
        allocated = spec.allocated
        assert allocated is not None
        self._run_dir, self._spec, self._listener, self._told = run_dir, spec, listener, told
        self._profile = slurm.Profile.from_dict(allocated.profile)
        self._name, self._nodes = allocated.name, len(allocated.workers)
        self._doorway = door.Doorway(run_dir)
        self._serve: Serve
        self._wanted = asyncio.Event()
        self._news = asyncio.Event()
        self._job: _Allocation | None = None
        self._known = asyncio.Event()  # the id of what was asked for, which may dial in before it is told
        self._watching: asyncio.Task[None] | None = None
        self._asking: asyncio.Task[Any] | None = None  # there may be an allocation since
        self._ending: set[asyncio.Task[None]] = set()
        self._generation = 0
        self._group_over: asyncio.Future[str] | None = None
        self._last: UserError | None = None
        self._away: UserError | None = None
        self._said = ("", "")
        self.sandbox, self.obstacle = "allocation", ""  # each part says of its own node when it has none

    # the contract

    async def open(self, serve: Serve) -> None:
        self._serve = serve
        for folder in (WORK, GIVEN, SLURM):
            (self._run_dir / folder).mkdir(exist_ok=True, mode=0o700)
        if self._spec.python:
            own_code(self._run_dir)

    async def close(self) -> None:
        """Give the allocation back."""
        self.rest()
        await asyncio.gather(*self._ending)
        await self._doorway.close()

    async def work(self, group: Group) -> int:
        """Have one group of workers in the allocation, and wait for its end. Raises UserError when that cannot be."""
        job = await self._allocation()
        if job is None:
            return 1
        self._generation += 1
        over = self._group_over = asyncio.get_running_loop().create_future()
        parts, first = job.parts, job.parts[0]
        for place, part in parts.items():
            words = {"machines": self._nodes, "machine": place, "address": first.address, "port": first.port}
            door.say(part.writer, "start", generation=self._generation, **words)
        why = await over
        if len(parts) < self._nodes:
            await self._whereabouts(job)
        if why:
            self._log("warning", why)
        for part in job.parts.values():
            door.say(part.writer, "end", generation=self._generation)
        return 0 if not why else 1

    def give(self, files: Sequence[str]) -> dict[str, str]:
        return give(self._run_dir / GIVEN, files)

    def kill(self) -> None:
        """End the group that is; the allocation stays."""
        self._end_group("")

    def want(self) -> None:
        self._last = None
        self._wanted.set()

    def idle(self) -> None:
        """The task is done: ask for no other allocation, keep the one that is."""
        self._wanted.clear()

    def rest(self) -> None:
        """Give the allocation back, whether it waits or runs."""
        self._wanted.clear()
        self._job = None
        self._known.clear()
        watching, self._watching = self._watching, None
        if watching:
            watching.cancel()
        if self._asking:
            self._end_group("")
            task = asyncio.create_task(self._give_back())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        self._tell("", "")
        self._news.set()

    def obstructed(self) -> UserError | None:
        if self._job and len(self._job.parts) == self._nodes:
            return None
        if self._away:
            return self._away
        seen = self._job.seen if self._job else None
        return UserError(
            "OCT-SLURM-WAITING",
            "The Slurm allocation did not begin within the round's deadline.",
            f"{words_of(seen)}." if seen else "It is not in the queue yet.",
            "It keeps its place for the next task. Ask the coordinator for a longer deadline, or the profile for less.",
        )

    def ended(self) -> UserError | None:
        return self._last

    # the allocation

    async def _allocation(self) -> _Allocation | None:
        """One whose parts are all here; None when it ended before. Raises UserError when there can be none."""
        while True:
            if self._job is None:
                await self._wanted.wait()
                await asyncio.gather(*self._ending)
                await self._obtain()
                continue
            job = self._job
            self._news.clear()
            if job.over:
                await self._forget(job)
                if job.over.code in AGAIN:
                    return None
                raise job.over
            if len(job.parts) == self._nodes:
                return job
            await self._news.wait()

    async def _whereabouts(self, job: _Allocation) -> None:
        """A part's link broke: find out whether it dials again, or what became of the allocation."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOST_S):
                while self._job is job and not job.over and len(job.parts) < self._nodes:
                    if job.seen and job.seen.state != "RUNNING":
                        return  # back in the queue
                    self._news.clear()
                    await self._news.wait()

    async def _obtain(self) -> None:
        """Take over the allocation that is there under this run's name, or ask for one."""
        tries = 0
        while self._wanted.is_set():
            try:
                await self._ask()
                self._away = None
                return
            except UserError as error:
                if error.code != "OCT-SLURM-DOWN":
                    await self._doorway.close()
                    raise
                self._away = error
                self._tell("AWAY", f"Slurm does not answer: {error.why}")
            await asyncio.sleep(AWAY_S[min(tries, len(AWAY_S) - 1)])
            tries += 1

    async def _ask(self) -> None:
        script = self._script()
        mark = slurm.mark_of(self._profile, script)
        found = await slurm.named(self._name, whole=True)
        there = [job for job, (_, its) in found.items() if its == mark][-1:]
        await slurm.cancel([job for job in found if job not in there])  # asked for under another profile, or twice
        own = await own_address_for(self._profile)
        await self._doorway.open(self._connected, own, self._profile.alone_s)
        if there:
            [job_id] = there
            self._asking = asyncio.create_task(asyncio.sleep(0), name="taken over")
            self._log("info", f"The run goes on in its Slurm job {job_id}.")
        else:
            self._tell("SUBMITTING", "The allocation is asked for")
            # Whatever ends this process now, the name leads to it.
            folder, environment = self._run_dir / SLURM, _environment()
            asking = slurm.submit(self._profile, self._name, script, folder=folder, environment=environment)
            self._asking = asyncio.create_task(asking, name="sbatch")
            job_id = await asyncio.shield(self._asking)
            self._log("info", f"Slurm job {job_id} was submitted.")
        if not self._wanted.is_set():  # paused or stopped while it was asked for
            await slurm.cancel([job_id])
            return
        self._job = _Allocation(id=job_id)
        self._known.set()
        self._watching = asyncio.create_task(self._watch(self._job), name="queue")

    def _script(self) -> list[str]:
        profile = self._profile
        cpus = [f"--cpus-per-task={profile.cpus_per_task}"] if profile.cpus_per_task else []
        python = self._spec.python or sys.executable
        return [
            "srun", f"--nodes={profile.nodes}", f"--ntasks={profile.nodes}", "--ntasks-per-node=1", *cpus,
            "--kill-on-bad-exit=1", "--mpi=none", "--unbuffered",
            "/bin/sh", "-c", FIRST_STEP, "octopus", sys.executable, str(self._run_dir), python,
        ]  # fmt: skip

    async def _watch(self, job: _Allocation) -> None:
        """Look at the queue, which tells nothing by itself; oftener where something is expected."""
        looks = 0
        while True:
            job.look.clear()
            with contextlib.suppress(UserError, ValueError, OSError):  # it is away: the allocation may well run on
                job.seen = await slurm.look(job.id)
                if job.seen is None or job.seen.ended or job.seen.never:
                    await self._over(job)
                    return
                place = await slurm.place(job.seen) if job.seen.state == "PENDING" else 0
                self._tell(job.seen.state, words_of(job.seen, place))
                self._news.set()
            steady = job.seen is not None and job.seen.state == "RUNNING" and len(job.parts) == self._nodes
            wait = RUNNING_LOOK_S if steady else LOOKS_S[min(looks, len(LOOKS_S) - 1)]
            looks = 0 if steady else looks + 1
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await job.look.wait()

    async def _over(self, job: _Allocation) -> None:
        """It ended, or can never begin."""
        log = self._run_dir / SLURM / f"allocation-{job.id}.log"
        if job.seen and job.seen.never:
            fault = never_fault(job.seen)
            with contextlib.suppress(UserError):
                await slurm.cancel([job.id])
        else:
            told = await asyncio.to_thread(ended_fault, job.seen, log)
            fault = job.over or told
        job.over = self._last = fault
        self._tell("ENDED", fault.why)
        self._log("warning", str(fault))
        self._end_group("The allocation is over.")
        self._news.set()

    async def _forget(self, job: _Allocation) -> None:
        if self._job is job:
            self._job = None
            self._known.clear()
            await self._doorway.close()

    async def _give_back(self) -> None:
        """By name, once it is known whether what is being asked for was."""
        asking, self._asking = self._asking, None
        if asking:
            await asyncio.wait({asking})
        with contextlib.suppress(UserError):  # then its parts find nobody and end it
            await slurm.cancel(list(await slurm.named(self._name, whole=True)))
        if self._job is None:
            await self._doorway.close()

    # its parts

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            hello = await door.hear(reader)
            if hello is None or hello["word"] != "hello":
                return
            await self._known.wait()
            job = self._job
            if job is None or str(hello.get("job", "")) != job.id:
                door.say(writer, "leave")
            elif hello.get("link") == "worker":
                if hello.get("generation") == self._generation:
                    await self._serve(reader, writer)
            elif isinstance(hello.get("place"), int) and 0 <= hello["place"] < self._nodes:
                await self._part(job, hello, reader, writer)
        except (KeyError, TypeError, ValueError, OSError):
            pass  # not a part of ours, or one whose link broke
        finally:
            writer.close()

    async def _part(
        self, job: _Allocation, hello: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        place = int(hello["place"])
        part = _Part(writer, str(hello["address"]), int(hello["port"]))
        if before := job.parts.get(place):
            before.writer.close()
        job.parts[place] = part
        self._news.set()
        beating = asyncio.create_task(door.beat(writer))
        why = f"The link to node {place} of the allocation broke."
        try:
            while words := await door.hear(reader):
                if words["word"] == "frame":
                    self._listener.heard(words["frame"])
                elif words["word"] == "ended":
                    part.port = int(words["port"])
                    if words["generation"] == self._generation:
                        self._end_group(f"The workers on node {place} of the allocation ended: {words['why']}"[:400])
                elif words["word"] == "refused":
                    job.over = UserError(*(str(words[name]) for name in ("code", "what", "why", "next")))
                    with contextlib.suppress(UserError):  # then it ends itself, as this link ends
                        await slurm.cancel([job.id])
        finally:
            beating.cancel()
            if job.parts.get(place) is part:
                del job.parts[place]
                if self._job is job:
                    self._end_group(why)
                    job.look.set()

    def _end_group(self, why: str) -> None:
        if self._group_over and not self._group_over.done():
            self._group_over.set_result(why)

    def _tell(self, state: str, words: str) -> None:
        if (state, words) != self._said:
            self._said = (state, words)
            self._told(state, words)

    def _log(self, level: str, text: str) -> None:
        self._listener.heard({"word": "log", "level": level, "text": text})


def _environment() -> dict[str, str]:
    """What the parts get: where programs and packages are, and nothing of this process's secrets."""
    names = (*PASSED_ON, SWITCH)
    passed = {name: os.environ[name] for name in names if name in os.environ and name not in _NOT_THERE}
    root = str(Path(octopus_desktop.__file__).resolve().parents[1])  # not installed: found by the caller's folder
    if "-packages" not in root:
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, (root, passed.get("PYTHONPATH"))))
    return passed


async def own_address_for(profile: slurm.Profile) -> str:
    """This machine's IP address for the profile's nodes. Raises OCT-CONFIG-INVALID, OCT-SLURM-MISSING, -DOWN."""
    host = profile.address or await slurm.controller()
    return await asyncio.to_thread(_own_address, host, bool(profile.address))


def _own_address(host: str, is_ours: bool) -> str:
    """This machine's IP address: ``host``'s when that is this machine, else the one towards it."""
    try:
        found = str(socket.getaddrinfo(host or "localhost", None, type=socket.SOCK_STREAM)[0][4][0])
        address = found if is_ours else own_address(found)
        free_port(address)  # it is ours when we can listen there
        return address
    except OSError as error:
        raise UserError(
            "OCT-CONFIG-INVALID",
            f"{host or 'localhost'} gives no address of this machine at which compute nodes could reach it.",
            str(error),
            "Give the profile the --address by which compute nodes reach this machine.",
        ) from error
