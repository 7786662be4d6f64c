"""Environments that have another framework, or a stand-in of it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

STAND_IN = """
from abc import ABC, abstractmethod


class ClientTrainer(ABC):
    def __init__(self, model, args):
        self.model, self.args, self.id = model, args, 0
        self.local_train_dataset = self.local_test_dataset = None
        self.local_sample_number = 0

    def set_id(self, trainer_id):
        self.id = trainer_id

    def update_dataset(self, local_train_dataset, local_test_dataset, local_sample_number):
        self.local_train_dataset, self.local_test_dataset = local_train_dataset, local_test_dataset
        self.local_sample_number = local_sample_number

    @abstractmethod
    def get_model_params(self): ...

    @abstractmethod
    def set_model_params(self, model_parameters): ...

    def on_before_local_training(self, train_data, device, args): ...

    @abstractmethod
    def train(self, train_data, device, args): ...

    def on_after_local_training(self, train_data, device, args): ...

    def test(self, test_data, device, args): ...
"""


def behind(place: Path) -> Path:
    """The environment's site-packages, with this one's packages behind its own."""
    packages = next((place / "lib").glob("python3*")) / "site-packages"
    (packages / "behind.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return packages


def flower_environment(place: Path) -> Path:
    """An environment with flwr of its own, and this one's torch behind it."""
    if named := os.environ.get("OCTOPUS_FLOWER_RUNTIME"):
        return Path(named)
    if os.environ.get("OCTOPUS_BIG_TESTS") != "1":
        pytest.skip("flwr is no dependency of ours: set OCTOPUS_FLOWER_RUNTIME, or OCTOPUS_BIG_TESTS=1 to install it")
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    subprocess.run([str(place / "bin" / "pip"), "install", "-q", "flwr>=1.20"], check=True, timeout=600)
    behind(place)
    return place


def fedml_environment(place: Path) -> Path:
    """An environment with fedml, or with a stand-in of its ClientTrainer's public shape."""
    if named := os.environ.get("OCTOPUS_FEDML_RUNTIME"):
        return Path(named)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    packages = behind(place)
    inner = packages / "fedml" / "core" / "alg_frame"
    inner.mkdir(parents=True)
    for folder in (inner, inner.parent, inner.parent.parent):
        (folder / "__init__.py").touch()
    (inner / "client_trainer.py").write_text(STAND_IN)
    (packages / "fedml-0.9.dist-info").mkdir()
    (packages / "fedml-0.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: fedml\nVersion: 0.9\n")
    return place
