"""A job's own strategy in its process: the numbers that NumPy gives, whatever the tiles, the window and the threads."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.fold import RejectedUpdates, fold
from octopus_desktop.aggregation.own import host
from octopus_desktop.aggregation.own.strategy import LANES, OwnStrategy
from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.aggregation.strategies import Tile, make, weighing
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from tests.aggregation.own_strategies import CLIPPED, LAGGING, NESTEROV, combining, make_package, own
from tests.aggregation.test_aggregation_fold import Bench

EXAMPLES = (304, 293, 123)
ASKED = """
    def configure(self, round):
        print('asked', round)
        return {'name': self.name, 'mu': round}
"""


def facts(count: int = 3) -> list[AnswerFacts]:
    return [AnswerFacts(silo=f"s{i}", examples=EXAMPLES[i % 3], staleness=i) for i in range(count)]


@contextmanager
def closing(strategy: OwnStrategy) -> Iterator[OwnStrategy]:
    try:
        yield strategy
    finally:
        strategy.close()


def below() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


@pytest.mark.parametrize("update", ["weights", "difference"])
def test_follows_numpy_round_after_round_with_its_state_in_slots(tmp_path: Path, update: str) -> None:
    random = np.random.default_rng(1)
    x = random.normal(size=500).astype(np.float32)
    exact, velocity, slots = x.astype(np.float64), np.zeros(500), {"velocity": np.zeros(500, np.float32)}
    shares = np.array(EXAMPLES) / sum(EXAMPLES)
    with closing(own(tmp_path, NESTEROV, "Nesterov", update=update, momentum=0.5, server_rate=0.7)) as strategy:
        assert strategy.weights(facts()) == pytest.approx(list(shares))
        for number in range(1, 5):
            deltas = [random.normal(scale=0.1, size=500).astype(np.float32) for _ in EXAMPLES]
            sent = deltas if update == "difference" else [x + d for d in deltas]
            x = strategy.combine(Tile.of(x, sent, strategy.weights(facts()), slots=slots, round=number))
            delta = shares @ np.stack(deltas).astype(np.float64)
            velocity = 0.5 * velocity + delta
            exact = exact + 0.7 * (delta + 0.5 * velocity)
            np.testing.assert_allclose(x, exact, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(slots["velocity"], velocity, rtol=1e-5, atol=1e-5)


def test_a_pairwise_one_weighs_by_the_updates_lengths(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with closing(own(tmp_path, CLIPPED, "Clipped", norm=40.0)) as strategy:
        model = bench.model(bench.fold(strategy, weights=weighing(strategy, facts())))
    name = "head.weight"
    names = [n for n, t in bench.values[0].items() if t.is_floating_point()]
    base = bench.values[0]
    total = np.zeros(base[name].shape)
    for value, examples in zip(bench.values[1:], EXAMPLES, strict=True):
        length = np.sqrt(sum(float(((value[n] - base[n]).double() ** 2).sum()) for n in names))
        total += examples / sum(EXAMPLES) * min(1.0, 40.0 / length) * (value[name] - base[name]).double().numpy()
    np.testing.assert_allclose(model[name].numpy(), base[name].double().numpy() + total, rtol=1e-4, atol=1e-5)


def test_an_asynchronous_one_says_its_buffer_and_staleness(tmp_path: Path) -> None:
    config = RunConfig(
        strategy="strategy:Lagging", mode="async", update="difference", strategy_parameters={"buffer": 2}
    )
    with closing(require_runnable(config, make_package(tmp_path, LAGGING), 3)) as strategy:  # type: ignore[type-var]
        assert (strategy.modes, strategy.asynchronous, strategy.name) == (("async",), (2, -1), "Lagging")
        assert strategy.weights(facts()) == [1 / 3, 1 / 6, 1 / 12]
        tile = Tile.of(np.ones(5, np.float64), [np.full(5, float(i)) for i in range(3)], [0.5, 0.25, 0.125])
        np.testing.assert_array_equal(strategy.combine(tile), np.full(5, 1.5))


def test_the_wrong_mode_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not work in async mode"):
        require_runnable(RunConfig(strategy="strategy:Nesterov", mode="async"), make_package(tmp_path, NESTEROV), 3)
    assert below() == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_whole_fold_gives_the_bits_of_one_of_ours_with_the_same_formula(tmp_path: Path, dtype: str) -> None:
    import torch

    bench = Bench(tmp_path, getattr(torch, dtype))
    same = combining("return weighted_sum(tile)")
    with closing(own(tmp_path, same, "Mine")) as strategy:
        for threads in (1, 4):
            got = bench.fold(strategy, threads=threads, tile_bytes=4096)
            assert got.model == bench.fold(make("fedavg", {}), threads=threads).model


def test_more_silos_than_the_window_holds_change_no_bit(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    updates = [random.normal(size=300).astype(np.float32) for _ in range(21)]
    source = combining("stack = tile.stack(); stack.sort(axis=0); return stack[10] + tile.read(20) + tile.read(0)")
    want = np.sort(np.stack(updates), axis=0)[10] + updates[20] + updates[0]
    for window in (1, 4, 16):
        with closing(own(tmp_path, source, "Mine", silos=21, window=window)) as strategy:
            tile = Tile.of(np.zeros(300, np.float32), updates, [1.0] * 21)
            np.testing.assert_array_equal(strategy.combine(tile), want)


def test_words_for_the_silos_are_asked_once_a_round_and_ahead_of_it(tmp_path: Path) -> None:
    source = combining("return tile.current") + ASKED
    said: list[str] = []
    told = lambda level, source, text: said.append(text)  # noqa: E731
    with closing(own(tmp_path, source, "Mine", rounds=2, say=told)) as strategy:
        assert [strategy.configure(1) for _ in range(3)] == [{"name": "Mine", "mu": 1}] * 3
        strategy.weights(facts())
        assert strategy.configure(2)["mu"] == 2
        strategy.weights(facts())  # of the last round: none follows
    assert said == ["asked 1", "asked 2"]


def test_nothing_of_a_round_is_left_in_the_instance(tmp_path: Path) -> None:
    source = combining("self.seen = getattr(self, 'seen', 0) + 1; return tile.current + self.seen")
    with closing(own(tmp_path, source, "Mine")) as strategy:
        got = []
        for _ in range(2):
            weights = strategy.weights(facts())
            got.append(strategy.combine(Tile.of(np.zeros(2, np.float32), [np.zeros(2, np.float32)] * 3, weights))[0])
    assert got == [1.0, 1.0]


def test_an_unsound_update_is_told_as_such_and_the_next_fold_is_right(tmp_path: Path) -> None:
    """The process is in the middle of a tile when the update turns out to be none; it is started again."""
    bench = Bench(tmp_path)
    bad = bench.root / "short.safetensors"
    bad.write_bytes(bench.paths[2].read_bytes())
    with closing(own(tmp_path, NESTEROV, "Nesterov", window=1)) as strategy:
        import torch

        bench.rewrite(2, **{"head.weight": torch.full((40, 1001), float("nan"))})
        with pytest.raises(RejectedUpdates) as error:
            bench.fold(strategy, weights=strategy.weights(facts()))
        assert list(error.value.faults) == ["silo2"]
        bench.rewrite(2)
        first = bench.fold(strategy, weights=strategy.weights(facts()))
        strategy.close()
        assert bench.fold(strategy, weights=strategy.weights(facts())).model == first.model


def test_memory_does_not_grow_with_model_and_silos(tmp_path: Path) -> None:
    """40 updates of 16 MiB: the fold's process and the strategy's together hold far less than two models more."""
    from safetensors.numpy import save_file

    values = np.zeros(4 << 20, np.float32)
    save_file({"w": values}, tmp_path / "model")
    paths = []
    for i in range(40):
        values[:] = i
        save_file({"w": values}, tmp_path / f"u{i}")
        paths.append((f"s{i}", tmp_path / f"u{i}"))
    del values
    with closing(own(tmp_path, NESTEROV, "Nesterov", silos=40)) as strategy:
        before = psutil.Process().memory_full_info().uss + sum(p.memory_full_info().uss for p in below())
        folded = fold(
            strategy, model=tmp_path / "model", updates=paths, weights=[1 / 40] * 40, store=BlobStore(tmp_path / "b")
        )
        after = psutil.Process().memory_full_info().uss + sum(p.memory_full_info().uss for p in below())
    assert folded.model.size > 16 << 20
    assert after - before < 32 << 20


def test_close_leaves_no_process(tmp_path: Path) -> None:
    strategy = own(tmp_path, NESTEROV, "Nesterov")
    assert below()
    strategy.close()
    assert below() == []
    strategy.close()


def test_its_parameters_are_checked_as_ours_are(tmp_path: Path) -> None:
    for wrong, words in (({"momentum": 1.5}, "out of range"), ({"mumentum": 0.5}, "no parameter 'mumentum'")):
        with pytest.raises(UserError, match=words) as error:
            own(tmp_path, NESTEROV, "Nesterov", **wrong)
        assert error.value.code == "OCT-STRATEGY-PARAMETER"
    assert below() == []


def test_without_its_package_it_cannot_be_had() -> None:
    with pytest.raises(UserError, match="only be had with its package"):
        make("strategy:Mine", {})
    with pytest.raises(UserError, match="only be had with its package"):
        require_runnable(RunConfig(strategy="strategy:Mine"))


def test_without_a_sandbox_it_runs_all_the_same_and_says_so(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("OCTOPUS_SANDBOX", "off")
    said: list[tuple[str, str]] = []
    with closing(
        own(tmp_path, NESTEROV, "Nesterov", say=lambda level, _, text: said.append((level, text)))
    ) as strategy:
        assert strategy.weights(facts())
    assert said == [("warning", "The job's own strategy runs without a sandbox: OCTOPUS_SANDBOX is set to off.")]


def test_a_bubblewrap_that_does_not_work_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    broken = tmp_path / "bin" / "bwrap"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'No permissions to create a new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
    said: list[str] = []
    with closing(own(tmp_path, NESTEROV, "Nesterov", say=lambda level, _, text: said.append(text))) as strategy:
        assert strategy.weights(facts())
    assert any("bubblewrap does not work here: No permissions to create a new namespace" in text for text in said)


def test_a_system_that_cannot_hold_its_process_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    import socket

    monkeypatch.delattr(socket, "send_fds")
    with pytest.raises(UserError, match="cannot run on this machine") as error:
        own(tmp_path, NESTEROV, "Nesterov")
    assert error.value.code == "OCT-RUN-STRATEGY"


def test_a_sandbox_that_is_slow_to_start_is_not_done_without(tmp_path: Path, monkeypatch: Any) -> None:
    slow = tmp_path / "bin" / "bwrap"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(host, "START_S", 0.2)
    said: list[str] = []
    with pytest.raises(UserError, match="did not answer in time"):
        own(tmp_path, NESTEROV, "Nesterov", say=lambda level, _, text: said.append(text))
    assert said == [] and below() == []


def test_who_comes_when_it_has_ended_is_told_so_and_does_not_wait(tmp_path: Path) -> None:
    strategy = own(tmp_path, NESTEROV, "Nesterov")
    ended = strategy._ready()
    strategy.close()
    for _ in range(2 * LANES):
        with pytest.raises(UserError, match="was ended"), ended.lane() as lane:
            lane.ask("configure", round=1)
