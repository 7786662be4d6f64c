"""Coordinators as children: real processes that die."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from octopus_desktop.server.supervisor import Supervisor

PATIENCE_S = 20.0


class Heard:
    """What the supervisor told, and a wait for it."""

    def __init__(self) -> None:
        self.words: list[dict[str, Any]] = []
        self.lost: list[str] = []
        self._news = asyncio.Event()

    def word(self, run_id: str, word: dict[str, Any]) -> None:
        self.words.append(word)
        self._news.set()

    def gone(self, run_id: str, why: str) -> None:
        self.lost.append(why)
        self._news.set()

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    def names(self) -> list[str]:
        return [w["word"] for w in self.words]


def make_supervisor(heard: Heard, script: str, **more: Any) -> Supervisor:
    def command(run_dir: Path) -> Sequence[str]:
        return [sys.executable, "-c", script, str(run_dir)]

    return Supervisor(on_word=heard.word, on_lost=heard.gone, command=command, backoff_s=0.01, **more)


ECHO = """
import json, sys
print(json.dumps({"word": "ready"}), flush=True)
for line in sys.stdin:
    print(json.dumps({"word": "heard", "what": json.loads(line)}), flush=True)
"""


async def test_a_child_hears_the_greeting_first_and_ends_with_its_stdin(tmp_path: Path) -> None:
    heard = Heard()
    keeper = make_supervisor(heard, ECHO, greeting=lambda run: [{"word": "silo", "silo": "a", "up": True}])
    keeper.start("r", tmp_path)
    await heard.until(lambda: len(heard.words) == 2)
    assert heard.words[1]["what"] == {"word": "silo", "silo": "a", "up": True}
    keeper.say("r", "inbox")
    await heard.until(lambda: len(heard.words) == 3)
    child = psutil.Process(keeper.pid("r"))
    keeper.stop("r", "enough")
    assert not keeper.running("r")
    await keeper.close()
    assert not child.is_running()
    keeper.say("r", "inbox")  # nobody there: nothing happens


async def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    heard = Heard()
    keeper = make_supervisor(heard, ECHO)
    keeper.start("r", tmp_path)
    await heard.until(lambda: heard.names() == ["ready"])
    psutil.Process(keeper.pid("r")).kill()
    await heard.until(lambda: heard.names() == ["ready", "ready"])
    await keeper.close()


async def test_one_that_dies_without_getting_on_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    heard = Heard()
    keeper = make_supervisor(heard, "raise SystemExit('no more memory')", deaths_most=3)
    keeper.start("r", tmp_path)
    await heard.until(lambda: heard.lost)
    assert "3 times in a row" in heard.lost[0] and "no more memory" in heard.lost[0]
    assert not keeper.running("r")
    await keeper.close()


async def test_progress_forgives_earlier_deaths(tmp_path: Path) -> None:
    heard = Heard()
    script = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[1]) / "count"
n = int(count.read_text()) + 1 if count.exists() else 1
count.write_text(str(n))
if n % 2 == 0: print(json.dumps({"word": "round", "round": n}), flush=True)
if n == 6: print(json.dumps({"word": "ended", "state": "completed"}), flush=True)
sys.exit(1)
"""
    keeper = make_supervisor(heard, script, deaths_most=3)
    keeper.start("r", tmp_path)
    await heard.until(lambda: "ended" in heard.names())
    assert heard.names() == ["round", "round", "round", "ended"] and not heard.lost
    await keeper.close()


async def test_what_a_dead_child_started_does_not_outlive_it(tmp_path: Path) -> None:
    heard = Heard()
    script = """
import json, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(json.dumps({"word": "child", "pid": child.pid}), flush=True)
sys.stdin.read()
"""
    keeper = make_supervisor(heard, script)
    keeper.start("r", tmp_path)
    await heard.until(lambda: heard.words)
    grandchild = psutil.Process(heard.words[0]["pid"])
    psutil.Process(keeper.pid("r")).kill()
    await heard.until(lambda: len(heard.words) == 2)
    assert not grandchild.is_running() or grandchild.status() == psutil.STATUS_ZOMBIE
    await keeper.close()


async def test_lines_that_are_no_words_are_passed_over(tmp_path: Path) -> None:
    heard = Heard()
    keeper = make_supervisor(heard, "print('hello'); print('{\"word\":\"ended\"}', flush=True)")
    keeper.start("r", tmp_path)
    await heard.until(lambda: heard.names() == ["ended"])
    await keeper.close()
