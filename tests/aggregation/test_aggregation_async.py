"""The asynchronous loop: instructions compared, and random interleavings that must never count twice or hang."""

from __future__ import annotations

import json
import random as chance
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from octopus_desktop.aggregation import events as ev
from octopus_desktop.aggregation.async_rounds import AsyncLoop
from octopus_desktop.aggregation.facts import AnswerFacts, Blob
from octopus_desktop.aggregation.loops import make_loop
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import IllegalMove

SILOS = ("ada", "bob", "cyd")


def blob(name: str) -> Blob:
    return Blob(digest=name, size=4)


class Drive:
    """A run under test: survives a JSON round trip after each event."""

    def __init__(self, strategy: str = "fedbuff", parameters: dict[str, Any] | None = None, **config: Any) -> None:
        update = "difference" if strategy == "fedbuff" else "weights"
        self.strategy = make(strategy, parameters or {}, update)
        self.config = RunConfig(
            **{"mode": "async", "rounds": 3, "lease_s": 10.0, "round_deadline_s": 100.0, "update": update, **config}
        )
        self.loop = make_loop(self.config, SILOS, self.strategy)
        self.all: list[ev.Instruction] = []

    def __call__(self, event: ev.Event) -> list[ev.Instruction]:
        out = self.loop.apply(event)
        self.all += out
        value = json.loads(json.dumps(self.loop.to_dict()))
        self.loop = make_loop(self.config, SILOS, self.strategy, value)
        assert self.loop.to_dict() == value
        return out

    def start(self) -> list[ev.Instruction]:
        return self(ev.Started(model=blob("m0"), now=0.0))

    def answer(self, silo: str, round: int, task: str = "train", epoch: int = 1, now: float = 1.0, **more: Any):
        facts = AnswerFacts(
            silo=silo,
            examples=10,
            metrics={"train/loss": 1.0, "eval/accuracy": 0.5, "eval/examples": 10.0},
            update=blob(f"u-{silo}-{round}") if task == "train" else None,
        )
        return self(ev.Answered(silo=silo, round=round, task=task, epoch=epoch, facts=facts, now=now, **more))

    def aggregated(self, round: int, now: float = 2.0) -> list[ev.Instruction]:
        return self(ev.Aggregated(round=round, model=blob(f"m{round}"), slots={}, now=now))


def shape(instructions: list[ev.Instruction]) -> list[Any]:
    return [(x.silo, x.round, x.task) if isinstance(x, ev.Dispatch) else type(x).__name__ for x in instructions]


def test_a_version_is_made_while_the_slow_silo_still_trains() -> None:
    run = Drive()
    assert shape(run.start()) == [(s, 1, "train") for s in SILOS]
    assert run.answer("cyd", 1) == []
    (fold,) = run.answer("ada", 1)
    assert [(a.silo, a.staleness) for a in fold.answers] == [("ada", 0), ("cyd", 0)], "sums in the silos' order"
    out = run.aggregated(1)
    assert shape(out) == ["Report", "Discard", ("ada", 2, "train"), ("cyd", 2, "train")], "bob is not waited for"
    assert out[0].answered == ("ada", "cyd")
    (late,) = run.answer("ada", 2) + run.answer("bob", 1)
    assert [(a.silo, a.staleness) for a in late.answers] == [("ada", 0), ("bob", 1)], "bob's is one version old"
    out = run.aggregated(2)
    assert shape(out)[-2:] == [("ada", 3, "train"), ("bob", 3, "train")]
    assert next(x for x in out if isinstance(x, ev.Report) and x.round == 2).metrics["train/staleness"] == 0.5
    run.answer("bob", 3)
    run.answer("cyd", 2)
    out = run.aggregated(3)
    assert shape(out)[-3:] == [(s, 3, "evaluate") for s in SILOS]
    for silo in SILOS:
        out = run.answer(silo, 3, task="evaluate")
    assert shape(out) == ["Report", "Complete"]
    assert out[-1].model == blob("m3")


def test_fedasync_takes_answers_one_by_one_in_the_order_of_arrival() -> None:
    run = Drive("fedasync")
    run.start()
    (first,) = run.answer("bob", 1)
    assert [a.silo for a in first.answers] == ["bob"]
    assert run.answer("cyd", 1) == run.answer("ada", 1) == [], "while bob's is folded, others are taken and wait"
    out = run.aggregated(1)
    second = out[-1]
    assert isinstance(second, ev.Aggregate)
    assert [(a.silo, a.staleness) for a in second.answers] == [("cyd", 1)]
    third = run.aggregated(2)[-1]
    assert [(a.silo, a.staleness) for a in third.answers] == [("ada", 2)]


def test_what_is_too_stale_is_dropped_and_its_silo_asked_again_from_the_newest_model() -> None:
    run = Drive("fedasync", {"max_staleness": 1}, rounds=9)
    run.start()
    for round in (1, 2):
        run.answer("ada", round)
        run.aggregated(round)
    out = run.answer("bob", 1)
    assert shape(out) == ["Ignore", "Discard", ("bob", 3, "train")]
    assert "2 versions old, at most 1" in out[0].why
    assert out[-1].model == blob("m2")


