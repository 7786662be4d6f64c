"""From a bare machine to a running Octopus Desktop. Standard library only; Python 3.11 or newer.

    python3 installers/bootstrap.py demo      a federation of four hospitals on this machine, in the window
    python3 installers/bootstrap.py test      the whole test suite
    python3 installers/bootstrap.py check     format, lint, types, import contracts
    python3 installers/bootstrap.py install   only the environment in .venv
    python3 installers/bootstrap.py run -- …  any octopus command

It makes .venv beside pyproject.toml, installs the system libraries that Qt needs (with apt, where there is apt) and the
package with its tested versions. A second call finds all that in place and starts at once.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
CONSTRAINTS = ROOT / "installers" / "constraints.txt"

# What Qt loads at run time, beyond what CPython itself needs; found by leaving one out at a time.
QT_PACKAGES = [
    "libglib2.0-0", "libegl1", "libgl1", "libdbus-1-3", "libfontconfig1", "libxkbcommon0", "libgssapi-krb5-2",
]  # fmt: skip
XCB_PACKAGES = [
    "libxcb-cursor0", "libxcb-icccm4", "libxcb-keysyms1", "libxcb-shape0", "libxcb-xkb1", "libxkbcommon-x11-0",
]  # fmt: skip
SANDBOX_PACKAGES = ["bubblewrap"]
TEST_PACKAGES = [
    "xvfb",
    "xauth",
    "mosquitto",
    "openmpi-bin",
    "iproute2",
    "slurmctld",
    "slurmd",
    "slurm-client",
    "munge",
]
QT_LIBRARIES = ["libglib-2.0.so.0", "libEGL.so.1", "libGL.so.1", "libdbus-1.so.3", "libfontconfig.so.1"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "test", "check", "install", "run"])
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="passed on to the command")
    words = parser.parse_args()
    rest = words.rest[1:] if words.rest[:1] == ["--"] else words.rest
    if sys.version_info < (3, 11):  # noqa: UP036  (the bootstrap may be called with an older Python than the package needs)
        return fail("Python 3.11 or newer is needed.", "Install it, and call this file with it.")
    extras = "dev" if words.what in ("test", "check") else "examples"
    began = time.monotonic()
    if (error := system_packages(words.what)) or (error := environment(extras)):
        return error
    if time.monotonic() - began > 3:
        say(f"everything is in place after {time.monotonic() - began:.0f} s")
    if words.what == "install":
        say(f"ready: {BIN / 'octopus'}")
        return 0
    commands = {
        "demo": [[str(PYTHON), "-m", "octopus_desktop.cli.main", "demo", *rest]],
        "run": [[str(PYTHON), "-m", "octopus_desktop.cli.main", *rest]],
        "test": tests(rest),
        "check": checks(),
    }[words.what]
    try:
        for command in commands:
            if code := subprocess.call(command, cwd=ROOT if words.what in ("test", "check") else None):
                return code
    except KeyboardInterrupt:
        return 130
    return 0


def tests(rest: list[str]) -> list[list[str]]:
    """The whole suite by several processes, a file's tests in one and in their order; a choice of tests by one, with
    whatever pytest's own words say."""
    run = [str(PYTHON), "-m", "pytest", "--cov", "--cov-report=term:skip-covered", *rest]
    return [run if rest else [*run, "-n", str(processes()), "--dist", "loadfile", "--no-loadscope-reorder"]]


def processes() -> int:
    """Two at least: much of a test of processes is waiting. Four at most: each starts further ones, with a gigabyte."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(2, cores), 4)


def checks() -> list[list[str]]:
    return [
        [str(BIN / "ruff"), "format", "--check", "."],
        [str(BIN / "ruff"), "check", "."],
        [str(PYTHON), "-m", "mypy"],
        [str(BIN / "lint-imports")],
    ]


def system_packages(what: str) -> int:
    """Install what apt has and this machine lacks; elsewhere say what is missing. Returns an exit code."""
    wanted = QT_PACKAGES + XCB_PACKAGES + SANDBOX_PACKAGES + (TEST_PACKAGES if what == "test" else [])
    if importlib.util.find_spec("ensurepip") is None:
        wanted.append(f"python{sys.version_info.major}.{sys.version_info.minor}-venv")
    if not sys.platform.startswith("linux"):
        return 0
    if not shutil.which("apt-get"):
        missing = [name for name in QT_LIBRARIES if not loads(name)]
        if missing:
            return fail(
                "Qt needs system libraries that are not here: " + ", ".join(missing) + ".",
                "Install them with this system's package manager, then call this again.",
            )
        return 0
    missing = [name for name in wanted if not installed(name)]
    if not missing:
        return 0
    say("installing system packages: " + " ".join(missing))
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    if sudo and not shutil.which("sudo"):
        return fail(
            "Installing system packages needs root, and sudo is not here.",
            "As root: apt-get update && apt-get install --no-install-recommends " + " ".join(missing),
        )
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    install = [*sudo, *environment, "apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in ([*sudo, "apt-get", "update", "-qq"], install):
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            print(done.stdout[-4000:], file=sys.stderr)
            return fail("apt-get failed; its words are above.", "Mend that, then call this again.")
    return 0


def installed(name: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", name]
    return subprocess.run(query, capture_output=True, text=True).stdout == "installed"


def loads(library: str) -> bool:
    import ctypes

    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def environment(extras: str) -> int:
    """Make .venv and install the package into it, unless the same files were installed before."""
    if not PYTHON.exists():
        say("making .venv")
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            return fail("The virtual environment could not be made.", f"Remove {VENV} and install python3-venv.")
    stamp, state = VENV / f".installed-{extras}", fingerprint()
    whole = VENV / ".installed-dev"
    if any(file.exists() and file.read_text() == state for file in (stamp, whole)):
        return 0
    say("installing Octopus Desktop and what it needs (some minutes, about 1.5 GB)")
    install = [str(PYTHON), "-m", "pip", "install", "-q", "-c", str(CONSTRAINTS), "-e", f"{ROOT}[{extras}]"]
    done = subprocess.run(install, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        print(done.stderr[-4000:], file=sys.stderr)
        return fail("pip failed; its words are above.", "Look at the network and the disk, then call this again.")
    stamp.write_text(state)
    return 0


def fingerprint() -> str:
    """Changes when pyproject.toml, the constraints or the Python version change."""
    sha = hashlib.sha256(sys.version.encode())
    for file in (ROOT / "pyproject.toml", CONSTRAINTS):
        sha.update(file.read_bytes())
    return sha.hexdigest()


def say(text: str) -> None:
    print(f"octopus: {text}", file=sys.stderr, flush=True)


def fail(what: str, next_step: str) -> int:
    print(f"octopus: {what}\n         {next_step}", file=sys.stderr, flush=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
