"""Strategies that fail, or that are after something: each comes to a clear error that names the line, or to nothing."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.own import host
from octopus_desktop.aggregation.own import strategy as strategy_module
from octopus_desktop.aggregation.own.host import Limits
from octopus_desktop.aggregation.own.strategy import OwnStrategy
from octopus_desktop.aggregation.strategies import Tile
from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.system import sandbox
from octopus_desktop.wire.errors import UserError
from tests.aggregation.own_strategies import combining, own
from tests.aggregation.test_aggregation_fold import Bench

THREE = [AnswerFacts(silo=f"s{i}", examples=1) for i in range(3)]


@pytest.fixture(autouse=True)
def nothing_is_left(mistakes: OwnStrategy) -> Iterator[None]:
    before = psutil.Process().children(recursive=True)
    yield
    assert psutil.Process().children(recursive=True) == before


def combined(root: Path, body: str, before: str = "", **more: Any) -> np.ndarray[Any, Any]:
    """One tile of three silos through a strategy whose combine is ``body``."""
    strategy = own(root, combining(body, before), "Mine", **more)
    try:
        return strategy.combine(tile(strategy.weights(THREE)))
    finally:
        strategy.close()


def tile(weights: list[float], round_: int = 1) -> Tile:
    return Tile.of(np.zeros(8, np.float32), [np.full(8, i, np.float32) for i in range(3)], weights, round=round_)


MISTAKES = [
    ("raise ValueError('no such luck')", "ValueError: no such luck"),
    ("import sys; sys.exit()", "SystemExit"),
    ("return tile.read(3)", "IndexError: there is no update 3; 3 silos answered"),
    ("tile.read(0)[:] = 1", "ValueError: assignment destination is read-only"),
    ("return np.ones(1 << 40)", "MemoryError"),
    ("kept = [bytearray(64 << 20) for _ in range(1 << 20)]", "MemoryError"),
    ("import mmap; kept = [mmap.mmap(-1, 1 << 30) for _ in range(1 << 10)]", "OSError: .*Cannot allocate memory"),
    ("import os; os.fork()", "PermissionError"),
    ("import subprocess; subprocess.run(['true'])", "PermissionError"),
    ("import os; os.execv('/bin/true', ['true'])", "PermissionError"),
    ("import os; os.kill(-1, 9)", "PermissionError"),
    ("import socket; socket.create_connection(('127.0.0.1', 80))", "PermissionError"),
    ("import socket; socket.socketpair()", "PermissionError"),
    ("import os; os.memfd_create('more')", "PermissionError"),
    ("open('/tmp/mine', 'w')", "OSError: .*Read-only"),
    ("open('/dev/shm/mine', 'w')", "OSError: .*Read-only"),
    ("open(__file__, 'a')", "OSError: .*Read-only"),
    ("return None", "it gave <class 'NoneType'>; float32 of shape"),
    ("return tile.current[:3]", r"it gave float32 of shape \(3,\); float32 of shape \(8,\) is wanted"),
    ("return tile.current.astype(np.float64)", r"it gave float64 of shape \(8,\)"),
    ("return tile.current.reshape(2, 4)", r"it gave float32 of shape \(2, 4\)"),
]


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnStrategy]:
    """One process for all of them: the round says which; its line is 10 times the round."""
    choose = "return getattr(self, f'mistake_{tile.round}')(tile) if tile.round else tile.read(1)"
    lines = combining(choose).splitlines()
    for number, (body, _) in enumerate(MISTAKES, start=1):
        lines += [""] * (10 * number - 2 - len(lines))
        lines += [f"    def mistake_{number}(self, tile):", *(f"        {line}" for line in body.splitlines())]
    small = Limits(answer_s=20.0, memory_bytes=768 << 20)
    strategy = own(tmp_path_factory.mktemp("mistakes"), "\n".join(lines), "Mine", limits=small)
    yield strategy
    strategy.close()


@pytest.mark.parametrize("number", range(1, len(MISTAKES) + 1), ids=[body[:40] for body, _ in MISTAKES])
def test_a_mistake_is_told_with_its_line(mistakes: OwnStrategy, number: int) -> None:
    words = MISTAKES[number - 1][1]
    weights = mistakes.weights(THREE)
    with pytest.raises(UserError, match="own strategy strategy:Mine failed") as error:
        mistakes.combine(tile(weights, number))
    assert error.value.code == "OCT-RUN-STRATEGY"
    place = "line 5, combine: it gave" if words.startswith("it gave") else f"line {10 * number}, in "
    assert error.value.why.startswith("code/strategy.py, " + place), error.value.why
    assert re.search(words, error.value.why), error.value.why
    np.testing.assert_array_equal(mistakes.combine(tile(weights, 0)), np.ones(8))  # it answers all the same


def test_one_that_never_ends_is_ended_at_its_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        combined(tmp_path, "while True: pass", limits=Limits(answer_s=0.5))
    assert error.value.why == "code/strategy.py, line 6, in combine: it had not answered after 0.5 s."


def test_one_that_lets_nothing_end_it_is_killed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(strategy_module, "GRACE_S", 0.2)
    body = "import signal, time; signal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: time.sleep(1)"
    with pytest.raises(UserError, match="did not answer in time"):
        combined(tmp_path, body, limits=Limits(answer_s=0.3))


def test_one_that_reads_for_ever_is_killed(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(strategy_module, "GRACE_S", 0.2)
    body = "import signal; signal.signal(signal.SIGALRM, signal.SIG_IGN)\nwhile True: tile.read(2); tile.read(0)"
    with pytest.raises(UserError, match="did not answer in time"):
        combined(tmp_path, body, limits=Limits(answer_s=0.3), window=1)


LIES = """
import sys
main = sys.modules["__main__"]
def lie(name, value):
    setattr(main._Own, name, lambda self, *given: value)
