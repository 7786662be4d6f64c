"""A simulation under torchrun: the models of one process, rank 0 alone speaks, and a rank that dies ends all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from octopus_desktop.simulation import layout, spread
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.simulation.simulator import simulate

DIGITS = Path(__file__).parents[2] / "resources" / "examples" / "digits"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 90
SILOS = ["--silos", "12", "--partition", "dirichlet:0.5", "--per-round", "7", "--rounds", "2"]


@contextmanager
def machines(*programs: list[str]) -> Iterator[list[subprocess.Popen[str]]]:
    """A torchrun for each of them, as on so many machines: one process each, in its own session."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    how = f"--nnodes {len(programs)} --nproc-per-node 1 --rdzv-backend c10d --rdzv-id one --local-addr 127.0.0.1"
    how += f" --rdzv-endpoint 127.0.0.1:{port}"
    began = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", *how.split(), *program],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        for program in programs
    ]
    try:
        yield began
    finally:
        for process in began:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ended(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str, str]]:
    """Code, output and errors of each."""
    out = []
    for process in processes:
        told, errors = process.communicate(timeout=PATIENCE_S)
        out.append((process.returncode, told, errors))
    return out


def octopus(*words: str) -> list[str]:
    return ["-m", "octopus_desktop.cli.main", *words]


WAYS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [  # a wish, more, and whether no bit may differ
    ({}, {}, False),
    ({"run": {"update": "difference"}, "strategy": {"name": "fedadam"}}, {}, False),
    ({"strategy": {"name": "fednova"}}, {"dropout": 0.2}, False),
    ({}, {"batched": True}, False),
    ({}, {"exact": True}, True),
    ({"strategy": {"name": "median"}}, {}, True),
    ({"strategy": {"name": "krum"}}, {}, True),
    ({"run": {"update": "difference"}, "strategy": {"name": "scaffold"}}, {}, True),
    ({"run": {"update": "difference", "encoding": "topk"}}, {}, True),
    ({"run": {"mode": "async", "update": "difference", "per_round": 0}, "strategy": {"name": "fedbuff"}}, {}, True),
]


def test_two_ranks_make_the_models_of_one_process(tmp_path: Path) -> None:
    wishes = []
    for wish, more, _ in WAYS:
        run = {"rounds": 2, "per_round": 7, **wish.get("run", {})}
        wishes.append(({**wish, "run": run}, more))
    wishes.append(({"resources": {"workers": 2}}, {}))  # refused, and the next run goes on
    wishes.append(wishes[0])
    program = ["-m", "tests.simulation.spread_program", str(tmp_path), json.dumps(wishes)]
    with machines(program, program) as both:
        (one, other) = sorted(ended(both), key=lambda end: not end[1])
    assert one[0] == other[0] == 0, one[2] + other[2]
    assert other[1] == "", "rank 1 says nothing"
    told = json.loads(one[1])
    assert told["alone"], "the job's code sees nothing of torchrun"
    assert told["runs"][-2] == {"code": "OCT-CONFIG-INVALID"}
    assert told["runs"][-1]["digest"] == told["runs"][0]["digest"]
    with open_job(DIGITS, tmp_path / "alone") as job:
        data = layout.choose(job, "12", [], "dirichlet:0.5", tmp_path / "alone")
        for number, (wish, more) in enumerate(wishes[: len(WAYS)]):
            here = {name: value for name, value in more.items() if name != "exact"}
            alone = simulate(job, data, wish, work=tmp_path / f"alone-{number}", **here)
            if WAYS[number][2]:
                assert told["runs"][number]["digest"] == alone.digest, wish
            else:
                a, b = load_file(alone.model), load_file(told["runs"][number]["model"])
                furthest = max(float(np.abs(a[name] - b[name]).max()) for name in a)
                assert furthest <= spread.TOLERANCE, wish


def test_octopus_simulate_on_two_machines_writes_once(tmp_path: Path) -> None:
    out, metrics = tmp_path / "model.safetensors", tmp_path / "m.csv"
    words = ["simulate", str(DIGITS), *SILOS, "--exact", "--out", str(out), "--metrics", str(metrics), "--json"]
    with machines(octopus(*words), octopus(*words)) as both:
        ends = ended(both)
    assert [code for code, _, _ in ends] == [0, 0], ends
    (told,) = [json.loads(text) for _, text, _ in ends if text]
    with open_job(DIGITS, tmp_path / "alone") as job:
        data = layout.choose(job, "12", [], "dirichlet:0.5", tmp_path / "alone")
        alone = simulate(job, data, {"run": {"rounds": 2, "per_round": 7}}, work=tmp_path / "run")
    assert told["model"]["digest"] == alone.digest
    assert out.read_bytes() == alone.model.read_bytes()
    assert len(metrics.read_text().splitlines()) == 4


def test_a_rank_that_dies_ends_all_with_its_reason(tmp_path: Path) -> None:
    job = tmp_path / "job"
    shutil.copytree(DIGITS, job)
    trainer = job / "code" / "trainer.py"
    trainer.write_text(
        trainer.read_text().replace(
            "        images, labels = batch\n        return F",
            "        import os, signal\n        if ctx.silo == 'silo-2': os.kill(os.getpid(), signal.SIGKILL)\n"
            "        images, labels = batch\n        return F",
            1,
        )
    )
    words = ["simulate", str(job), "--silos", "4", "--partition", "iid", "--rounds", "3"]
    with machines(octopus(*words), octopus(*words)) as both:
        ends = ended(both)
    assert all(code for code, _, _ in ends)
    assert any("OCT-RUN-WORKERS" in errors for _, _, errors in ends), ends
    assert any("SIGKILL" in errors or "Signal 9" in errors for _, _, errors in ends)


def test_a_machine_that_falls_silent_is_noticed(tmp_path: Path) -> None:
    program = ["-m", "tests.simulation.spread_program", str(tmp_path), "silent"]
    with machines(program, program) as both:
        until = time.monotonic() + PATIENCE_S
        while all(process.poll() is None for process in both) and time.monotonic() < until:
            time.sleep(0.2)
        os.kill(int((tmp_path / "stopped").read_text()), signal.SIGKILL)  # torchrun's process has a session of its own
        (over,) = [process for process in both if process.poll() is not None]
        _, errors = over.communicate()
    assert over.returncode
    assert "Rank 1 has not been heard of" in errors and "OCT-RUN-WORKERS" in errors


def test_machines_with_other_silos_are_refused(tmp_path: Path) -> None:
    words = ["simulate", str(DIGITS), "--partition", "iid", "--rounds", "1"]
    with machines(octopus(*words, "--silos", "4"), octopus(*words, "--silos", "5")) as both:
        ends = ended(both)
    assert any(code for code, _, _ in ends)
    assert any("has other silos than rank 0" in errors and "OCT-CLI-USAGE" in errors for _, _, errors in ends), ends


@pytest.mark.parametrize("more", [["--workers", "2"], ["--runtime", sys.prefix]], ids=["workers", "runtime"])
def test_what_does_not_go_with_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch, more: list[str]) -> None:
    from click.testing import CliRunner

    from octopus_desktop.cli.main import cli
    from octopus_desktop.wire.errors import UserError

    for name, value in (("TORCHELASTIC_RUN_ID", "x"), ("WORLD_SIZE", "2"), ("RANK", "0")):
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(cli, ["simulate", str(DIGITS), "--silos", "4", "--partition", "iid", *more])
    assert isinstance(result.exception, UserError)
    assert result.exception.code == "OCT-CLI-USAGE"
    assert "torchrun" in result.exception.what
