"""Applications of other frameworks and their data for the end-to-end tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from octopus_desktop.cli.local_federation import LocalFederation, SiloPlan

FLOWER_APP = Path(__file__).parent / "digits_app"
FEDML_MODEL = """
from torch import nn


class DigitsNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def forward(self, x):
        return self.layers(x / 16.0)
"""
FEDML_TRAINER = """
import torch
from torch import nn
from fedml.core.alg_frame.client_trainer import ClientTrainer

from net import DigitsNet


class DigitsTrainer(ClientTrainer):
    def get_model_params(self):
        return self.model.cpu().state_dict()

    def set_model_params(self, model_parameters):
        self.model.load_state_dict(model_parameters)

    def train(self, train_data, device, args):
        model = self.model.to(device)
        model.train()
        criterion = nn.CrossEntropyLoss().to(device)
        optimizer = torch.optim.SGD(model.parameters(), lr=args.learning_rate, momentum=0.9)
        for epoch in range(args.epochs):
            for x, labels in train_data:
                model.zero_grad()
                criterion(model(x.to(device)), labels.to(device).long()).backward()
                optimizer.step()

    def test(self, test_data, device, args):
        self.model.eval()
        metrics = {"test_correct": 0, "test_loss": 0, "test_total": 0}
        with torch.no_grad():
            for x, target in test_data:
                pred = self.model(x.to(device))
                metrics["test_correct"] += pred.argmax(1).eq(target).sum().item()
                metrics["test_loss"] += nn.functional.cross_entropy(pred, target.long(), reduction="sum").item()
                metrics["test_total"] += target.size(0)
        return metrics
"""


def flower_source(folder: Path) -> Path:
    shutil.copytree(FLOWER_APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def fedml_source(folder: Path) -> Path:
    folder.mkdir()
    (folder / "net.py").write_text(FEDML_MODEL)
    (folder / "digits_trainer.py").write_text(FEDML_TRAINER)
    return folder / "digits_trainer.py"


def digits(folder: Path, silos: tuple[str, ...], inputs: str, target: str) -> dict[str, Path]:
    """Scikit-learn's digits, a part for each silo: name -> NPZ with the arrays of these names."""
    from sklearn.datasets import load_digits

    held, made = load_digits(), {}
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(silos):
        part = slice(number, None, len(silos))
        made[name] = folder / f"{name}.npz"
        np.savez(made[name], **{inputs: held.data[part].astype(np.uint8), target: held.target[part].astype(np.int64)})
    return made


def make_federation(root: Path, data: dict[str, Path]) -> LocalFederation:
    """Silos whose administrators decide by hand."""
    plans = [
        SiloPlan(name=name, organisation=f"The {name}", administrator=f"Dr. {name}", data={"digits": path})
        for name, path in data.items()
    ]
    return LocalFederation(root, "Digits", plans)
