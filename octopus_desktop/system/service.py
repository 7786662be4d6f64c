"""Starts background processes and waits until they answer; installs them as user services. Knows no service's inside.

Window and command line must not import the daemon: they start it from here, by its module's name. The child tells on a
pipe that it is ready, or which UserError stopped it, so that an early failure reaches the person who started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from octopus_desktop.system.lock import lock_holder
from octopus_desktop.system.paths import NodeHome, SiloHome, private_dir
from octopus_desktop.wire.errors import UserError

PASSPHRASE_VARIABLE = "OCTOPUS_PASSPHRASE_FILE"
DAEMON_MODULE = "octopus_desktop.daemon.main"
UNIT = "octopus-daemon.service"
AGENT_MODULE, AGENT_UNIT = "octopus_desktop.nodes.agent", "octopus-node.service"
START_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAnswer:
    """What installing or removing a service did. ``commands``: what a person still has to run, in order."""

    unit: Path
    active: bool
    text: str
    commands: tuple[str, ...] = ()


# the child's side


def announce_ready(fd: int) -> None:
    """Tell the starter that the service answers. ``fd`` below 0: nobody waits."""
    _announce(fd, {"ready": True, "pid": os.getpid()})


def announce_fault(fd: int, error: UserError) -> None:
    """Tell the starter what stopped the service."""
    _announce(fd, {"code": error.code, "what": error.what, "why": error.why, "next_step": error.next_step})


def _announce(fd: int, words: dict[str, object]) -> None:
    if fd < 0:
        return
    with contextlib.suppress(OSError):
        os.write(fd, json.dumps(words).encode() + b"\n")
        os.close(fd)


# the starter's side


def start_detached(
    module: str,
    arguments: Sequence[str],
    log: Path,
    *,
    what: str,
    timeout_s: float = START_S,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Start ``python -m module arguments --ready-fd N`` in a session of its own and wait until it is ready.

    Returns its process id. Raises the child's own UserError, or OCT-DAEMON-AWAY with the last lines of its log.
    """
    private_dir(log.parent)
    reading, writing = os.pipe()
    try:
        with open(log, "ab", buffering=0) as out:
            begin = out.tell()
            child = subprocess.Popen(
                [sys.executable, "-m", module, *arguments, "--ready-fd", str(writing)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                pass_fds=[writing],
                start_new_session=True,
                cwd="/",
                env=_environment(os.environ if environment is None else environment),
            )
        os.close(writing)
        writing = -1
        line = _read_line(reading, timeout_s)
    finally:
        os.close(reading)
        if writing >= 0:
            os.close(writing)
    if line:
        words = json.loads(line)
        if words.get("ready"):
            return child.pid
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5)
        raise UserError(words["code"], words["what"], words["why"], words["next_step"])
    with open(log, "rb") as file:
        file.seek(begin)
        tail = file.read()[-2000:].decode(errors="replace").strip()
    died = child.poll() is not None
    raise UserError(
        "OCT-DAEMON-AWAY",
        f"The {what} ended before it was ready." if died else f"The {what} was not ready after {timeout_s:.0f} s.",
        tail.splitlines()[-1] if tail else "It wrote nothing to its log.",
        f"Read {log}; start it with --foreground to see more.",
    )


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """The starter's environment; a relative PYTHONPATH is made absolute, as the child lives in ``/``."""
    env = dict(given)
    if env.get("PYTHONPATH"):
        env["PYTHONPATH"] = os.pathsep.join(str(Path(p).absolute()) for p in env["PYTHONPATH"].split(os.pathsep) if p)
    elif (root := Path(__file__).resolve().parents[2]) and (root / "pyproject.toml").exists():
        env["PYTHONPATH"] = str(root)  # run from a source tree that is not installed
    return env


def _read_line(fd: int, timeout_s: float) -> bytes:
    """One line, or what came before the end of file or the deadline without one: then nothing."""
    end, data = time.monotonic() + timeout_s, b""
    while b"\n" not in data:
        left = end - time.monotonic()
        if left <= 0 or not select.select([fd], [], [], left)[0]:
            return b""
        more = os.read(fd, 4096)
        if not more:
            return b""
        data += more
    return data.split(b"\n", 1)[0]


def start_daemon(home: SiloHome, timeout_s: float = START_S, environment: Mapping[str, str] | None = None) -> int:
    """Start the silo's daemon, unless one runs already, and return its process id once its local API answers."""
    try:
        private_dir(home.root)
    except (PermissionError, FileExistsError, NotADirectoryError) as error:
        raise UserError(
            "OCT-CONFIG-INVALID", f"{home.root} cannot be this silo's home.", str(error), "Give another --home."
        ) from error
    running = daemon_pid(home)
    if running:
        return running
    return start_detached(
        DAEMON_MODULE,
        ["--home", str(home.root)],
        home.logs / "daemon.log",
        what="daemon",
        timeout_s=timeout_s,
        environment=environment,
    )


