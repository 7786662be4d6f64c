"""What becomes of an offer and its run, as lists of instructions."""

from __future__ import annotations

from typing import Any

import pytest

from octopus_desktop.daemon import reducer as r
from octopus_desktop.wire.errors import IllegalMove


def make_life(*events: r.Event) -> r.Life:
    life = r.Life(run_id="r1")
    for event in events:
        life, _ = r.reduce(life, event)
    return life


CAME = (r.OfferCame("f1", 3), r.PackageGood())
APPROVED = (*CAME, r.Decided("approved", "ada"))
TRAINING = (*APPROVED, r.RunnerUp(), r.TaskBegun(1))


def instructions(life: r.Life, event: r.Event) -> list[Any]:
    """Names of the instructions, audit entries by their action."""
    _, found = r.reduce(life, event)
    return [i.action if isinstance(i, r.Audit) else i for i in found]


def test_an_offer_is_verified_before_anybody_is_asked() -> None:
    life = make_life(r.OfferCame("f1", 3))
    assert (life.offer, life.run, life.rounds) == ("fetching", "", 3)
    assert instructions(make_life(), r.OfferCame("f1", 3)) == ["offer.received", r.CheckPackage()]
    with pytest.raises(IllegalMove):
        r.reduce(life, r.Decided("approved", "ada"))


def test_a_good_package_asks_policy_then_person() -> None:
    found = instructions(make_life(r.OfferCame("f1", 3)), r.PackageGood())
    assert found[0] == "offer.verified" and found[-1] == r.ApplyPolicy()


def test_a_bad_package_is_kept_as_invalid_and_refused() -> None:
    life = make_life(r.OfferCame("f1", 3), r.PackageBad("OCT-JOB-TAMPERED", "bytes differ"))
    assert (life.offer, life.code) == ("invalid", "OCT-JOB-TAMPERED")
    found = instructions(make_life(r.OfferCame("f1", 3)), r.PackageBad("OCT-JOB-TAMPERED", "bytes differ"))
    assert found[0] == "offer.invalid" and found[1].verdict == "rejected"


def test_approval_is_told_signed_and_launched_in_this_order() -> None:
    assert instructions(make_life(*CAME), r.Decided("approved", "ada", "fine")) == [
        "offer.approved",
        r.PostDecision("approved", "fine"),
        r.SignHead(),
        r.Launch(),
    ]
    assert make_life(*APPROVED).run == "approved"


@pytest.mark.parametrize("verdict", ["rejected", "changes_requested"])
def test_a_refusal_starts_nothing(verdict: str) -> None:
    life = make_life(*CAME, r.Decided(verdict, "ada", "no ethics vote"))
    assert (life.offer, life.run, life.reason) == (verdict, "", "no ethics vote")
    assert r.Launch() not in instructions(make_life(*CAME), r.Decided(verdict, "ada"))
    with pytest.raises(IllegalMove) as error:
        r.reduce(life, r.Decided("approved", "ada"))
    assert "no ethics vote" in str(error.value)  # the whole story


@pytest.mark.parametrize(
    ("event", "state"),
    [(r.OfferExpired(), "expired"), (r.StopCame("", "not wanted"), "withdrawn")],
)
def test_an_undecided_offer_can_end(event: r.Event, state: str) -> None:
    assert make_life(*CAME, event).offer == state
    assert make_life(*APPROVED, r.OfferExpired()).offer == "approved"


def test_training_and_exchanging_take_turns_with_one_entry_each() -> None:
    life = make_life(*TRAINING)
    assert (life.run, life.round) == ("training", 1)
    assert instructions(life, r.TaskBegun(1)) == []
    assert instructions(life, r.AnswerPut(1)) == ["run.exchanging"]
    life = make_life(*TRAINING, r.AnswerPut(1))
    assert instructions(life, r.AnswerPut(1)) == []
    assert make_life(*TRAINING, r.AnswerPut(1), r.TaskBegun(2)).round == 2


