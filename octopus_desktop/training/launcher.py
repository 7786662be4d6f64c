"""Keeps the workers of one run warm and gives them tasks; starts them again, as one group, when one of them dies.

The group has this machine's workers (``bench``) and, where the run spans machines, those of further ones: ``ask`` sends
words to their agents (``share`` has the other end), and ``told`` takes what they say. When a worker, a machine or the
link to it goes, the whole group begins again with the machines that are there, and does the task from its start. No
torch here.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training import frames
from octopus_desktop.training.bench import LINE_BYTES, Bench, Group, Limit, Listener, free_port
from octopus_desktop.training.slurm_bench import SlurmBench
from octopus_desktop.training.spec import Further, RunnerSpec
from octopus_desktop.training.watch import UNEVEN_S, Patience, as_fault, uneven
from octopus_desktop.wire.errors import UserError

__all__ = ["Listener", "TaskFailed", "Workers"]

RESTART_PAUSE_S = (0.0, 0.2, 1.0)
_T = TypeVar("_T")


class TaskFailed(Exception):
    """The job's code or data failed; ``fault`` has code, what, why, next and public."""

    def __init__(self, fault: dict[str, str]) -> None:
        super().__init__(fault["what"])
        self.fault = fault


@dataclass(slots=True)
class _Group:
    """The workers that are connected now, by rank. ``fault``: why this group can never work."""

    writers: dict[int, asyncio.StreamWriter] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    fault: dict[str, str] | None = None
    trained: dict[int, int] = field(default_factory=dict)  # rank -> passes through the model, when it had finished


