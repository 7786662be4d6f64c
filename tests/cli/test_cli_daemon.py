"""The daemon by the command line, on a machine without a keyring."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from octopus_desktop.system.paths import silo_home
from octopus_desktop.system.service import stop_daemon

OCTOPUS = [sys.executable, "-m", "octopus_desktop.cli.main"]


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "silo"
    stop_daemon(silo_home(tmp_path / "silo"))


def octopus(home: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "OCTOPUS_PASSPHRASE_FILE"}
    environment |= {"OCTOPUS_HOME": str(home), "OCTOPUS_SECRETS": "file", **more}
    return subprocess.run([*OCTOPUS, "--json", *words], env=environment, capture_output=True, text=True, timeout=60)


def type_at(home: Path, typed: str, *words: str) -> tuple[int, str]:
    """Run a command on a terminal of its own, typing a line when it asks. Returns exit code and screen."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"OCTOPUS_HOME": str(home), "OCTOPUS_SECRETS": "file"}
        os.environ.pop("OCTOPUS_PASSPHRASE_FILE", None)
        os.execv(sys.executable, [*OCTOPUS, *words])
    shown, asked = b"", False
    try:
        while piece := os.read(terminal, 4096):
            shown += piece
            if not asked and b"Passphrase:" in shown:  # what is typed before the prompt is flushed by getpass
                asked = os.write(terminal, typed.encode() + b"\n") > 0
    except OSError:  # how Linux tells that the other end is closed
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), shown.decode()


def test_a_locked_daemon_is_given_its_passphrase(home: Path, tmp_path: Path) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("four words of mine")
    phrase.chmod(0o600)
    assert octopus(home, "daemon", "start").returncode == 0
    names = ("setup", "--organisation", "Charité", "--administrator", "Dr. Ada Hall")

    refused = json.loads(octopus(home, *names).stderr)["error"]
    assert refused["code"] == "OCT-SECRET-PASSPHRASE" and "daemon unlock" in refused["next_step"]
    made = octopus(home, *names, OCTOPUS_PASSPHRASE_FILE=str(phrase))
    assert json.loads(made.stdout)["secrets"].startswith("locked")
    before = json.loads(octopus(home, "daemon", "status").stdout)["daemon"]

    code, shown = type_at(home, "not the words", "daemon", "unlock")
    assert code == 1 and "OCT-SECRET-PASSPHRASE" in shown
    assert json.loads(octopus(home, "daemon", "status").stdout)["daemon"] == before, "a wrong passphrase stops nothing"

    code, shown = type_at(home, "four words of mine", "daemon", "unlock")
    assert code == 0, shown
    assert "four words" not in shown
    after = json.loads(octopus(home, "daemon", "status").stdout)["daemon"]
    assert after["secrets"] == "passphrase file" and after["started_at"] != before["started_at"]
    assert "four words" not in "".join(p.read_text(errors="replace") for p in home.rglob("*") if p.is_file())
