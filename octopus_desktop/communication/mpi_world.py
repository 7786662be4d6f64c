"""Starts an MPI world and watches it: finds mpiexec, knows MPICH from Open MPI, and gives each the words it needs.

Both launchers end all ranks when one dies, unless they are told not to: MPICH's hydra ``-disable-auto-cleanup``, Open
MPI ``--enable-recovery`` (tried with 4.1.4 and 5.0.11; ``--with-ft ulfm`` also works in 5, and makes every wait for
any rank fail until a failure is acknowledged, which is not wanted here). mpi4py's wheels speak to either library and
take the first they find, so the one that belongs to the launcher is named to them.

Never imports mpi4py.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octopus_desktop.wire.errors import UserError

MPIEXEC = "OCTOPUS_MPIEXEC"
FORM_S = 120.0  # from mpiexec's start until all ranks know each other
FAULT_S = 2.0  # for other ranks to say what is wrong with them, once one did
END_S = 10.0
_SONAMES = {"mpich": "libmpi.so.12", "openmpi": "libmpi.so.40"}
# what a process learns of the world that it was started in; a daemon started from a rank must not think it is one
RANK_VARIABLES = (
    "PMI_",
    "PMIX_",
    "PMI2_",
    "OMPI_",
    "OPAL_",
    "PRTE_",
    "HYDRA_",
    "HYDI_",
    "MPIR_",
    "MPI_LOCAL",
    "MPI4PY_",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """An mpiexec.

    Attributes:
        kind: "mpich" (any with hydra, Intel's too) or "openmpi".
        title: as it calls itself.
        library: the MPI library that belongs to it; "" leaves the choice to mpi4py.
    """

    path: str
    kind: str
    title: str
    library: str = ""


def find_launcher(given: str = "") -> Launcher:
    """``given``, or OCTOPUS_MPIEXEC, or the one beside this Python, or the first of PATH.

    Raises:
        UserError: OCT-MPI-MISSING.
    """
    wanted = given or os.environ.get(MPIEXEC, "")
    if wanted:
        path = shutil.which(wanted)
    else:
        path = shutil.which("mpiexec", path=str(Path(sys.executable).parent)) or shutil.which("mpiexec")
    if path is None:
        raise _missing(
            f"There is no program {wanted!r}." if wanted else "It is neither beside this Python nor in PATH."
        )
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise _missing(f"{path} does not run: {error}.") from error
    said = done.stdout + done.stderr
    first = next((line.strip() for line in said.splitlines() if line.strip()), "")
    if "Open MPI" in said or "OpenRTE" in said or "open-mpi" in said:
        return Launcher(path=path, kind="openmpi", title=first, library=_library(path, "openmpi"))
    if "HYDRA" in said.upper() or "Intel(R) MPI" in said:
        version = next((line.split()[-1] for line in said.splitlines() if line.strip().startswith("Version:")), "")
        title = f"MPICH {version}" if version and "Intel" not in said else first
        return Launcher(path=path, kind="mpich", title=title, library=_library(path, "mpich"))
    raise _missing(f"{path} is neither MPICH's nor Open MPI's: it calls itself {first[:80]!r}.")


def _library(mpiexec: str, kind: str) -> str:
    """The library beside the launcher; else its plain name where the loader knows it."""
    beside = Path(mpiexec).resolve().parents[1] / "lib" / _SONAMES[kind]
    if beside.exists():
        return str(beside)
    return _SONAMES[kind] if kind == "openmpi" else ""


def _missing(why: str) -> UserError:
    return UserError(
        "OCT-MPI-MISSING",
        "There is no usable mpiexec on this machine.",
        why,
        "Install one: pip install 'octopus-desktop[mpi]' (mpich and mpi4py), or Debian's openmpi-bin or mpich; or load "
        f"the cluster's MPI module, or name it with --mpiexec or {MPIEXEC}.",
    )


def compose(launcher: Launcher, count: int, words: Sequence[str], hosts: str = "") -> list[str]:
    """The command that starts ``count`` ranks of ``words``. ``hosts``: a host file; "" leaves it to the launcher."""
    if launcher.kind == "mpich":
        return [
            launcher.path,
            "-disable-auto-cleanup",
            *(["-f", hosts] if hosts else []),
            *("-n", str(count)),
            *words,
        ]
    passed = [name for name in ("PYTHONPATH", "MPI4PY_LIBMPI") if name == "MPI4PY_LIBMPI" or os.environ.get(name)]
    return [
        launcher.path,
        "--enable-recovery",
        *("--bind-to", "none"),  # what a rank starts must not be bound to the rank's core
        *(["--hostfile", hosts] if hosts else []),
        *(["--allow-run-as-root"] if is_root() else []),
        *(["--oversubscribe"] if is_root() or not hosts else []),
        *(word for name in passed for word in ("-x", name)),
        *("-n", str(count)),
        *words,
    ]


def is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def environment(launcher: Launcher, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """What the launcher is started with."""
    env = without_rank(os.environ if given is None else given)
    if launcher.library:
        env["MPI4PY_LIBMPI"] = launcher.library
    return env


def without_rank(given: Mapping[str, str]) -> dict[str, str]:
    """An environment without what tells a process that it is a rank."""
    return {name: value for name, value in given.items() if not name.startswith(RANK_VARIABLES)}


def rank_of(given: Mapping[str, str] | None = None) -> int | None:
    """This process's rank, when a launcher (hydra, Open MPI, Slurm's srun) started it as one; else None."""
    env = os.environ if given is None else given
    for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID"):
        if env.get(name, "").isdigit() and (name != "SLURM_PROCID" or "SLURM_STEP_ID" in env):
            return int(env[name])
    return None


class World:
    """A running world, seen from outside.

    Arguments:
        count: ranks.
        words: what each rank runs (a keeper).
        hosts: see ``compose``.

    Attributes:
        formed: all ranks know each other.
    """

    def __init__(
        self, launcher: Launcher, count: int, words: Sequence[str], *, hosts: str = "", form_s: float = FORM_S
    ) -> None:
        self.formed = False
        self._fault: UserError | None = None
        self._said: deque[str] = deque(maxlen=40)
        self._process = subprocess.Popen(
            compose(launcher, count, words, hosts),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment(launcher),
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        self._limit = threading.Timer(form_s, self._late, (form_s,))
        self._limit.daemon = True
        self._limit.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def events(self) -> Iterator[dict[str, Any]]:
        """What rank 0 tells, until the world has ended.

        Raises:
            UserError: what kept the world from standing.
        """
        assert self._process.stdout is not None
        for event in self._heard(self._process.stdout):
            if event.get("event") == "world":
                self.formed = True
                self._limit.cancel()
            elif event.get("event") == "fault" and not self.formed:
                self._failed(UserError(event["code"], event["what"], event["why"], event["next_step"]))
                continue
            yield event
        self._limit.cancel()
        code = self._process.wait()
        self._reader.join(2.0)
        if self._fault is not None:
            raise self._fault
        if not self.formed:
            raise _not_formed(f"mpiexec ended with {code}. {' '.join(line for line in self._said if line)[-300:]}")

    def _heard(self, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
        """The events in what the launcher passes on; it may glue one rank's to another's."""
        decoder = json.JSONDecoder()
        for line in lines:
            rest = line.strip()
            while rest:
                try:
                    event, end = decoder.raw_decode(rest)
                except ValueError:
                    event, end = None, 0
                if not isinstance(event, dict):
                    self._said.append(rest)
                    break
                yield event
                rest = rest[end:].strip()

    def end(self) -> None:
        """Let the world end once it is quiet. Callable from any thread, and again."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write("end\n")  # not every launcher passes on that its input was closed
            self._process.stdin.close()

    def kill(self) -> None:
        """End it now. Callable from any thread, and again."""
        self._limit.cancel()
        for how, wait_s in ((signal.SIGTERM, END_S), (signal.SIGKILL, END_S)):
            if self._process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            until = time.monotonic() + wait_s
            while self._process.poll() is None and time.monotonic() < until:
                time.sleep(0.02)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        self._said.extend(line.strip() for line in self._process.stderr)

    def _failed(self, fault: UserError) -> None:
        """The first fault counts; the ranks that wait for the one that has it are ended."""
        if self._fault is None:
            self._fault = fault
            killer = threading.Timer(FAULT_S, self.kill)
            killer.daemon = True
            killer.start()

    def _late(self, form_s: float) -> None:
        self._fault = self._fault or _not_formed(f"Not all ranks were there within {form_s:.0f} s.")
        self.kill()


def _not_formed(why: str) -> UserError:
    return UserError(
        "OCT-MPI-RANK",
        "The MPI world did not come to be.",
        why,
        "See that mpiexec can start programs on every host ('mpiexec hostname'), and that all have Octopus Desktop.",
    )
