"""A model is built where the packages that its module imports beside it are not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from octopus_desktop.training.adapters.absent import missing
from octopus_desktop.training.adapters.package import Application
from octopus_desktop.training.loading import PackageCode, TrainerError
from octopus_desktop.wire.errors import UserError

TASK = """
from __future__ import annotations
import nowhere_framework as nf
import torch
from nowhere_framework.data import Loader, augment
from nowhere_other import Mixin
from torch import nn
from . import sizes

app = nf.App(strategy=augment[0])

@app.train(every=2)
def train(message: Loader | None): ...

class Trainer(nf.core.ClientTrainer, Mixin):
    pass

class Net(nn.Linear):
    def __init__(self):
        super().__init__(sizes.INPUTS, 2)

class Needs(nn.Module):
    def __init__(self):
        super().__init__()
        if nf.is_available():
            self.inner = nn.Linear(1, 1)

class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(nf.WIDTH, 1)

def derived():
    return Trainer()
"""


def application(folder: Path, model: str) -> PackageCode:
    package = folder / "code" / "app"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "sizes.py").write_text("INPUTS = 3\n")
    (package / "task.py").write_text(TASK)
    (folder / "job.toml").write_text(f'[job]\nmodel = "app.task:{model}"\n')
    return PackageCode(folder, "flower:client_app")


def test_what_the_model_does_not_need_is_stood_in_for(tmp_path: Path) -> None:
    code = application(tmp_path, "Net")
    assert missing(tmp_path / "code") == {"nowhere_framework", "nowhere_other"}
    with code.active():
        model = Application(tmp_path / "code", "client_app").build_model()
        assert isinstance(model, nn.Module) and tuple(model.weight.shape) == (2, 3)
        assert torch.isfinite(model(torch.zeros(1, 3))).all()
        assert "nowhere_framework" not in sys.modules and "app.task" not in sys.modules
        with pytest.raises(UserError, match="nowhere_framework"):
            Application(tmp_path / "code", "client_app").found("app.task:Net")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("Needs", "nowhere_framework.is_available.. was asked for, and the package nowhere_framework is not installed"),
        ("Counts", "not installed here: nowhere_framework, nowhere_other"),
        ("derived", "the package nowhere_framework is not installed here"),
    ],
)
def test_what_the_model_needs_is_named(tmp_path: Path, model: str, words: str) -> None:
    from octopus_desktop.jobs.manifest import RunConfig
    from octopus_desktop.training.engine import initial_model

    application(tmp_path, model)
    with pytest.raises(TrainerError, match=words):
        initial_model(tmp_path, "flower:client_app", RunConfig(), tmp_path / "model")
