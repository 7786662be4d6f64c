"""An own mosquitto: its start, its end, and what it says when it cannot start."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from octopus_desktop.communication import broker
from octopus_desktop.wire.errors import UserError
from tests.communication.brokers import free_port

EXAMPLES = Path(__file__).parents[2] / "resources" / "brokers" / "mosquitto"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "broker"
    broker.stop(tmp_path / "broker", signal.SIGKILL)


def prepared(folder: Path, *, port: int = 0, extra: tuple[str, ...] = ()) -> int:
    port = port or free_port()
    broker.prepare(folder, broker.BrokerPlan(port=port, users={"server": "word", "alpha": "other"}, extra=extra))
    return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_it_accepts_when_start_returns_and_is_gone_when_stop_returns(folder: Path) -> None:
    port = prepared(folder)
    pid = broker.start(folder)
    assert listens(port)
    broker.stop(folder)
    assert not listens(port)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    broker.stop(folder)  # once more is no mistake


def test_another_process_may_stop_it(folder: Path) -> None:
    port = prepared(folder)
    starts = (
        "import pathlib, sys; from octopus_desktop.communication import broker; broker.start(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", starts, str(folder)], check=True)
    assert listens(port), "it outlives who started it"
    broker.stop(folder)
    assert not listens(port)


def test_a_pid_that_was_given_to_another_process_is_left_alone(folder: Path) -> None:
    prepared(folder)
    (folder / "pid").write_text(str(os.getpid()))
    broker.stop(folder, signal.SIGKILL)


def test_nobody_else_may_read_its_secrets(folder: Path) -> None:
    prepared(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "passwords").stat().st_mode & 0o077 == 0
    assert "word" not in (folder / "passwords").read_text().replace("server", "")


def test_a_used_port_is_named_as_such(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        prepared(folder, port=other.getsockname()[1])
        with pytest.raises(UserError) as caught:
            broker.start(folder)
    assert caught.value.code == "OCT-PORT-USED"


def test_a_mistake_in_its_settings_is_shown(folder: Path) -> None:
    prepared(folder, extra=("no_such_setting true",))
    with pytest.raises(UserError) as caught:
        broker.start(folder)
    assert caught.value.code == "OCT-BROKER-DOWN" and "no_such_setting" in caught.value.why


def test_without_mosquitto_the_debian_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(UserError) as caught:
        broker.find()
    assert caught.value.code == "OCT-PACKAGE-MISSING" and "'mosquitto'" in caught.value.next_step


def test_the_administrators_example_gives_the_rights_that_are_tested() -> None:
    assert (EXAMPLES / "acl").read_text() == broker.acl()


def test_the_administrators_example_is_taken_by_mosquitto(folder: Path) -> None:
    """With the files of this test in the place of those below /etc."""
    port = prepared(folder)
    from octopus_desktop.identity.authority import Authority

    key, chain = Authority.create("Broker").issue_server(["127.0.0.1"])
    (folder / "cert.pem").write_bytes(chain)
    (folder / "key.pem").write_bytes(key)
    text = (EXAMPLES / "octopus.conf").read_text().replace("listener 8883", f"listener {port} 127.0.0.1")
    for there, here in (
        ("certs/broker.pem", "cert.pem"), ("certs/broker.key", "key.pem"), ("octopus.passwords", "passwords"),
        ("octopus.acl", "acl"),
    ):  # fmt: skip
        assert f"/etc/mosquitto/{there}" in text
        text = text.replace(f"/etc/mosquitto/{there}", str(folder / here))
    (folder / "mosquitto.conf").write_text(f"{'user root' if os.geteuid() == 0 else ''}\nlog_dest stderr\n{text}")
    broker.start(folder)
    assert listens(port)
