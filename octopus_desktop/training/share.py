"""A further machine's part of a run's group: ``python -m octopus_desktop.training.share RUN_DIR``, by its agent.

Words on stdin, as ``wire.child`` has them: ``start`` a group's part {generation, machines, machine, address, port},
``task`` for its workers, ``where`` are they {but}, ``end`` of the group. It answers ``frame`` {generation, rank,
frame}, which is what a worker said, and ``ended`` {generation, why}. It ends with its stdin. No torch here; knows
neither mail nor the silo.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from octopus_desktop.training import frames
from octopus_desktop.training.bench import Bench, Group, own_address
from octopus_desktop.training.spec import RunnerSpec
from octopus_desktop.wire.child import ParentLink, decode
from octopus_desktop.wire.errors import UserError

LINE_BYTES = 8 << 20


class Share:
    """One group at a time; a new one ends the one before."""

    def __init__(self, run_dir: Path, parent: ParentLink) -> None:
        self._parent, self._run_dir = parent, run_dir
        self._bench = Bench(run_dir, RunnerSpec.read(run_dir / "runner.json"), self, confine=True)
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._generation = 0
        self._work: asyncio.Task[None] | None = None

    async def run(self) -> None:
        await self._bench.open(self._serve)
        if self._bench.sandbox == "none":
            self.heard({"word": "log", "level": "warning", "text": f"No sandbox here: {self._bench.obstacle}"})
        reader = asyncio.StreamReader(limit=LINE_BYTES)
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        try:
            while line := await reader.readline():
                words = decode(line)
                if words:
                    await self._do(words)
        finally:
            await self._end()
            await self._bench.close()

    def heard(self, frame: frames.Frame) -> None:
        """What the bench itself has to say."""
        self._parent.say("frame", generation=self._generation, rank=-1, frame=frame)

    async def _do(self, words: dict[str, Any]) -> None:
        word = words["word"]
        if word == "start":
            await self._end()
            self._generation = int(words["generation"])
            self._work = asyncio.create_task(self._group(self._generation, words))
        elif word == "task" and words["generation"] == self._generation:
            files = [words["model"], *words["shared"].values()]
            given = self._bench.give(files) if self._bench.sandbox != "none" else {file: file for file in files}
            work = self._run_dir / "work"
            packed = frames.pack(
                "task",
                **words["words"],
                number=words["number"],
                model=given[words["model"]],
                shared={name: given[file] for name, file in words["shared"].items()},
                keep=str(work / "memory"),
                out=str(work / "update.safetensors"),  # written by rank 0 alone, which is not here
            )
            for writer in list(self._writers.values()):
                writer.write(packed)
        elif word == "where" and words["generation"] == self._generation:
            for rank, writer in self._writers.items():
                if rank not in words["but"]:
                    writer.write(frames.pack("where"))
        elif word == "end" and words["generation"] == self._generation:
            await self._end()

    async def _group(self, generation: int, words: dict[str, Any]) -> None:
        try:
            group = Group(
                machines=int(words["machines"]),
                machine=int(words["machine"]),
                address=str(words["address"]),
                own=own_address(str(words["address"])),
                port=int(words["port"]),
            )
            why = f"exit code {await self._bench.work(group)}"
        except (UserError, OSError) as error:
            why = str(error)
        self._parent.say("ended", generation=generation, why=why)

    async def _end(self) -> None:
        self._bench.kill()
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()
        if self._work:
            await self._work
            self._work = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        generation, hello = self._generation, await frames.read(reader)
        if hello is None or hello["word"] != "hello":
            writer.close()
            return
        rank = int(hello["rank"])
        self._writers[rank] = writer
        while frame := await frames.read(reader):
            self._parent.say("frame", generation=generation, rank=rank, frame=frame)
        writer.close()


def main(arguments: list[str]) -> None:
    asyncio.run(Share(Path(arguments[0]), ParentLink()).run())
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
