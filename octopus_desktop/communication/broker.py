"""An own mosquitto for demonstrations and tests: its files, its start and its end. Knows nothing of what passes it.

A folder holds everything: ``mosquitto.conf``, ``acl``, ``passwords``, certificate and key, ``log``, ``pid``. A broker
may outlive the process that started it; ``stop`` ends it by the pid in its folder. For a broker of one's own at a site,
see resources/brokers/mosquitto.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from octopus_desktop.wire.errors import UserError

MAX_PACKET_BYTES = 4 << 20
START_S = 15.0
STOP_S = 5.0
_LOOK_S = 0.02  # nothing tells that a log has grown; only a start waits like this
_HASH_ROUNDS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlan:
    """One broker on 127.0.0.1.

    Attributes:
        users: password of each user; silos' users bear the silos' names.
        server: the federation server's user, among ``users``.
        key, chain: PEM of the TLS listener; empty for a listener without TLS.
        topics: first level of all topics, as in the offer.
        extra: further lines of mosquitto.conf.
    """

    port: int
    users: Mapping[str, str] = field(repr=False)
    server: str = "server"
    key: bytes = field(default=b"", repr=False)
    chain: bytes = b""
    topics: str = "octopus"
    extra: tuple[str, ...] = ()


def acl(topics: str = "octopus", server: str = "server") -> str:
    """The rights of everybody, for mosquitto's ``acl_file``."""
    return f"""\
# The federation server: everything below the federation's topics.
user {server}
topic readwrite {topics}/#

# Each silo, whose user bears the silo's own name (%u). The level between is the federation.
pattern write {topics}/+/up/%u/#
pattern readwrite {topics}/+/alive/%u
pattern read {topics}/+/down/%u/#
pattern read {topics}/+/alive/server
"""


def hashed(user: str, password: str) -> str:
    """A line of mosquitto's ``password_file``: PBKDF2 with SHA-512, as mosquitto_passwd writes it. Made here, for that
    program takes a password from its argument list or a terminal only."""
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _HASH_ROUNDS, 64)
    return f"{user}:$7${_HASH_ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def find() -> str:
    """mosquitto's program. Raises OCT-PACKAGE-MISSING."""
    path = os.environ.get("PATH", os.defpath)
    found = shutil.which("mosquitto", path=os.pathsep.join([path, "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        raise UserError(
            "OCT-PACKAGE-MISSING",
            "The MQTT broker mosquitto is not installed.",
            "There is no program 'mosquitto' on the search path.",
            "Install the Debian or Ubuntu package 'mosquitto' (sudo apt install mosquitto), then try again.",
        )
    return found


def prepare(folder: Path, plan: BrokerPlan) -> None:
    """Write everything that the broker needs; what was there is replaced."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(folder / "acl", acl(plan.topics, plan.server))
    _write(folder / "passwords", "".join(f"{hashed(*user)}\n" for user in plan.users.items()))
    lines = [
        f"listener {plan.port} 127.0.0.1",
        "allow_anonymous false",
        f"password_file {folder / 'passwords'}",
        f"acl_file {folder / 'acl'}",
        f"max_packet_size {MAX_PACKET_BYTES}",
        "max_inflight_messages 64",
        "max_queued_messages 5000",
        "set_tcp_nodelay true",
        "persistence false",
        "log_dest stderr",
        "log_type error",
        "log_type warning",
        "log_type notice",
        "log_type information",
    ]
    if plan.chain:
        _write(folder / "cert.pem", plan.chain.decode())
        _write(folder / "key.pem", plan.key.decode())
        lines += [f"certfile {folder / 'cert.pem'}", f"keyfile {folder / 'key.pem'}", "tls_version tlsv1.2"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines.insert(0, "user root")  # else it becomes another user, who may not read this folder
    _write(folder / "mosquitto.conf", "\n".join([*lines, *plan.extra, ""]))


def start(folder: Path) -> int:
    """Start the prepared broker; returns its pid when it accepts connections. Blocks for some 0.1 s.

    Raises:
        UserError: OCT-PACKAGE-MISSING; OCT-PORT-USED; OCT-BROKER-DOWN with the log's last words.
    """
    program = find()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, "-c", str(folder / "mosquitto.conf")],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    (folder / "pid").write_text(str(process.pid))
    until = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until:
        if " running" in (folder / "log").read_text(errors="replace"):
            _reapers[process.pid] = process
            return process.pid
        time.sleep(_LOOK_S)
    if process.poll() is None:
        process.kill()
    process.wait()
    (folder / "pid").unlink(missing_ok=True)
    words = (folder / "log").read_text(errors="replace").strip().splitlines()[-3:]
    if any("Address already in use" in line for line in words):
        raise UserError(
            "OCT-PORT-USED",
            "The MQTT broker cannot start.",
            "Its port is used by another program.",
            "Stop the other program, or choose another port.",
        )
    raise UserError(
        "OCT-BROKER-DOWN",
        "The MQTT broker did not start.",
        " ".join(words) or f"It said nothing within {START_S:.0f} s.",
        f"See {folder / 'mosquitto.conf'}; 'mosquitto -c' with it shows the same.",
    )


def stop(folder: Path, how: int = signal.SIGTERM) -> None:
    """End the broker that runs in this folder; nothing happens when none does."""
    try:
        pid = int((folder / "pid").read_text())
    except (OSError, ValueError):
        return
    (folder / "pid").unlink(missing_ok=True)
    process = _reapers.pop(pid, None)
    if not _is_ours(pid, folder):
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, how)
    until = time.monotonic() + STOP_S
    while _is_ours(pid, folder):
        if process:
            process.poll()
        if time.monotonic() > until:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_S)


_reapers: dict[int, subprocess.Popen[bytes]] = {}  # children of this process, which must be waited for


def _is_ours(pid: int, folder: Path) -> bool:
    """Whether that process is the folder's broker, and not another that was given its number."""
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(folder / "mosquitto.conf") in process.cmdline()
    except psutil.Error:
        return False


def _write(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
