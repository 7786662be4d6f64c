"""The site's Slurm, by its own commands: what is asked for, submitted, seen in the queue, cancelled.

A ``Profile`` says in which partition, under which account and with how much an allocation is asked for. Every value is
checked and handed over as one word of an argument list, never through a shell. An allocation bears a name that is known
before it is submitted, so that one whose submission was interrupted is found again. Knows no run and no worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from octopus_desktop.system.slurm_words import Job, read_job, refusal
from octopus_desktop.wire.canonical import canonical_json, digest
from octopus_desktop.wire.errors import UserError

ASK_S = 20.0  # for one command's answer; while its controller is away, Slurm's commands try for a while by themselves
MOST_NODES, MOST_CPUS, MOST_GPUS = 1024, 4096, 64
ALONE_S = (10, 3600)
COMMANDS = ("sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
EXTRA = (
    "constraint", "prefer", "gres", "reservation", "nodelist", "exclude", "exclusive", "licenses", "switches", "hint",
    "nice", "tmp", "gpu-bind", "gpu-freq", "sockets-per-node", "threads-per-core", "begin", "deadline", "wckey",
)  # fmt: skip
OPEN = "PENDING,CONFIGURING,RUNNING,SUSPENDED,COMPLETING,REQUEUED,RESIZING,SIGNALING,STAGE_OUT,STOPPED"
_PASSED = ("PATH", "HOME", "USER", "LOGNAME", "TZ", "LANG", "LC_ALL", "SLURM_CONF", "SLURM_CONF_SERVER")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:+@-]{0,99}")
_MEMORY = re.compile(r"[1-9][0-9]{0,11}[KMGT]?")
_TIME = re.compile(r"(?:[0-9]{1,3}-)?[0-9]{1,6}(?::[0-9]{1,2}){0,2}")
_OPTION = re.compile(r"--([a-z][a-z-]*)(?:=([A-Za-z0-9_.,:=+@&|*()\[\]/-]{1,200}))?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,252}|::[A-Fa-f0-9:.]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What is asked for, of which part of the cluster. Empty or zero: what the site gives by itself.

    ``cpus_per_task``: cores of each node (one task a node starts all its workers). ``mem``: of each node, as Slurm
    writes it ("64G"). ``time``: the allocation's longest life, as Slurm writes it. ``extra``: further options of
    ``sbatch``, each "--name" or "--name=value". ``address``: where compute nodes reach this machine, where that is not
    the address by which it reaches the controller. ``alone_s``: an allocation that has not reached this machine for so
    long ends itself.
    """

    name: str
    partition: str = ""
    account: str = ""
    qos: str = ""
    nodes: int = 1
    gpus_per_node: int = 0
    cpus_per_task: int = 0
    mem: str = ""
    time: str = ""
    extra: tuple[str, ...] = ()
    address: str = ""
    alone_s: int = 300

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Profile:
        return cls(**{**value, "extra": tuple(value.get("extra", ()))})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def checked(self) -> Profile:
        """This profile, when all of it can be meant. Raises OCT-CONFIG-INVALID."""
        if not _NAME.fullmatch(self.name):
            raise _bad("name", self.name, "It has 1 to 64 letters, digits, dots, hyphens and underscores.")
        for field in ("partition", "account", "qos"):
            value = getattr(self, field)
            if value and not _WORD.fullmatch(value):
                raise _bad(field, value, "It is a name as 'sinfo' or the site's administrators write it.")
        if self.mem and not _MEMORY.fullmatch(self.mem):
            raise _bad("mem", self.mem, "It is a number with K, M, G or T behind it: 64G.")
        if self.time and not _TIME.fullmatch(self.time):
            raise _bad("time", self.time, "It is minutes, hours:minutes:seconds, or days-hours:minutes:seconds.")
        if self.address and not _ADDRESS.fullmatch(self.address):
            raise _bad("address", self.address, "It is a host's name or its IP address.")
        for field, least, most in (
            ("nodes", 1, MOST_NODES), ("gpus_per_node", 0, MOST_GPUS), ("cpus_per_task", 0, MOST_CPUS),
            ("alone_s", *ALONE_S),
        ):  # fmt: skip
            value = getattr(self, field)
            if not isinstance(value, int) or not least <= value <= most:
                raise _bad(field, str(value), f"It is a whole number from {least} to {most}.")
        for option in self.extra:
            found = _OPTION.fullmatch(option)
            if found is None or found[1] not in EXTRA:
                raise _bad("extra", option, f"Options there are --name or --name=value, of: {', '.join(EXTRA)}.")
        return self

    def options(self) -> list[str]:
        """As words for ``sbatch``."""
        asked = {
            "partition": self.partition, "account": self.account, "qos": self.qos, "nodes": self.nodes,
            "ntasks": self.nodes, "ntasks-per-node": 1, "cpus-per-task": self.cpus_per_task, "mem": self.mem,
            "gpus-per-node": self.gpus_per_node, "time": self.time,
        }  # fmt: skip
        return [f"--{name}={value}" for name, value in asked.items() if value] + list(self.extra)