def start_unlocked(home: SiloHome, passphrase: str) -> int:
    """``start_daemon`` with the passphrase of its store of secrets.

    It passes through a private file that is gone once the daemon answers: arguments and environment of a process can be
    read by others, this file cannot.
    """
    path = private_dir(home.runtime) / "passphrase"
    path.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(passphrase)
        return start_daemon(home, environment={**os.environ, PASSPHRASE_VARIABLE: str(path)})
    finally:
        path.unlink(missing_ok=True)


def daemon_pid(home: SiloHome) -> int | None:
    """The process that works on this home, or None."""
    return lock_holder(home.lock)


def stop_daemon(home: SiloHome, timeout_s: float = 10.0) -> bool:
    """End the daemon of this home: SIGTERM, then SIGKILL (it is crash-only). False when none runs."""
    pid = daemon_pid(home)
    if not pid:
        return False
    for how, wait_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, how)
        if _wait_gone(pid, home, wait_s):
            return True
    return False


def wait_stopped(home: SiloHome, timeout_s: float = 10.0) -> None:
    """Wait until nobody works on this home any more; after the deadline the daemon is killed (it is crash-only)."""
    pid = daemon_pid(home)
    if pid and not _wait_gone(pid, home, timeout_s):
        stop_daemon(home, 0.0)


def _wait_gone(pid: int, home: SiloHome, wait_s: float) -> bool:
    end = time.monotonic() + wait_s
    while True:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # it may be our own child
        if daemon_pid(home) != pid:  # the lock goes when the last of its threads has gone
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(0.02)


# systemd user units


def unit_path(unit: str = UNIT) -> Path:
    base = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return base / "systemd" / "user" / unit


def unit_text(home: SiloHome) -> str:
    """A systemd user unit that keeps this home's daemon running."""
    return _unit_text("the silo's daemon", DAEMON_MODULE, home.root)


def agent_unit_text(home: NodeHome) -> str:
    """A systemd user unit that keeps a further machine's agent running. One that the silo has removed stays ended."""
    return _unit_text("a node of a silo", AGENT_MODULE, home.root, restart="on-abnormal")


def _unit_text(what: str, module: str, root: Path, restart: str = "always") -> str:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'

    return "\n".join(
        [
            "[Unit]",
            f"Description=Octopus Desktop: {what}",
            "After=network-online.target",
            "",
            "[Service]",
            f"ExecStart={quoted(sys.executable)} -m {module} --home {quoted(str(root))}",
            *(f"Environment={quoted(f'{n}={os.environ[n]}')}" for n in ("PYTHONPATH", "OCTOPUS_PASSPHRASE_FILE")
              if os.environ.get(n)),
            f"Restart={restart}",
            "RestartSec=2",
            "UMask=0077",
            "NoNewPrivileges=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )  # fmt: skip


def install_unit(home: SiloHome) -> str:
    """Install and say what was done and what is left to do, in lines for a person."""
    return _lines(install(home))


def install_agent_unit(home: NodeHome) -> str:
    """The same for a further machine's agent."""
    return _lines(_install(AGENT_UNIT, agent_unit_text(home)))


def _lines(answer: ServiceAnswer) -> str:
    return "\n".join([f"{answer.text} ({answer.unit})", *(f"  {command}" for command in answer.commands)])


def uninstall_unit(home: SiloHome) -> str:
    """Uninstall and say so. The silo's home stays as it is."""
    answer = uninstall()
    return f"{answer.text} The state in {home.root} stays."


def install(home: SiloHome) -> ServiceAnswer:
    """Write the unit; enable and start it where a user's systemd answers, else say which commands are left to run."""
    return _install(UNIT, unit_text(home))


def _install(unit: str, text: str) -> ServiceAnswer:
    path = unit_path(unit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    commands = ("systemctl --user daemon-reload", f"systemctl --user enable --now {unit}")
    if _systemctl("daemon-reload") and _systemctl("enable", "--now", unit):
        return ServiceAnswer(unit=path, active=True, text="Installed and started; it starts at each login.")
    return ServiceAnswer(
        unit=path,
        active=False,
        text="The unit is written, but no user instance of systemd answers here.",
        commands=(*commands, "loginctl enable-linger"),
    )


def uninstall() -> ServiceAnswer:
    """Stop and remove the unit."""
    path = unit_path()
    if not path.exists():
        return ServiceAnswer(unit=path, active=False, text="No service is installed.")
    stopped = _systemctl("disable", "--now", UNIT)
    path.unlink()
    _systemctl("daemon-reload")
    return ServiceAnswer(
        unit=path, active=False, text="Removed." if stopped else "The unit's file is removed; systemd did not answer."
    )


def _systemctl(*words: str) -> bool:
    if not shutil.which("systemctl"):
        return False
    try:
        return subprocess.run(["systemctl", "--user", *words], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
