"""The strategies against their papers, calculated by hand in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.wire.errors import UserError
from tests.aggregation.strategy_contract import StrategyContract


def mean(deltas: list[Any], weights: list[float]) -> Any:
    return sum(w * d for w, d in zip(weights, deltas, strict=True))


class TestFedAvg(StrategyContract):
    name = "fedavg"

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + mean(deltas, weights)


class TestFedAvgWithServerRate(TestFedAvg):
    parameters = {"server_rate": 0.5}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + 0.5 * mean(deltas, weights)


class TestFedAvgM(StrategyContract):
    name = "fedavgm"
    parameters = {"server_rate": 0.7, "momentum": 0.8}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        state["v"] = 0.8 * state.get("v", 0.0) + mean(deltas, weights)
        return x + 0.7 * state["v"]


class TestFedAdam(StrategyContract):
    name = "fedadam"
    parameters = {"server_rate": 0.1, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        delta = mean(deltas, weights)
        state["m"] = 0.8 * state.get("m", 0.0) + 0.2 * delta
        state["v"] = 0.95 * state.get("v", 0.01**2) + 0.05 * delta**2
        return x + 0.1 * state["m"] / (np.sqrt(state["v"]) + 0.01)


def test_weights_are_shares_of_the_examples() -> None:
    answers = [AnswerFacts(silo="a", examples=30), AnswerFacts(silo="b", examples=10)]
    assert make("fedavg", {}).weights(answers) == [0.75, 0.25]


def test_answers_without_examples_cannot_be_weighed() -> None:
    with pytest.raises(UserError) as error:
        make("fedavg", {}).weights([AnswerFacts(silo="a")])
    assert error.value.code == "OCT-MODEL-WEIGHT"


def test_an_unknown_strategy_or_update_is_refused_with_what_is_known() -> None:
    with pytest.raises(UserError, match="fedadam, fedavg, fedavgm"):
        make("fedmagic", {})
    with pytest.raises(UserError, match='"weights" or the "difference"'):
        make("fedavg", {}, "gradients")
