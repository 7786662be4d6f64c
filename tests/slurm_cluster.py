"""A real Slurm on this machine, in one folder, for tests: munged, slurmctld and three slurmd of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "sinfo", "scontrol")
START_S = 20.0
CONFIGURATION = """
ClusterName=octopus
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={munge}/socket
CredType=cred/munge
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SwitchType=switch/none
MpiDefault=none
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0,sched_min_interval=0
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
EnforcePartLimits={enforce}
KillWait=2
OverTimeLimit=0
MessageTimeout=5
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 State=UNKNOWN
NodeName=n3 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[3]} CPUs=1 RealMemory=500 State=UNKNOWN
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=60 State=UP PriorityTier=10
PartitionName=aside Nodes=n3 MaxTime=60 State=UP
PartitionName=physics Nodes=n1,n2 MaxTime=60 State=UP AllowAccounts=physics
"""


class Cluster:
    """The running daemons. ``environment``: what a process needs to speak to them."""

    def __init__(self, root: Path, enforce: str) -> None:
        self.root = root
        self._munge = Path(tempfile.mkdtemp(prefix="octopus-m"))  # short: a socket's path is limited
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.conf = root / "slurm.conf"
        values = {"host": socket.gethostname().split(".")[0], "user": getpass.getuser(), "root": root}
        text = CONFIGURATION.format(**values, ports=_free_ports(4), munge=self._munge, enforce=enforce)
        self.conf.write_text(text)
        (root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        (root / "state").mkdir()
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        key = self._munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        munge = self._munge
        self._run(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}/socket",
            f"--pid-file={munge}/pid", f"--seed-file={munge}/seed", f"--log-file={munge}/log",
        )  # fmt: skip
        self._until(lambda: (munge / "socket").exists())
        self._run("slurmctld", "-D")
        for node in ("n1", "n2", "n3"):
            self._run("slurmd", "-D", "-N", node, name=node)
        self._until(self._nodes_are_there)

    def start_controller(self) -> None:
        self._run("slurmctld", "-D")
        self._until(self._nodes_are_there)

    def _nodes_are_there(self) -> bool:
        states = self.ask("sinfo", "-h", "-N", "-o", "%N %T").split("\n")
        there = {line.split()[0] for line in states if line and line.split()[1] in ("idle", "mixed", "allocated")}
        return there == {"n1", "n2", "n3"}

    def stop_controller(self) -> None:
        self._daemons["slurmctld"].kill()
        self._daemons.pop("slurmctld").wait()

    def stop(self) -> None:
        if "slurmctld" in self._daemons:
            self.ask("scancel", f"--user={getpass.getuser()}")
            try:
                self._until(lambda: not self.jobs())
            except AssertionError:
                pass  # they are killed with their nodes
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            try:
                daemon.wait(5)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self._munge, ignore_errors=True)

    def ask(self, *words: str) -> str:
        """A command's output, also when it failed."""
        found = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=30, check=False)
        return found.stdout

    def jobs(self) -> dict[str, tuple[str, str]]:
        """Id -> (name, state) of all that are not over."""
        rows = (line.split("|") for line in self.ask("squeue", "-h", "-o", "%i|%j|%T").splitlines())
        return {job: (name, state) for job, name, state in rows}

    def block(self, partition: str = "main") -> str:
        """Keep both nodes busy with a job of somebody else's."""
        options = ("--parsable", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2", "--mem=200M", "--time=30")
        words = ("sbatch", *options, f"--partition={partition}", "--output=/dev/null", "--wrap=sleep 600")
        return self.ask(*words).strip()

    def _run(self, program: str, *words: str, name: str = "") -> None:
        with open(self.root / f"{name or program}.out", "ab") as out:
            command = [shutil.which(program, path=_path()) or program, *words]
            self._daemons[name or program] = subprocess.Popen(
                command, env=self.environment, stdout=out, stderr=out, start_new_session=True
            )

    def _until(self, condition: object) -> None:
        assert callable(condition)
        end = time.monotonic() + START_S
        while not condition():
            dead = [name for name, daemon in self._daemons.items() if daemon.poll() is not None]
            assert time.monotonic() < end and not dead, f"ended: {dead}; {self._said()}"
            time.sleep(0.05)

    def _said(self) -> str:
        return "\n".join(
            f"{log.name}: {log.read_text(errors='replace')[-600:]}"
            for log in (*self.root.glob("*.out"), *self.root.glob("*.log"))
        )


@contextmanager
def slurm_cluster(root: Path, enforce: str = "ALL") -> Iterator[Cluster]:
    """One that is up; skips with the reason where Slurm is not installed or does not start."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if absent:
        pytest.skip(f"Slurm is not installed: {', '.join(absent)} (Debian: apt install slurmctld slurmd munge)")
    root.mkdir(parents=True, exist_ok=True)
    cluster = Cluster(root, enforce)
    before = os.environ.get("SLURM_CONF")
    try:
        try:
            cluster.start()
        except AssertionError as error:
            pytest.skip(f"Slurm does not start on this machine: {error}")
        os.environ["SLURM_CONF"] = str(cluster.conf)
        yield cluster
    finally:
        cluster.stop()
        os.environ.pop("SLURM_CONF", None)
        if before is not None:
            os.environ["SLURM_CONF"] = before


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/sbin"))


def _free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
