"""A runner's process as the daemon holds it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psutil
import pytest

from octopus_desktop.daemon import supervisor
from octopus_desktop.daemon.supervisor import Runner


async def test_a_runner_that_is_ended_while_it_starts_does_not_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "GRACE_S", 0.2)
    gone = asyncio.Event()
    runner = Runner(heard=lambda word: None, wrote=lambda text: None, gone=lambda why: gone.set())
    begun = asyncio.create_task(runner.start("http.server", "0", "--bind", "127.0.0.1", cwd=tmp_path))
    await asyncio.sleep(0)
    assert not runner.pid, "it is on its way"
    await runner.end("The run was over before.")
    await begun
    async with asyncio.timeout(20):
        await gone.wait()
    assert runner.pid and not psutil.pid_exists(runner.pid)
