"""Secrets are kept where they should be, and every way in which that fails is told."""

from __future__ import annotations

import multiprocessing
import os
import socket
import stat
import time
from pathlib import Path

import pytest

from octopus_desktop.identity import os_keyring
from octopus_desktop.identity.secrets import approver_key, open_store
from octopus_desktop.wire.errors import UserError


@pytest.fixture(autouse=True)
def headless(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR", "CREDENTIALS_DIRECTORY", "OCTOPUS_PASSPHRASE_FILE",
        "OCTOPUS_SECRETS",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def code(error: pytest.ExceptionInfo[UserError]) -> str:
    assert error.value.what and error.value.next_step
    return error.value.code


# the sealed file


def test_a_sealed_file_keeps_secrets_and_shows_none(tmp_path: Path) -> None:
    store = open_store(tmp_path / "secrets", passphrase="open sesame")
    store.set("tls/heart", b"very secret key")
    store.set("other", b"\0\xff")
    store.delete("other")
    store.delete("never there")
    again = open_store(tmp_path / "secrets", passphrase="open sesame")
    assert again.kind == "passphrase file"
    assert again.get("tls/heart") == b"very secret key" and again.get("other") is None
    for path in (tmp_path / "secrets").iterdir():
        assert b"very secret" not in path.read_bytes() and b"sesame" not in path.read_bytes()
    sealed = tmp_path / "secrets" / "secrets.sealed"
    assert stat.S_IMODE(sealed.stat().st_mode) == 0o600
    assert stat.S_IMODE(sealed.parent.stat().st_mode) == 0o700


def test_a_wrong_passphrase_is_told_and_changes_nothing(tmp_path: Path) -> None:
    open_store(tmp_path, passphrase="right").set("a", b"1")
    before = (tmp_path / "secrets.sealed").read_bytes()
    with pytest.raises(UserError) as wrong:
        open_store(tmp_path, passphrase="wrong")
    assert code(wrong) == "OCT-SECRET-PASSPHRASE"
    assert (tmp_path / "secrets.sealed").read_bytes() == before


def test_without_keyring_credential_or_passphrase_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError) as missing:
        open_store(tmp_path)
    assert code(missing) == "OCT-SECRET-PASSPHRASE" and "OCTOPUS_PASSPHRASE_FILE" in missing.value.next_step
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("damage", ["content", "salt", "cut", "magic", "work"])
def test_a_damaged_file_is_told(tmp_path: Path, damage: str) -> None:
    open_store(tmp_path, passphrase="p").set("a", b"1")
    path = tmp_path / "secrets.sealed"
    raw = bytearray(path.read_bytes())
    if damage == "cut":
        raw = raw[:20]
    else:
        raw[{"content": -5, "salt": 15, "magic": 0, "work": 8}[damage]] ^= 0x40
    path.write_bytes(raw)
    with pytest.raises(UserError) as bad:
        open_store(tmp_path, passphrase="p")
    assert code(bad) == ("OCT-SECRET-PASSPHRASE" if damage == "salt" else "OCT-SECRET-STORE")


def test_another_process_sees_what_was_written_and_loses_nothing(tmp_path: Path) -> None:
    mine = open_store(tmp_path, passphrase="p")
    mine.set("mine", b"1")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_some, args=(tmp_path, n)) for n in range(2)]
    for worker in workers:
        worker.start()
    for n in range(5):
        mine.set(f"mine-{n}", b"x")
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    names = ["mine", *(f"mine-{n}" for n in range(5)), *(f"worker-{w}-{n}" for w in range(2) for n in range(5))]
    assert all(mine.get(name) for name in names)


def _write_some(folder: Path, worker: int) -> None:
    store = open_store(folder, passphrase="p")
    for n in range(5):
        store.set(f"worker-{worker}-{n}", b"x")


def test_a_passphrase_file_is_read_and_must_be_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phrase = tmp_path / "phrase"
    phrase.write_text("open sesame\n")
    phrase.chmod(0o600)
    monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(phrase))
    open_store(tmp_path / "s").set("a", b"1")
    assert open_store(tmp_path / "s", passphrase="open sesame").get("a") == b"1"
    phrase.chmod(0o644)
    with pytest.raises(UserError) as open_to_all:
        open_store(tmp_path / "s")
    assert code(open_to_all) == "OCT-SECRET-PASSPHRASE" and "chmod 600" in open_to_all.value.next_step
    phrase.chmod(0o600)
    phrase.write_text("\n")
    with pytest.raises(UserError, match="empty"):
        open_store(tmp_path / "s")
    monkeypatch.setenv("OCTOPUS_PASSPHRASE_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="cannot be read"):
        open_store(tmp_path / "s")


def test_a_prompt_is_used_only_where_a_sealed_file_needs_it(tmp_path: Path) -> None:
    asked = []

    def ask() -> str:
        asked.append(1)
        return "typed"

    open_store(tmp_path / "s", passphrase=ask).set("a", b"1")
    assert open_store(tmp_path / "s", passphrase="typed").get("a") == b"1" and asked == [1]


def test_an_unknown_choice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as bad:
        open_store(tmp_path, choice="vault")
    assert code(bad) == "OCT-CONFIG-INVALID"


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path, passphrase="p")
    store.set("a", b"1")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError) as told:
        store.set("b", b"2")
    assert code(told) == "OCT-SECRET-STORE" and "No space" in told.value.why
    monkeypatch.undo()
    assert open_store(tmp_path, passphrase="p").get("a") == b"1"


