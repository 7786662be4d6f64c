"""Where silos stand in a run, its best round so far, and in which settings runs differ."""

from __future__ import annotations

from dataclasses import replace

from octopus_desktop.jobs.differences import differences, value_text
from octopus_desktop.jobs.manifest import RunConfig, Training
from octopus_desktop.jobs.review import ways
from octopus_desktop.jobs.silos import Standing, best_round, standings
from octopus_desktop.wire.pb.local_pb2 import RunRound


def row(number: int, answered: str = "", missing: str = "", late: str = "", **federation: float) -> RunRound:
    return RunRound(
        round=number, answered=answered.split(), missing=missing.split(), late=late.split(), federation=federation
    )


def test_each_silo_stands_where_the_newest_round_leaves_it() -> None:
    rounds = [row(3, "a", "c d", "b"), row(1, "a b c"), row(2, "a b", "c"), row(4)]
    assert standings(list("abcde"), rounds) == [
        Standing(silo="a", state="answered", last=3),
        Standing(silo="b", state="late", last=3),
        Standing(silo="c", state="silent", last=1, missed=2),
        Standing(silo="d", state="silent", last=0, missed=1),
        Standing(silo="e", state="unasked"),
    ], "round 4 is not over: the federation told nothing of it"


def test_a_silo_that_comes_back_is_silent_no_more() -> None:
    rounds = [row(1, "a b"), row(2, "a", "b"), row(3, "a b")]
    assert standings(["b"], rounds) == [Standing(silo="b", state="answered", last=3)]
    assert standings(["b"], []) == [Standing(silo="b", state="waiting")]
    drawn = [*rounds, row(4, "a")]
    assert standings(["b"], drawn) == [Standing(silo="b", state="unasked", last=3)], "it was not drawn"


def test_the_first_of_equally_good_rounds_is_the_best_so_far() -> None:
    rounds = [row(1, accuracy=0.7), row(2, accuracy=0.8), row(3, accuracy=0.8), row(4)]
    assert best_round("max accuracy", rounds) == (2, 0.8)
    assert best_round("min accuracy", rounds) == (1, 0.7)
    assert best_round("", rounds) == best_round("max loss", rounds) == (0, 0.0)


def test_settings_that_differ_stand_at_their_defaults_where_they_are_left_out() -> None:
    plain = RunConfig(rounds=4, hyperparameters={"lr": 0.1})
    other = replace(plain, patience=3, hyperparameters={"lr": 0.1, "width": 8}, training=Training(precision="bf16"))
    assert differences([plain.to_dict(), other.to_dict()]) == {
        "hyperparameters.width": [None, 8],
        "patience": [0, 3],
        "training.precision": ["float32", "bf16"],
    }
    assert differences([plain.to_dict(), plain.to_dict()]) == {}
    assert [value_text(v) for v in (None, True, ["a", "b"], [], "", 0.5, "f" * 64)] == [
        "–", "yes", "a, b", "none", "none", "0.5", "ffffffffffff…",
    ]  # fmt: skip


def test_a_run_says_how_it_is_held_in_the_reviews_words() -> None:
    said = ways(RunConfig(rounds=3))
    assert set(said) == {"strategy", "privacy"} and "every silo's answer" in said["strategy"]
    told = ways(RunConfig(quorum=2, share_metrics=True, personal_layers=("head.*",)))
    assert "with 2 answers" in told["strategy"] and "head.*" in told["personal"] and "by its name" in told["shared"]


def test_an_asynchronous_run_says_what_becomes_of_old_updates() -> None:
    def said(strategy: str, **parameters: float | str) -> str:
        return ways(RunConfig(mode="async", strategy=strategy, strategy_parameters=parameters))["strategy"]

    assert "an older model counts in full." in said("fedasync")
    assert "counts less, the older it was" in said("fedasync", staleness="hinge")
    bounded = said("fedbuff", buffer=3, max_staleness=1)
    assert "3 updates together" in bounded and "not at all when more than 1 model came after it" in bounded