def split_extra(text: str) -> tuple[str, ...]:
    """``--gres gpu:a100:2 --exclusive`` as checked options are written. Raises OCT-CONFIG-INVALID."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise _bad("extra", text, f"It cannot be read: {error}.") from error
    found: list[str] = []
    for word in words:
        if not word.startswith("--") and found and "=" not in found[-1]:
            found[-1] += f"={word}"
        else:
            found.append(word)
    return tuple(found)


async def controller() -> str:
    """The host name of the machine that runs the queue. Raises OCT-SLURM-MISSING, OCT-SLURM-DOWN."""
    text = await _ask("scontrol", "show", "config")
    found = re.search(r"^SlurmctldHost\[0\]\s*=\s*(\S+?)(?:\((\S+)\))?$", text, re.MULTILINE)
    return (found[2] or found[1]) if found else ""


async def submit(
    profile: Profile, name: str, script: Sequence[str], *, folder: Path, environment: Mapping[str, str]
) -> str:
    """Ask for an allocation; returns its id.

    Args:
        name: how it is found again, whatever happens to this call.
        script: the words that its first node runs.
        folder: its working directory, where its output goes; on every node the same.
        environment: all that the script gets beside what Slurm itself sets. It holds no secret: Slurm keeps it.

    Raises:
        UserError: OCT-SLURM-MISSING, -DOWN, -PARTITION, -ACCOUNT, -LIMIT, -REFUSED.
    """
    text = "#!/bin/sh\nexec " + shlex.join(script) + "\n"
    options = [
        f"--job-name={name}",
        f"--comment={mark_of(profile, script)}",
        f"--chdir={folder}",
        f"--output={folder}/allocation-%j.log",
        "--open-mode=append",
    ]
    words = ["sbatch", "--parsable", "--requeue", "--export=ALL", *options, *profile.options()]
    out = await _ask(*words, stdin=text, environment=environment)
    return out.strip().partition(";")[0]


async def try_out(profile: Profile) -> str:
    """What Slurm says of such an allocation, without asking for it: "Job 7 to start at …". Raises like ``submit``."""
    words = ["sbatch", "--test-only", "--export=ALL", *profile.options()]
    _, said = await _call(*words, stdin="#!/bin/sh\nexit 0\n")
    return said.strip().removeprefix("sbatch: ")


async def partitions() -> dict[str, str]:
    """Partition -> what it is, in words. Raises OCT-SLURM-MISSING, OCT-SLURM-DOWN."""
    found: dict[str, str] = {}
    for line in (await _ask("sinfo", "--noheader", "--format=%R|%a|%D|%l|%c|%m|%G")).splitlines():
        name, up, nodes, limit, cpus, memory, gpus = (line.split("|") + [""] * 7)[:7]
        gpu = "" if gpus in ("", "(null)") else f", {gpus}"
        said = f"{up}; nodes: {nodes}, each with {cpus} CPUs and {memory} MB{gpu}; limit {limit}"
        found[name] = f"{found[name]}; {said}" if name in found else said
    return found


async def look(job_id: str) -> Job | None:
    """What the queue knows of an allocation; None when it knows nothing of it any more."""
    try:
        text = await _ask("scontrol", "--oneliner", "show", "job", job_id)
    except UserError as error:
        if "Invalid job id" in error.why:
            return None
        raise
    return read_job(text)


async def place(job: Job) -> int:
    """Which one in its partition's queue it is, from 1; 0 when that is not told."""
    words = ["squeue", "--noheader", "--states=PENDING", f"--partition={job.partition}", "--sort=-p,i", "--format=%i"]
    try:
        waiting = (await _ask(*words)).split()
    except UserError:
        return 0
    return waiting.index(job.id) + 1 if job.id in waiting else 0


def mark_of(profile: Profile, script: Sequence[str]) -> str:
    """By which an allocation is known to be for the same, under whatever name."""
    return digest(canonical_json([profile.options(), list(script)]))[:16]


async def named(prefix: str, *, whole: bool = False) -> dict[str, tuple[str, str]]:
    """Ids of this user's allocations that are not over -> (name, mark), of those whose name begins with ``prefix``
    (``whole``: is it), the newest last."""
    words = ["squeue", "--noheader", "--me", f"--states={OPEN}", "--format=%i|%T|%k|%j"]
    found = {}
    for line in (await _ask(*words)).splitlines():
        job_id, state, mark, name = line.split("|", 3)
        if (name == prefix if whole else name.startswith(prefix)) and state != "COMPLETING":
            found[job_id] = name, mark
    return dict(sorted(found.items(), key=lambda item: int(re.sub(r"\D.*", "", item[0]) or 0)))


async def cancel(job_ids: Sequence[str]) -> None:
    """End these allocations, waiting or running. Those that are over already count as ended."""
    if not job_ids:
        return
    try:
        await _ask("scancel", *job_ids)
    except UserError as error:
        if "Invalid job id" not in error.why and "already complet" not in error.why:
            raise


def installed() -> None:
    """Raise OCT-SLURM-MISSING where Slurm's commands are not here."""
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    if absent:
        raise UserError(
            "OCT-SLURM-MISSING",
            "Slurm's commands are not on this machine.",
            f"{', '.join(absent)} cannot be found in the PATH of the daemon.",
            "Run the daemon on a machine from which the site's jobs are submitted, or install Slurm's client there.",
        )


async def _ask(*words: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> str:
    return (await _call(*words, stdin=stdin, environment=environment))[0]


async def _call(*words: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(stdout, stderr) of one command that succeeded. Raises UserError."""
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**(environment or {}), **passed},
        )
    except OSError:
        installed()
        raise
    try:
        out, err = await asyncio.wait_for(process.communicate(stdin.encode()), ASK_S)
    except TimeoutError:
        why = f"'{words[0]}' had no answer within {ASK_S:.0f} s."
        raise refusal(f"Unable to contact slurm controller: {why}") from None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    said = err.decode(errors="replace").strip()
    if process.returncode == 0:
        return out.decode(errors="replace"), said
    raise refusal(said or f"'{words[0]}' ended with code {process.returncode}.")


def _bad(field: str, value: str, why: str) -> UserError:
    return UserError(
        "OCT-CONFIG-INVALID", f"{value[:80]!r} cannot be a Slurm profile's {field}.", why, "Correct it and try again."
    )
