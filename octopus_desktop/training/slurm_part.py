"""One node's part of a run's allocation: ``python -m octopus_desktop.training.slurm_part RUN_DIR``, by ``srun``.

It dials the run's runner, by the door that lies in the run's folder, and starts this node's workers when it is told so;
each worker's socket is passed through to the runner as it is. When the runner is not there for long, or the run is
over, it ends, and the allocation with it: no allocation outlives its run. No torch here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from octopus_desktop.training import frames
from octopus_desktop.training import slurm_door as door
from octopus_desktop.training.bench import Bench, Group, free_port, own_address
from octopus_desktop.training.presence import check_data
from octopus_desktop.training.spec import SLURM, RunnerSpec
from octopus_desktop.wire.errors import UserError

REDIAL_S = (0.2, 0.5, 1.0, 2.0, 5.0)
NO_DOOR_S = 30.0  # without a door the run is over; a file system may show a new one late
PUMP_BYTES = 1 << 16


class Part:
    """This node's workers, for as long as the runner wants them."""

    def __init__(self, run_dir: Path, job: str, place: int) -> None:
        self._run_dir, self._job, self._place = run_dir, job, place
        spec = RunnerSpec.read(run_dir / "runner.json")
        assert spec.allocated is not None
        self._spec = replace(spec, workers=spec.allocated.workers[place])
        self._bench = Bench(run_dir, self._spec, self, confine=True)
        self._writer: asyncio.StreamWriter | None = None
        self._work: asyncio.Task[None] | None = None
        self._generation = 0

    async def run(self) -> int:
        """Until the runner says so, or is gone for too long; returns the exit code."""
        await self._bench.open(self._pass_through)
        try:
            return await self._stay()
        finally:
            await self._end()
            await self._bench.close()

    async def _stay(self) -> int:
        left, tries, alone_s, checked = time.monotonic(), 0, 0.0, False
        while True:
            try:
                found = door.Door.read(self._run_dir)
                alone_s = found.alone_s
                own = own_address(found.address)
                hello = {"place": self._place, "address": own, "port": free_port(own)}
                reader, writer = await door.dial(self._run_dir, job=self._job, **hello)
            except (OSError, ValueError) as error:  # TLS and time-outs among them
                patience = alone_s if (self._run_dir / SLURM / door.DOOR).exists() else min(alone_s, NO_DOOR_S)
                if time.monotonic() - left > patience:
                    print(f"The run's runner cannot be reached: {error}. The allocation ends.", file=sys.stderr)
                    return 0
                await asyncio.sleep(REDIAL_S[min(tries, len(REDIAL_S) - 1)])
                tries += 1
                continue
            self._writer, tries = writer, 0
            if not checked:
                checked = await self._check(writer)
            if await self._carry(reader, writer):
                return 0
            left = time.monotonic()

    async def _check(self, writer: asyncio.StreamWriter) -> bool:
        """What was approved must be what is here. Tells the runner when it is not; it ends the allocation."""
        try:
            for source in self._spec.sources.values():
                await asyncio.to_thread(check_data, source)
        except UserError as error:
            said = {"code": error.code, "what": error.what, "why": error.why, "next": error.next_step}
            door.say(writer, "refused", **said)
            return False
        if self._bench.sandbox == "none":
            self.heard({"word": "log", "level": "warning", "text": f"No sandbox there: {self._bench.obstacle}"})
        return True

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Do as the runner says; True when it says that this is over."""
        beating = asyncio.create_task(door.beat(writer))
        try:
            while words := await door.hear(reader):
                if words["word"] == "leave":
                    return True
                if words["word"] == "start":
                    await self._end()
                    self._generation = int(words["generation"])
                    self._work = asyncio.create_task(self._group(self._generation, words))
                elif words["word"] == "end" and words["generation"] == self._generation:
                    await self._end()
            return False
        finally:
            beating.cancel()
            self._writer = None
            await self._end()  # without the link no group can be whole
            writer.close()

    async def _group(self, generation: int, words: dict[str, Any]) -> None:
        address = str(words["address"])
        try:
            group = Group(
                machines=int(words["machines"]),
                machine=int(words["machine"]),
                address=address if int(words["machines"]) > 1 else "127.0.0.1",
                own=own_address(address) if int(words["machines"]) > 1 else "127.0.0.1",
                port=int(words["port"]) if int(words["machines"]) > 1 else 0,
            )
            why = f"exit code {await self._bench.work(group)}"
        except (UserError, OSError) as error:
            why = str(error)
        if self._writer:
            door.say(self._writer, "ended", generation=generation, why=why, port=free_port(own_address(address)))

    async def _end(self) -> None:
        self._bench.kill()
        if self._work:
            await self._work
            self._work = None

    def heard(self, frame: frames.Frame) -> None:
        """What the bench itself has to say."""
        if self._writer:
            door.say(self._writer, "frame", frame=frame)

    async def _pass_through(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A worker's socket, carried to the runner byte by byte; either end's end is the other's."""
        try:
            hello = {"link": "worker", "job": self._job, "generation": self._generation}
            there, back = await door.dial(self._run_dir, **hello)
        except (OSError, ValueError):
            writer.close()
            return
        try:
            pumps = {asyncio.create_task(_pump(reader, back)), asyncio.create_task(_pump(there, writer))}
            _, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pending:
                pump.cancel()
        finally:
            back.close()
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await reader.read(PUMP_BYTES):
            writer.write(chunk)
            await writer.drain()


async def _run(run_dir: Path) -> int:
    part = Part(run_dir, os.environ["SLURM_JOB_ID"], int(os.environ.get("SLURM_PROCID", "0")))
    work = asyncio.create_task(part.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):  # the site's limit, a cancellation, a preemption
        loop.add_signal_handler(number, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        return 1


def main(arguments: list[str]) -> None:
    code = asyncio.run(_run(Path(arguments[0])))
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    main(sys.argv[1:])
