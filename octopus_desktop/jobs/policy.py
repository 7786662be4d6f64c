"""Standing rules: what a silo accepts without asking, what it never accepts, and the answer to each offer. Pure.

A rule says for which offers it speaks (federation, author, job) and what follows: ``approve`` within its limits,
``reject``, or ``ask``. A rejection wins; then an approval of which every line holds; everything else asks a person.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from octopus_desktop.jobs.approval import Conditions
from octopus_desktop.wire.canonical import canonical_json
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.local_pb2 import PolicyLine

EFFECTS = ("approve", "ask", "reject")
ALLOWED, ASK, FORBIDDEN = "allowed", "ask", "forbidden"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One standing rule. Empty texts and zeros mean: any, no limit of its own.

    ``author``: fingerprint of the author's key. ``job``: a glob over the job's name. ``datasets``: the job's alias ->
    the silo's dataset alias; a need not named takes the dataset of its own alias, or the only one that fits.
    ``max_hours`` limits what the author expects and how long the run may last. ``hours_of_day``: local [from, to)
    pairs. ``expires_at``: Unix seconds after which the rule no longer speaks. ``allow_high_findings``: approve although
    the static review found something grave.
    """

    effect: str = "approve"
    federation: str = ""
    author: str = ""
    job: str = "*"
    datasets: dict[str, str] = field(default_factory=dict)
    max_rounds: int = 0
    max_hours: float = 0.0
    max_bytes_out: int = 0
    hours_of_day: tuple[tuple[int, int], ...] = ()
    expires_at: float = 0.0
    allow_high_findings: bool = False
    reason: str = ""

    def to_json(self) -> str:
        """Canonical: what the administrator signs."""
        return canonical_json(asdict(self)).decode()

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Rule:
        """From JSON that a person wrote. Raises UserError OCT-CONFIG-INVALID with the key and what is allowed."""
        known = {item.name for item in fields(cls)}
        if not isinstance(value, Mapping):
            raise _invalid("it is not a table of keys", 'Write it like {"effect": "approve", "job": "heart*"}')
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(sorted(known))}"
                raise _invalid(f"there is no key {key!r}", hint)
        rule = cls(**{**value, "hours_of_day": _hours(value.get("hours_of_day", ()))})
        _check(rule)
        return replace(rule, max_hours=float(rule.max_hours), expires_at=float(rule.expires_at))


@dataclass(frozen=True, slots=True, kw_only=True)
class OfferFacts:
    """What rules look at. ``hours``: the author's estimate, 0 when there is none. ``fitting``: the need's alias -> the
    silo's datasets that can serve it, as dataset alias -> id. ``now`` and ``expires_at`` in Unix seconds."""

    federation: str
    author_fingerprint: str
    job: str
    rounds: int
    now: float
    hours: float = 0.0
    fitting: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    high_findings: int = 0
    expires_at: float = 0.0
    update_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """``decision``: approve | ask | reject. ``rule``: the name of the rule that decided, or "". ``conditions`` only
    with approve. ``lines``: one per topic (author, job, data, duration, leaves, findings)."""

    decision: str
    rule: str = ""
    reason: str = ""
    lines: tuple[PolicyLine, ...] = ()
    conditions: Conditions | None = None


def evaluate(rules: Sequence[tuple[str, Rule]], facts: OfferFacts) -> Evaluation:
    """What the named rules say of an offer. The order of rules matters only among approvals: the first that holds."""
    speaking = [(name, rule) for name, rule in rules if matches(rule, facts)]
    for name, rule in speaking:
        if rule.effect == "reject":
            reason = rule.reason or f"The silo's rule {name!r} does not accept such jobs."
            line = PolicyLine(line="job", verdict=FORBIDDEN, why=f"your rule {name!r} rejects it")
            return Evaluation(decision="reject", rule=name, reason=reason, lines=(line,))
    best: Evaluation | None = None
    for name, rule in speaking:
        if rule.effect == "ask":
            line = PolicyLine(line="job", verdict=ASK, why=f"your rule {name!r} wants a person to decide")
            return Evaluation(decision="ask", rule=name, lines=(line,))
        lines, datasets = _lines(name, rule, facts)
        if all(line.verdict == ALLOWED for line in lines):
            return Evaluation(
                decision="approve",
                rule=name,
                reason=rule.reason,
                lines=lines,
                conditions=Conditions(
                    datasets=datasets,
                    hours_of_day=rule.hours_of_day,
                    max_rounds=rule.max_rounds,
                    max_hours=rule.max_hours,
                    max_bytes_out=rule.max_bytes_out,
                    expires_at=rule.expires_at,
                ),
            )
        best = best or Evaluation(decision="ask", rule=name, lines=lines)
    if best is not None:
        return best
    line = PolicyLine(line="job", verdict=ASK, why="no rule of yours speaks of such a job")
    return Evaluation(decision="ask", lines=(line,))


