"""What job.toml may say of an update's encoding, about how much of an update it leaves, and how it is told to people.

Words and numbers only: the bytes are ``aggregation.encodings``'. Knows neither TOML nor tensors.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ENCODINGS = ("none", "fp16", "bf16", "int8", "int4", "topk")


@dataclass(frozen=True, slots=True)
class Parameter:
    """What one parameter may be: one of ``choices``, or a number in (0, ``most``]."""

    default: Any
    choices: tuple[Any, ...] = ()
    most: float = 0.0

    def fits(self, value: object) -> bool:
        if self.choices:
            return any(type(value) is type(choice) and value == choice for choice in self.choices)
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= self.most

    def __str__(self) -> str:
        if not self.choices:
            return f"It is a number above 0 and at most {self.most:g}"
        words = (str(c).lower() if isinstance(c, bool) else repr(c) for c in self.choices)
        return f"Choose one of: {', '.join(words)}"


_FEEDBACK = Parameter(True, (True, False))
_BLOCKS = {"block": Parameter(64, (64, 128)), "feedback": _FEEDBACK}
PARAMETERS: dict[str, dict[str, Parameter]] = {
    "none": {},
    "fp16": {},
    "bf16": {},
    "int8": _BLOCKS,
    "int4": _BLOCKS,
    "topk": {
        "fraction": Parameter(0.01, most=0.5),
        "values": Parameter("fp32", ("fp32", "fp16")),
        "feedback": _FEEDBACK,
    },
}


def mistakes(name: str, given: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(parameter, what is wrong, advice) for each parameter that the encoding does not have or cannot take."""
    known = PARAMETERS.get(name, {})
    found = []
    for key, value in given.items():
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.6)
            having = [other for other, parameters in PARAMETERS.items() if key in parameters]
            if near:
                advice = f"Did you mean {near[0]!r}?"
            elif having:
                advice = f"It belongs to {', '.join(having)}: set encoding in [run], or leave it out"
            else:
                advice = f"Known here: {', '.join(known) or 'none'}"
            found.append((key, f"the encoding {name!r} has no such parameter", advice))
        elif not known[key].fits(value):
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            found.append((key, f"{shown} is not allowed", str(known[key])))
    return found


def settings(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of the encoding, the defaults filled in; what is given was found to be free of mistakes."""
    return {key: given.get(key, parameter.default) for key, parameter in PARAMETERS[name].items()}


def share(name: str, given: Mapping[str, Any]) -> float:
    """About how much of an update's full size in float32 leaves: matrices and kernels, which make nearly all of it."""
    has = settings(name, given)
    match name:
        case "fp16" | "bf16":
            return 0.5
        case "int8":
            return float((1 + 4 / has["block"]) / 4)
        case "int4":
            return float((0.5 + 4 / has["block"]) / 4)
        case "topk":
            return float(has["fraction"]) * (8 if has["values"] == "fp32" else 6) / 4
    return 1.0


def told(name: str, given: Mapping[str, Any]) -> str:
    """The encoding in plain words, for who decides on a job; "" for none."""
    if name == "none":
        return ""
    has = settings(name, given)
    match name:
        case "int8" | "int4":
            what = f"as {name} in blocks of {has['block']}"
        case "topk":
            what = f"of each tensor only the largest {100 * has['fraction']:g} % (topk, values in {has['values']})"
        case _:
            what = f"rounded to {name}"
    words = f"{what}: about {percent(share(name, given))} of the full size"
    if "feedback" not in has:
        return words
    lost = "what rounding leaves out" if name != "topk" else "what is left out"
    return f"{words}; {lost} {'is added to the next round' if has['feedback'] else 'is lost'}"


def percent(part: float) -> str:
    return f"{100 * part:.0f} %" if part >= 0.095 else f"{100 * part:.2g} %"