class Workers:
    """The warm workers of one run.

    Args:
        run_dir, confine: see ``Bench``.
        ask: sends words to the agent of a further machine, by its node's id; None where the run has none.
        queue: hears of the site's queue, (state, words), where the workers are in an allocation of Slurm's.

    Attributes:
        sandbox, obstacle: see ``Bench``.
    """

    def __init__(
        self,
        run_dir: Path,
        spec: RunnerSpec,
        listener: Listener,
        *,
        confine: bool = False,
        ask: Callable[[str, dict[str, Any]], None] | None = None,
        queue: Callable[[str, str], None] = lambda state, words: None,
    ) -> None:
        self._spec, self._listener, self._ask = spec, listener, ask
        self._bench: Bench | SlurmBench = (
            SlurmBench(run_dir, spec, listener, queue)
            if spec.slurm
            else Bench(run_dir, spec, listener, confine=confine)
        )
        self._size = max(1, spec.workers)
        self._group = _Group()
        self._changed = asyncio.Condition()
        self._patience = Patience(math.inf, 0)
        self._limit = Limit(lambda left: self._say(f"… {left} lines left out"))
        self._answers: asyncio.Queue[frames.Frame | None] = asyncio.Queue()
        self._deaths, self._number = 0, 0
        self._tasks: list[asyncio.Task[None]] = []
        self._comparing: asyncio.Task[None] | None = None
        self._up: frozenset[str] = frozenset()  # further machines that can be asked
        self._refused: set[str] = set()  # that cannot do their part of this run
        self._ranks: dict[str, range] = {}  # of the further machines in the group that is
        self._generation = 0
        self._asked, self._given, self._held = False, False, False  # a task is there; workers do it; the run pauses
        self._cannot: dict[str, str] | None = None  # why there can be no workers, until the next task

    @property
    def sandbox(self) -> str:
        return self._bench.sandbox

    @property
    def obstacle(self) -> str:
        return self._bench.obstacle

    async def start(self) -> None:
        await self._bench.open(self._serve)
        self._tasks.append(asyncio.create_task(self._supervise(), name="workers"))

    async def stop(self) -> None:
        """End the workers and whatever they started."""
        for task in (*self._tasks, *filter(None, (self._comparing,))):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tell_further({"do": "end"})
        self._bench.kill()
        for writer in self._group.writers.values():
            writer.close()  # torchrun's workers lead groups of their own: the end of their link ends them
        await self._bench.close()

    async def run(self, words: dict[str, Any]) -> frames.Frame:
        """Do one task; after a death it is done again from its beginning by fresh workers.

        Raises:
            TaskFailed: the job's code or data failed, the workers died too often (OCT-RUN-WORKERS), did not go on
                (OCT-RUN-STALLED), or took unequal numbers of steps (OCT-RUN-UNEVEN). After the last two, the workers
                are ended, and new ones start.
        """
        self._deaths, self._cannot, self._asked = 0, None, True
        if not self._held:
            self._bench.want()
        try:
            return await self._run(words)
        finally:
            self._asked = self._given = False
            self._bench.idle()
            if self._held:
                self._bench.rest()

    async def _run(self, words: dict[str, Any]) -> frames.Frame:
        config = self._spec.run_config
        self._patience = Patience(config.round_deadline_s, config.training.stall_s)
        await self._notify()
        asked = words
        if self.sandbox != "none":
            given = self._bench.give([words["model"], *words.get("shared", {}).values()])
            shared = {name: given[place] for name, place in words.get("shared", {}).items()}
            words = {**words, "model": given[words["model"]], "shared": shared}
        if self._ranks.keys() != {m.node for m in self._there()}:
            await self._break("Machines came or went: the group begins anew.", counts=False)
        while True:
            await self._all_ready()
            if self._group.fault:
                raise TaskFailed(self._group.fault)
            self._number += 1
            self._given = True
            while not self._answers.empty():
                self._answers.get_nowait()
            self._group.trained.clear()
            self._patience.moved()
            packed = frames.pack("task", number=self._number, **words)
            for writer in list(self._group.writers.values()):
                writer.write(packed)
            if self._spec.slurm:
                self._listener.heard({"word": "progress", "fraction": 0.0})  # until now it waited for the site
            if self._ranks:
                self._tell_further({"do": "task", "number": self._number, **self._by_digest(asked)})
            answer = await self._answer()
            self._given = False
            if self._comparing:
                self._comparing.cancel()
            if answer is not None:
                if answer["word"] == "error":
                    raise TaskFailed(answer["fault"])
                return answer
            if self._deaths > self._spec.max_restarts:
                raise TaskFailed(self._died())

    def pause(self) -> None:
        """Hold nothing that others could use; a task that is being done is done first."""
        self._held = True
        if not self._given:
            self._bench.rest()

    def resume(self) -> None:
        self._held = False
        if self._asked:
            self._bench.want()

    # further machines

    async def set_up(self, nodes: Iterable[str]) -> None:
        """Which further machines can be asked now; one of the group that is not among them has gone."""
        self._up = frozenset(nodes)
        self._refused &= self._up  # one that comes back may have what it lacked
        gone = [m.name for m in self._spec.machines if m.node in self._ranks and m.node not in self._up]
        if gone:
            await self._break(f"{', '.join(gone)} went away: the group begins again without.", counts=True)

    async def told(self, node: str, words: dict[str, Any]) -> None:
        """What a further machine's agent says. Foreign code runs there too: its ranks speak for themselves alone."""
        if words.get("generation") != self._generation or node not in self._ranks:
            return
        if words["word"] == "frame" and int(words["rank"]) in self._ranks[node]:
            await self._take(self._group, int(words["rank"]), words["frame"])
        elif words["word"] == "frame" and words["frame"]["word"] == "log":
            await self._take(self._group, -1, words["frame"])
        elif words["word"] == "ended":
            name = next(m.name for m in self._spec.machines if m.node == node)
            await self._break(f"The workers of {name} ended: {str(words.get('why', ''))[:300]}", counts=True)
        elif words["word"] == "refused":
            self._refused.add(node)
            name = next(m.name for m in self._spec.machines if m.node == node)
            await self._break(f"{name} takes no part: {str(words.get('why', ''))[:600]}", counts=False)

    def _there(self) -> list[Further]:
        there = self._up - self._refused if self._ask else ()
        return [m for m in self._spec.machines if m.node in there]

    def _tell_further(self, words: dict[str, Any]) -> None:
        if self._ask:
            for node in self._ranks:
                self._ask(node, {**words, "generation": self._generation})

    def _by_digest(self, words: dict[str, Any]) -> dict[str, Any]:
        """A task's words for a further machine: files by digest and size; where results go is of no use there."""
        blobs = BlobStore(Path(self._spec.blobs))

        def named(place: str) -> list[Any]:
            digest = Path(place).name
            return [digest, blobs.size(digest)]

        shared = {name: named(place) for name, place in words.get("shared", {}).items()}
        plain = {name: words[name] for name in ("task", "round", "rounds", "config")}
        return {"words": plain, "model": named(words["model"]), "shared": shared}

    def _begin(self) -> Group:
        """Who is in the next group; asks the further machines for their part."""
        machines = self._there()
        self._generation += 1
        self._ranks, first = {}, max(1, self._spec.workers)
        for machine in machines:
            self._ranks[machine.node] = range(first, first + machine.workers)
            first += machine.workers
        self._size = first
        if not machines:
            return Group()
        address = self._spec.address
        group = Group(machines=len(machines) + 1, address=address, own=address, port=free_port(address))
        for place, machine in enumerate(machines, start=1):
            words = {"do": "start", "machines": group.machines, "machine": place, "address": address}
            self._tell(machine, {**words, "port": group.port, "spec": self._spec_for(machine)})
        return group

    def _spec_for(self, machine: Further) -> dict[str, Any]:
        blobs, digest = BlobStore(Path(self._spec.blobs)), self._spec.package_digest
        return {**self._spec.for_machine(machine), "package_size": blobs.size(digest) if digest else 0}

    def _tell(self, machine: Further, words: dict[str, Any]) -> None:
        assert self._ask is not None
        self._ask(machine.node, {**words, "generation": self._generation})

    async def _break(self, why: str, *, counts: bool) -> None:
        """End the group that is; the next one begins by itself."""
        self._say(why)
        group = self._group
        await self._lost(group, counts=counts)
        for writer in group.writers.values():
            writer.close()
        self._bench.kill()

    async def _answer(self) -> frames.Frame | None:
        """The frame that answers the current task; None when the group died before it."""
        while True:
            frame = await self._patiently(self._answers.get)
            if frame is None or frame.get("number") == self._number:
                return frame

    async def _patiently(self, wait: Callable[[], Coroutine[Any, Any, _T]], beginning: bool = False) -> _T:
        """What ``wait`` gives, unless the task's time ends before."""
        while (left := self._patience.left(beginning)) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left if left < math.inf else None):
                    return await wait()
        obstacle = self._bench.obstructed()
        self._end_group()
        raise TaskFailed(_told(obstacle) if obstacle else self._patience.fault())

    def _end_group(self) -> None:
        """End these workers; others start. It counts as no death."""
        group, self._group = self._group, _Group()
        self._bench.kill()
        for writer in group.writers.values():
            writer.close()

    async def _compare(self, group: _Group, number: int) -> None:
        """A worker has finished. Tell when another is in a step that can never end."""
        while True:
            await asyncio.sleep(UNEVEN_S)
            if group is not self._group or number != self._number or len(group.trained) == self._size:
                return
            for rank, writer in group.writers.items():
                if rank not in group.trained:
                    writer.write(frames.pack("where"))
            self._tell_further({"do": "where", "but": list(group.trained)})

    def _placed(self, group: _Group, rank: int, passes: int) -> None:
        first = min(group.trained, key=lambda r: group.trained[r], default=None)
        if group is not self._group or first is None or rank in group.trained or passes <= group.trained[first]:
            return
        fault = uneven(first, group.trained[first], rank, passes)
        self._end_group()
        self._answers.put_nowait({"word": "error", "number": self._number, "fault": fault})

    async def _all_ready(self) -> None:
        async def ready() -> None:
            async with self._changed:
                await self._changed.wait_for(
                    lambda: (
                        len(self._group.ready) == self._size
                        or self._group.fault is not None
                        or self._cannot is not None
                        or self._deaths > self._spec.max_restarts
                    )
                )

        await self._patiently(ready, beginning=True)
        if self._cannot:
            raise TaskFailed(self._cannot)
        if self._deaths > self._spec.max_restarts and len(self._group.ready) < self._size:
            raise TaskFailed(self._died())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = await frames.read(reader)
        if hello is None or hello["word"] != "hello":
            writer.close()
            return
        rank, group = int(hello["rank"]), self._group
        group.writers[rank] = writer
        while frame := await frames.read(reader):
            await self._take(group, rank, frame)
        writer.close()
        await self._lost(group)  # torchrun ends the other ranks

    async def _take(self, group: _Group, rank: int, frame: frames.Frame) -> None:
        word = frame["word"]
        if word == "ready":
            group.ready.add(rank)
            await self._notify()
        elif word == "failed":
            group.fault = frame["fault"]
            await self._notify()
        elif word in ("result", "error"):
            if rank == 0 or word == "error":
                self._answers.put_nowait(frame)
        elif word == "trained":
            if rank in group.trained:  # a task may train twice: to try the model out, and for its answer
                group.trained.clear()
            if not group.trained and frame["number"] == self._number:
                if self._comparing:
                    self._comparing.cancel()
                self._comparing = asyncio.create_task(self._compare(group, self._number), name="compare")
            group.trained[rank] = int(frame["passes"])
        elif word == "place":
            self._placed(group, rank, int(frame["passes"]))
        elif word == "log":
            if self._limit.allows():
                self._listener.heard({**frame, "text": str(frame["text"])[:LINE_BYTES]})
        elif word != "hello":
            self._patience.moved()
            self._listener.heard(frame)

    async def _lost(self, group: _Group, *, counts: bool = True) -> None:
        """The group is no more, unless that is known already; a fault outlives it."""
        if group is self._group and not group.fault:
            self._group = _Group()
            self._deaths += counts
            self._answers.put_nowait(None)
            await self._notify()

    def _say(self, text: str) -> None:
        self._listener.heard({"word": "log", "level": "warning", "text": text})

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _wait_for_another_task(self, error: UserError | OSError) -> None:
        """The site has no workers for us now; it may have for the next task."""
        if isinstance(error, OSError):
            what = "The allocation could not be asked for."
            error = UserError("OCT-RUN-WORKERS", what, str(error), "Look at the run's log.")
        self._listener.heard({"word": "log", "level": "error", "text": str(error)})
        self._cannot = _told(error)
        await self._notify()
        async with self._changed:
            await self._changed.wait_for(lambda: self._cannot is None)

    def _died(self) -> dict[str, str]:
        known = self._bench.ended()
        return _told(
            known
            or UserError(
                "OCT-RUN-WORKERS",
                f"The training workers died {self._deaths} times in one task.",
                "They were killed or crashed; the run's log has their last words.",
                "Look for too little memory or a crash in native code, then resume or stop the run.",
            )
        )

    async def _supervise(self) -> None:
        while True:
            deaths = self._deaths
            if deaths:
                await asyncio.sleep(RESTART_PAUSE_S[min(deaths, len(RESTART_PAUSE_S)) - 1])
            connected = self._group
            try:
                code = await self._bench.work(self._begin())
            except (UserError, OSError) as error:
                if not self._spec.slurm:  # no port, no interface: starting again would fail in the same way
                    what = "The workers could not be started."
                    connected.fault = _told(UserError("OCT-RUN-WORKERS", what, str(error), "Look at the run's log."))
                    await self._notify()
                    return
                await self._wait_for_another_task(error)
                continue
            self._tell_further({"do": "end"})
            self._say(f"The workers ended with code {code}.")
            await self._lost(connected)  # it may have died before it could say hello
            async with self._changed:
                await self._changed.wait_for(lambda: self._deaths <= self._spec.max_restarts)


def _told(error: UserError) -> dict[str, str]:
    return {**as_fault(error), "public": error.what}