def matches(rule: Rule, facts: OfferFacts) -> bool:
    """Whether the rule speaks of this offer."""
    return (
        (not rule.federation or rule.federation == facts.federation)
        and (not rule.author or _bare(rule.author) == _bare(facts.author_fingerprint))
        and fnmatch.fnmatchcase(facts.job, rule.job)
        and not (rule.expires_at and rule.expires_at <= facts.now)
    )


def _lines(name: str, rule: Rule, facts: OfferFacts) -> tuple[tuple[PolicyLine, ...], dict[str, str]]:
    datasets: dict[str, str] = {}
    problems = []
    for need, candidates in facts.fitting.items():
        wanted = rule.datasets.get(need) or (need if need in candidates else "")
        if wanted in candidates:
            datasets[need] = candidates[wanted]
        elif not wanted and len(candidates) == 1:
            datasets[need] = next(iter(candidates.values()))
        else:
            which = f"the dataset {wanted!r} does not fit" if wanted else f"{len(candidates)} datasets fit, not one"
            problems.append(f"{need!r}: {which}")
    lines = [
        _line("job", True, f"your rule {name!r} speaks of it"),
        _line("data", not problems, "; ".join(problems) or f"chosen by your rule {name!r}"),
        _line("duration", *_duration(rule, facts)),
        _line("leaves", *_leaves(rule, facts)),
        _line(
            "findings",
            rule.allow_high_findings or not facts.high_findings,
            f"{facts.high_findings} grave findings in the code" if facts.high_findings else "nothing grave was found",
        ),
    ]
    return tuple(lines), datasets


def _duration(rule: Rule, facts: OfferFacts) -> tuple[bool, str]:
    if rule.max_rounds and facts.rounds > rule.max_rounds:
        return False, f"{facts.rounds} rounds are more than the {rule.max_rounds} that your rule allows"
    if rule.max_hours and facts.hours > rule.max_hours:
        return False, f"{facts.hours:g} hours are more than the {rule.max_hours:g} that your rule allows"
    return True, "within your rule's limits"


def _leaves(rule: Rule, facts: OfferFacts) -> tuple[bool, str]:
    total = (facts.update_bytes or 0) * facts.rounds
    if rule.max_bytes_out and total > rule.max_bytes_out:
        return False, f"about {total:,} bytes are more than the {rule.max_bytes_out:,} that your rule allows"
    return True, "within your rule's limits"


def _line(topic: str, good: bool, why: str) -> PolicyLine:
    return PolicyLine(line=topic, verdict=ALLOWED if good else ASK, why=why)


def _check(rule: Rule) -> None:
    if rule.effect not in EFFECTS:
        raise _invalid(f"the effect {rule.effect!r} is unknown", f"Choose one of: {', '.join(EFFECTS)}")
    for name in ("federation", "author", "job", "reason"):
        if not isinstance(getattr(rule, name), str):
            raise _invalid(f"{name!r} is not a text", f'Write "{name}": "…"')
    if not rule.job:
        raise _invalid("the job's pattern is empty", 'Write "job": "*" for all jobs')
    if rule.author and len(_bare(rule.author)) != 32:
        raise _invalid("the author is no fingerprint", "Give the 32 hexadecimal digits that the review shows")
    for name in ("max_rounds", "max_bytes_out"):
        number = getattr(rule, name)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise _invalid(f"{name!r} is not a whole number from 0", "0 means no limit")
    for name in ("max_hours", "expires_at"):
        number = getattr(rule, name)
        if not isinstance(number, int | float) or isinstance(number, bool) or not math.isfinite(number) or number < 0:
            raise _invalid(f"{name!r} is not a number from 0", "0 means no limit")
    if not isinstance(rule.allow_high_findings, bool):
        raise _invalid("'allow_high_findings' is neither true nor false", "Write true or false")
    good = isinstance(rule.datasets, dict) and all(
        isinstance(k, str) and isinstance(v, str) and v for k, v in rule.datasets.items()
    )
    if not good:
        raise _invalid("'datasets' does not map aliases to aliases", 'Write "datasets": {"patients": "cardiology"}')


def _hours(value: Any) -> tuple[tuple[int, int], ...]:
    try:
        pairs = tuple((begin, end) for begin, end in value)
    except (TypeError, ValueError):
        pairs = ((-1, -1),)
    for begin, end in pairs:
        whole = type(begin) is int and type(end) is int
        if not whole or not (0 <= begin <= 23 and 0 <= end <= 24 and begin != end):
            raise _invalid("'hours_of_day' are no pairs of hours", 'Write "hours_of_day": [[18, 24], [0, 6]]')
    return pairs


def _bare(fingerprint: str) -> str:
    return "".join(c for c in fingerprint.lower() if c in "0123456789abcdef")


def _invalid(why: str, next_step: str) -> UserError:
    return UserError("OCT-CONFIG-INVALID", "The rule cannot be used", why, next_step)
