"""Which tensors of a model stay at each silo, and what else [personal] may say. Knows neither files nor torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError


def personal_mistakes(given: Mapping[str, Any], base: RunConfig) -> Iterator[tuple[str, str, str]]:
    """(key, what is wrong, advice) of a table [personal] that is laid over ``base``."""
    steps = given.get("finetune_steps", base.personal_steps)
    epochs = given.get("finetune_epochs", base.personal_epochs)
    if steps and epochs:
        yield "finetune_epochs", "there are finetune_steps as well", "Keep one of the two"
    if given.get("keep", base.personal_keep) and not (steps or epochs or given.get("layers", base.personal_layers)):
        yield "keep", "no silo's model would be its own", "Add finetune_epochs = 1, or layers"


def personal(patterns: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """The tensors whose name fits one of the patterns (``*``, ``?``, ``[…]``; case counts).

    Raises:
        UserError: OCT-CONFIG-INVALID, when a pattern fits none, or together they leave nothing for the federation.
    """
    known = list(names)
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in known if fnmatchcase(name, pattern)]
        if not fitting:
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"No tensor of the model fits {pattern!r} of [personal] layers.",
                f"The model has {', '.join(known[:12])}{' and others' if len(known) > 12 else ''}.",
                "Correct the pattern in job.toml and build the job again.",
            )
        found.update(fitting)
    if patterns and len(found) == len(known):
        raise UserError(
            "OCT-CONFIG-INVALID",
            "[personal] layers leaves nothing for the federation.",
            f"{', '.join(patterns)} fit every tensor of the model.",
            "Name fewer layers in job.toml and build the job again.",
        )
    return frozenset(found)
