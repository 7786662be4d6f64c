"""What Slurm says, read and put in plain words: an allocation's state, why it waits, why it was refused, why it ended.

Pure: knows texts, asks nobody.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from octopus_desktop.wire.errors import UserError

NO_PYTHON, NO_FOLDER, NO_RUNTIME, NO_OUTPUT = 97, 98, 96, 53  # exit codes of the first step; the last is Slurm's own
_WAITING = {
    "Resources": "waits for resources",
    "Priority": "waits behind jobs of higher priority",
    "None": "has just come into the queue",
    "BeginTime": "waits for its begin, after it was put back into the queue",
    "Cleaning": "waits until its former nodes are tidied",
    "JobHeldAdmin": "is held by the site's administrators",
    "JobHeldUser": "is held by its user",
    "JobRequeueHeld": "was put back into the queue and is held there",
    "JobLaunchFailure": "could not be started and is held",
    "Licenses": "waits for a licence",
    "Reservation": "waits for its reservation",
    "PartitionDown": "waits: its partition is down",
    "PartitionInactive": "waits: its partition takes no jobs",
    "NodeDown": "waits: a node that it needs is down",
    "ReqNodeNotAvail": "waits: nodes that it asks for are not to be had now",
    "FrontEndDown": "waits: the front end is down",
}
_NEVER = (
    "PartitionTimeLimit", "PartitionNodeLimit", "PartitionConfig", "BadConstraints", "AccountNotAllowed",
    "QOSNotAllowed", "InvalidAccount", "InvalidQOS", "AssocMaxWallDurationPerJobLimit", "QOSMaxWallDurationPerJobLimit",
    "AssocMaxNodePerJobLimit", "QOSMaxNodePerJobLimit", "AssocMaxCpuPerJobLimit", "QOSMaxCpuPerJobLimit",
)  # fmt: skip
ENDED = (
    "COMPLETED", "FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE",
    "REVOKED",
)  # fmt: skip
_REFUSED = "The site's Slurm refused the allocation."
_REFUSALS = (  # the first that fits: what its commands say is made for people
    (
        "OCT-SLURM-DOWN",
        (
            "unable to contact slurm controller", "connection refused", "connect failure", "socket timed out",
            "configuration file", "munge", "protocol authentication", "unable to establish",
            "zero bytes were transmitted", "name or service not known", "could not resolve", "no slurm configuration",
        ),
    ),
    ("OCT-SLURM-LIMIT", ("violates accounting", "time limit")),
    ("OCT-SLURM-ACCOUNT", ("account", "qos", "access/permission denied", "association")),
    ("OCT-SLURM-PARTITION", ("partition",)),
    (
        "OCT-SLURM-LIMIT",
        (
            "exceeds", "more processors", "node count", "memory", "configuration is not available", "gres", "limit",
            "feature", "cpu count", "tres",
        ),
    ),
)  # fmt: skip
_NEXT = {
    "OCT-SLURM-DOWN": "Try 'sinfo' on this machine; ask the site's administrators when that fails too.",
    "OCT-SLURM-PARTITION": "See which there are with 'sinfo', and correct the profile.",
    "OCT-SLURM-ACCOUNT": "Ask the site which account and QOS you may use ('sacctmgr show associations').",
    "OCT-SLURM-LIMIT": "Ask for less in the profile, or for what the partition has ('sinfo' shows it).",
    "OCT-SLURM-REFUSED": "Correct the profile, or ask the site's administrators.",
}
_FIELD = re.compile(r"(?:^|\s)([A-Z][A-Za-z/]*)=(\S*)")
_LOG_LINES, _MEMORY_LINES = 3, 12
_MEMORY = ("oom-kill", "oom_kill", "Out Of Memory", "exceeded memory limit", "Exceeded job memory limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One allocation as the queue shows it. ``start``, ``end``: Unix seconds, of a waiting one as the site estimates
    them; 0 when not told. ``restarts``: how often the site put it back into the queue."""

    id: str
    state: str
    reason: str = ""
    partition: str = ""
    start: float = 0.0
    end: float = 0.0
    exit: int = 0
    signal: int = 0
    restarts: int = 0
    nodes: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def never(self) -> bool:
        """Whether it waits for what cannot come."""
        return self.state == "PENDING" and self.reason in _NEVER


def read_job(text: str) -> Job:
    """From ``scontrol --oneliner show job``. Raises ValueError."""
    fields: dict[str, str] = {}
    for name, value in _FIELD.findall(text.splitlines()[0] if text else ""):
        fields.setdefault(name, value)
    if "JobId" not in fields or "JobState" not in fields:
        raise ValueError(f"not a job: {text[:200]!r}")
    code, _, signal = fields.get("ExitCode", "0:0").partition(":")
    return Job(
        id=fields["JobId"],
        state=fields["JobState"],
        reason=fields.get("Reason", ""),
        partition=fields.get("Partition", ""),
        start=_moment(fields.get("StartTime", "")),
        end=_moment(fields.get("EndTime", "")),
        exit=int(code or 0),
        signal=int(signal or 0),
        restarts=int(fields.get("Restarts", "0")),
        nodes="" if fields.get("NodeList", "") == "(null)" else fields.get("NodeList", ""),
    )


