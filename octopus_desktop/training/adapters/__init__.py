"""Trainers around applications of other frameworks, which run as they are: ``[job] trainer = "flower:client_app"``.

Each file here is a ``ClientTrainer`` that speaks to one framework's client; the framework itself is installed in the
job's runtime, never among our own dependencies, and is imported only when a task begins. ``made`` is what the engine
asks. Knows no process and no network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Any

KINDS = ("flower", "fedml")


def made(root: Path, trainer: str, tops: Collection[str]) -> Callable[[], Any] | None:
    """What makes a trainer of an adapted kind; None for a class of the package's own. ``root``: the code directory,
    ``tops``: the names that can be imported from it."""
    kind, _, name = trainer.partition(":")
    if kind not in KINDS or kind in tops:
        return None
    from octopus_desktop.training.adapters.package import Application

    application = Application(root, name)
    if kind == "flower":
        from octopus_desktop.training.adapters.flower import FlowerTrainer

        return partial(FlowerTrainer, application)
    from octopus_desktop.training.adapters.fedml import FedmlTrainer

    return partial(FedmlTrainer, application)
