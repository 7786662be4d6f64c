"""What Slurm says, in plain words and stable codes. What a small Slurm can be made to say is tried elsewhere."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from octopus_desktop.system.slurm import Profile, split_extra
from octopus_desktop.system.slurm_words import Job, could_start, ended_fault, never_fault, read_job, refusal, words_of
from octopus_desktop.wire.errors import UserError

SHOWN = (
    "JobId=7 JobName=octopus-x UserId=ada(1000) Priority=1 Account=heart QOS=normal JobState=PENDING Reason=Resources "
    "Requeue=1 Restarts=2 ExitCode=0:0 RunTime=00:00:00 StartTime={start} EndTime=Unknown Partition=gpu "
    "AllocNode:Sid=login:1 ReqNodeList=(null) NodeList=(null) Comment=NodeList=lies"
)


def test_a_job_is_read_as_it_is_shown() -> None:
    start = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 3600))
    job = read_job(SHOWN.format(start=start))
    assert (job.id, job.state, job.reason, job.partition, job.nodes, job.restarts) == (
        "7", "PENDING", "Resources", "gpu", "", 2,
    )  # fmt: skip
    said = words_of(job, 3)
    assert said.startswith("Slurm job 7 waits for resources, 3rd in the queue, put back into the queue 2 times")
    assert f"estimated start {start[11:16]}" in said or f"estimated start {start[:10]}" in said
    with pytest.raises(ValueError, match="not a job"):
        read_job("slurm_load_jobs error")


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("Priority", "waits behind jobs of higher priority"),
        ("ReqNodeNotAvail,_UnavailableNodes:n7", "waits: nodes that it asks for are not to be had now"),
        ("QOSMaxJobsPerUserLimit", "waits: a limit of its account is reached (QOSMaxJobsPerUserLimit)"),
        ("JobHeldAdmin", "is held by the site's administrators"),
        ("SomethingNew", "waits (SomethingNew)"),
    ],
)
def test_why_a_job_waits(reason: str, said: str) -> None:
    assert words_of(Job(id="7", state="PENDING", reason=reason)) == f"Slurm job 7 {said}"


def test_other_states_have_words_too() -> None:
    for state, said in (
        ("CONFIGURING", "waits until its nodes are up"),
        ("SUSPENDED", "is suspended by the site"),
        ("STAGE_OUT", "is stage out"),
        ("RUNNING", "runs on n[1-2]"),
    ):
        assert words_of(Job(id="7", state=state, nodes="n[1-2]")) == f"Slurm job 7 {said}"
    assert [words_of(Job(id="7", state="PENDING"), n).split(", ")[1] for n in (2, 11, 23)] == [
        "2nd in the queue", "11th in the queue", "23rd in the queue",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("sbatch: error: Batch job submission failed: Invalid qos specification", "OCT-SLURM-ACCOUNT"),
        ("sbatch: error: Batch job submission failed: User's group not permitted to use this partition",
         "OCT-SLURM-PARTITION"),
        ("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, user's size"
         " and/or time limits)", "OCT-SLURM-LIMIT"),
        ("sbatch: error: Batch job submission failed: Munge encode failed", "OCT-SLURM-DOWN"),
        ("sinfo: fatal: Unable to process configuration file", "OCT-SLURM-DOWN"),
        ("sbatch: error: Batch job submission failed: Job submit plugin: no jobs on Fridays", "OCT-SLURM-REFUSED"),
    ],
)  # fmt: skip
def test_refusals_have_codes(said: str, code: str) -> None:
    error = refusal(said)
    assert error.code == code and error.next_step and "error:" not in error.why


@pytest.mark.parametrize(
    ("job", "code", "why"),
    [
        (None, "OCT-SLURM-ENDED", "knows nothing"),
        (Job(id="7", state="NODE_FAIL"), "OCT-SLURM-ENDED", "A node of Slurm job 7 failed"),
        (Job(id="7", state="PREEMPTED"), "OCT-SLURM-ENDED", "make room"),
        (Job(id="7", state="FAILED", exit=1), "OCT-SLURM-ENDED", "exit code 1. No module named octopus_desktop"),
        (Job(id="7", state="OUT_OF_MEMORY", exit=137), "OCT-SLURM-MEMORY", "killed by the site"),
        (Job(id="7", state="DEADLINE"), "OCT-SLURM-TIME", "DEADLINE"),
        (Job(id="7", state="FAILED", exit=97), "OCT-SLURM-SHARED", "the daemon's own Python"),
        (Job(id="7", state="FAILED", exit=98), "OCT-SLURM-SHARED", "the run's folder"),
        (Job(id="7", state="FAILED", signal=53), "OCT-SLURM-SHARED", "the run's folder"),
    ],
)
def test_why_an_allocation_is_over(tmp_path: Path, job: Job | None, code: str, why: str) -> None:
    log = tmp_path / "log"
    log.write_text("No module named octopus_desktop\n")
    error = ended_fault(job, log)
    assert error.code == code and why in error.why
    assert ended_fault(job, tmp_path / "none").code == code


def test_what_waits_for_ever_is_refused() -> None:
    waits = Job(id="7", state="PENDING", reason="PartitionTimeLimit")
    assert waits.never and never_fault(waits).code == "OCT-SLURM-LIMIT"
    assert never_fault(Job(id="7", state="PENDING", reason="InvalidAccount")).code == "OCT-SLURM-ACCOUNT"
    assert not Job(id="7", state="PENDING", reason="Resources").never


def test_a_trial_is_told_in_words() -> None:
    said = "sbatch: Job 7 to start at 2031-01-02T03:04:05 using 1 processors on nodes n1 in partition main"
    assert could_start(said) == "It could start at 2031-01-02 03:04 on n1, in the partition main."
    assert could_start("something else") == "something else" and could_start("") == "Slurm would take it."


def test_further_options_are_words_of_a_list_that_is_checked() -> None:
    assert split_extra("--gres gpu:a100:2 --exclusive '--constraint=a|b'") == (
        "--gres=gpu:a100:2", "--exclusive", "--constraint=a|b",
    )  # fmt: skip
    profile = Profile(name="one", nodes=2, extra=split_extra("--gres gpu:2")).checked()
    assert profile.options()[-1] == "--gres=gpu:2" and "--nodes=2" in profile.options()
    for text in ("--output=/etc/passwd", "--wrap 'rm -rf /'", "evil", "--constraint='$(id)'", "--export=ALL"):
        with pytest.raises(UserError) as caught:
            Profile(name="one", extra=split_extra(text)).checked()
        assert caught.value.code == "OCT-CONFIG-INVALID"
    with pytest.raises(UserError):
        split_extra("--gres 'open")
