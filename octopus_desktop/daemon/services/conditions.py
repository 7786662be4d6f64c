"""Whether an approval's conditions still let a run go on, and when to look again. Pure; knows no clock of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from octopus_desktop.jobs.approval import Conditions
from octopus_desktop.wire.errors import UserError

LOOK_AGAIN_MOST_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """``over``: the condition that ended the run, if one did. ``closed``: outside the allowed hours. ``look_at``: when
    this may change, in Unix seconds."""

    over: UserError | None
    closed: bool
    look_at: float


def check_form(conditions: Conditions, now: float, rounds: int, private: bool) -> None:
    """Raise OCT-APPROVAL-CONDITIONS for conditions that cannot be meant or cannot be kept."""
    problems = []
    for begin, end in conditions.hours_of_day:
        if not (0 <= begin <= 23 and 0 <= end <= 24 and begin != end):
            problems.append(f"{begin}–{end} are no hours of the day")
    for name in ("max_rounds", "max_hours", "max_bytes_out", "max_epsilon", "expires_at"):
        if getattr(conditions, name) < 0:
            problems.append(f"{name} is below zero")
    if conditions.expires_at and conditions.expires_at <= now:
        problems.append("the approval would be past its expiry at once")
    if conditions.max_epsilon and not private:
        problems.append("a limit on epsilon cannot be kept, since the job adds no noise to what it sends")
    if conditions.max_rounds and rounds > conditions.max_rounds:
        problems.append(f"the run has {rounds} rounds, more than the {conditions.max_rounds} that would be allowed")
    if problems:
        raise broken("; ".join(problems), "Correct the conditions, or ask the author for changes.")


def standing(conditions: Conditions, now: float, started_at: float) -> Standing:
    """Where the run stands in time."""
    looks = [now + LOOK_AGAIN_MOST_S]
    if conditions.expires_at:
        if now >= conditions.expires_at:
            return Standing(over=broken("The approval is past its expiry."), closed=False, look_at=now)
        looks.append(conditions.expires_at)
    if conditions.max_hours and started_at:
        end = started_at + conditions.max_hours * 3600
        if now >= end:
            why = f"The {conditions.max_hours:g} hours that the approval allows are over."
            return Standing(over=broken(why), closed=False, look_at=now)
        looks.append(end)
    closed = not within_hours(conditions.hours_of_day, now)
    if conditions.hours_of_day:
        looks.append(_next_hour(now))
    return Standing(over=None, closed=closed, look_at=min(looks))


def within_hours(hours: tuple[tuple[int, int], ...], now: float) -> bool:
    """Whether the local hour lies in one of the [from, to) pairs; a pair may pass midnight."""
    if not hours:
        return True
    hour = time.localtime(now).tm_hour
    return any(begin <= hour < end if begin < end else hour >= begin or hour < end for begin, end in hours)


def round_allowed(conditions: Conditions, round_: int) -> UserError | None:
    if conditions.max_rounds and round_ > conditions.max_rounds:
        return broken(f"Round {round_} is beyond the {conditions.max_rounds} rounds that the approval allows.")
    return None


def answer_allowed(
    conditions: Conditions, sent_bytes: int, update_bytes: int, metrics: Mapping[str, float]
) -> UserError | None:
    """Whether an answer may leave after ``sent_bytes`` of updates."""
    if conditions.max_bytes_out and sent_bytes + update_bytes > conditions.max_bytes_out:
        return broken(f"This answer would go over the {conditions.max_bytes_out} bytes that the approval lets out.")
    if conditions.max_epsilon:
        spent = metrics.get("privacy/epsilon")
        if spent is None or spent > conditions.max_epsilon:
            told = "unknown" if spent is None else f"{spent:g}"
            return broken(f"The privacy spent is {told}; the approval allows {conditions.max_epsilon:g}.")
    return None


def broken(why: str, next_step: str = "Offer the run anew if it should go on.") -> UserError:
    return UserError("OCT-APPROVAL-CONDITIONS", "A condition of the approval is not met.", why, next_step)


def _next_hour(now: float) -> float:
    local = time.localtime(now)
    return now + 3600 - (local.tm_min * 60 + local.tm_sec) + 0.5