def words_of(job: Job, place: int = 0) -> str:
    """An allocation's state for a person."""
    head = f"Slurm job {job.id}"
    if job.state == "PENDING":
        reason = job.reason.partition(",")[0]
        said = _WAITING.get(reason, "")
        if not said:
            limit = reason.startswith(("QOS", "Assoc", "MaxGRES"))
            said = f"waits: a limit of its account is reached ({reason})" if limit else f"waits ({reason})"
        parts = [f"{head} {said}"]
        if place:
            parts.append(f"{_ordinal(place)} in the queue")
        if job.restarts:
            parts.append(f"put back into the queue {job.restarts} times" if job.restarts > 1 else "put back once")
        if job.start > time.time():
            parts.append(f"estimated start {_clock(job.start)}")
        return ", ".join(parts)
    if job.state == "RUNNING":
        end = f", at most until {_clock(job.end)}" if job.end else ""
        return f"{head} runs on {job.nodes or 'its nodes'}{end}"
    if job.state == "CONFIGURING":
        return f"{head} waits until its nodes are up"
    if job.state == "SUSPENDED":
        return f"{head} is suspended by the site"
    return f"{head} is {job.state.lower().replace('_', ' ')}"


def could_start(said: str) -> str:
    """What a trial told: ``Job 7 to start at 2026-… using 1 processors on nodes n1 in partition main``."""
    found = re.search(r"to start at (\S+)(?: a?t? ?using| using) .*?on nodes (\S+) in partition (\S+)", said)
    if found is None:
        return said.splitlines()[-1] if said else "Slurm would take it."
    return f"It could start at {_clock(_moment(found[1]))} on {found[2]}, in the partition {found[3]}."


def refusal(said: str) -> UserError:
    """What one of Slurm's commands said when it failed, as an error for people."""
    low = said.lower()
    lines = [
        re.sub(r"^(?:\w+:? (?=error: |fatal: ))?(?:error: |fatal: )?", "", line).strip() for line in said.splitlines()
    ]
    why = "; ".join(dict.fromkeys(line for line in lines if line))[:600]
    code = next((code for code, words in _REFUSALS if any(word in low for word in words)), "OCT-SLURM-REFUSED")
    return _refused(code, why)


def never_fault(job: Job) -> UserError:
    """Of an allocation that waits for what cannot come."""
    account = job.reason.startswith(("AccountNot", "QOSNot", "Invalid"))
    return _refused("OCT-SLURM-ACCOUNT" if account else "OCT-SLURM-LIMIT", f"{words_of(job)}, for ever.")


def _refused(code: str, why: str) -> UserError:
    what = "The site's Slurm does not answer." if code == "OCT-SLURM-DOWN" else _REFUSED
    return UserError(code, what, why, _NEXT[code])


def ended_fault(job: Job | None, log: Path | None = None) -> UserError:
    """Why an allocation that should be there is over. ``log``: its output."""
    if job is None:
        return _over("The queue knows nothing of it any more.")
    if job.state == "TIMEOUT" or job.state == "DEADLINE":
        return UserError(
            "OCT-SLURM-TIME",
            "The Slurm allocation reached its time limit.",
            f"Slurm job {job.id} ended as {job.state}.",
            "Give the profile a longer --time, if the site allows it.",
        )
    if job.state == "OUT_OF_MEMORY" or (job.state == "FAILED" and _says(log, _MEMORY)):
        return UserError(
            "OCT-SLURM-MEMORY",
            "The Slurm allocation used more memory than it had asked for.",
            f"Slurm job {job.id} was killed by the site.",
            "Give the profile more --mem, or the job smaller batches.",
        )
    if job.exit in (NO_PYTHON, NO_FOLDER, NO_RUNTIME) or job.signal == NO_OUTPUT:
        lacks = {
            NO_PYTHON: "the daemon's own Python",
            NO_RUNTIME: "the Python environment of the approved runtime",
        }.get(job.exit, "the run's folder")
        return UserError(
            "OCT-SLURM-SHARED",
            "A compute node does not see what this machine sees.",
            f"Slurm job {job.id} did not find {lacks} on {job.nodes or 'its node'}.",
            "Keep Octopus Desktop, its Python environments and its home on a file system that all nodes share.",
        )
    if job.state == "CANCELLED":
        return _over(f"Slurm job {job.id} was cancelled by somebody else than Octopus Desktop.")
    if job.state in ("NODE_FAIL", "BOOT_FAIL"):
        return _over(f"A node of Slurm job {job.id} failed.")
    if job.state == "PREEMPTED":
        return _over(f"Slurm job {job.id} had to make room for another.")
    said = " ".join(_last(log))
    code = f"signal {job.signal}" if job.signal else f"exit code {job.exit}"
    return _over(f"Slurm job {job.id} ended as {job.state} with {code}. {said}".strip())


def _over(why: str) -> UserError:
    return UserError(
        "OCT-SLURM-ENDED", "The Slurm allocation ended before its work.", why, "Look at the run's log and the site's."
    )


def _last(log: Path | None, lines: int = _LOG_LINES) -> list[str]:
    try:
        found = log.read_text(errors="replace").splitlines()[-lines:] if log else []
    except OSError:
        return []
    return [line.strip()[:300] for line in found]


def _says(log: Path | None, words: tuple[str, ...]) -> bool:
    return any(word in line for line in _last(log, _MEMORY_LINES) for word in words)


def _moment(text: str) -> float:
    try:
        return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return 0.0


def _clock(moment: float) -> str:
    today = time.strftime("%Y-%m-%d") == time.strftime("%Y-%m-%d", time.localtime(moment))
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", time.localtime(moment))


def _ordinal(number: int) -> str:
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"
