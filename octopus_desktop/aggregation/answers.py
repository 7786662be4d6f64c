"""What can be said of a silo's answer by itself, before it counts in any round. Knows no state."""

from __future__ import annotations

import math

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import EXAMPLES_LIMIT
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.returned import returned

TRAIN = "train"


def fault_of(event: ev.Answered, config: RunConfig) -> tuple[str, str] | None:
    """(code, why) when an answer cannot be used, for what it claims of itself."""
    facts, encoding, returns = event.facts, config.encoding, returned(config.strategy)
    if event.task != TRAIN:
        return None
    if not 0 < facts.examples <= EXAMPLES_LIMIT or not math.isfinite(facts.train_seconds):
        return "OCT-MODEL-WEIGHT", f"it claims {facts.examples} examples"
    if facts.update is None:
        return "OCT-MODEL-SHAPE", "it bears no update"
    if set(facts.returned) != set(returns):
        borne, wanted = (", ".join(sorted(names)) or "nothing" for names in (facts.returned, returns))
        return "OCT-MODEL-SHAPE", f"beside its update it bears {borne}, and {wanted} was agreed"
    for what, blob in {"update": facts.update, **facts.returned}.items():
        if (blob.encoding or "none") != encoding:
            return "OCT-ENCODING-BAD", f"its {what} is encoded as {blob.encoding!r}, and {encoding!r} was agreed"
    return None


def brief(event: ev.Event) -> str:
    """An event in a line of the loop's story."""
    names = ("silo", "round", "task", "epoch", "code", "error_code")
    said = [str(getattr(event, name)) for name in names if getattr(event, name, "")]
    return " ".join([type(event).__name__, *said])
