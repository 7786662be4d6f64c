"""Where each silo of a run stands, from what the federation told of its rounds. Pure; words are the reader's own.

Knows no clock: a silo that gave no answer is silent, and why it is so only its own side can say.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from octopus_desktop.wire.pb.local_pb2 import RunRound

STATES = ("answered", "late", "silent", "unasked", "waiting")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """``state``: answered (it counted in the newest round), late (an answer of it to an earlier round did), silent (it
    was asked and gave none), unasked (it had no part in the newest round), waiting (no round is over yet). ``last``:
    the newest round in which an answer of it counted, 0 for none; ``missed``: rounds since then in which it was asked
    and gave none."""

    silo: str
    state: str
    last: int = 0
    missed: int = 0


def standings(silos: Sequence[str], rounds: Iterable[RunRound]) -> list[Standing]:
    """One for each of ``silos``, in their order. Rounds of which the federation told nothing do not count."""
    told = sorted((row for row in rounds if row.answered or row.missing or row.late), key=lambda row: row.round)
    return [_standing(silo, told) for silo in silos]


def _standing(silo: str, told: Sequence[RunRound]) -> Standing:
    if not told:
        return Standing(silo=silo, state="waiting")
    newest = told[-1]
    last = max((row.round for row in told if silo in row.answered or silo in row.late), default=0)
    missed = sum(1 for row in told if row.round > last and silo in row.missing)
    if silo in newest.late and silo not in newest.answered:
        state = "late"
    elif last == newest.round:
        state = "answered"
    else:
        state = "silent" if missed else "unasked"
    return Standing(silo=silo, state=state, last=last, missed=missed)


def best_round(best: str, rounds: Iterable[RunRound]) -> tuple[int, float]:
    """The best round so far by the run's own choice ``best`` ("max eval/accuracy"), the first of equals, and the
    metric's value there; (0, 0.0) where the run chooses none, or none has the metric yet."""
    way, _, metric = best.partition(" ")
    found = [(row.federation[metric], row.round) for row in rounds if metric in row.federation] if metric else []
    if not found:
        return 0, 0.0
    value, number = min(found, key=lambda pair: (-pair[0] if way == "max" else pair[0], pair[1]))
    return number, value