def test_pause_remembers_where_it_was() -> None:
    life = make_life(*TRAINING, r.Held("person", "ada"))
    assert (life.run, life.before) == ("paused", "training")
    life, found = r.reduce(life, r.AnswerPut(1))
    assert (life.run, life.before) == ("paused", "exchanging")
    life, found = r.reduce(life, r.Released("person", "ada"))
    assert life.run == "exchanging"
    assert [i for i in found if not isinstance(i, r.Audit)] == [r.Launch(), r.Tell("resume")]


def test_two_reasons_to_hold_need_two_releases() -> None:
    life = make_life(*TRAINING, r.Held("person", "ada"), r.Held("hours", "daemon"), r.Released("person", "ada"))
    assert (life.run, life.held) == ("paused", ("hours",))
    assert make_life(*TRAINING, r.Held("hours", "daemon"), r.Released("hours", "daemon")).run == "training"
    with pytest.raises(IllegalMove):
        r.reduce(make_life(*TRAINING), r.Released("person", "ada"))


def test_a_dead_runner_comes_back_slower_each_time_and_then_not() -> None:
    life = make_life(*TRAINING)
    delays = []
    for _ in range(r.RESTARTS):
        life, found = r.reduce(life, r.RunnerGone("signal 9"))
        delays += [i.delay_s for i in found if isinstance(i, r.Launch)]
        life, _ = r.reduce(life, r.RunnerUp())
    assert delays == list(r.BACKOFF_S)
    life, found = r.reduce(life, r.RunnerGone("signal 9"))
    assert (life.run, life.code) == ("failed", "OCT-RUN-WORKERS")
    assert any(isinstance(i, r.PostDecision) and i.verdict == "revoked" for i in found)


def test_an_answer_forgives_the_deaths_before_it() -> None:
    assert make_life(*TRAINING, r.RunnerGone("x"), r.RunnerUp(), r.AnswerPut(1)).restarts == 0


def test_a_paused_run_does_not_start_its_runner_again() -> None:
    found = instructions(make_life(*TRAINING, r.Held("person", "ada")), r.RunnerGone("signal 9"))
    assert not any(isinstance(i, r.Launch) for i in found)


def test_stop_here_tells_the_server_and_ends_the_processes() -> None:
    found = instructions(make_life(*TRAINING), r.StopAsked("ada", "enough"))
    assert found == ["run.stopped", r.PostDecision("revoked", "enough"), r.End("enough"), r.SignHead()]


@pytest.mark.parametrize(
    ("event", "state", "code"),
    [
        (r.StopCame("OCT-RUN-STOPPED", "by the coordinator"), "stopped", "OCT-RUN-STOPPED"),
        (r.StopCame("OCT-RUN-QUORUM", "too few"), "failed", "OCT-RUN-QUORUM"),
        (r.FinishedCame(3), "completed", ""),
        (r.Broken("OCT-DATA-CHANGED", "heart changed"), "failed", "OCT-DATA-CHANGED"),
        (r.RunnerEnded("OCT-RUN-TRAINER", "ValueError"), "failed", "OCT-RUN-TRAINER"),
    ],
)
def test_ends(event: r.Event, state: str, code: str) -> None:
    life = make_life(*TRAINING, event)
    assert (life.run, life.code, life.ended) == (state, code, True)
    for late in (event, r.RunnerGone("x"), r.TaskBegun(9), r.AnswerPut(9), r.Broken("c", "x"), r.StopCame("", "x")):
        assert r.reduce(life, late)[1] == []  # what comes late is nothing
    with pytest.raises(IllegalMove):
        r.reduce(life, r.StopAsked("ada", "again"))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ((r.OfferCame("f1", 3),), [r.CheckPackage()]),
        (CAME, [r.ApplyPolicy()]),
        (TRAINING, ["run.found-after-restart", r.Launch()]),
        ((*TRAINING, r.Held("person", "ada")), []),
        ((*TRAINING, r.FinishedCame(3)), []),
    ],
)
def test_a_restart_takes_up_what_lies_there(events: tuple[r.Event, ...], expected: list[Any]) -> None:
    assert instructions(make_life(*events), r.Restarted()) == expected


def test_a_row_survives_its_json() -> None:
    life = make_life(*TRAINING, r.Held("hours", "daemon"))
    assert r.Life.from_dict(life.to_dict()) == life
