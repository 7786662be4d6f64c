"""What every strategy must do; a test class per strategy supplies only the strategy and a NumPy calculation by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies import STRATEGIES, Strategy, Tile, make, weighing
from octopus_desktop.jobs.returned import returned
from octopus_desktop.wire.errors import UserError

SILOS, LENGTH, ROUNDS = 3, 1000, 4
EXAMPLES = (304, 293, 123)
STEPS = (10, 40, 5)
LOCAL_RATE = 0.1
COHORT = 5  # of which SILOS answer


def facts() -> list[AnswerFacts]:
    return [
        AnswerFacts(
            silo=f"s{i}",
            examples=n,
            steps=STEPS[i],
            staleness=i,
            metrics={"train/rate_sum": STEPS[i] * LOCAL_RATE, "eval/loss": 0.5 + i},
        )
        for i, n in enumerate(EXAMPLES)
    ]


class StrategyContract:
    name: str
    parameters: dict[str, Any] = {}
    rate = "server_rate"
    updates: tuple[str, ...] = ("weights", "difference")

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        """The paper's formula in float64, on whole arrays; keeps its own state in ``state``, where it finds under
        ``returned`` what the silos sent beside their updates: name to one array a silo."""
        raise AssertionError("say what the paper says")

    def make(self, update: str) -> Strategy:
        strategy = make(self.name, self.parameters, update)
        strategy.cohort = COHORT
        return strategy

    def rounds(self, update: str, cuts: list[int]) -> tuple[Any, Any]:
        """(by the strategy in tiles that end at ``cuts``, by the reference), after a few rounds."""
        random, strategy = np.random.default_rng(1), self.make(update)
        x = random.normal(size=LENGTH).astype(np.float32)
        exact, state = x.astype(np.float64), {}
        slots = {n: np.full(LENGTH, value, np.float32) for n, value in strategy.slots().items()}
        given = weighing(strategy, facts()[:SILOS])
        for number in range(1, ROUNDS + 1):
            deltas = [random.normal(scale=0.1, size=LENGTH).astype(np.float32) for _ in range(SILOS)]
            flat = np.stack(deltas).astype(np.float64)
            weights = list(given(flat @ flat.T) if callable(given) else given)
            sent = deltas if update == "difference" else [x + d for d in deltas]
            beside = {n: [random.normal(size=LENGTH).astype(np.float32) for _ in sent] for n in strategy.returns}
            state["returned"] = {n: [one.astype(np.float64) for one in every] for n, every in beside.items()}
            exact = self.reference(exact, [d.astype(np.float64) for d in deltas], weights, state)
            new = np.empty_like(x)
            for a, b in zip([0, *cuts], [*cuts, LENGTH], strict=True):
                tile = Tile.of(
                    x[a:b].copy(),
                    [u[a:b] for u in sent],
                    weights,
                    slots={n: v[a:b] for n, v in slots.items()},
                    returned={n: [one[a:b] for one in every].__getitem__ for n, every in beside.items()},
                    round=number,
                )
                new[a:b] = strategy.combine(tile)
            x = new
        return x, exact

    @pytest.mark.parametrize("update", ["weights", "difference"])
    def test_follows_the_paper(self, update: str) -> None:
        if update not in self.updates:
            with pytest.raises(UserError, match=r"in \[run\]"):
                self.make(update)
            return
        got, exact = self.rounds(update, [])
        np.testing.assert_allclose(got, exact, rtol=3e-4, atol=3e-5)

    @pytest.mark.parametrize("update", ["weights", "difference"])
    def test_tiles_do_not_change_a_bit(self, update: str) -> None:
        update = update if update in self.updates else self.updates[0]
        whole, _ = self.rounds(update, [])
        cut, _ = self.rounds(update, [1, 18, 500, 997])
        assert whole.tobytes() == cut.tobytes()

    def test_is_registered_and_refuses_what_it_does_not_know(self) -> None:
        assert self.name in STRATEGIES
        with pytest.raises(UserError, match="no parameter 'nonsense'") as error:
            make(self.name, {"nonsense": 1}, self.updates[0])
        assert error.value.code == "OCT-STRATEGY-PARAMETER"

    @pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), True, "fast"])
    def test_refuses_a_server_rate_that_is_none(self, value: Any) -> None:
        with pytest.raises(UserError, match="out of range"):
            make(self.name, {self.rate: value}, self.updates[0])

    def test_its_words_for_the_silos_are_json(self) -> None:
        import json

        assert json.loads(json.dumps(self.make(self.updates[0]).configure(3)))["name"] == self.name

    def test_what_it_has_silos_return_is_what_administrators_read(self) -> None:
        strategy = self.make(self.updates[0])
        assert tuple(strategy.returns) == returned(self.name)
        assert list(strategy.configure(1).get("returns", ())) == list(returned(self.name))