"""


@pytest.mark.parametrize(
    "lie",
    [
        "lie('_slots', {'../../etc/cron.d/mine': 0.0})",
        "lie('_slots', {f's{i}': 0.0 for i in range(1000)})",
        "lie('configure', {'x': float('nan')})",
        "lie('configure', {'scaffold': True})",
        "lie('configure', {'x': 'y' * 100_000})",
        "lie('begin', [float('nan')] * 3)",
        "lie('begin', 'abc')",
    ],
)
def test_a_process_that_checks_nothing_is_checked_here(tmp_path: Path, lie: str) -> None:
    """The package's code can change the program that it runs in."""
    with pytest.raises(UserError, match="did not keep to the form of its words") as error:
        combined(tmp_path, "return tile.current", f"{LIES}\n{lie}")
    assert error.value.code == "OCT-RUN-STRATEGY"


SHOUT = """
import contextlib, os
def shout():
    for fd in range(3, 20):
        with contextlib.suppress(OSError):
            os.write(fd, b"x" * 64)
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("import os; os.write(2, b'good night'); os._exit(3)", "ended with status 3"),
        ("import ctypes; ctypes.string_at(0)", r"ended with status 139 \(a crash in native code\)"),
        (
            "while True:\n    shout()",
            "did not keep to the form of its words|had not answered",
        ),  # a lane may be full first
    ],
)
def test_a_process_that_goes_is_told_as_gone(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        combined(tmp_path, body, SHOUT)
    assert error.value.code == "OCT-RUN-STRATEGY"


def test_a_flood_of_print_is_cut_and_harms_nobody(tmp_path: Path) -> None:
    said: list[str] = []
    body = "for _ in range(200):\n    print('x' * (1 << 20))\nfor i in range(2000):\n    print(i)\nreturn tile.read(1)"
    before = psutil.Process().memory_info().rss
    np.testing.assert_array_equal(combined(tmp_path, body, say=lambda _, __, text: said.append(text)), np.ones(8))
    assert len(said) == host.LINES_MOST + 1 and max(map(len, said)) <= host.LINE_BYTES
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_it_sees_no_file_of_ours_and_no_secret(tmp_path: Path, monkeypatch: Any) -> None:
    """Keys beside its package, the home of whoever runs the server, another run's files, the environment."""
    secret = tmp_path / "keys" / "authority.key"
    secret.parent.mkdir()
    secret.write_text("secret")
    monkeypatch.setenv("OCTOPUS_PASSPHRASE", "secret")
    body = f"""
    import os
    seen = []
    for place in ({str(secret)!r}, '/etc/shadow', '/etc/passwd', {str(Path.home() / ".bashrc")!r}):
        try:
            open(place).read()
            seen.append(place)
        except OSError:
            pass
    for place in ({str(tmp_path)!r}, '/root', '/home', {str(Path.home())!r}, '/var', '/run'):
        if os.path.isdir(place):
            seen += [f'{{place}}/{{name}}' for name in os.listdir(place) if name != 'code']
    seen += [name for name in os.environ if 'PASSPHRASE' in name]
    raise ValueError(seen)
    """
    with pytest.raises(UserError) as error:
        combined(tmp_path / "package", body)
    found = ast.literal_eval(error.value.why.partition("ValueError: ")[2])
    ours = [str(place) for place in (*sandbox._runtime(), tmp_path / "package")]
    assert [place for place in found if not any(one.startswith(place) for one in ours)] == []


def test_it_reaches_no_memory_but_its_own(tmp_path: Path) -> None:
    body = f"""
    import ctypes, os
    seen = []
    for pid in ({os.getpid()}, os.getppid()):
        try:
            open(f'/proc/{{pid}}/mem', 'rb').read(1)
            seen.append(pid)
        except OSError:
            pass
    libc = ctypes.CDLL(None, use_errno=True)
    seen += [number for number in (101, 310, 438) if libc.syscall(number, 16, {os.getpid()}, 0, 0, 0, 0) >= 0]
    raise ValueError(seen)
    """
    with pytest.raises(UserError, match="failed") as error:
        combined(tmp_path, body)
    assert error.value.why.endswith("ValueError: []")


