"""Workers of unequal shares train as one worker with one big batch would."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from octopus_desktop.training.shares import SharedBatches, by_speed, checked, split
from octopus_desktop.wire.errors import UserError
from tests.training.groups import Case, make_rows, run, run_group

ROUNDING = 2e-6  # of weights around 0.1, after an epoch: a float32 has 24 bits


def assert_equal_but_for_rounding(one: dict[str, np.ndarray], other: dict[str, np.ndarray], start: Path) -> None:
    before = load_file(start)
    for name, values in one.items():
        np.testing.assert_allclose(values, other[name], rtol=0, atol=ROUNDING)
        assert np.abs(values - before[name]).max() > 100 * ROUNDING, "the epoch moved it far more than the tolerance"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return make_rows(tmp_path, training_rows=361)  # 45 batches of 8 and one of 1; 30 batches of 12 and one of 1


def test_two_unequal_workers_equal_one_with_one_big_batch(home: Path) -> None:
    got = run_group(
        home,
        2,
        [
            Case(name="three-one", batch=4, shares=(3, 1)),
            Case(name="again", batch=4, shares=(3, 1)),
            Case(name="one-nine", batch=4, shares=(1, 9)),
            Case(name="kept", batch=2, shares=(3, 1), training={"accumulate": 2}),
            Case(name="cut", batch=4, shares=(3, 1), training={"clip_norm": 0.05}),
            Case(name="whole", batch=4, shares=(3, 1), words={"full_batch": True}),
            Case(name="equal", batch=4, shares=(2, 2)),
            Case(name="default", batch=4),
            Case(name="equal-kept", batch=2, training={"accumulate": 2}),
            Case(name="sharded", batch=4, rounds=2, training={"parallel": "fsdp"}),
            Case(name="plain", batch=4, rounds=2),
            Case(name="sharded-kept", batch=2, training={"parallel": "fsdp", "accumulate": 2, "clip_norm": 0.05}),
            Case(name="plain-kept", batch=4, training={"clip_norm": 0.05}),
            Case(name="measured", batch=4, shares="measured", rounds=2),
        ],
    )
    alone, facts = run(home, Case(name="alone", batch=8))
    assert facts[0][:2] == [361, 46]
    for name in ("three-one", "one-nine", "kept"):
        model, facts = got[name]
        assert facts[0][:2] == [361, 46], name
        assert_equal_but_for_rounding(model, alone, home / "first")
    cut, _ = run(home, Case(name="cut", batch=8, training={"clip_norm": 0.05}))
    assert_equal_but_for_rounding(got["cut"][0], cut, home / "first")
    whole, _ = run(home, Case(name="whole", batch=8, words={"full_batch": True}))
    assert got["whole"][1][0][:2] == [361, 1]
    assert_equal_but_for_rounding(got["whole"][0], whole, home / "first")
    for name, values in got["three-one"][0].items():
        np.testing.assert_array_equal(values, got["again"][0][name], err_msg="the same bits each time")
    for name, values in got["default"][0].items():
        np.testing.assert_array_equal(values, got["equal"][0][name], err_msg="equal shares are no shares")
    assert_equal_but_for_rounding(got["equal-kept"][0], got["default"][0], home / "first")
    for sharded, plain in (("sharded", "plain"), ("sharded-kept", "plain-kept")):
        assert [fact[:2] for fact in got[sharded][1]] == [fact[:2] for fact in got[plain][1]]
        assert (got[sharded][1][0][3], got[plain][1][0][3]) == (4805, 9610), "each worker holds its half"
        assert_equal_but_for_rounding(got[sharded][0], got[plain][0], home / "first")
    (_, steps, shares, _), (examples, _, _, _) = got["measured"][1]
    assert (steps, examples) == (46, 361) and len(shares) == 2 and all(share >= 1 for share in shares)


def test_three_unequal_workers_equal_one_with_one_big_batch(home: Path) -> None:
    got = run_group(
        home,
        3,
        [
            Case(name="uneven", batch=4, shares=(2, 1, 1)),
            Case(name="again", batch=4, shares=(2, 1, 1)),
            Case(name="brief", batch=4, shares=(2, 1, 1), training={"precision": "bf16"}),
        ],
    )
    alone, _ = run(home, Case(name="alone", batch=12))
    assert got["uneven"][1][0][:2] == [361, 31]
    assert_equal_but_for_rounding(got["uneven"][0], alone, home / "first")
    for name, values in got["uneven"][0].items():
        np.testing.assert_array_equal(values, got["again"][0][name])
        np.testing.assert_allclose(values, got["brief"][0][name], atol=0.01)
    assert any(np.any(v != got["brief"][0][n]) for n, v in got["uneven"][0].items()), "bfloat16 was used"


def test_the_gradient_over_all_examples_and_steps_corrected_by_it_are_the_same_on_unequal_workers(home: Path) -> None:
    """Mime: 361 rows over 2 workers, so that equal shares are not equal either."""
    words = {"mime": {"beta1": 0.5, "corrected": True}, "returns": ["gradient"]}
    one, _ = run(home, Case(name="first", batch=8, words=words))
    before = load_file(home / "first-1-1-gradient")
    shared = {"c": str(home / "first-1-1-gradient"), "m": str(home / "first-1-1-gradient")}
    alone, _ = run(home, Case(name="alone", batch=8, words=words, shared=shared))
    got = run_group(
        home,
        2,
        [
            Case(name="three-one", batch=4, shares=(3, 1), words=words, shared=shared),
            Case(name="kept", batch=2, shares=(3, 1), words=words, shared=shared, training={"accumulate": 2}),
            Case(name="equal", batch=4, words=words, shared=shared),
        ],
    )
    for name in ("three-one", "kept"):
        assert_equal_but_for_rounding(got[name][0], alone, home / "first")
    for name in ("three-one", "kept", "equal"):
        gradient = load_file(home / f"{name}-2-1-gradient")
        for tensor, values in before.items():
            np.testing.assert_allclose(gradient[tensor], values, rtol=0, atol=1e-7)
            assert np.abs(values).max() > 1e-3
    assert any(np.abs(values - alone[name]).max() > 1e-3 for name, values in one.items()), "c and m count"


@pytest.mark.parametrize("drop_last", [False, True])
def test_every_example_is_somebodys_and_only_once(drop_last: bool) -> None:
    shares = (2.0, 1.0, 1.0)
    ranks = [SharedBatches(29, 7, shares, rank, True, 5, drop_last) for rank in range(3)]
    for _ in range(2):
        seen: Counter[int] = Counter()
        batches = [list(rank) for rank in ranks]
        assert {len(of_rank) for of_rank in batches} == {4 if drop_last else 5}, "all come to every step"
        for rank, of_rank in zip(ranks, batches, strict=True):
            for number, batch in enumerate(of_rank, 1):
                own = rank.plan(number)[0]
                seen.update(batch[:own])
                assert len(batch) == max(1, own)
        assert set(seen.values()) == {1} and len(seen) == (28 if drop_last else 29)
    assert sum(rank.examples for rank in ranks) == (28 if drop_last else 29)


def test_whole_numbers_follow_the_shares() -> None:
    assert split(8, (3, 1)) == [6, 2]
    assert split(1, (1, 1, 1)) == [1, 0, 0]
    assert split(10, (1, 1, 1)) == [4, 3, 3]
    assert split(0, (3, 1)) == [0, 0]
    assert by_speed([300.0, 100.0]) == (48.0, 16.0)
    assert by_speed([1e9, 1.0]) == (64.0, 1.0), "the slowest still takes part"
    assert by_speed([300.0, 0.0]) == (1.0, 1.0)


@pytest.mark.parametrize("shares", [(1,), (1, 0), (1, -1), (1, float("nan")), (1, "x"), (1, 2, 3)])
def test_unusable_shares_are_told(shares: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="OCT-CONFIG-INVALID"):
        checked(shares, 2)
