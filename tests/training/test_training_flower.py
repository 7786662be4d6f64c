"""A Flower ClientApp, unmodified, as a job: the same weights as Flower's own rounds, and what is refused.

flwr is no dependency of ours. The rounds run where OCTOPUS_FLOWER_RUNTIME names an environment that has flwr and torch,
or with OCTOPUS_BIG_TESTS=1, which makes one with pip.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.jobs import findings, toml
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.training.adapters.flower import _take
from octopus_desktop.training.engine import initial_model
from octopus_desktop.wire.errors import UserError
from tests.training.environments import flower_environment

APP = Path(__file__).parent / "flower_app"
JOB = """
[job]
name = "quick"
version = "1"
trainer = "flower:client_app"
model = "quickapp.task:Net"

[[data]]
alias = "patients"
kind = "arrays"

[run]
rounds = 3
seed = 5

[hyperparameters]
lr = 0.05
"""


@pytest.fixture(scope="module")
def flower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with flwr of its own, and this one's torch behind it."""
    return flower_environment(tmp_path_factory.mktemp("runtimes") / "flower")


def make_job(folder: Path, text: str = JOB, client: str = "client_app") -> Path:
    shutil.copytree(APP, folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
    project = folder / "code" / "pyproject.toml"
    project.write_text(project.read_text().replace("quickapp.client_app:app", f"quickapp.{client}:app"))
    (folder / "job.toml").write_text(text)
    return folder


def make_data(folder: Path) -> list[Path]:
    draw = np.random.default_rng(0)
    made = []
    for name, count in (("north", 70), ("south", 40)):
        x = draw.normal(size=(count, 4)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
        made.append(folder / f"{name}.npz")
    return made


@pytest.mark.timeout(600)
@pytest.mark.parametrize("client", ["client_app", "old_client"])
def test_three_rounds_give_the_weights_that_flower_itself_gives(tmp_path: Path, flower: Path, client: str) -> None:
    import safetensors.torch

    job, data, final = make_job(tmp_path / "job", client=client), make_data(tmp_path), tmp_path / "final.safetensors"
    assert json.loads(octopus("jobs", "check", str(job)).stdout)["ok"]
    silos = [f"--silo={path.stem}:patients={path}" for path in data]
    done = octopus("simulate", str(job), "--runtime", str(flower), *silos, "--out", str(final))
    last = json.loads(done.stdout)["rounds"][-1]["metrics"]
    assert last["eval/eval_acc"] > 0.9 and last["train/train_loss"] < 0.5 and last["eval/examples"] == 110

    first, theirs = tmp_path / "first.safetensors", tmp_path / "theirs.safetensors"
    with open_job(job, tmp_path / "opened") as opened:
        initial_model(opened.folder, opened.manifest.trainer, opened.manifest.config, first)
    script = Path(__file__).parent / "flower_rounds.py"
    words = [str(APP), str(first), str(theirs), "3", "0.05", *map(str, data)]
    plain = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    plain["PYTHONDONTWRITEBYTECODE"] = "1"
    subprocess.run([str(flower / "bin" / "python"), str(script), *words], check=True, env=plain, capture_output=True)
    ours, wanted = safetensors.torch.load_file(final), safetensors.torch.load_file(theirs)
    assert set(ours) == set(wanted)
    for name, tensor in wanted.items():
        if "num_batches" not in name:  # a counter: Flower makes its mean a fraction, and here it stays a whole number
            torch.testing.assert_close(ours[name], tensor, rtol=1e-6, atol=1e-7)
    began = safetensors.torch.load_file(first)
    assert not torch.equal(ours["fc2.weight"], began["fc2.weight"])


def test_without_flwr_it_says_which_runtime_is_needed(tmp_path: Path) -> None:
    job, data = make_job(tmp_path / "job"), make_data(tmp_path)
    with pytest.raises(UserError) as caught:
        octopus("simulate", str(job), f"--silo=north:patients={data[0]}")
    assert caught.value.code == "OCT-JOB-TRAINER" and "flwr" in caught.value.why, caught.value
    with pytest.raises(UserError) as caught:
        octopus("simulate", str(job), "--runtime", str(tmp_path), f"--silo=north:patients={data[0]}")
    assert caught.value.code == "OCT-RUNTIME-BROKEN"
    with pytest.raises(UserError) as caught:
        octopus("simulate", str(job), "--runtime", sys.executable, f"--silo=north:patients={data[0]}")
    assert caught.value.code == "OCT-PACKAGE-MISSING" and "flwr (not installed)" in caught.value.what


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ('[strategy]\nname = "fedprox"\n', "OCT-STRATEGY-PARAMETER"),
        ("[resources]\nworkers = 2\n", "OCT-CONFIG-INVALID"),
    ],
)
def test_what_an_app_cannot_do_is_refused_before_it_is_asked(tmp_path: Path, more: str, code: str) -> None:
    job, data = make_job(tmp_path / "job", JOB + more), make_data(tmp_path)
    (job / "code" / "quickapp" / "client_app.py").write_text("app = None\n")
    with pytest.raises(UserError) as caught:
        octopus("simulate", str(job), f"--silo=north:patients={data[0]}", "--set", "run.rounds=1")
    assert caught.value.code == code, caught.value


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="model is not named"):
        toml.parse(JOB.replace('model = "quickapp.task:Net"\n', ""))
    files = {"code/client_app.py": b"from flwr.clientapp import ClientApp\napp = ClientApp()\n"}
    findings.check_trainer(files, "flower:client_app")
    for bad, words in (
        ({}, "client_app.py is not in the job"),
        ({"code/client_app.py": b"x = 1\n"}, "makes no 'app'"),
        ({"code/pyproject.toml": b"[tool\n", **files}, "pyproject.toml"),
        ({"code/pyproject.toml": b"[tool.flwr.app.components]\nclientapp = 'a.b:app'\n"}, "code/a/b.py"),
    ):
        with pytest.raises(UserError) as caught:
            findings.check_trainer(bad, "flower:client_app")
        assert caught.value.code == "OCT-JOB-TRAINER" and words in caught.value.why


def test_arrays_come_back_by_name_or_by_order_and_others_are_refused() -> None:
    model = nn.Linear(2, 1)
    weight, bias = np.full((1, 2), 3.0, np.float32), np.full(1, 4.0, np.float32)
    _take(model, [("bias", bias), ("weight", weight)])
    assert model.weight.tolist() == [[3.0, 3.0]] and model.bias.tolist() == [4.0]
    _take(model, [("", 2 * weight), ("", bias)])
    assert model.weight.tolist() == [[6.0, 6.0]]
    with pytest.raises(ValueError, match="1 arrays back"):
        _take(model, [("weight", weight)])
    with pytest.raises(ValueError, match=r"shape \(1,\)"):
        _take(model, [("", bias), ("", bias)])
