"""A job around a Flower app or a FedML trainer that somebody already has: what is found, and what is left to say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.cli.job_from_app import from_app, is_app
from octopus_desktop.jobs import package, toml
from octopus_desktop.wire.errors import UserError
from tests.e2e import foreign


def made(folder: Path, source: Path) -> Any:
    read = from_app(source, "reader", "reader")
    for path, text in read.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return read


def test_a_flower_app_is_packed_as_it_stands(tmp_path: Path) -> None:
    app = foreign.flower_source(tmp_path / "app")
    (app / ".venv").mkdir()
    (app / ".venv" / "secret.py").touch()
    (app / "weights.bin").write_bytes(b"\0")
    read = made(tmp_path / "job", app)
    manifest = toml.parse(read.files["job.toml"])
    assert (manifest.trainer, manifest.requirements) == ("flower:client_app", ("flwr>=1.20",))
    assert (manifest.data[0].kind, manifest.config.rounds) == ("arrays", 8), "as the app reads its data, and its rounds"
    assert ("the model", "digitsapp.task:Net") in read.found
    assert not [path for path in read.files if "venv" in path or path.endswith(".bin")]
    built = tmp_path / "reader.octojob"
    package.build(tmp_path / "job", built)
    assert package.verify(built).manifest.trainer == "flower:client_app"
    assert "--runtime" in read.files["README.md"]


def test_a_fedml_trainer_brings_what_lies_beside_it(tmp_path: Path) -> None:
    script = foreign.fedml_source(tmp_path / "theirs")
    script.write_text(script.read_text().replace("momentum=0.9", "momentum=args.momentum"))
    assert is_app(script) and not is_app(script.parent / "net.py")
    read = made(tmp_path / "job", script)
    manifest = toml.parse(read.files["job.toml"])
    assert manifest.trainer == "fedml:DigitsTrainer" and "code/net.py" in read.files
    assert manifest.config.hyperparameters == {"batch_size": 32, "epochs": 1, "learning_rate": 0.01, "momentum": 0}
    assert ("job.toml", "args.momentum: a value is needed under [hyperparameters]") in read.todo
    package.build(tmp_path / "job", tmp_path / "reader.octojob")


def test_what_is_not_certain_is_left_to_the_author(tmp_path: Path) -> None:
    app = foreign.flower_source(tmp_path / "app")
    task = app / "digitsapp" / "task.py"
    plain = task.read_text()
    task.write_text(plain + "\n\nclass Other(nn.Module):\n    pass\n\n\nsets = FederatedDataset(dataset='x')\n")
    todo = [words for _, words in from_app(app, "r", "r").todo]
    assert not [words for words in todo if words.startswith("model:")], "the client makes Net"
    assert any("the workers have no network" in words for words in todo)
    task.write_text(plain.replace("def __init__(self)", "def __init__(self, width)"))
    words = [words for _, words in from_app(app, "r", "r").todo]
    assert words[0].startswith("model: a class or function that gives the model")
    (app / "pyproject.toml").write_text("[tool\n")
    with pytest.raises(UserError) as caught:
        from_app(app, "r", "r")
    assert caught.value.code == "OCT-JOB-TRAINER" and "pyproject.toml" in caught.value.what
    for bad, code in ((tmp_path / "empty", "OCT-JOB-TRAINER"), (tmp_path / "latin", "OCT-CLI-USAGE")):
        bad.mkdir()
        if code == "OCT-CLI-USAGE":
            (bad / "client_app.py").write_bytes(b"# \xe9\n")
        with pytest.raises(UserError) as caught:
            from_app(bad, "r", "r")
        assert caught.value.code == code and caught.value.next_step


def test_a_package_lacks_what_its_trainer_names(tmp_path: Path) -> None:
    made(tmp_path / "job", foreign.flower_source(tmp_path / "app"))
    (tmp_path / "job" / "code" / "digitsapp" / "client_app.py").unlink()
    with pytest.raises(UserError) as caught:
        package.build(tmp_path / "job", tmp_path / "reader.octojob")
    assert caught.value.code == "OCT-JOB-TRAINER" and "client_app.py is not in the job" in caught.value.why
