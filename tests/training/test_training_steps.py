"""How batches become steps on one worker: collected, cut, scaled; the trainer's code knows nothing of it."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from octopus_desktop.jobs.manifest import RunConfig, Training
from octopus_desktop.training.corrections import Corrections
from octopus_desktop.training.numerics import Numerics
from octopus_desktop.training.parallel import Parallel
from octopus_desktop.training.sdk import ClientTrainer, Silent
from octopus_desktop.training.steps import FIRST_SCALE, Steps
from octopus_desktop.wire.errors import UserError
from tests.training.groups import Case, make_rows, run


class Heard(Silent):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, level: str, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    torch.set_num_threads(1)
    return make_rows(tmp_path, training_rows=361)


def fitted(
    training: Training,
    batches: list[torch.Tensor],
    optimiser: Callable[..., torch.optim.Optimizer] = torch.optim.SGD,
    told: bool = False,
) -> tuple[torch.Tensor, Corrections]:
    """The weights of a small linear model after a step for each batch."""
    model = nn.Linear(3, 1, bias=False)
    nn.init.ones_(model.weight)
    chosen = optimiser(model.parameters(), lr=0.1)
    pace = Steps(training)
    corrections = Corrections({}, model, {}, None, 1, pace)
    with pace, corrections:
        for number, batch in enumerate(batches, 1):
            if told:
                pace.batch(len(batch), len(batch), number, number == len(batches))
            loss = (model(batch) ** 2).mean()
            chosen.zero_grad()
            loss.backward()
            chosen.step()
    return model.weight.detach(), corrections


@pytest.mark.parametrize("optimiser", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_batches_that_are_collected_equal_the_big_batch(optimiser: Callable[..., torch.optim.Optimizer]) -> None:
    rows = torch.randn(22, 3, generator=torch.Generator().manual_seed(1))
    small, counted = fitted(Training(accumulate=3), list(rows.split(4)), optimiser, told=True)
    big, _ = fitted(Training(), list(rows.split(12)), optimiser, told=True)
    torch.testing.assert_close(small, big, rtol=1e-6, atol=1e-6)
    assert counted.steps == 2 and counted.rate_sum == pytest.approx(0.2)


def test_batches_of_the_trainers_own_count_alike_and_what_is_left_over_is_dropped() -> None:
    rows = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
    small, counted = fitted(Training(accumulate=2), list(rows.split(4)))
    big, _ = fitted(Training(), list(rows[:16].split(8)))
    torch.testing.assert_close(small, big, rtol=1e-6, atol=1e-6)
    assert counted.steps == 2


def test_an_optimiser_with_a_closure_is_refused_where_batches_are_collected() -> None:
    model = nn.Linear(3, 1)
    optimiser = torch.optim.LBFGS(model.parameters())
    with Steps(Training(accumulate=2)), pytest.raises(UserError, match="closure"):
        optimiser.step(lambda: model(torch.ones(1, 3)).sum())


def test_a_parameter_without_a_part_in_the_last_batch_keeps_what_it_got_before() -> None:
    left, right = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([left, right], lr=1.0)
    with Steps(Training(accumulate=2)):
        for loss in (lambda: 4 * left + right, lambda: right):
            optimiser.zero_grad()
            loss().sum().backward()
            optimiser.step()
    assert (left.item(), right.item()) == (-1.0, 0.0)


def test_no_gradient_is_longer_than_its_bound_and_short_ones_stay() -> None:
    row = torch.tensor([[3.0, 0.0, 4.0]])
    for bound, length in ((0.5, 0.5), (1e6, 70.0)):  # d/dw (w·x)² = 2 (w·x) x = 14 x
        weights, _ = fitted(Training(clip_norm=bound), [row])
        moved = float((weights - 1).norm()) / 0.1
        assert moved <= length * (1 + 1e-6) and moved == pytest.approx(length, rel=1e-4)


def test_bfloat16_is_used_and_the_weights_stay_what_they_are(home: Path) -> None:
    full, _ = run(home, Case(name="full", batch=8))
    brief, facts = run(home, Case(name="brief", batch=8, training={"precision": "bf16"}))
    assert facts[0][:2] == [361, 46]
    for name, values in full.items():
        assert brief[name].dtype == np.float32
        np.testing.assert_allclose(brief[name], values, atol=0.01)
    assert any(np.any(brief[name] != values) for name, values in full.items())
    again, _ = run(home, Case(name="again", batch=8, training={"precision": "bf16"}))
    assert all(np.array_equal(again[name], values) for name, values in brief.items())


def test_autocast_sees_the_weights_of_each_step() -> None:
    """torch caches cast weights as long as the context lives: around all of a training that would be for ever."""
    numerics = Numerics(Training(precision="bf16"), torch.device("cpu"), Silent())
    model = nn.Linear(1, 1, bias=False)
    with numerics.autocast():
        first = model(torch.ones(1, 1)).item()
        with torch.no_grad():
            model.weight.add_(8)
        assert model(torch.ones(1, 1)).item() == pytest.approx(first + 8, abs=0.1)


def test_collecting_in_the_engine_equals_the_big_batch(home: Path) -> None:
    big, facts = run(home, Case(name="big", batch=8))
    small, counted = run(home, Case(name="small", batch=2, training={"accumulate": 4}))
    assert counted[0][:2] == facts[0][:2] == [361, 46]
    for name, values in big.items():
        np.testing.assert_allclose(small[name], values, rtol=0, atol=2e-6)


# float16: the arithmetic is the GPU's, the scaling can be seen anywhere


def scaling(**changes: Any) -> Steps:
    pace = Steps(Training(precision="fp16", **changes))
    pace.scaling = True  # as on a GPU
    return pace


def test_a_scaled_loss_gives_the_step_of_the_loss_itself() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    with scaling(accumulate=2) as pace:
        for factor in (1.0, 3.0):
            optimiser.zero_grad()
            pace.scaled((weight * factor).sum()).backward()
            optimiser.step()
    assert weight.tolist() == [-1.0, -1.0]


def test_a_step_that_overflows_is_left_out_and_the_scale_halved() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimiser = torch.optim.SGD([weight], lr=1.0)
    with scaling() as pace:
        pace.scaled(weight.sum() * math.inf).backward()
        optimiser.step()
        assert weight.tolist() == [1.0, 1.0] and pace.holding and pace.scale == FIRST_SCALE / 2
        optimiser.zero_grad()
        pace.scaled(weight.sum()).backward()
        optimiser.step()
        assert weight.tolist() == [0.0, 0.0] and not pace.holding


def test_float16_without_a_gpu_is_told_and_computed_in_full() -> None:
    heard = Heard()
    numerics = Numerics(Training(precision="fp16"), torch.device("cpu"), heard)
    with numerics.autocast():
        assert nn.Linear(1, 1)(torch.ones(1, 1)).dtype == torch.float32
    assert "float16" in heard.lines[0]
    assert not numerics.steps(1, (), False).scaling


# what does not go together


@pytest.mark.parametrize(
    ("config", "words", "shares", "told"),
    [
        (RunConfig(), {}, (3.0, 1.0), "shares"),
        (RunConfig(personal_layers=("1.*",)), {}, (), "personal layers"),
        (RunConfig(strategy="scaffold"), {"scaffold": True}, (), "scaffold"),
    ],
)
def test_what_needs_the_whole_model_is_refused_for_shards(
    config: RunConfig, words: dict[str, Any], shares: tuple[float, ...], told: str
) -> None:
    sharded = replace(config, training=Training(parallel="fsdp"))
    with pytest.raises(UserError, match="OCT-CONFIG-INVALID") as caught:
        Parallel(sharded, torch.device("cpu"), 0, 2).require_plain(words, shares)
    assert told in caught.value.what
    Parallel(sharded, torch.device("cpu"), 0, 1).require_plain(words, shares)
    Parallel(config, torch.device("cpu"), 0, 2).require_plain(words, shares)


def test_unequal_numbers_of_steps_do_not_go_with_collected_batches() -> None:
    class Uneven(ClientTrainer):
        uneven_steps = True

    parallel = Parallel(RunConfig(), torch.device("cpu"), 0, 2)
    with pytest.raises(UserError, match="OCT-CONFIG-INVALID"):
        parallel.evenly(nn.Linear(1, 1), Uneven(), Steps(Training(accumulate=2), world_size=2))


# compiling


def test_without_a_compiler_the_model_is_run_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    heard = Heard()
    model = nn.Linear(1, 1)
    assert Numerics(Training(compile=True), torch.device("cpu"), heard).compiled(model) is model
    assert "compiler" in heard.lines[0]


def test_a_compiled_model_trains_to_the_same_weights(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not os.environ.get("OCTOPUS_BIG_TESTS"):
        monkeypatch.setattr(torch, "compile", lambda model: torch.nn.Sequential(model))  # the way, without the minute
    plain, _ = run(home, Case(name="plain", batch=8))
    compiled, facts = run(home, Case(name="compiled", batch=8, training={"compile": True}))
    assert facts[0][:2] == [361, 46]
    for name, values in plain.items():
        np.testing.assert_allclose(compiled[name], values, rtol=0, atol=1e-5)