# systemd credentials


def test_credentials_are_read_and_a_passphrase_among_them_makes_room_for_new_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = tmp_path / "credentials"
    given.mkdir()
    (given / "octopus-approver.Dr Ada").write_bytes(b"s" * 32)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    store = open_store(tmp_path / "s")
    assert store.kind == "systemd credential"
    assert store.get("approver/Dr Ada") == b"s" * 32
    with pytest.raises(UserError) as read_only:
        store.set("tls", b"1")
    assert code(read_only) == "OCT-SECRET-STORE" and "octopus-passphrase" in read_only.value.next_step
    (given / "octopus-passphrase").write_bytes(b"from systemd\n")
    store = open_store(tmp_path / "s", choice="credential")
    store.set("tls", b"1")
    assert open_store(tmp_path / "s", choice="credential").get("tls") == b"1"
    with pytest.raises(UserError):
        store.delete("approver/Dr Ada")


def test_a_directory_of_foreign_credentials_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other-token").write_bytes(b"x")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    with pytest.raises(UserError) as missing:
        open_store(tmp_path / "s")
    assert code(missing) == "OCT-SECRET-PASSPHRASE"


# the keyring


def test_no_session_bus_means_no_keyring_at_once() -> None:
    assert "no D-Bus session" in os_keyring.usable()


def test_a_bus_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "bus"))
        listener.listen()
        monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'bus'}")
        start = time.monotonic()
        assert "did not answer" in os_keyring.usable(timeout_s=0.5)
        assert time.monotonic() - start < 10


def test_a_bus_address_that_leads_nowhere_is_no_keyring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", f"unix:path={tmp_path / 'nobody'}")
    assert os_keyring.usable() not in ("", "there is no D-Bus session")


def test_a_store_that_is_in_the_keyring_never_turns_into_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "store.json").write_text('{"kind":"keyring","service":"octopus-desktop-x"}')
    with pytest.raises(UserError) as locked:
        open_store(tmp_path, passphrase="p")
    assert code(locked) == "OCT-SECRET-STORE" and "keyring" in locked.value.what
    (tmp_path / "store.json").write_text("{")
    with pytest.raises(UserError) as damaged:
        open_store(tmp_path, passphrase="p")
    assert code(damaged) == "OCT-SECRET-STORE"


class _Backend:
    """A keyring back end as the platform's are: texts by service and name; may fail or hang."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.values: dict[tuple[str, str], str] = {}
        self.failure = failure

    def get_password(self, service: str, name: str) -> str | None:
        if self.failure:
            raise self.failure
        return self.values.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        self.values[service, name] = value

    def delete_password(self, service: str, name: str) -> None:
        del self.values[service, name]


def test_bytes_go_into_a_keyring_as_text_and_come_back() -> None:
    backend = _Backend()
    keyring = os_keyring.Keyring("octopus-desktop-1", backend)
    keyring.set("key", b"\0\xff")
    assert keyring.get("key") == b"\0\xff"
    keyring.delete("key")
    keyring.delete("key")
    assert keyring.get("key") is None and not backend.values


def test_a_keyring_that_gets_locked_is_told() -> None:
    with pytest.raises(UserError) as locked:
        os_keyring.Keyring("s", _Backend(RuntimeError("Prompt dismissed"))).get("key")
    assert code(locked) == "OCT-SECRET-STORE" and "Prompt dismissed" in locked.value.why


# keys in a store


def test_an_approvers_key_is_made_once_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    store = open_store(tmp_path, passphrase="p")
    key = approver_key(store, "Dr. Ada Hall")
    assert approver_key(open_store(tmp_path, passphrase="p"), "Dr. Ada Hall").public == key.public
    assert approver_key(store, "Dr. Lin").public != key.public
    store.set("approver/Dr. Lin", b"short")
    with pytest.raises(UserError) as damaged:
        approver_key(store, "Dr. Lin")
    assert code(damaged) == "OCT-SECRET-STORE"
