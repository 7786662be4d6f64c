"""``octopus server carrier …`` and ``enrol-file`` as a coordinator types them, against a real server; and enrolment
without a route, typed on both sides."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.identity.authority import Authority
from tests.cli.test_cli_server import octopus
from tests.server.scripted import Server

OFFER = ("--host", "broker.invalid", "--username", "federation")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "server")
    made.init()
    made.start()
    try:
        yield made
    finally:
        made.end()


def typed(*words: str, home: Path, stdin: str = "", expect: int = 0) -> Any:
    """As ``octopus``, with words on standard input."""
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "server", *words, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=60)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stderr)["error"] if expect else json.loads(done.stdout)


def test_a_carrier_is_offered_changed_shown_and_taken_back(server: Server, tmp_path: Path) -> None:
    home = server.home.root
    assert [c["name"] for c in octopus("carrier", "list", home=home)] == ["grpc"]
    made = typed("carrier", "put", "mqtt", *OFFER, "--password-stdin", home=home, stdin="s3cret\n")
    assert made["username"] == "federation" and made["secret_kept"] and made["state"] != "up"
    (tmp_path / "ca.pem").write_bytes(Authority.create("Broker").ca_pem)
    octopus("carrier", "put", "mqtt", "--port", "8884", "--ca-file", str(tmp_path / "ca.pem"), home=home)
    grpc, mqtt = octopus("carrier", "list", home=home)
    settings = json.loads(mqtt["settings_json"])
    assert (settings["host"], settings["port"]) == ("broker.invalid", 8884), "what was not named stayed"
    assert "BEGIN CERTIFICATE" in settings["ca_pem"] and mqtt["secret_kept"] and grpc["state"] == "up"
    assert "s3cret" not in (home / "federation.toml").read_text() and "s3cret" not in json.dumps(mqtt)
    assert [c["name"] for c in octopus("carrier", "remove", "mqtt", "--yes", home=home)] == ["grpc"]
    assert octopus("carrier", "remove", "mqtt", "--yes", home=home, expect=1)["code"] == "OCT-CARRIER-REFUSED"


def test_settings_come_from_a_toml_file_and_secrets_never_do(server: Server, tmp_path: Path) -> None:
    home, file = server.home.root, tmp_path / "mqtt_s3.toml"
    text = (
        'host = "broker.invalid"\nendpoint = "https://s3.invalid"\nbucket = "rounds"\nusername = "federation"\n'
        'store_key_id = "AK"\n'
    )
    file.write_text(text)
    put = ("carrier", "put", "mqtt_s3", "--file", str(file), "--password-stdin", "--store-secret-stdin")
    made = typed(*put, home=home, stdin="first\nsecond\n")
    assert json.loads(made["settings_json"])["bucket"] == "rounds" and made["username"] == "federation"
    file.write_text(text + 'password = "oops"\n')
    error = typed(*put, home=home, stdin="first\nsecond\n", expect=1)
    assert error["code"] == "OCT-CONFIG-INVALID" and "password" in error["why"]
    file.write_text("host = ")
    assert typed(*put, home=home, stdin="a\nb\n", expect=1)["code"] == "OCT-CONFIG-INVALID"


REFUSED = [
    (("pigeon",), "OCT-CONFIG-INVALID", "the carriers are"),
    (("mqtt", "--port", "1"), "OCT-CONFIG-INVALID", "host"),
    (("torch_rpc", "--host", "10.0.0.1", "--port", "29500", "--network", "ten"), "OCT-CONFIG-INVALID", "network"),
    (("torch_rpc", "--host", "10.0.0.1", "--port", "29500"), "OCT-CONFIG-INVALID", "trusted networks"),
    (("mqtt", "--host", "b", "--bucket", "x"), "OCT-CONFIG-INVALID", "bucket"),
    (("mqtt", "--host", "b", "--ca-file", "no-such.pem"), "OCT-CLI-USAGE", "No such file"),
]


def test_settings_that_cannot_be_are_refused_with_the_reason(server: Server) -> None:
    for words, code, word in REFUSED:
        error = octopus("carrier", "put", *words, home=server.home.root, expect=1)
        assert error["code"] == code and word in error["why"] and error["next_step"], words


def test_enrolment_without_a_route_typed_on_both_sides(server: Server, tmp_path: Path) -> None:
    (tmp_path / "passphrase").write_text("correct horse")
    (tmp_path / "passphrase").chmod(0o600)
    environment = {
        **os.environ,
        "OCTOPUS_HOME": str(tmp_path / "silo"),
        "OCTOPUS_PASSPHRASE_FILE": str(tmp_path / "passphrase"),
    }

    def silo(*words: str, expect: int = 0) -> Any:
        command = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", *words]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
        assert done.returncode == expect, done.stderr
        return json.loads(done.stderr)["error"] if expect else json.loads(done.stdout)

    home = server.home.root
    typed("carrier", "put", "mqtt", *OFFER, "--password-stdin", home=home, stdin="pw\n")
    invitation, asked, answer = (tmp_path / name for name in ("invitation", "request.bin", "answer.bin"))
    octopus("invite", "--name", "mayo", "--out", str(invitation), home=home)
    silo("daemon", "start")
    try:
        silo("setup", "--organisation", "Mayo", "--administrator", "Dr. Hall")
        silo("federation", "request", str(invitation), "--name", "mayo", "--out", str(asked))
        assert octopus("enrol-file", str(asked), "--out", str(answer), home=home)["name"] == "mayo"
        enrolled = silo("federation", "accept", str(answer))
        assert (enrolled["silo_name"], enrolled["carrier"]) == ("mayo", "mqtt"), "what needs no route to the server"
        again = silo("federation", "accept", str(answer), expect=1)
        assert again["code"].startswith("OCT-")
        listed = silo("federation", "carrier", "list")[0]
        assert listed["control"] == "mqtt" and {c["name"] for c in listed["carriers"]} == {"grpc", "mqtt"}
    finally:
        silo("daemon", "stop")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no request")
    error = octopus("enrol-file", str(garbage), "--out", str(answer), home=home, expect=1)
    assert error["code"].startswith("OCT-") and error["next_step"]
