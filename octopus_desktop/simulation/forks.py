"""A final model with what the strategy had gathered beside it, and a simulated run that begins with both.

The folder ``NAME.state`` lies beside the model's file ``NAME``: state.json says of which model and strategy it is, and
one tensor file holds each of the strategy's slots. It is carried on by the rule of a federation's forks
(``server.run_wishes``): the same strategy, the model that it belongs to, and no memory at the silos, which ended with
their run. Knows no round loop.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from octopus_desktop.aggregation.fold import slot_layout
from octopus_desktop.aggregation.strategies.base import MEMORY_WORDS, Strategy
from octopus_desktop.storage.blobs import disk_errors, file_digest
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same

STATE = "state.json"


def folder_of(model: Path) -> Path:
    return model.with_name(f"{model.name}.state")


def save(model: Path, slots: Mapping[str, Path], strategy: str, out: Path) -> Path | None:
    """Copy the model to ``out``, and the state beside it; gives the state's folder, None when there is none. An older
    state there, which would be another model's, goes. Raises OCT-DISK-FULL."""
    folder = folder_of(out)
    if (folder / STATE).exists():
        shutil.rmtree(folder)
    with disk_errors(out):
        shutil.copyfile(model, out)
        if not slots:
            return None
        folder.mkdir(exist_ok=True)
        for name, path in slots.items():
            shutil.copyfile(path, folder / f"{name}.safetensors")
        told = {"model": file_digest(out), "strategy": strategy, "slots": sorted(slots)}
        (folder / STATE).write_bytes(canonical_json(told))
    return folder


def state_beside(model: Path, strategy: Strategy) -> tuple[dict[str, Path], str]:
    """(slot to file, "") where a state is carried on; ({}, why not, for people) where the strategy would have one.

    Raises:
        UserError: OCT-MODEL-SHAPE, when a file of the state is none of this model.
    """
    wanted, folder = set(strategy.slots()), folder_of(model)
    if not wanted:
        return {}, ""
    anew = f"What {strategy.name} gathers begins anew"
    if MEMORY_WORDS & strategy.configure(1).keys():
        return {}, f"{anew}: it would mean nothing without the silos' memories, which ended with their run."
    try:
        told = json.loads((folder / STATE).read_bytes())
        found = {str(name): folder / f"{name}.safetensors" for name in told["slots"]}
        whose, by = str(told["model"]), str(told["strategy"])
    except FileNotFoundError:
        return {}, f"{anew}: there is no {folder.name} beside the model."
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, f"{anew}: {folder.name}/{STATE} cannot be read ({error})."
    if by != strategy.name or set(found) != wanted:
        return {}, f"{anew}: beside the model lies the state of {by}, of other parameters or none of this strategy."
    if whose != file_digest(model):
        return {}, f"{anew}: what lies beside the model belongs to another one."
    layout = slot_layout(read_layout(model))
    for name, path in found.items():
        if not path.is_file():
            raise UserError(
                "OCT-MODEL-SHAPE",
                f"The strategy's state {name!r} is not beside the model.",
                f"{folder.name} says that it has it.",
                "Export both again, or remove the folder to begin without.",
            )
        require_same(layout, read_layout(path), f"The state {name!r}")
    return found, ""
