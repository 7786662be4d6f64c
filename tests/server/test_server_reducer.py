"""A run's life: lists of instructions, no I/O."""

from __future__ import annotations

import pytest

from octopus_desktop.server import reducer as r
from octopus_desktop.wire.errors import IllegalMove


def make_life(*silos: str, quorum: int = 0, state: str = "offered", cohort: tuple[str, ...] = ()) -> r.RunLife:
    decision = "approved" if cohort else "offered"
    return r.RunLife(
        run_id="run-1",
        quorum=quorum,
        decisions={s: decision if not cohort or s in cohort else "rejected" for s in silos},
        state=state,
        cohort=cohort,
    )


def approve(life: r.RunLife, silo: str) -> list[r.Instruction]:
    return life.apply(r.Decided(silo=silo, verdict="approved"))


def wrote(silo: str, decision: str, reason: str = "") -> r.SetDecision:
    return r.SetDecision(silo=silo, decision=decision, in_cohort=False, reason=reason)


def test_a_new_run_is_offered_to_every_silo() -> None:
    assert make_life("a", "b").apply(r.Recovered()) == [r.SendOffer(silo="a"), r.SendOffer(silo="b")]


def test_it_begins_when_the_last_silo_has_approved_in_sorted_order() -> None:
    life = make_life("b", "a")
    assert approve(life, "b") == [wrote("b", "approved")]
    assert approve(life, "a") == [
        wrote("a", "approved"),
        r.SetState(state="running", cohort=("a", "b")),
        r.StartCoordinator(cohort=("a", "b")),
    ]


def test_a_rejecting_silo_leaves_the_cohort() -> None:
    life = make_life("a", "b")
    life.apply(r.Decided(silo="b", verdict="rejected", reason="no"))
    assert approve(life, "a")[1:] == [
        r.SetState(state="running", cohort=("a",)),
        r.StartCoordinator(cohort=("a",)),
    ]


def test_a_silo_may_change_its_mind_while_the_run_is_offered() -> None:
    life = make_life("a", "b")
    life.apply(r.Decided(silo="a", verdict="changes_requested"))
    approve(life, "a")
    assert life.decisions["a"] == "approved"


def test_too_few_that_can_still_approve_end_it_and_the_others_hear_of_it() -> None:
    life = make_life("a", "b", "c", quorum=3)
    approve(life, "a")
    reason = "1 of 3 silos approved, 3 are needed"
    assert life.apply(r.Decided(silo="b", verdict="rejected", reason="no")) == [
        wrote("b", "rejected", "no"),
        r.SetState(state="failed", reason=reason, code="OCT-RUN-QUORUM"),
        r.SendStop(silo="a", reason=reason, code="OCT-RUN-QUORUM"),
        r.SendStop(silo="c", reason=reason, code="OCT-RUN-QUORUM"),
    ]


def test_at_the_deadline_it_begins_with_those_who_approved() -> None:
    life = make_life("a", "b", quorum=1)
    approve(life, "b")
    late = "the offer's deadline passed"
    assert life.apply(r.OfferExpired()) == [
        wrote("a", "expired", late),
        r.SendStop(silo="a", reason=late, code="OCT-RUN-QUORUM"),
        r.SetState(state="running", cohort=("b",)),
        r.StartCoordinator(cohort=("b",)),
    ]
    assert life.apply(r.OfferExpired()) == []
    assert approve(life, "a") == [
        r.SendStop(silo="a", reason="the run began without this silo", code="OCT-APPROVAL-STATE")
    ]


def test_at_the_deadline_without_approvals_it_fails() -> None:
    life = make_life("a")
    assert r.SetState(state="failed", reason="0 of 1 silos approved, 1 are needed", code="OCT-RUN-QUORUM") in (
        life.apply(r.OfferExpired())
    )


def test_a_revoked_approval_takes_the_silo_out_of_a_running_run() -> None:
    life = make_life("a", "b", state="running", cohort=("a", "b"))
    assert life.apply(r.Decided(silo="a", verdict="revoked", reason="audit")) == [
        wrote("a", "revoked", "audit"),
        r.TellSiloLeft(silo="a"),
    ]
    assert life.apply(r.Decided(silo="a", verdict="revoked", reason="audit")) == []
    out = life.apply(r.SiloRemoved(silo="b"))
    assert out[1:] == [
        r.SetState(state="failed", reason="b left: the silo is no member any longer", code="OCT-RUN-QUORUM"),
        r.StopCoordinator(reason="b left: the silo is no member any longer"),
    ]


def test_a_restarted_server_starts_the_coordinator_again_or_says_goodbye_again() -> None:
    running = make_life("a", state="running", cohort=("a",))
    assert running.apply(r.Recovered()) == [r.StartCoordinator(cohort=("a",))]
    running.decisions["b"] = "revoked"  # the coordinator may not have heard of it before a crash
    assert running.apply(r.Recovered()) == [r.TellSiloLeft(silo="b"), r.StartCoordinator(cohort=("a",))]
    assert running.apply(r.CoordinatorEnded(state="completed")) == [
        r.SetState(state="completed"),
        r.StopCoordinator(reason=""),
        r.SendFinished(silo="a"),
    ]
    assert running.apply(r.Recovered()) == [r.SendFinished(silo="a")]
    assert running.apply(r.CoordinatorEnded(state="failed")) == []


def test_a_greeting_closes_the_difference() -> None:
    offered = make_life("a")
    assert offered.apply(r.Greeted(silo="a", holds=False)) == [r.SendOffer(silo="a", again=True)]
    assert offered.apply(r.Greeted(silo="a", holds=True)) == []
    assert offered.apply(r.Greeted(silo="stranger", holds=True)) == []
    running = make_life("a", "b", state="running", cohort=("a",))
    assert running.apply(r.Greeted(silo="a", holds=True)) == []
    assert [type(i) for i in running.apply(r.Greeted(silo="b", holds=True))] == [r.SendStop]
    stopped = make_life("a", state="stopped")
    assert stopped.apply(r.Greeted(silo="a", holds=False)) == []
    assert stopped.apply(r.Greeted(silo="a", holds=True)) == [
        r.SendStop(silo="a", reason="", code="OCT-RUN-STOPPED", again=True)
    ]


def test_a_coordinator_that_cannot_live_fails_the_run() -> None:
    life = make_life("a", state="running", cohort=("a",))
    assert life.apply(r.CoordinatorLost(reason="died"))[0] == r.SetState(
        state="failed", reason="died", code="OCT-RUN-WORKERS"
    )
    assert life.apply(r.CoordinatorLost(reason="died")) == []


def test_an_illegal_move_tells_its_story() -> None:
    life = make_life("a")
    with pytest.raises(IllegalMove) as raised:
        life.apply(r.CoordinatorEnded(state="completed"))
    assert "run run-1 is 'offered'" in str(raised.value) and "Story" in str(raised.value)
    with pytest.raises(IllegalMove):
        life.apply(r.Decided(silo="stranger", verdict="approved"))
    life.apply(r.StopAsked(reason="enough"))
    with pytest.raises(IllegalMove):
        life.apply(r.StopAsked(reason="again"))
