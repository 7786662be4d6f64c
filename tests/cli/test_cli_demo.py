"""``octopus demo``: what it refuses. That it works over each carrier is for tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from octopus_desktop.cli.main import cli
from octopus_desktop.communication import broker
from octopus_desktop.wire.errors import UserError


def demo(*words: str) -> Result:
    return CliRunner().invoke(cli, ["demo", "--headless", *words])


def refused(done: Result) -> UserError:
    assert isinstance(done.exception, UserError), done.output
    return done.exception


def test_without_mosquitto_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker.shutil, "which", lambda name, path=None: None)
    error = refused(demo("--carrier", "mqtt", "--dir", str(tmp_path / "demo")))
    assert error.code == "OCT-PACKAGE-MISSING" and "apt install mosquitto" in error.next_step


def test_a_demo_keeps_the_carrier_that_it_was_made_over(tmp_path: Path) -> None:
    (tmp_path / "carrier").write_text("mqtt")
    error = refused(demo("--carrier", "torch_rpc", "--dir", str(tmp_path)))
    assert error.code == "OCT-STATE-EXISTS" and "goes over mqtt" in error.what


def test_nothing_to_stop_is_no_error(tmp_path: Path) -> None:
    for word in ("--stop", "--clean"):
        done = demo(word, "--dir", str(tmp_path / "none"))
        assert done.exit_code == 0 and "no demo" in done.output


def test_an_unknown_carrier_is_answered_with_those_there_are() -> None:
    done = demo("--carrier", "pigeon")
    assert done.exit_code == 2 and "torch_rpc" in done.output
