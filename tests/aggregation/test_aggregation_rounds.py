"""The round loop: instructions compared, and random interleavings that must never count twice or hang."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.facts import AnswerFacts, Blob, average_metrics
from octopus_desktop.aggregation.rounds import RoundLoop
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import IllegalMove, UserError

SILOS = ("ada", "bob", "cyd")


def blob(name: str) -> Blob:
    return Blob(digest=name, size=4)


class Drive:
    """A run under test: applies events, survives a JSON round trip after each, remembers all instructions."""

    def __init__(self, silos: tuple[str, ...] = SILOS, **config: Any) -> None:
        self.config = RunConfig(**{"rounds": 2, "lease_s": 10.0, "round_deadline_s": 100.0, **config})
        self.loop = RoundLoop(self.config, silos)
        self.all: list[ev.Instruction] = []

    def __call__(self, event: ev.Event) -> list[ev.Instruction]:
        out = self.loop.apply(event)
        self.all += out
        value = json.loads(json.dumps(self.loop.to_dict()))
        self.loop = RoundLoop.from_dict(self.config, self.loop.silos, value)
        assert self.loop.to_dict() == value
        return out

    def start(self) -> list[ev.Instruction]:
        return self(ev.Started(model=blob("m0"), now=0.0))

    def answer(self, silo: str, round: int = 1, task: str = "train", epoch: int = 1, now: float = 1.0, **more: Any):
        metrics = {"train/loss": 1.0 / round, "eval/accuracy": 0.5 + round / 10, "eval/examples": 10.0}
        facts = AnswerFacts(
            silo=silo,
            examples=more.pop("examples", 10),
            metrics=more.pop("metrics", metrics),
            update=more.pop("update", blob(f"u-{silo}-{round}") if task == "train" else None),
            returned=more.pop("returned", {}),
        )
        return self(ev.Answered(silo=silo, round=round, task=task, epoch=epoch, facts=facts, now=now, **more))

    def aggregated(self, round: int, now: float = 2.0) -> list[ev.Instruction]:
        return self(ev.Aggregated(round=round, model=blob(f"m{round}"), slots={}, now=now))

    def of(self, kind: type) -> list[Any]:
        return [x for x in self.all if isinstance(x, kind)]


def kinds(instructions: list[ev.Instruction]) -> list[str]:
    return [type(x).__name__ for x in instructions]


def test_a_run_from_start_to_finish() -> None:
    run = Drive()
    assert [(d.silo, d.round, d.task, d.epoch, d.until) for d in run.start()] == [
        (s, 1, "train", 1, 10.0) for s in SILOS
    ]
    assert run.answer("cyd") == run.answer("ada") == []
    (fold,) = run.answer("bob")
    assert [a.silo for a in fold.answers] == list(SILOS), "the order of sums is the silos', not that of arrival"
    out = run.aggregated(1)
    assert kinds(out) == ["Report", "Discard", "Dispatch", "Dispatch", "Dispatch"]
    assert out[0].metrics == {"train/examples": 30.0, "train/loss": 1.0}
    for silo in SILOS:
        run.answer(silo, round=2)
    out = run.aggregated(2)
    assert [(r.round, r.metrics.get("eval/accuracy")) for r in out if isinstance(r, ev.Report)] == [(1, 0.7), (2, None)]
    assert [(d.task, d.round, d.model.digest) for d in out if isinstance(d, ev.Dispatch)] == [("evaluate", 2, "m2")] * 3
    for silo in SILOS:
        out = run.answer(silo, round=2, task="evaluate", metrics={"eval/accuracy": 0.9, "eval/examples": 5.0})
    assert kinds(out) == ["Report", "Complete"]
    assert out[0].round == 2
    assert out[1].model.digest == "m2"
    assert out[1].metrics["eval/accuracy"] == 0.9
    assert run.loop.state.first["eval/accuracy"] == 0.6
    assert run.loop.next_timer() is None


def test_metrics_are_weighted_by_the_rows_they_were_measured_on() -> None:
    a = AnswerFacts(silo="a", examples=100, metrics={"eval/accuracy": 1.0, "eval/examples": 30.0, "train/loss": 2.0})
    b = AnswerFacts(silo="b", examples=300, metrics={"eval/accuracy": 0.0, "eval/examples": 10.0, "train/loss": 1.0})
    assert average_metrics([a, b], "eval/") == {"eval/accuracy": 0.75, "eval/examples": 40.0}
    assert average_metrics([a, b], "train/") == {"train/loss": 1.25, "train/examples": 400.0}


def test_a_second_answer_a_late_one_a_strangers_and_an_old_epochs_do_not_count() -> None:
    run = Drive()
    run.start()
    run.answer("ada")
    for out in (
        run.answer("ada", update=blob("another")),
        run.answer("eve"),
        run.answer("bob", round=2),
        run.answer("bob", task="evaluate"),
    ):
        assert kinds(out)[0] == "Ignore"
        assert not out[0].reusable
    (ignored,) = run.answer("bob", epoch=7)
    assert ignored.reusable, "the silo may still answer the newest lease under the same key"
    assert set(run.loop.state.answers) == {"ada"}
    assert len(run.loop.state.notes) == 5
    assert run.loop.state.answers["ada"].update == blob("u-ada-1")


def test_the_deadline_closes_a_round_that_has_its_quorum_and_drops_what_comes_later() -> None:
    run = Drive(quorum=2)
    run.start()
    run.answer("cyd")
    run.answer("ada")
    assert run(ev.DeadlinePassed(round=1, task="train", now=99.0)) == [], "not before its time"
    (fold,) = run(ev.DeadlinePassed(round=1, task="train", now=100.0))
    assert [a.silo for a in fold.answers] == ["ada", "cyd"]
    report = run.aggregated(1, now=101.0)[0]
    assert (report.answered, report.missing) == (("ada", "cyd"), ("bob",))
    out = run.answer("bob", round=1, now=102.0)
    assert kinds(out) == ["Ignore", "Discard"]
    assert run.of(ev.Dispatch)[-2].round == 2, "the straggler is asked again in the next round"


def test_the_deadline_ends_a_run_without_quorum_and_says_who_is_missing() -> None:
    run = Drive(quorum=2)
    run.start()
    run.answer("ada")
    out = run(ev.DeadlinePassed(round=1, task="train", now=100.0))
    assert kinds(out) == ["Discard", "Fail"]
    assert out[1].code == "OCT-RUN-QUORUM"
    assert "needs 2 answers and can have 1 of 3" in out[1].reason
    assert "bob: no answer by the deadline; cyd: no answer by the deadline" in out[1].reason


def test_why_a_silos_answer_is_missing_is_remembered_by_its_name() -> None:
    run = Drive(quorum=1, rounds=3)
    run.start()
    run.answer("ada", error="the loss became NaN", error_code="OCT-MODEL-NAN")
    run.answer("bob", examples=0)
    run(ev.SiloWent(silo="cyd", now=2.0))
    run.answer("bob", epoch=1)  # too late: it was refused
    run(ev.DeadlinePassed(round=1, task="train", now=100.0))
    assert run.loop.ended and "cyd: no answer by the deadline: it is not connected" in run.loop.state.reason
    assert run.loop.state.troubles == {
        "ada": "round 1: ada could not train: the loss became NaN [OCT-MODEL-NAN]",
        "bob": "round 1: the answer of bob is refused: it claims 0 examples [OCT-MODEL-WEIGHT]",
        "cyd": "round 1: cyd: no answer by the deadline: it is not connected",
    }


def test_an_error_of_a_silo_excludes_it_from_the_round_and_ends_the_run_when_no_quorum_is_left() -> None:
    run = Drive(quorum=2)
    run.start()
    assert run.answer("ada", error="the loss became NaN", error_code="OCT-MODEL-NAN") == []
    run.answer("bob")
    (fold,) = run.answer("cyd")
    assert [a.silo for a in fold.answers] == ["bob", "cyd"]
    assert any(isinstance(d, ev.Dispatch) and d.silo == "ada" for d in run.aggregated(1))
    run.answer("ada", round=2, error="again", error_code="OCT-RUN-TRAINER")
    (fail,) = run.answer("bob", round=2, error="no", error_code="OCT-DATA-MISSING")
    assert fail.code == "OCT-RUN-QUORUM"
    assert "ada: again [OCT-RUN-TRAINER]" in fail.reason
    assert "bob: no [OCT-DATA-MISSING]" in fail.reason


@pytest.mark.parametrize("code", ["OCT-RUN-STOPPED", "OCT-APPROVAL-MISSING"])
def test_a_silo_whose_administrator_stops_is_not_asked_again(code: str) -> None:
    run = Drive(quorum=2)
    run.start()
    run.answer("ada", error="stopped by the administrator", error_code=code)
    run.answer("bob")
    run.answer("cyd")
    assert [d.silo for d in run.aggregated(1) if isinstance(d, ev.Dispatch)] == ["bob", "cyd"]
    (fail,) = run(ev.Withdrew(silo="bob", reason="revoked", now=3.0))
    assert fail.code == "OCT-RUN-QUORUM"


@pytest.mark.parametrize(
    "bad",
    [
        {"examples": 0},
        {"examples": -5},
        {"examples": 2**60},
        {"update": None},
        {"update": Blob(digest="x", size=1, encoding="zip")},
    ],
)
def test_an_impossible_answer_is_refused_and_the_run_goes_on_with_its_quorum(bad: dict[str, Any]) -> None:
    run = Drive(quorum=2)
    run.start()
    assert "Ignore" in kinds(run.answer("ada", **bad))
    run.answer("bob")
    (fold,) = run.answer("cyd")
    assert len(fold.answers) == 2


@pytest.mark.parametrize(("agreed", "sent"), [("int8", "none"), ("int8", "int4"), ("none", "int8")])
def test_an_update_in_another_encoding_than_agreed_is_refused(agreed: str, sent: str) -> None:
    run = Drive(quorum=1, encoding=agreed)
    run.start()
    run.answer("ada", update=Blob(digest="x", size=1, encoding=sent))
    lease = run.loop.state.leases["ada"]
    assert lease.state == "refused" and "OCT-ENCODING-BAD" in lease.why
    run.answer("bob", update=Blob(digest="y", size=1, encoding=agreed))
    assert list(run.loop.state.answers) == ["bob"]


@pytest.mark.parametrize(
    ("strategy", "returned", "told"),
    [
        ("mime", {}, "it bears nothing, and gradient was agreed"),
        ("mime", {"gradient": Blob(digest="g", size=1, encoding="int8")}, "its gradient is encoded as 'int8'"),
        ("fedavg", {"gradient": blob("g")}, "it bears gradient, and nothing was agreed"),
    ],
)
def test_an_answer_bears_what_its_strategy_has_returned_and_nothing_else(
    strategy: str, returned: dict[str, Blob], told: str
) -> None:
    run = Drive(quorum=1, strategy=strategy)
    run.start()
    run.answer("ada", returned=returned)
    lease = run.loop.state.leases["ada"]
    assert lease.state == "refused" and told in lease.why


def test_what_was_returned_goes_with_the_update() -> None:
    run = Drive(strategy="mimelite")
    run.start()
    for silo in SILOS:
        run.answer(silo, returned={"gradient": blob(f"g-{silo}" if silo != "cyd" else "g-bob")})
    fold = run.of(ev.Aggregate)[-1]
    assert [a.returned["gradient"].digest for a in fold.answers] == ["g-ada", "g-bob", "g-bob"]
    run.aggregated(1)
    gone = [b.digest for d in run.of(ev.Discard) for b in d.blobs]
    assert sorted(d for d in gone if d.startswith("g-")) == ["g-ada", "g-bob"]


def test_metrics_that_are_no_numbers_are_left_out() -> None:
    run = Drive()
    run.start()
    run.answer("ada", metrics={"train/loss": float("nan"), "train/steps": 3.0})
    assert run.loop.state.answers["ada"].metrics == {"train/steps": 3.0}


def test_rejected_updates_are_left_out_and_the_rest_is_folded_again() -> None:
    run = Drive(quorum=2)
    run.start()
    for silo in SILOS:
        run.answer(silo)
    out = run(ev.Rejected(round=1, faults={"bob": ("OCT-MODEL-NAN", "holds NaN")}, now=2.0))
    assert kinds(out) == ["Discard", "Aggregate"]
    assert [a.silo for a in out[1].answers] == ["ada", "cyd"]
    out = run(ev.Rejected(round=1, faults={"ada": ("OCT-MODEL-SHAPE", "has another form")}, now=2.0))
    assert kinds(out) == ["Discard", "Discard", "Fail"]
    assert "holds NaN" in out[-1].reason


def test_a_lease_without_progress_is_handed_out_again_under_the_next_epoch() -> None:
    run = Drive()
    run.start()
    run(ev.Live(silo="ada", round=1, now=8.0))
    at, event = run.loop.next_timer() or (0.0, None)
    assert (at, event) == (10.0, ev.LeaseExpired(silo="bob", round=1, task="train", epoch=1, now=10.0))
    (again,) = run(event)
    assert (again.silo, again.epoch, again.until) == ("bob", 2, 20.0)
    assert kinds(run.answer("bob", epoch=1, now=11.0)) == ["Ignore"]
    assert run.answer("bob", epoch=2, now=12.0) == []
    assert "bob" in run.loop.state.answers
    assert run(replace(event, silo="ada", now=17.0)) == [], "ada's lease was renewed until 18"


def test_a_silo_that_is_away_keeps_its_task_and_gets_it_again_on_return_only_when_its_lease_ran_out() -> None:
    run = Drive()
    run.start()
    run(ev.SiloWent(silo="ada", now=1.0))
    assert run(ev.LeaseExpired(silo="ada", round=1, task="train", epoch=1, now=10.0)) == []
    assert run(ev.SiloCame(silo="ada", now=5.0)) == []
    run(ev.SiloWent(silo="ada", now=6.0))
    (again,) = run(ev.SiloCame(silo="ada", now=30.0))
    assert (again.silo, again.epoch) == ("ada", 2)


def test_time_that_the_driver_was_away_counts_against_nobody() -> None:
    run = Drive()
    run.start()
    run.answer("ada", now=4.0)
    assert run(ev.Resumed(now=3604.0)) == []
    assert {lease.until for lease in run.loop.state.leases.values()} == {3610.0}
    assert run.loop.state.deadline == 3700.0


def test_a_driver_that_died_while_it_folded_is_told_to_fold_again() -> None:
    run = Drive()
    run.start()
    for silo in SILOS:
        run.answer(silo)
    (again,) = run(ev.Resumed(now=9.0))
    assert again == run.of(ev.Aggregate)[0]


def test_bytes_that_two_silos_share_or_that_are_a_model_are_never_discarded() -> None:
    run = Drive()
    run.start()
    run.answer("ada", update=blob("m0"))
    run.answer("ada", update=blob("same"), now=1.5)
    run.answer("bob", update=blob("same"))
    run.answer("cyd", update=blob("same"))
    run.aggregated(1)
    gone = [b.digest for d in run.of(ev.Discard) for b in d.blobs]
    assert gone.count("same") == 2, "once as an answer that never counted, once when the round was folded"
    assert "m0" not in gone
    run = Drive()
    run.start()
    run.answer("ada", update=blob("same"))
    out = run.answer("eve", update=blob("same"))
    assert kinds(out) == ["Ignore"], "ada's answer needs these bytes"


def test_evaluation_never_fails_a_run() -> None:
    run = Drive(rounds=1)
    run.start()
    for silo in SILOS:
        run.answer(silo)
    run.aggregated(1)
    run.answer("ada", task="evaluate", error="no rows", error_code="OCT-DATA-MISSING")
    run(ev.Withdrew(silo="bob", reason="done", now=3.0))
    out = run(ev.DeadlinePassed(round=1, task="evaluate", now=500.0))
    assert kinds(out)[-1] == "Complete"


@pytest.mark.parametrize("phase", ["waiting", "training", "aggregating", "evaluating"])
def test_a_person_may_stop_a_run_at_any_time_and_what_comes_later_changes_nothing(phase: str) -> None:
    run = Drive(rounds=1)
    if phase != "waiting":
        run.start()
    if phase in ("aggregating", "evaluating"):
        for silo in SILOS:
            run.answer(silo)
    if phase == "evaluating":
        run.aggregated(1)
    assert run.loop.state.phase == phase
    out = run(ev.Stopped(reason="enough", now=5.0))
    assert out[-1] == ev.Fail(code="OCT-RUN-STOPPED", reason="enough")
    assert run(ev.Stopped(reason="enough", now=6.0)) == []
    assert kinds(run.answer("bob", now=7.0))[0] == "Ignore"
    assert run(ev.SiloCame(silo="bob", now=8.0)) == run(ev.Resumed(now=9.0)) == []
    assert run.loop.next_timer() is None


def test_an_illegal_move_tells_the_whole_story() -> None:
    run = Drive()
    run.start()
    with pytest.raises(IllegalMove, match="Started -> training 1: Dispatch Dispatch Dispatch"):
        run.aggregated(1)
    with pytest.raises(IllegalMove):
        run.start()
    with pytest.raises(IllegalMove):
        run(ev.Rejected(round=1, faults={"ada": ("OCT-MODEL-NAN", "x")}, now=1.0))


def test_a_quorum_that_can_never_be_met_is_refused_before_the_start() -> None:
    with pytest.raises(UserError) as error:
        Drive(("ada",), quorum=2)
    assert error.value.code == "OCT-RUN-QUORUM"


def test_a_run_whose_first_model_cannot_be_built_fails_with_the_reason() -> None:
    run = Drive()
    assert run(ev.Broken(code="OCT-JOB-TRAINER", reason="no such class", now=1.0)) == [
        ev.Fail(code="OCT-JOB-TRAINER", reason="no such class")
    ]


# random interleavings

noise = some.one_of(
    some.tuples(some.just("went"), some.sampled_from(SILOS)),
    some.tuples(some.just("came"), some.sampled_from(SILOS)),
    some.tuples(some.just("live"), some.sampled_from(SILOS)),
    some.tuples(some.just("timer"), some.just("")),
    some.tuples(some.just("restart"), some.just("")),
    some.tuples(some.just("again"), some.sampled_from((*SILOS, "eve"))),
    some.tuples(some.just("stale"), some.sampled_from(SILOS)),
    some.tuples(some.just("answer"), some.sampled_from(SILOS)),
)


@settings(max_examples=150, deadline=None)
@given(some.lists(noise, max_size=60))
def test_whatever_the_order_a_run_ends_with_the_same_sums_and_counts_nothing_twice(
    steps: list[tuple[str, str]],
) -> None:
    """Silos answer the newest instruction they hold, again and late, links break, the driver restarts: never does a
    fold hold a silo twice, and once every silo answers the run completes with the one possible outcome."""
    run, now = Drive(round_deadline_s=1e9), 0.0
    held: dict[str, ev.Dispatch] = {}
    orders: list[ev.Instruction] = run.start()

    def work() -> None:
        nonlocal orders
        while orders:
            order, *orders = orders
            if isinstance(order, ev.Dispatch):
                held[order.silo] = order
            if isinstance(order, ev.Aggregate):
                assert [a.silo for a in order.answers] == list(SILOS)
                orders += run.aggregated(order.round, now)

    def answer(silo: str, epoch: int | None = None) -> None:
        nonlocal orders
        order = held.get(silo) or held["ada"]
        orders = run.answer(silo, order.round, order.task, order.epoch if epoch is None else epoch, now)
        work()

    work()
    for what, silo in steps:
        now += 3.0
        if what == "went":
            orders = run(ev.SiloWent(silo=silo, now=now))
        elif what == "came":
            orders = run(ev.SiloCame(silo=silo, now=now))
        elif what == "live":
            orders = run(ev.Live(silo=silo, round=run.loop.state.round, now=now))
        elif what == "timer" and (timer := run.loop.next_timer()):
            now = max(now, min(timer[0], now + 100))
            orders = run(replace(timer[1], now=now))
        elif what == "restart":
            orders = run(ev.Resumed(now=now))
        elif what == "stale":
            answer(silo, 0)
        elif what in ("answer", "again"):
            answer(silo)
        work()
    for _ in range(4):
        for silo in SILOS:
            if not run.loop.ended:
                orders = run(ev.SiloCame(silo=silo, now=now))
                work()
                answer(silo)
    assert run.loop.state.phase == "completed"
    assert [f.round for f in run.of(ev.Aggregate)] == sorted({f.round for f in run.of(ev.Aggregate)})
    done = run.of(ev.Complete)
    assert [(d.model.digest, d.metrics) for d in done] == [
        ("m2", {"eval/accuracy": 0.7, "eval/examples": 30.0, "train/examples": 30.0, "train/loss": 0.5})
    ]


def test_each_round_asks_a_draw_of_the_silos_that_the_seed_decides() -> None:
    silos = tuple(f"s{i:02d}" for i in range(20))

    def play(seed: int) -> list[list[str]]:
        run = Drive(silos, rounds=5, per_round=4, seed=seed)
        draws = []
        todo = run.start()
        for round in range(1, 6):
            draws.append([d.silo for d in todo if isinstance(d, ev.Dispatch)])
            for silo in draws[-1]:
                out = run.answer(silo, round=round)
            assert [a.silo for a in out[-1].answers] == draws[-1], "nobody else is waited for"
            todo = run.aggregated(round)
            assert next(r for r in todo if isinstance(r, ev.Report) and r.round == round).missing == ()
        assert [d.silo for d in todo if isinstance(d, ev.Dispatch)] == list(silos), "all evaluate the last model"
        return draws

    first = play(1)
    assert all(len(draw) == 4 and draw == sorted(draw) for draw in first)
    assert first == play(1)
    assert first != play(2)
    assert len({silo for draw in first for silo in draw}) > 8


def test_a_quorum_above_the_draw_is_refused() -> None:
    with pytest.raises(UserError) as error:
        Drive(per_round=2, quorum=3)
    assert error.value.code == "OCT-RUN-QUORUM"
