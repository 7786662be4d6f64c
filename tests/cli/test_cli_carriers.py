"""``octopus federation carrier|request|accept|check`` and ``octopus runs show`` as an administrator types them, against
a daemon of sample data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from octopus_desktop.cli.main import cli
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError
from tests.gui.sample_daemon import SampleDaemon


class Desk:
    """A home with its daemon; ``octopus("federation", …)`` is what was typed there."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.daemon = SampleDaemon(silo_home(str(home)).socket)

    def typed(self, *words: str, stdin: str = "") -> Result:
        return CliRunner().invoke(cli, ["--home", str(self.home), *words], input=stdin)

    def octopus(self, *words: str, stdin: str = "") -> Any:
        done = self.typed(*words, "--json", stdin=stdin)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def last(self, method: str) -> Any:
        return [request for name, request in self.daemon.calls if name == method][-1]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path / "silo")
    made.daemon.start()
    try:
        yield made
    finally:
        made.daemon.stop()


def test_the_carriers_of_a_federation_are_listed_with_their_links(desk: Desk) -> None:
    heart, stroke = desk.octopus("federation", "carrier", "list")
    assert heart["control"] == "grpc" and [c["name"] for c in stroke["carriers"]] == ["grpc"]
    grpc, mqtt, _, rpc, _ = heart["carriers"]
    assert (grpc["link"], grpc["control"], grpc["own"]["proxy"][:7]) == ("up", True, "http://")
    assert mqtt["secret_kept"] and rpc["settings"]["sealed"] is False
    shown = desk.typed("federation", "carrier", "list", "Heart Alliance")
    assert "control in use" in shown.output and "31.0 MiB" in shown.output and "UNSEALED" in shown.output
    assert "OCT-BROKER-LOGIN" in shown.stderr and "Stroke" not in shown.output


def test_the_own_side_is_changed_without_losing_the_rest_and_the_password_goes_in_by_stdin(desk: Desk) -> None:
    words = ("federation", "carrier", "set", "Heart Alliance")
    desk.octopus(*words, "grpc", "--user", "nora", "--password-stdin", stdin="s3cret\n")
    sent = desk.last("Federations.ConfigureCarrier")
    own = json.loads(sent.own_json)
    assert own["proxy"].startswith("http://proxy.") and own["username"] == "nora" and sent.secret == b"s3cret"
    two = ("--own-store-key", "AK", "--password-stdin", "--store-secret-stdin", "--control")
    desk.octopus(*words, "mqtt_s3", *two, stdin="first\nsecond\n")
    sent = desk.last("Federations.ConfigureCarrier")
    assert (sent.secret, sent.store_secret, sent.control) == (b"first", b"second", True)
    after = desk.typed(*words, "torch_rpc", "--accept-unsealed", "--interface", "ib0")
    assert json.loads(desk.last("Federations.ConfigureCarrier").own_json)["accept_unsealed"] is True
    assert "can read models" in after.output


@pytest.mark.parametrize(
    ("words", "code", "word"),
    [
        (("grpc", "--proxy", "http://nora:pw@proxy:3128"), "OCT-CONFIG-INVALID", "set apart"),
        (("grpc", "--proxy", "socks5://proxy:1080"), "OCT-CONFIG-INVALID", "http://"),
        (("mqtt", "--user", "nora", "--password"), "OCT-CLI-USAGE", "no terminal"),
        (("mqtt", "--user", "nora", "--password-stdin"), "OCT-CLI-USAGE", "empty"),
    ],
)
def test_what_cannot_be_set_is_refused_before_it_is_sent(desk: Desk, words: Any, code: str, word: str) -> None:
    done = desk.typed("federation", "carrier", "set", "Heart Alliance", *words)
    assert isinstance(done.exception, UserError) and done.exception.code == code and word in done.exception.why
    assert not any(name == "Federations.ConfigureCarrier" for name, _ in desk.daemon.calls)


def test_enrolment_without_a_route_goes_by_files(desk: Desk, tmp_path: Path) -> None:
    out = tmp_path / "request.bin"
    desk.octopus("federation", "request", "octopus://enrol/heart", "--name", "mayo", "--out", str(out))
    assert out.read_bytes() == b"request of mayo" and out.stat().st_mode & 0o077 == 0
    assert desk.octopus("federation", "accept", str(out))["silo_name"] == "by-file"
    gone = desk.typed("federation", "accept", str(tmp_path / "none"))
    assert isinstance(gone.exception, UserError) and gone.exception.code == "OCT-CLI-USAGE"
    nowhere = ("--name", "mayo", "--out", str(tmp_path / "no" / "such"))
    lost = desk.typed("federation", "request", "octopus://enrol/heart", *nowhere)
    assert isinstance(lost.exception, UserError) and "cannot be written" in lost.exception.what


def test_enrolment_takes_a_proxy_and_its_login(desk: Desk) -> None:
    words = ("--name", "mayo", "--proxy", "http://proxy:3128", "--user", "nora", "--password-stdin")
    desk.octopus("federation", "enrol", "octopus://enrol/heart", *words, stdin="pw\n")
    sent = desk.last("Federations.Enrol")
    assert json.loads(sent.own_json)["proxy"] == "http://proxy:3128" and sent.secret == b"pw"


def test_a_check_is_told_by_carrier_and_says_what_was_not_tried(desk: Desk) -> None:
    bad = desk.typed("federation", "check", "Heart Alliance")
    assert bad.exit_code == 1
    lines = bad.output.splitlines()
    assert lines[0] == "grpc:" and "mqtt:" in lines
    failed = next(i for i, line in enumerate(lines) if "FAIL" in line)
    assert "own topics" in lines[failed] and "Next: Ask the broker" in lines[failed + 1]
    assert " -  foreign topics" in lines[failed + 2] and "Not tried" in lines[failed + 2]


def test_a_run_names_its_carrier_link_and_bytes(desk: Desk) -> None:
    run = next(r for r in desk.daemon.snapshot.runs if r.state == "training")
    shown = desk.typed("runs", "show", run.id).output
    assert "mqtt_s3, up, 41.0 ms round trip" in shown and "not sent again" in shown and "updates as fp16" in shown
