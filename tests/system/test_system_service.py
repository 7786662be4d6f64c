"""Locks, children on a leash, detached starts, and the user unit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from octopus_desktop.system import inventory, service
from octopus_desktop.system.lock import InstanceLock, lock_holder
from octopus_desktop.system.paths import SiloHome
from octopus_desktop.wire.errors import UserError


def test_a_lock_names_its_holder_and_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    assert lock_holder(path) is None
    code = "import sys,time; from pathlib import Path; from octopus_desktop.system.lock import InstanceLock\n"
    code += "InstanceLock(Path(sys.argv[1]), 'test'); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout and holder.stdout.readline() == "held\n"
    assert lock_holder(path) == holder.pid
    with pytest.raises(UserError) as error:
        InstanceLock(path, "daemon")
    assert error.value.code == "OCT-STATE-LOCKED" and str(holder.pid) in error.value.why
    holder.kill()
    holder.wait()
    lock = InstanceLock(path, "daemon")
    assert lock_holder(path) == os.getpid()
    lock.release()


def test_a_leashed_child_dies_with_its_parent() -> None:
    code = (
        "import subprocess,sys,time; from octopus_desktop.system.processes import leashed\n"
        "child = subprocess.Popen(leashed('timeit', '-n1', '-r1', 'import time; time.sleep(600)'))\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    child = psutil.Process(int(parent.stdout.readline()))
    while child.status() != psutil.STATUS_ZOMBIE and "timeit" not in " ".join(child.cmdline()):
        os.sched_yield()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    assert not psutil.wait_procs([child], 10)[1]


def test_a_start_that_fails_tells_why(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        service.start_detached("octopus_desktop.no_such_module", [], tmp_path / "logs" / "x.log", what="thing")
    assert error.value.code == "OCT-DAEMON-AWAY" and "no_such_module" in error.value.why


def test_the_unit_is_written_and_taken_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))  # no systemctl to be found
    home = SiloHome(root=tmp_path / "home 100%")
    text = service.install_unit(home)
    unit = tmp_path / "systemd" / "user" / "octopus-daemon.service"
    assert "systemctl --user enable --now octopus-daemon.service" in text
    assert f'--home "{tmp_path}/home 100%%"' in unit.read_text() and "Restart=always" in unit.read_text()
    assert "is removed" in service.uninstall_unit(home)
    assert not unit.exists()
    assert not service.uninstall().active


def test_the_inventory_knows_this_machine(tmp_path: Path) -> None:
    facts = inventory.machine(tmp_path)
    assert facts.cpu_count == os.cpu_count() and facts.ram_total == psutil.virtual_memory().total
    assert facts.disk_free <= facts.disk_total and facts.torch and facts.os
