"""A final model with what the strategy had gathered beside it, and a simulated run that begins with both.

The folder ``NAME.state`` lies beside the model's file ``NAME``: state.json says of which model and strategy it is, and
one tensor file holds each of the strategy's slots; ``octopus server runs export`` writes the same. It is carried on by
the rule of a federation's forks (``server.run_wishes``): the same strategy, the model that it belongs to, and no memory
at the silos, which ended with their run. That a job's own strategy is still the same code is for who forks to know.
Knows no round loop.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from octopus_desktop.storage.blobs import disk_errors, file_digest
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import read_layout, require_same

if TYPE_CHECKING:
    from octopus_desktop.aggregation.strategies.base import Strategy

STATE = "state.json"
SLOT = re.compile(r"\w[\w.-]{0,63}")  # a job's own strategy names its slots, and is not to be trusted


def folder_of(model: Path) -> Path:
    return model.with_name(f"{model.name}.state")


def save(model: Path, slots: Mapping[str, Path], strategy: str, out: Path) -> Path | None:
    """Copy the model to ``out``, and the state beside it; gives the state's folder, None when there is none. Raises
    OCT-DISK-FULL."""
    with disk_errors(out):
        shutil.copyfile(model, out)
        with describing(out, strategy) as fresh:
            for name, path in slots.items():
                shutil.copyfile(path, fresh(name))
    return folder_of(out) if slots else None


@contextmanager
def describing(model: Path, strategy: str) -> Iterator[Callable[[str], Path]]:
    """Inside, gives the place of each slot's file; at its end, the state is whole. An older one, which would be another
    model's, goes."""
    folder, slots = folder_of(model), []
    if (folder / STATE).exists():
        shutil.rmtree(folder)

    def fresh(slot: str) -> Path:
        if not SLOT.fullmatch(slot):
            raise UserError(
                "OCT-JOB-STRATEGY",
                f"The strategy's state {slot[:64]!r} cannot be written to a file of its name.",
                "Letters, digits, '_', '-' and '.' may be in it.",
                "Nothing of it was written. Ask the job's author for other names.",
            )
        folder.mkdir(exist_ok=True)
        slots.append(slot)
        return folder / f"{slot}.safetensors"

    yield fresh
    if slots:
        told = {"model": file_digest(model), "strategy": strategy, "slots": sorted(slots)}
        (folder / STATE).write_bytes(canonical_json(told))


def state_beside(model: Path, strategy: Strategy, name: str) -> tuple[dict[str, Path], str]:
    """(slot to file, "") where a state is carried on; ({}, why not, for people) where the strategy would have one.
    ``name``: the strategy's, as the configuration has it.

    Raises:
        UserError: OCT-MODEL-SHAPE, when a file of the state is none of this model.
    """
    from octopus_desktop.aggregation.fold import slot_layout  # numpy, which who only writes a state does not need
    from octopus_desktop.aggregation.strategies.base import MEMORY_WORDS

    wanted, folder = set(strategy.slots()), folder_of(model)
    if not wanted:
        return {}, ""
    anew = f"What {name} gathers begins anew"
    if MEMORY_WORDS & strategy.configure(1).keys():
        return {}, f"{anew}: it would mean nothing without the silos' memories, which ended with their run."
    try:
        told = json.loads((folder / STATE).read_bytes())
        found = {slot: folder / f"{slot}.safetensors" for slot in map(str, told["slots"])}
        whose, by = str(told["model"]), str(told["strategy"])
    except FileNotFoundError:
        return {}, f"{anew}: there is no {folder.name} beside the model."
    except (OSError, ValueError, KeyError, TypeError) as error:
        return {}, f"{anew}: {folder.name}/{STATE} cannot be read ({error})."
    if by != name or set(found) != wanted:
        return {}, f"{anew}: beside the model lies the state of {by}, of other parameters or none of this strategy."
    if whose != file_digest(model):
        return {}, f"{anew}: what lies beside the model belongs to another one."
    layout = slot_layout(read_layout(model))
    for slot, path in found.items():
        if not path.is_file():
            raise UserError(
                "OCT-MODEL-SHAPE",
                f"The strategy's state {slot!r} is not beside the model.",
                f"{folder.name} says that it has it.",
                "Export both again, or remove the folder to begin without.",
            )
        require_same(layout, read_layout(path), f"The state {slot!r}")
    return found, ""
