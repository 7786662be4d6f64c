"""``octopus server …`` as a coordinator types it, against a real server process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from octopus_desktop.identity.keys import SigningKey
from tests.server.scripted import Server, federation

ENDED = ("completed", "stopped", "failed")


def octopus(*words: str, home: Path, expect: int = 0) -> Any:
    """The command's JSON, or its error's."""
    env = {k: v for k, v in os.environ.items() if k != "OCTOPUS_SERVER_HOME"}
    command = [sys.executable, "-m", "octopus_desktop.cli.main", "server", *words, "--home", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == expect, done.stderr
    return json.loads(done.stderr)["error"] if expect else json.loads(done.stdout or "null")


def test_a_coordinators_first_minutes(tmp_path: Path) -> None:
    server = Server(tmp_path / "home")
    home = server.home.root
    assert octopus("start", home=home, expect=1)["code"] == "OCT-STATE-MISSING"
    words = ["--name", "Heart Alliance", "--host", "localhost", "--port", str(server.port)]
    made = octopus("init", *words, home=home)
    assert made["address"] == f"localhost:{server.port}"
    assert octopus("init", *words, home=home, expect=1)["code"] == "OCT-STATE-EXISTS"
    assert octopus("status", home=home, expect=1)["code"] == "OCT-SERVER-AWAY"
    pid = octopus("start", home=home)["pid"]
    try:
        assert octopus("start", home=home, expect=1)["code"] == "OCT-STATE-LOCKED"
        status = octopus("status", home=home)
        assert (status["federation"], int(status["pid"])) == ("Heart Alliance", pid)
        assert status["ca_fingerprint"] == made["ca_fingerprint"]
        secret = tmp_path / "invitation"
        invited = octopus("invite", "--name", "mayo", "--valid", "2h", "--out", str(secret), home=home)
        assert invited["text"] == "" and secret.read_text().startswith("OCTOPUS1.")
        assert secret.stat().st_mode & 0o077 == 0
        assert octopus("invite", "--name", "No Good", home=home, expect=1)["code"] == "OCT-ENROL-NAME"
        assert octopus("invite", "--valid", "soon", home=home, expect=1)["code"] == "OCT-CLI-USAGE"
        assert [i["name"] for i in octopus("invitations", home=home)] == ["mayo"]
        assert octopus("silos", home=home) == []
        key = SigningKey.generate().public.hex()
        octopus("authors", "add", "ada", key, home=home)
        assert octopus("authors", "add", "eve", "beef", home=home, expect=1)["code"] == "OCT-CONFIG-INVALID"
        assert octopus("authors", "add", "eve", "no key", home=home, expect=1)["code"] == "OCT-CLI-USAGE"
        assert [a["name"] for a in octopus("authors", "list", home=home)] == ["ada"]
        assert octopus("jobs", home=home) == [] and octopus("runs", "list", home=home) == []
        assert octopus("runs", "start", "heart", home=home, expect=1)["code"] == "OCT-JOB-UNKNOWN"
        assert octopus("runs", "start", "heart", "--set", "rounds", home=home, expect=1)["code"] == "OCT-CLI-USAGE"
        assert octopus("runs", "show", "last", home=home, expect=1)["code"] == "OCT-RUN-UNKNOWN"
        assert octopus("revoke", "mayo", "--yes", home=home, expect=1)["code"] == "OCT-ENROL-NAME"
    finally:
        assert octopus("stop", home=home)["stopped"] == pid
    assert octopus("stop", home=home, expect=1)["code"] == "OCT-SERVER-AWAY"


async def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    import asyncio

    async with federation(tmp_path, "mayo") as (server, _):
        home = server.home.root
        server.submit()

        async def run(*words: str, expect: int = 0) -> Any:
            return await asyncio.to_thread(octopus, *words, home=home, expect=expect)

        assert [j["name"] for j in await run("jobs")] == ["echo"]
        started = await run("runs", "start", "echo@1.0.0", "--silos", "mayo", "--set", "run.rounds=1")
        done = await server.until_run(started["id"], lambda r: r.state in ENDED)
        assert (await run("runs", "show", "last"))["state"] == "completed"
        assert [r["id"] for r in await run("runs", "list", "--state", "completed")] == [started["id"]]
        out = tmp_path / "model.safetensors"
        exported = await run("runs", "export", "last", str(out), "--round", "1")
        assert exported["digest"] == done.model.digest and out.stat().st_size == exported["size"]
        refused = await run("runs", "export", "last", str(out), "--round", "9", expect=1)
        assert refused["code"] == "OCT-BLOB-MISSING"
        assert (await run("runs", "stop", "last", "--yes", expect=1))["code"] == "OCT-RUN-STATE"
        assert [s["connected"] for s in await run("silos")] == [True]
