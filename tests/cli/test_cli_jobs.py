"""A researcher's way from an empty folder to a federation, by the command line; with a real server at its end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.identity import invitations
from octopus_desktop.identity.authority import Authority
from octopus_desktop.wire.errors import UserError


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("research")


def environment(place: Path, author: str = "author") -> dict[str, str]:
    phrase = place / "phrase"
    if not phrase.exists():
        phrase.touch(0o600)
        phrase.write_text("open sesame")
    ours = {
        "OCTOPUS_AUTHOR_HOME": str(place / author),
        "OCTOPUS_SERVER_HOME": str(place / "server"),
        "OCTOPUS_PASSPHRASE_FILE": str(phrase),
    }
    return {**os.environ, **ours}


def run(place: Path, *words: object, author: str = "author") -> Any:
    return json.loads(octopus(*map(str, words), environment=environment(place, author)).stdout)


@pytest.fixture(scope="module")
def package(place: Path) -> Path:
    run(place, "jobs", "new", place / "my-job")
    out = place / "my-job.octojob"
    run(place, "jobs", "build", place / "my-job", "-o", out)
    return out


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Path]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run(place, "server", "init", "--name", "Heart Alliance", "--host", "127.0.0.1", "--port", port)
    octopus("server", "start", environment=environment(place))
    yield place / "server"
    octopus("server", "stop", environment=environment(place))


def test_a_new_job_is_in_order_and_is_not_made_over_another(place: Path, package: Path) -> None:
    assert run(place, "jobs", "check", place / "my-job") == {
        "ok": True, "mistakes": [], "findings": [], "author": None
    }  # fmt: skip
    with pytest.raises(UserError) as there:
        run(place, "jobs", "new", place / "my-job")
    assert there.value.code == "OCT-STATE-EXISTS"


def test_the_same_job_builds_to_the_same_package_elsewhere(place: Path, package: Path) -> None:
    run(place, "jobs", "new", place / "else" / "my-job")
    again = run(place, "jobs", "build", place / "else" / "my-job", "-o", place / "again.octojob")
    assert (place / "again.octojob").read_bytes() == package.read_bytes()
    assert len(again["digest"]) == 64


@pytest.mark.parametrize(
    ("old", "new", "has_a_line"),
    [
        ("rounds = 10", "ronds = 10", True),
        ('name = "fedavg"', 'name = "fedavgs"', True),
        ('name = "fedavg"', 'name = "fedavg"\nmoment = 3', False),
        ("trainer:Trainer", "trainer:Trainee", False),
    ],
)
def test_a_mistake_is_told_by_check_and_stops_build(place: Path, old: str, new: str, has_a_line: bool) -> None:
    folder = place / f"bad-{len(list(place.iterdir()))}"
    run(place, "jobs", "new", folder)
    toml = folder / "job.toml"
    assert old in toml.read_text()
    text = toml.read_text().replace(old, new)
    toml.write_text(text)
    place_told = f"line {text[: text.index(new)].count(chr(10)) + 1}," if has_a_line else ""
    words = [sys.executable, "-m", "octopus_desktop.cli.main", "--json", "jobs", "check", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["ok"] is False
    assert place_told in told["mistakes"][0]["place"] and told["mistakes"][0]["advice"]
    with pytest.raises(UserError) as refused:
        run(place, "jobs", "build", folder, "-o", place / "bad.octojob")
    assert refused.value.code in ("OCT-JOB-TOML", "OCT-JOB-TRAINER", "OCT-STRATEGY-PARAMETER")
    assert not (place / "bad.octojob").exists()


def test_findings_are_advice_and_stop_nothing(place: Path) -> None:
    folder = place / "curious"
    run(place, "jobs", "new", folder)
    trainer = folder / "code" / "trainer.py"
    trainer.write_text(trainer.read_text() + "\nimport socket\n")
    told = run(place, "jobs", "check", folder)
    assert told["ok"] and [f["rule"] for f in told["findings"]] == ["network"]


def test_only_a_signed_package_of_a_known_author_is_taken(place: Path, package: Path, server: Path) -> None:
    with pytest.raises(UserError) as unsigned:
        run(place, "jobs", "submit", package)
    assert unsigned.value.code == "OCT-JOB-UNSIGNED"
    run(place, "jobs", "sign", package, "--author", "Dr. Lin")
    assert run(place, "jobs", "check", package)["author"] == "Dr. Lin"
    with pytest.raises(UserError) as unknown:
        run(place, "jobs", "submit", package)
    assert unknown.value.code == "OCT-JOB-AUTHOR"
    elsewhere = {**environment(place, author="stranger"), "OCTOPUS_SERVER_HOME": str(place / "no-server")}
    with pytest.raises(UserError) as nowhere:
        octopus("jobs", "submit", str(package), environment=elsewhere)
    assert nowhere.value.code == "OCT-ENROL-UNKNOWN" and "octopus jobs enrol" in nowhere.value.next_step
    key = run(place, "jobs", "key")
    run(place, "server", "authors", "add", "Dr. Lin", key["key"])
    info = run(place, "jobs", "submit", package, "--server-home", server)
    assert (info["name"], info["author"], info["author_fingerprint"]) == ("my-job", "Dr. Lin", key["fingerprint"])
    assert run(place, "jobs", "submit", package)["digest"] == info["digest"]


def test_an_author_enrols_also_when_the_answer_was_lost_and_submits_over_the_network(
    place: Path, package: Path, server: Path
) -> None:
    copy = place / "remote.octojob"
    copy.write_bytes(package.read_bytes())
    invitation = place / "invitation.txt"
    run(place, "server", "invite", "--role", "author", "--out", invitation)
    joined = run(place, "jobs", "enrol", invitation, "--name", "dr-mei", author="mei")
    assert (joined["federation"], joined["name"]) == ("Heart Alliance", "dr-mei")
    run(place, "jobs", "sign", copy, "--author", "Dr. Mei", author="mei")
    info = run(place, "jobs", "submit", copy, "--federation", "Heart Alliance", author="mei")
    assert info["author"] == "Dr. Mei"
    assert run(place, "jobs", "enrol", invitation, "--name", "dr-mei", author="mei")["name"] == "dr-mei"
    with pytest.raises(UserError) as used:
        run(place, "jobs", "enrol", invitation, "--name", "dr-eve", author="eve")
    assert used.value.code == "OCT-ENROL-USED"


def test_a_silos_invitation_makes_no_author(place: Path, server: Path) -> None:
    invitation = place / "silo.txt"
    run(place, "server", "invite", "--out", invitation)
    with pytest.raises(UserError) as refused:
        run(place, "jobs", "enrol", invitation, "--name", "dr-eve")
    assert refused.value.code == "OCT-ENROL-ROLE"


def test_a_server_that_is_away_is_told(place: Path) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: nobody else takes the port meanwhile
        ticket = Authority.create("Nowhere").invite(f"127.0.0.1:{closed.getsockname()[1]}", "author")
        with pytest.raises(UserError) as away:
            run(place, "jobs", "enrol", invitations.encode(ticket), "--name", "dr-lin")
    assert away.value.code == "OCT-LINK-DOWN"


def test_a_server_of_another_federation_is_refused(place: Path, server: Path) -> None:
    address = run(place, "server", "status")["address"]
    ticket = Authority.create("Heart Alliance").invite(address, "author")
    with pytest.raises(UserError) as foreign:
        run(place, "jobs", "enrol", invitations.encode(ticket), "--name", "dr-lin")
    assert foreign.value.code == "OCT-ENROL-CA" and "fingerprint" in foreign.value.next_step


def test_a_package_changed_after_signing_is_refused(place: Path, package: Path) -> None:
    changed = place / "changed.octojob"
    changed.write_bytes(package.read_bytes().replace(b"learning_rate = 0.1", b"learning_rate = 0.9"))
    with pytest.raises(UserError) as refused:
        run(place, "jobs", "submit", changed)
    assert refused.value.code in ("OCT-JOB-TAMPERED", "OCT-JOB-ZIP")
