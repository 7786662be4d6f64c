"""The best model, the early end, and late answers that count in the next round: instructions compared."""

from __future__ import annotations

from typing import Any

import pytest

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Best, Blob
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError
from tests.aggregation.test_aggregation_rounds import SILOS, Drive, blob, kinds


def round_of(run: Drive, number: int, value: float, name: str = "eval/accuracy") -> list[ev.Instruction]:
    """All silos answer the round; ``value`` is what they say of the model of the round before."""
    for silo in SILOS:
        run.answer(silo, round=number, metrics={name: value, "eval/examples": 10.0})
    return run.aggregated(number)


def last(run: Drive, number: int, value: float, name: str = "eval/accuracy") -> ev.Complete:
    for silo in SILOS:
        out = run.answer(silo, round=number, task="evaluate", metrics={name: value, "eval/examples": 10.0})
    (done,) = (x for x in out if isinstance(x, ev.Complete))
    return done


@pytest.mark.parametrize(
    ("best", "values", "round", "value"),
    [
        ("max eval/accuracy", (0.6, 0.9, 0.8), 2, 0.9),
        ("max eval/accuracy", (0.7, 0.7, 0.7), 1, 0.7),
        ("min eval/accuracy", (0.6, 0.9, 0.5), 3, 0.5),
    ],
)
def test_the_best_rounds_model_is_named_beside_the_last(
    best: str, values: tuple[float, ...], round: int, value: float
) -> None:
    run = Drive(rounds=3, best=best)
    run.start()
    round_of(run, 1, 0.99)  # of the model that the run began with, which is no round's
    round_of(run, 2, values[0])
    round_of(run, 3, values[1])
    done = last(run, 3, values[2])
    assert done.best == Best(round=round, value=value, model=blob(f"m{round}"))
    assert (done.model, done.rounds, done.reason) == (blob("m3"), 3, "")


def test_a_run_that_gets_no_better_ends_early_and_says_why() -> None:
    run = Drive(rounds=20, best="max eval/accuracy", patience=2, min_delta=0.01)
    run.start()
    round_of(run, 1, 0.1)
    round_of(run, 2, 0.5)  # of model 1
    round_of(run, 3, 0.505)  # better, and not by min_delta
    out = round_of(run, 4, 0.504)
    assert {d.task for d in out if isinstance(d, ev.Dispatch)} == {"evaluate"}, "no further round is begun"
    done = last(run, 4, 0.3)
    assert (done.rounds, done.model) == (4, blob("m4"))
    assert done.best == Best(round=2, value=0.505, model=blob("m2"))
    assert done.reason == "Ended early: 2 rounds brought no better eval/accuracy. The best is 0.505, of round 2."


def test_a_metric_that_nobody_reports_is_noted_and_ends_nothing() -> None:
    run = Drive(rounds=4, best="max eval/f1", patience=1)
    run.start()
    for number in (1, 2, 3, 4):
        round_of(run, number, 0.5)
    done = last(run, 4, 0.5)
    assert (done.rounds, done.best) == (4, None)
    assert done.reason == "No best model was chosen: nobody reported eval/f1."
    assert sum("nobody reports eval/f1" in note for note in run.loop.state.notes) == 4


def test_reports_hold_each_silos_own_metrics() -> None:
    run = Drive(rounds=1)
    run.start()
    for place, silo in enumerate(SILOS):
        metrics = {"train/loss": float(place), "eval/accuracy": 0.1, "eval_personal/accuracy": 0.2}
        run.answer(silo, metrics=metrics)
    run.aggregated(1)
    assert run.of(ev.Report)[-1].silos == {silo: {"train/loss": float(p)} for p, silo in enumerate(SILOS)}
    last(run, 1, 0.5)
    assert run.of(ev.Report)[-1].silos["bob"] == {"train/loss": 1.0, "eval/accuracy": 0.5, "eval/examples": 10.0}
    assert run.loop.state.first["eval_personal/accuracy"] == pytest.approx(0.2)


