"""Standing rules accept, refuse and ask as they say, and a bad rule is told."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octopus_desktop.jobs.policy import OfferFacts, Rule, evaluate
from octopus_desktop.wire.errors import UserError

AUTHOR = "0123 4567 89ab cdef 0123 4567 89ab cdef"
FACTS = OfferFacts(
    federation="Heart Alliance", author_fingerprint=AUTHOR, job="heart-disease", rounds=30, now=1000.0, hours=2.0,
    fitting={"patients": {"cardiology": "d1", "patients": "d2"}}, update_bytes=100,
)  # fmt: skip


def verdicts(rule: Rule, facts: OfferFacts = FACTS) -> dict[str, str]:
    return {line.line: line.verdict for line in evaluate([("r", rule)], facts).lines}


def test_a_rule_that_holds_approves_under_its_own_conditions() -> None:
    rule = Rule(job="heart*", max_rounds=50, max_hours=4, hours_of_day=((18, 24), (0, 6)), expires_at=5000.0)
    said = evaluate([("hearts", rule)], FACTS)
    assert (said.decision, said.rule) == ("approve", "hearts")
    assert said.conditions is not None
    assert said.conditions.datasets == {"patients": "d2"}  # the dataset that bears the need's own alias
    assert (said.conditions.max_rounds, said.conditions.max_hours, said.conditions.expires_at) == (50, 4, 5000.0)
    assert said.conditions.hours_of_day == ((18, 24), (0, 6))
    assert {line.verdict for line in said.lines} == {"allowed"}


def test_a_named_dataset_is_taken_and_one_that_does_not_fit_asks() -> None:
    named = evaluate([("r", Rule(datasets={"patients": "cardiology"}))], FACTS)
    assert named.conditions is not None and named.conditions.datasets == {"patients": "d1"}
    missing = evaluate([("r", Rule(datasets={"patients": "oncology"}))], FACTS)
    assert missing.decision == "ask" and missing.conditions is None
    assert "oncology" in next(line.why for line in missing.lines if line.line == "data")


def test_data_that_is_not_beyond_doubt_asks() -> None:
    two = replace(FACTS, fitting={"patients": {"a": "d1", "b": "d2"}})
    none: OfferFacts = replace(FACTS, fitting={"patients": {}})
    one = replace(FACTS, fitting={"patients": {"a": "d1"}})
    assert verdicts(Rule(), two)["data"] == verdicts(Rule(), none)["data"] == "ask"
    assert verdicts(Rule(), one)["data"] == "allowed"


@pytest.mark.parametrize(
    ("rule", "topic"),
    [(Rule(max_rounds=29), "duration"), (Rule(max_hours=1), "duration"), (Rule(max_bytes_out=2999), "leaves")],
)
def test_a_limit_that_is_passed_asks_and_says_which(rule: Rule, topic: str) -> None:
    assert verdicts(rule)[topic] == "ask"
    assert evaluate([("r", rule)], FACTS).decision == "ask"


def test_grave_findings_ask_unless_the_rule_takes_them() -> None:
    grave = replace(FACTS, high_findings=2)
    assert evaluate([("r", Rule())], grave).decision == "ask"
    assert evaluate([("r", Rule(allow_high_findings=True))], grave).decision == "approve"


@pytest.mark.parametrize(
    "rule",
    [
        Rule(federation="Other"),
        Rule(author="f" * 32),
        Rule(job="lung*"),
        Rule(job="Heart*"),
        Rule(expires_at=999.0),
    ],
)
def test_a_rule_that_speaks_of_something_else_decides_nothing(rule: Rule) -> None:
    said = evaluate([("r", rule), ("s", replace(rule, effect="reject"))], FACTS)
    assert (said.decision, said.rule) == ("ask", "") and "no rule" in said.lines[0].why


def test_an_author_is_known_by_the_fingerprint_however_it_is_written() -> None:
    assert evaluate([("r", Rule(author=AUTHOR.replace(" ", "").upper()))], FACTS).decision == "approve"


def test_a_rejection_wins_wherever_it_stands_and_says_why() -> None:
    rules = [("yes", Rule()), ("no", Rule(effect="reject", reason="Not on Sundays."))]
    said = evaluate(rules, FACTS)
    assert (said.decision, said.rule, said.reason) == ("reject", "no", "Not on Sundays.")
    assert said.lines[0].verdict == "forbidden"
    assert evaluate([("no", Rule(effect="reject"))], FACTS).reason


def test_asking_stops_later_approvals_and_the_first_that_holds_counts() -> None:
    assert evaluate([("ask", Rule(effect="ask")), ("yes", Rule())], FACTS).decision == "ask"
    said = evaluate([("narrow", Rule(max_rounds=1)), ("wide", Rule()), ("wider", Rule())], FACTS)
    assert (said.decision, said.rule) == ("approve", "wide")


def test_without_rules_a_person_is_asked() -> None:
    assert evaluate([], FACTS).decision == "ask"


# rules as people write them


def test_a_rule_goes_round_as_json_and_equal_rules_are_equal_bytes() -> None:
    rule = Rule.from_dict({"job": "heart*", "effect": "approve", "max_hours": 4, "hours_of_day": [[18, 24]]})
    assert Rule.from_dict(json.loads(rule.to_json())) == rule
    assert rule.to_json() == Rule.from_dict({"effect": "approve", "max_hours": 4.0, "job": "heart*",
                                             "hours_of_day": [[18, 24]]}).to_json()  # fmt: skip


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"efect": "approve"}, "'effect'"),
        ({"zzz": 1}, "Known"),
        ({"effect": "allow"}, "approve, ask, reject"),
        ({"job": ""}, "pattern"),
        ({"job": 3}, "text"),
        ({"author": "Dr. Lin"}, "fingerprint"),
        ({"max_rounds": -1}, "max_rounds"),
        ({"max_rounds": "50"}, "max_rounds"),
        ({"max_rounds": True}, "max_rounds"),
        ({"max_hours": float("nan")}, "max_hours"),
        ({"expires_at": None}, "expires_at"),
        ({"datasets": ["a"]}, "datasets"),
        ({"datasets": {"a": ""}}, "datasets"),
        ({"hours_of_day": [[18, 25]]}, "hours"),
        ({"hours_of_day": "18-6"}, "hours"),
        ({"hours_of_day": [[6, 6]]}, "hours"),
        ({"allow_high_findings": "yes"}, "allow_high_findings"),
        ([], "table"),
    ],
)
def test_a_bad_rule_is_told(value: Any, words: str) -> None:
    with pytest.raises(UserError) as told:
        Rule.from_dict(value)
    assert told.value.code == "OCT-CONFIG-INVALID" and words in f"{told.value.why} {told.value.next_step}"


_RULES = st.builds(
    Rule,
    effect=st.sampled_from(["approve", "ask", "reject"]),
    job=st.sampled_from(["*", "heart*", "lung*"]),
    max_rounds=st.integers(0, 60),
    max_hours=st.floats(0, 5),
    datasets=st.sampled_from([{}, {"patients": "cardiology"}, {"patients": "x"}]),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), _RULES), max_size=5))
def test_nothing_is_approved_beyond_a_rule_and_nothing_against_a_rejection(rules: list[tuple[str, Rule]]) -> None:
    said = evaluate(rules, FACTS)
    speaking = [rule for _, rule in rules if rule.job != "lung*"]
    if any(rule.effect == "reject" for rule in speaking):
        assert said.decision == "reject"
    if said.decision == "approve":
        assert said.conditions is not None and set(said.conditions.datasets) == {"patients"}
        holding = [r for r in speaking if r.effect == "approve" and r.max_rounds == said.conditions.max_rounds]
        assert any(r.max_rounds in (0, *range(30, 61)) and (r.max_hours == 0 or r.max_hours >= 2) for r in holding)