def test_a_second_answer_and_a_strangers_do_not_count() -> None:
    run = Drive()
    run.start()
    run.answer("ada", 1)
    assert shape(run.answer("ada", 1))[0] == "Ignore"
    assert shape(run.answer("eve", 1))[0] == "Ignore"
    assert shape(run.answer("bob", 2))[0] == "Ignore", "nobody asked bob for version 2"
    assert list(run.loop.state.answers) == ["ada"]


def test_a_silent_silo_is_asked_again_with_the_newest_model() -> None:
    run = Drive("fedasync", rounds=9)
    run.start()
    run.answer("ada", 1)
    run.aggregated(1)
    (again,) = run(ev.LeaseExpired(silo="bob", round=1, task="train", epoch=1, now=10.0))
    assert (again.silo, again.round, again.epoch, again.model) == ("bob", 2, 1, blob("m1"))
    assert shape(run.answer("bob", 1, now=11.0))[0] == "Ignore", "the old task's answer counts no more"


def test_dead_silos_never_hold_a_run() -> None:
    run = Drive("fedbuff", {"buffer": 3})
    run.start()
    run.answer("ada", 1)
    assert run(ev.Withdrew(silo="bob", reason="no more", now=2.0)) == []
    (fold,) = run(ev.Withdrew(silo="cyd", reason="me too", now=3.0))
    assert [a.silo for a in fold.answers] == ["ada"], "nobody else trains: the buffer is folded as it is"
    assert shape(run.aggregated(1))[-1] == ("ada", 2, "train")
    out = run(ev.Withdrew(silo="ada", reason="alone", now=4.0))
    assert (out[-1].code, "ada" in out[-1].reason) == ("OCT-RUN-QUORUM", True)


def test_at_the_deadline_a_version_is_made_of_what_is_there_or_the_run_ends() -> None:
    run = Drive("fedbuff", {"buffer": 3})
    run.start()
    run.answer("cyd", 1)
    (fold,) = run(ev.DeadlinePassed(round=1, task="train", now=100.0))
    assert [a.silo for a in fold.answers] == ["cyd"]
    run.aggregated(1, now=101.0)
    out = run(ev.DeadlinePassed(round=2, task="train", now=201.0))
    assert out[-1].code == "OCT-RUN-QUORUM"
    assert "no answer by the deadline" in out[-1].reason


def test_a_refused_update_makes_room_and_the_sound_one_waits() -> None:
    run = Drive()
    run.start()
    run.answer("ada", 1)
    run.answer("bob", 1)
    out = run(ev.Rejected(round=1, faults={"bob": ("OCT-MODEL-NAN", "it holds NaN")}, now=2.0))
    assert shape(out) == ["Discard"]
    (fold,) = run.answer("cyd", 1)
    assert [a.silo for a in fold.answers] == ["ada", "cyd"]
    assert ("bob", 2, "train") in shape(run.aggregated(1)), "asked again with the next version"


def test_a_fold_that_was_cut_off_is_done_again() -> None:
    run = Drive()
    run.start()
    run.answer("ada", 1)
    (fold,) = run.answer("bob", 1)
    assert run(ev.Resumed(now=5.0)) == [fold]
    with pytest.raises(IllegalMove):
        run(ev.Aggregated(round=2, model=blob("x"), slots={}, now=6.0))


@settings(max_examples=60, deadline=None)
@given(some.integers(0, 2**32), some.sampled_from(["fedasync", "fedbuff"]), some.integers(1, 3))
def test_any_interleaving_ends_and_counts_each_answer_once(seed: int, strategy: str, buffer: int) -> None:
    rng = chance.Random(seed)
    run = Drive(strategy, {"buffer": buffer} if strategy == "fedbuff" else {"max_staleness": 2}, rounds=4)
    todo, now, counted = run.start(), 0.0, []
    out: dict[str, ev.Dispatch] = {}
    fold: ev.Aggregate | None = None
    for _ in range(600):
        for instruction in todo:
            if isinstance(instruction, ev.Dispatch):
                out[instruction.silo] = instruction
            elif isinstance(instruction, ev.Aggregate):
                assert fold is None, "one fold at a time"
                fold = instruction
                counted += [a.update.digest for a in instruction.answers if a.update]
        if run.loop.ended:
            break
        now += rng.random() * 3
        move = rng.random()
        if fold and move < 0.4:
            done, fold = fold, None
            todo = run.aggregated(done.round, now)
        elif move < 0.8 and out:
            silo = rng.choice(sorted(out))
            order = out[silo]
            todo = run.answer(silo, order.round, order.task, order.epoch, now)
        elif move < 0.84:
            todo = run(ev.SiloWent(silo=rng.choice(SILOS), now=now))
        elif move < 0.9:
            todo = run(ev.SiloCame(silo=rng.choice(SILOS), now=now))
        elif timer := run.loop.next_timer():
            now = max(now, timer[0])
            todo = run(type(timer[1])(**{**{f: getattr(timer[1], f) for f in timer[1].__slots__}, "now": now}))
        else:
            todo = []
    assert run.loop.ended
    assert len(counted) == len(set(counted))
    assert isinstance(run.loop, AsyncLoop)