class Late(Drive):
    """Round 1 has closed without cyd, and round 2 is open."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**{"rounds": 3, "quorum": 2, "update": "difference", "late": "next", **config})
        self.start()
        self.answer("ada")
        self.answer("bob")
        self(ev.DeadlinePassed(round=1, task="train", now=100.0))
        self.aggregated(1, now=101.0)

    def close(self, round: int, now: float) -> list[ev.Instruction]:
        return self(ev.DeadlinePassed(round=round, task="train", now=now))


def test_a_late_answer_counts_once_in_the_next_round() -> None:
    run = Late()
    assert run.answer("cyd", round=1, now=102.0) == []
    assert kinds(run.answer("cyd", round=1, now=103.0))[0] == "Ignore", "once"
    run.answer("ada", round=2, now=104.0)
    run.answer("bob", round=2, now=104.0)
    (fold,) = run.close(2, 201.0)
    assert [(a.silo, a.update, a.staleness) for a in fold.answers] == [
        ("ada", blob("u-ada-2"), 0), ("bob", blob("u-bob-2"), 0), ("cyd", blob("u-cyd-1"), 1),
    ]  # fmt: skip
    out = run.aggregated(2, now=202.0)
    report = [x for x in out if isinstance(x, ev.Report)][-1]
    assert (report.answered, report.late, report.missing) == (("ada", "bob"), ("cyd",), ("cyd",))
    (first,) = [x for x in out if isinstance(x, ev.Report) and x.round == 1]
    assert first.metrics["eval/examples"] == 20.0, "what cyd says is of an older model than round 1's"
    assert [b.digest for x in out if isinstance(x, ev.Discard) for b in x.blobs] == ["u-ada-2", "u-bob-2", "u-cyd-1"]
    run.answer("cyd", round=2, now=203.0)
    assert run.loop.state.late["cyd"].staleness == 1


def test_a_late_answer_gives_way_to_the_silos_answer_to_the_open_round() -> None:
    run = Late()
    run.answer("cyd", round=1, now=102.0)
    run.answer("cyd", round=2, now=103.0)
    run.answer("ada", round=2, now=104.0)
    discard, fold = run.answer("bob", round=2, now=104.0)
    assert [b.digest for b in discard.blobs] == ["u-cyd-1"]
    assert [a.update for a in fold.answers] == [blob(f"u-{silo}-2") for silo in SILOS]


def test_a_late_answer_comes_after_the_silos_newer_one_and_is_not_counted() -> None:
    run = Late()
    run.answer("cyd", round=2, now=102.0)
    assert kinds(run.answer("cyd", round=1, now=103.0)) == ["Ignore", "Discard"]


def test_late_answers_make_up_a_quorum() -> None:
    run = Late()
    run.answer("cyd", round=1, now=102.0)
    run.answer("ada", round=2, now=103.0)
    (fold,) = run.close(2, 201.0)
    assert [a.silo for a in fold.answers] == ["ada", "cyd"]


def test_an_answer_that_comes_while_its_round_is_folded_counts_in_the_next_and_after_the_last_in_none() -> None:
    run = Late()
    for silo in ("ada", "bob"):
        run.answer(silo, round=2, now=103.0)
    run.close(2, 201.0)
    assert run.answer("cyd", round=2, now=201.5) == []
    run.aggregated(2, now=202.0)
    for silo in ("ada", "bob"):
        run.answer(silo, round=3, now=203.0)
    (fold,) = run.close(3, 302.0)
    assert [(a.silo, a.staleness) for a in fold.answers] == [("ada", 0), ("bob", 0), ("cyd", 1)]
    assert kinds(run.answer("cyd", round=3, now=302.5)) == ["Ignore", "Discard"]


def test_a_refused_late_update_leaves_the_round_as_it_was() -> None:
    run = Late()
    run.answer("cyd", round=1, now=102.0)
    for silo in ("ada", "bob"):
        run.answer(silo, round=2, now=103.0)
    run.close(2, 201.0)
    out = run(ev.Rejected(round=2, faults={"cyd": ("OCT-MODEL-NAN", "NaN")}, now=202.0))
    assert [a.silo for x in out if isinstance(x, ev.Aggregate) for a in x.answers] == ["ada", "bob"]


def test_a_late_answer_with_an_error_or_a_fault_is_only_noted() -> None:
    run = Late()
    assert kinds(run.answer("cyd", round=1, now=102.0, examples=0)) == ["Ignore", "Discard"]
    run = Late()
    facts = AnswerFacts(silo="cyd")
    event = ev.Answered(silo="cyd", round=1, task="train", epoch=1, facts=facts, now=1.0, error="no", error_code="X")
    assert kinds(run(event)) == ["Ignore"]
    assert run.loop.state.late == {}


def test_with_drop_a_late_answer_is_ignored() -> None:
    run = Late(late="drop")
    assert kinds(run.answer("cyd", round=1, now=102.0)) == ["Ignore", "Discard"]


@pytest.mark.parametrize(
    "config",
    [
        {"late": "next"},
        {"late": "next", "update": "difference", "mode": "async", "strategy": "fedbuff"},
        {"keep_models": 3, "update": "difference", "mode": "async", "strategy": "fedbuff"},
    ],
)
def test_what_cannot_be_had_together_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        require_runnable(RunConfig(**config))
    assert caught.value.code == "OCT-CONFIG-INVALID"
    assert require_runnable(RunConfig(late="next", encoding="int8"))


def test_another_runs_state_is_never_discarded() -> None:
    run = Drive(rounds=2, first_slots={"momentum": "theirs"})
    run(ev.Started(model=blob("m0"), slots={"momentum": blob("theirs")}, now=0.0))
    for silo in SILOS:
        out = run.answer(silo)
    assert out[0].slots == {"momentum": blob("theirs")}
    out = run(ev.Aggregated(round=1, model=blob("m1"), slots={"momentum": blob("own")}, now=2.0))
    assert Blob(digest="theirs", size=4) not in [b for x in out if isinstance(x, ev.Discard) for b in x.blobs]