def test_what_it_does_to_the_shared_memory_afterwards_reaches_no_model(tmp_path: Path) -> None:
    """A thread of the strategy writes on when the tile is done; nor can it cut the memory off from under the fold."""
    bench = Bench(tmp_path)
    body = """
    import contextlib, os, threading
    for fd in range(3, 64):
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
    threading.Thread(target=scribble, args=(tile.out,), daemon=True).start()
    return weighted_sum(tile)
    """
    before = "def scribble(out):\n    while True:\n        out += 1\n"
    strategy = own(tmp_path, combining(body, before), "Mine")
    try:
        with contextlib.suppress(UserError):  # what it scribbles may become infinite
            folded = bench.fold(strategy)
            path = bench.store.path(folded.model.digest)
            assert file_digest(path) == folded.model.digest
    finally:
        strategy.close()


def test_nan_ends_in_an_error_that_names_the_strategy(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    strategy = own(tmp_path, combining("return tile.current * np.nan"), "Mine")
    try:
        with pytest.raises(UserError, match="updates are finite, but their combination is not") as error:
            bench.fold(strategy)
    finally:
        strategy.close()
    assert (error.value.code, "'Mine'" in error.value.why) == ("OCT-MODEL-NAN", True)


MINE = "from octopus_desktop.aggregation.sdk import *\n"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import numpy\ndef broken(:", r"code/strategy\.py, line 2: SyntaxError"),
        ("1 / 0", r"code/strategy\.py, line 1, in <module>: ZeroDivisionError"),
        ("import not_there", "line 1, in <module>: ModuleNotFoundError"),
        ("class Mine: pass", "'Mine' is no class derived from Synchronous"),
        ("import time; time.sleep(60)", "it had not answered after 1 s"),
        (MINE + "class Mine(Synchronous):\n  def slots(self): return {'m': 'zero'}", "line 3, slots: it gave"),
        (MINE + "class Mine(Synchronous):\n  def slots(self): return {'../m': 0.0}", "line 3, slots: it gave"),
        (MINE + "class Mine(Synchronous):\n  shared = ('c',)", "shared names .* its slots are none"),
        (MINE + "class Mine(Synchronous):\n  returns = ('gradient',)", "for the built-in strategies alone"),
        (MINE + "class Mine(Synchronous):\n  modes = ('later',)", "modes is"),
        (MINE + "class Mine(Synchronous):\n  name = 'a b'", "name is 'a b'"),
        (
            MINE + "class Mine(Synchronous):\n  def configure(self, round): return {1, 2}",
            "line 3, configure: .*it gave set",
        ),
        (
            MINE + "class Mine(Synchronous):\n  def configure(self, round): return {'x': float('nan')}",
            "line 3, configure",
        ),
        (MINE + "class Mine(Synchronous):\n  def configure(self, round): return {'scaffold': 1}", "keep a memory"),
        (MINE + "class Mine(Asynchronous):\n  asynchronous = (0, -1)", "1 answer at least"),
        (MINE + "class Mine(Synchronous):\n  def __init__(self): pass", "TypeError"),
    ],
)
def test_a_class_that_is_no_strategy_is_refused_at_once(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(UserError, match=r"strategy strategy:Mine failed") as error:
        own(tmp_path, source, "Mine", limits=Limits(answer_s=1.0))
    assert re.search(words, error.value.why), error.value.why
    assert error.value.code in ("OCT-JOB-STRATEGY", "OCT-RUN-STRATEGY")


GIVES = ["[1.0]", "[1.0, float('nan'), 1.0]", "'abc'", "None", "[1.0, 2.0, [3.0]]"]


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    source = combining("return tile.current")
    source += f"\n    def weights(self, answers): return [{', '.join(GIVES)}][answers[0].examples]\n"
    strategy = own(tmp_path, source, "Mine")
    try:
        for number in range(len(GIVES)):
            with pytest.raises(UserError) as error:
                strategy.weights([AnswerFacts(silo=f"s{i}", examples=number) for i in range(3)])
            assert "line 8, weights: it gave" in error.value.why and "wanted" in error.value.why
    finally:
        strategy.close()


def test_it_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib, psutil, time\n"
        "from tests.aggregation.own_strategies import NESTEROV, own\n"
        "s = own(pathlib.Path(sys.argv[1]), NESTEROV, 'Nesterov')\n"
        "print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert parent.stdout
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert pids and all(map(psutil.pid_exists, pids))
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while any(map(psutil.pid_exists, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(psutil.pid_exists, pids))
