"""The site's Slurm as a place for runs: its profiles, and that no allocation is left behind.

An allocation is asked for by its run's runner (``training.slurm_bench``), under a name that this silo gives it before.
Here it is seen to that each such name in the queue belongs to a run that goes on: when a run ends or pauses, when the
daemon begins, and when it ends. What cannot be cancelled now is tried again. Knows no queue's state and no worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.system import slurm
from octopus_desktop.system.slurm import Profile
from octopus_desktop.system.slurm_words import could_start
from octopus_desktop.training.slurm_bench import own_address_for
from octopus_desktop.training.spec import Allocated
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

KIND = "slurm_profile"
MARK = "slurm/mark"
RETRY_S = (2.0, 10.0, 60.0, 300.0)
STOP_S = 4.0
TEXTS = ("name", "partition", "account", "qos", "mem", "time", "address")
NUMBERS = ("nodes", "gpus_per_node", "cpus_per_task", "alone_s")

log = logging.getLogger(__name__)


class Slurm:
    """The noun ``Slurm profile``. States: ok | refused | away (nobody answers).

    Attributes:
        going: the runs that may have an allocation now; set by ``app``.
    """

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self.going: Callable[[], set[str]] = set
        self._clearing: set[asyncio.Task[None]] = set()

    # profiles

    async def put(self, request: pb.SlurmProfile) -> pb.SlurmProfile:
        """Register a profile, or another one under the same name. It is tried out first, without anything being run.

        Raises OCT-CONFIG-INVALID for a value that cannot be, and OCT-SLURM-MISSING, -DOWN, -PARTITION, -ACCOUNT, -LIMIT
        or -REFUSED for what Slurm says.
        """
        profile = profile_of(request).checked()
        said = await _try_out(profile)
        known = next((p for p in self._silo.all(KIND) if p.name == profile.name), None)
        kept = pb.SlurmProfile(
            id=known.id if known else new_id("q"),
            extra=profile.extra,
            added_at=known.added_at if known else round(time.time(), 3),
            checked_at=round(time.time(), 3),
            state="ok",
            said=said,
        )
        for name in (*TEXTS, *NUMBERS):
            setattr(kept, name, getattr(profile, name))
        with self._silo.change():
            self._silo.put(KIND, kept)
            self._silo.record(self._silo.administrator, "slurm.profile-added", kept.id, profile.to_dict())
            self._silo.answer(kept)
        return kept

    async def check(self, profile_id: str) -> pb.SlurmProfile:
        """Ask Slurm again what it says of such an allocation."""
        profile = profile_of(self._silo.need(KIND, profile_id))
        try:
            said, fault = await _try_out(profile), None
        except UserError as error:
            said, fault = "", error
        with self._silo.change():
            kept = self._silo.need(KIND, profile_id)
            before = kept.state
            kept.said, kept.checked_at = said, round(time.time(), 3)
            kept.error_code, kept.error = (fault.code, f"{fault.what} {fault.why}") if fault else ("", "")
            away = fault is not None and fault.code in ("OCT-SLURM-DOWN", "OCT-SLURM-MISSING")
            kept.state = "ok" if fault is None else "away" if away else "refused"
            self._silo.put(KIND, kept)
            if kept.state != before:
                detail = {"name": kept.name, "state": kept.state, "error": kept.error}
                self._silo.record("daemon", "slurm.profile-checked", kept.id, detail)
            self._silo.answer(kept)
        return kept

    def remove(self, profile_id: str, in_use: bool) -> None:
        """``in_use``: a run that is not over was approved for it."""
        profile = self._silo.need(KIND, profile_id)
        if in_use:
            raise UserError(
                "OCT-RUN-STATE",
                f"The Slurm profile {profile.name} is in use.",
                "A run that is not over was approved for it.",
                "Stop that run first, or wait for its end.",
            )
        with self._silo.change():
            self._silo.drop(KIND, profile_id)
            self._silo.record(self._silo.administrator, "slurm.profile-removed", profile_id, {"name": profile.name})
            self._silo.answer(pb.Ack())

    # runs

    async def must_take(self, profile_id: str) -> None:
        """Before an approval: raises what Slurm says against such an allocation, and OCT-SLURM-UNKNOWN."""
        await slurm.try_out(profile_of(self._silo.need(KIND, profile_id)))

    def plan(self, run_id: str, config: RunConfig, profile_id: str) -> dict[str, Any]:
        """The fields of a runner's specification that say who trains: nobody here. Raises OCT-SLURM-UNKNOWN.

        One worker for each GPU; else as many as the job asks for, by turns, on no more nodes than that gives one each.
        """
        profile = profile_of(self._silo.need(KIND, profile_id))
        gpus = profile.gpus_per_node
        wanted = gpus * profile.nodes or config.resources.workers or profile.nodes
        nodes = min(profile.nodes, wanted)
        workers = tuple(wanted // nodes + (place < wanted % nodes) for place in range(nodes))
        cpus = profile.cpus_per_task or max(workers) * max(1, config.resources.threads_per_worker)
        profile = replace(profile, nodes=nodes, cpus_per_task=cpus)
        allocated = Allocated(profile=profile.to_dict(), name=self.name(run_id), workers=workers)
        devices = tuple(f"cuda:{place}" for place in range(gpus))
        return {"workers": wanted, "devices": devices, "slurm": asdict(allocated)}

    def name(self, run_id: str) -> str:
        """By which the run's allocation is known in the queue, whether or not its id was ever told."""
        return f"{self._prefix()}{run_id}"

    def _prefix(self) -> str:
        """This silo's own: others of the same user may work on the same cluster."""
        mark = self._silo.db.get(MARK)
        if mark is None:
            mark = new_id()[-8:].encode()
            self._silo.db.set(MARK, mark)
        return f"octopus-{mark.decode()}-"

    # nothing is left behind

    def give_back(self, run_id: str) -> None:
        """Its runner is gone, or the run is over: so is its allocation, now or as soon as Slurm answers."""
        self._later(self._until_cleared(run_id))

    def begin(self) -> None:
        """The daemon began: whatever is in the queue for a run that does not go on is cancelled."""
        if self._silo.db.get(MARK) is not None:  # nothing was ever asked for without it
            self._later(self._until_cleared(""))

    async def stop(self) -> None:
        """The daemon ends, and with it every allocation. What Slurm does not take in time ends itself."""
        for task in self._clearing:
            task.cancel()
        if self._silo.db.get(MARK) is not None:
            with contextlib.suppress(UserError, TimeoutError, OSError):
                async with asyncio.timeout(STOP_S):
                    await slurm.cancel(list(await slurm.named(self._prefix())))

    def _later(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._clearing.add(task)
        task.add_done_callback(self._clearing.discard)

    async def _until_cleared(self, run_id: str) -> None:
        """``run_id`` "": all whose run does not go on."""
        tries = 0
        while True:
            try:
                await self._clear(run_id)
                return
            except (UserError, OSError) as error:
                log.warning("allocations cannot be cancelled yet: %s", error)
            await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
            tries += 1

    async def _clear(self, run_id: str) -> None:
        found = await slurm.named(self.name(run_id), whole=bool(run_id))
        going = {self.name(one) for one in self.going()}
        left = {job: name for job, (name, _) in found.items() if name not in going}
        await slurm.cancel(list(left))
        for job, name in left.items():
            log.info("Slurm job %s (%s) was cancelled: its run does not go on", job, name)


def profile_of(message: pb.SlurmProfile) -> Profile:
    values: dict[str, Any] = {name: getattr(message, name).strip() for name in TEXTS}
    values.update({name: int(getattr(message, name)) for name in NUMBERS if getattr(message, name)})
    return Profile(**values, extra=tuple(message.extra))


async def _try_out(profile: Profile) -> str:
    """What Slurm says of such an allocation, and of where it would be. Raises UserError."""
    slurm.installed()
    there = await slurm.partitions()
    said = could_start(await slurm.try_out(profile))
    address = await own_address_for(profile)
    where = f"{profile.partition}: {there[profile.partition]}. " if profile.partition in there else ""
    return f"{said} {where}Its nodes reach this machine at {address}."
