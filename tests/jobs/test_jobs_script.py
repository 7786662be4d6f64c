"""A job around a script that somebody already has: what is read in it, what is refused, and that the job runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octopus_desktop.cli.job_from_script import from_script
from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.jobs.script import read_script
from octopus_desktop.jobs.script_trainer import scaffold
from octopus_desktop.wire.errors import UserError
from tests.jobs import scripts


def run(*words: object) -> Any:
    return json.loads(octopus(*map(str, words)).stdout)


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    return folder / name


def small_table(path: Path, seed: int) -> Path:
    draw = random.Random(seed)
    rows = [[draw.uniform(-1, 1) for _ in range(3)] for _ in range(50)]
    lines = [",".join(f"{v:.4f}" for v in (*row, row[0] - row[1])) for row in rows]
    path.write_text("a,b,c,y\n" + "\n".join(lines) + "\n")
    return path


def digits(path: Path, part: int) -> Path:
    from sklearn.datasets import load_digits

    held = load_digits()
    images = (held.images.astype(np.float32) / 16)[:, None]
    np.savez(path, x=images[part::4][:300], y=held.target[part::4][:300])
    return path


def refusal(text: str) -> UserError:
    with pytest.raises(UserError) as caught:
        scaffold(read_script(text, "train.py"), "train")
    assert caught.value.code == "OCT-JOB-TRAINER" and caught.value.next_step
    return caught.value


def test_an_ordinary_script_with_argparse_becomes_a_job_that_checks_and_learns(tmp_path: Path) -> None:
    script = write(tmp_path, "mnist.py", scripts.MNIST)
    told = run("jobs", "new", tmp_path / "job", "--from", script)
    assert {row["place"]: row["text"] for row in told["found"]}["mnist.py, line 77"].startswith(
        "the model: model = Net"
    )
    assert "requirements" not in (tmp_path / "job" / "job.toml").read_text(), "only main() imports torchvision"
    assert (tmp_path / "job" / "code" / "mnist.py").read_text() == scripts.MNIST, "the script comes as it was"
    assert run("jobs", "check", tmp_path / "job")["ok"]
    silos = [f"--silo={name}:training={digits(tmp_path / f'{name}.npz', i)}" for i, name in enumerate(("ada", "bea"))]
    done = run("simulate", tmp_path / "job", *silos, "--rounds", 10)
    assert done["config"]["seed"] == 3, "the script's own seed"
    first, last = done["first"], done["rounds"][-1]["metrics"]
    assert last["eval/examples"] == 120, "every fifth example of each silo only tests"
    assert last["eval/test_loss"] < 0.9 * first["eval/test_loss"] and last["eval/accuracy"] > first["eval/accuracy"]


def test_a_loop_that_stands_under_main_is_carried_over_with_its_modules(tmp_path: Path) -> None:
    script = write(tmp_path, "inline.py", scripts.INLINE)
    write(tmp_path, "layers.py", scripts.LAYERS)
    told = run("jobs", "new", tmp_path / "job", "--from", script)
    assert "code/layers.py" in told["files"]
    assert any("Patients is given the path" in row["text"] for row in told["todo"])
    assert 'requirements = ["pandas"]' in (tmp_path / "job" / "job.toml").read_text()
    assert run("jobs", "check", tmp_path / "job")["ok"]
    trainer = (tmp_path / "job" / "code" / "trainer.py").read_text()
    assert "torch.save" not in trainer and "steps = 0" in trainer
    runnable = (tmp_path / "job" / "code" / "inline.py").read_text().replace("import pandas as pd\n", "")
    (tmp_path / "job" / "code" / "inline.py").write_text(runnable)
    silos = [f"--silo={name}:training={small_table(tmp_path / f'{name}.csv', i)}" for i, name in enumerate("ab")]
    done = run("simulate", tmp_path / "job", *silos, "--rounds", 3)
    assert done["rounds"][-1]["metrics"]["eval/error"] < 0.2 * done["first"]["eval/error"]


def test_a_script_that_trains_at_import_is_refused_with_its_line(tmp_path: Path) -> None:
    script = write(tmp_path, "train.py", scripts.AT_IMPORT)
    with pytest.raises(UserError) as caught:
        run("jobs", "new", tmp_path / "job", "--from", script)
    assert caught.value.code == "OCT-JOB-TRAINER" and "train.py, line 17" in caught.value.what
    assert "def main():" in caught.value.next_step and not (tmp_path / "job").exists()


HEAD = "import torch\nfrom torch import nn\nclass Net(nn.Module):\n    pass\n"


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("def f(:\n", "line 1", "invalid syntax"),
        ("import torch\n", "train.py", "where it begins"),
        (HEAD + "def main():\n    x = 1\n", "train.py", "There is Net, but main() never makes one."),
        (HEAD + "def main():\n    net = Net()\n", "train.py", "No training was found"),
        (HEAD + "model = Net()\ndef main():\n    model(1).backward()\n", "line 5", "makes a model"),
        (HEAD + "args = torch.parse_args()\n", "line 5", "reads the command line"),
        (HEAD + "def main():\n    a = Net()\n    b = Net()\n    a(b(1)).backward()\n", "train.py", "2 models"),
        (HEAD + "def main():\n    net = Net()\n    net(who).backward()\n", "line 7", "'who'"),
        (
            HEAD + "def main():\n    net = Net()\n    x = torch.load('x')\n    net(x).backward()\n",
            "line 7",
            "reads from a file of its own",
        ),
    ],
)
def test_what_cannot_become_a_job_is_refused_with_the_place(text: str, where: str, why: str) -> None:
    error = refusal(text)
    assert where in error.what and why in error.why, (error.what, error.why)


def test_a_function_that_trains_by_itself_is_called_as_main_called_it(tmp_path: Path) -> None:
    text = HEAD + (
        "from torch.utils.data import DataLoader\n"
        "def fit(net, loader, epochs, lr=0.1):\n"
        "    net(next(iter(loader))).backward()\n"
        "    return net\n"
        "def main():\n"
        "    rate = 0.01\n"
        "    train_loader = DataLoader([1], 4)\n"
        "    net = Net()\n"
        "    net = fit(net, train_loader, 5, lr=rate)\n"
    )
    made = scaffold(read_script(text.replace("    net = fit", "    fit"), "fit.py"), "fit")
    assert "rate = 0.01" in made.trainer and "script.fit(net, train_loader, 5, lr=rate)" in made.trainer
    assert made.hyperparameters == {"batch_size": 4}
    assert any("write evaluate()" in one.text for one in made.todo)


def test_names_that_would_hide_others_are_changed_and_bad_files_refused(tmp_path: Path) -> None:
    made = from_script(write(tmp_path, "torch.py", scripts.MNIST), "job", "job")
    assert "code/script_torch.py" in made.files and "import script_torch as script" in made.files["code/trainer.py"]
    made = from_script(write(tmp_path, "trainer.py", scripts.MNIST), "job", "job")
    assert made.trainer == "code/silo_trainer.py" and 'trainer = "silo_trainer:Trainer"' in made.files["job.toml"]
    with pytest.raises(UserError, match="cannot be read"):
        from_script(tmp_path / "nowhere.py", "job", "job")
