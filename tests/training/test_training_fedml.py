"""A FedML ClientTrainer, unmodified, as a job.

fedml is no dependency of ours. Without OCTOPUS_FEDML_RUNTIME, which names an environment that has it, these tests train
against a stand-in with the public shape of ``fedml.core.alg_frame.client_trainer.ClientTrainer``, in an environment of
its own.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from octopus_desktop.cli.local_federation import octopus
from octopus_desktop.jobs import findings
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.training.adapters.fedml import _means, _take
from octopus_desktop.training.engine import initial_model
from octopus_desktop.wire.errors import UserError
from tests.training.environments import fedml_environment

THEIRS = """
import torch
from fedml.core.alg_frame.client_trainer import ClientTrainer
from torch import nn


class LogisticRegression(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        return self.linear(x)


class ClassificationTrainer(ClientTrainer):
    def get_model_params(self):
        return self.model.cpu().state_dict()

    def set_model_params(self, model_parameters):
        self.model.load_state_dict(model_parameters)

    def train(self, train_data, device, args):
        model = self.model.to(device)
        model.train()
        criterion = nn.CrossEntropyLoss().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate)
        for epoch in range(args.epochs):
            for x, labels in train_data:
                model.zero_grad()
                criterion(model(x.to(device)), labels.to(device).long()).backward()
                optimizer.step()

    def test(self, test_data, device, args):
        self.model.eval()
        metrics = {"test_correct": 0, "test_loss": 0, "test_total": 0}
        criterion = nn.CrossEntropyLoss()
        with torch.no_grad():
            for x, target in test_data:
                pred = self.model(x.to(device))
                metrics["test_correct"] += pred.argmax(1).eq(target).sum().item()
                metrics["test_loss"] += criterion(pred, target.long()).item() * target.size(0)
                metrics["test_total"] += target.size(0)
        return metrics
"""
JOB = """
[job]
name = "classic"
version = "1"
trainer = "fedml:ClassificationTrainer"
model = "theirs.model_trainer:LogisticRegression"

[[data]]
alias = "patients"
kind = "arrays"

[run]
rounds = 3
seed = 7

[hyperparameters]
learning_rate = 0.5
epochs = 2
batch_size = 1000
"""


@pytest.fixture(scope="module")
def fedml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fedml_environment(tmp_path_factory.mktemp("runtimes") / "fedml")


def make_job(folder: Path) -> Path:
    theirs = folder / "code" / "theirs"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").touch()
    (theirs / "model_trainer.py").write_text(THEIRS)
    (folder / "job.toml").write_text(JOB)
    return folder


def by_hand(first: dict[str, torch.Tensor], data: list[Path]) -> dict[str, torch.Tensor]:
    """Three rounds of FedAvg, two whole-batch steps of SGD at each silo, in float64."""
    model = {name: tensor.double() for name, tensor in first.items()}
    for _ in range(3):
        total, examples = {name: torch.zeros_like(t) for name, t in model.items()}, 0
        for path in data:
            held = np.load(path)
            x, y = torch.from_numpy(held["x"]).double(), torch.from_numpy(held["y"])
            own = {name: tensor.clone().requires_grad_() for name, tensor in model.items()}
            for _ in range(2):
                logits = x @ own["linear.weight"].T + own["linear.bias"]
                grads = torch.autograd.grad(torch.nn.functional.cross_entropy(logits, y), list(own.values()))
                own = {n: (t - 0.5 * g).detach().requires_grad_() for (n, t), g in zip(own.items(), grads, strict=True)}
            total = {name: total[name] + len(y) * tensor.detach() for name, tensor in own.items()}
            examples += len(y)
        model = {name: tensor / examples for name, tensor in total.items()}
    return model


@pytest.mark.timeout(300)
def test_three_rounds_of_an_unmodified_trainer_are_fedavg_of_what_it_does(tmp_path: Path, fedml: Path) -> None:
    import safetensors.torch

    job, data, draw = make_job(tmp_path / "job"), [], np.random.default_rng(1)
    for name, count in (("north", 70), ("south", 30)):
        x = draw.normal(size=(count, 4)).astype(np.float32)
        np.savez(tmp_path / f"{name}.npz", x=x, y=(x[:, 0] > x[:, 1]).astype(np.int64))
        data.append(tmp_path / f"{name}.npz")
    assert json.loads(octopus("jobs", "check", str(job)).stdout)["ok"]
    final, first = tmp_path / "final.safetensors", tmp_path / "first.safetensors"
    silos = [f"--silo={path.stem}:patients={path}" for path in data]
    done = json.loads(octopus("simulate", str(job), "--runtime", str(fedml), *silos, "--out", str(final)).stdout)
    last = done["rounds"][-1]["metrics"]
    assert last["eval/accuracy"] > 0.85 and last["eval/loss"] < done["first"]["eval/loss"]
    assert last["eval/examples"] == 100

    plain = THEIRS.replace("from fedml.core.alg_frame.client_trainer import ClientTrainer", "ClientTrainer = object")
    (job / "code" / "theirs" / "model_trainer.py").write_text(plain)  # the model alone, where fedml is not
    with open_job(job, tmp_path / "opened") as opened:
        initial_model(opened.folder, opened.manifest.trainer, opened.manifest.config, first)
    ours, wanted = safetensors.torch.load_file(final), by_hand(safetensors.torch.load_file(first), data)
    for name, tensor in wanted.items():
        torch.testing.assert_close(ours[name].double(), tensor, rtol=1e-5, atol=1e-6)


def test_the_class_must_be_there_once() -> None:
    files = {"code/theirs/model_trainer.py": THEIRS.encode()}
    findings.check_trainer(files, "fedml:ClassificationTrainer")
    for bad, name, words in (
        (files, "Nobody", "nowhere below code/"),
        ({**files, "code/copy.py": THEIRS.encode()}, "ClassificationTrainer", "code/copy.py, code/theirs"),
    ):
        with pytest.raises(UserError) as caught:
            findings.check_trainer(bad, f"fedml:{name}")
        assert caught.value.code == "OCT-JOB-TRAINER" and words in caught.value.why


def test_parameters_of_other_names_or_shapes_are_refused_and_sums_become_means() -> None:
    model = torch.nn.Linear(2, 1)
    with pytest.raises(ValueError, match="other names"):
        _take(model, {"weight": torch.zeros(1, 2)})
    with pytest.raises(ValueError, match="shape"):
        _take(model, {"weight": torch.zeros(2), "bias": torch.zeros(1)})
    assert _means({"test_correct": 3, "test_loss": 8.0, "test_total": 4}) == {"accuracy": 0.75, "loss": 2.0}
    assert _means((1, 2)) == {} and _means({"f1": 0.5, "note": "x"}) == {"f1": 0.5}
