"""The strategies against their papers, calculated by hand in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from octopus_desktop.aggregation.facts import AnswerFacts
from octopus_desktop.aggregation.strategies import Tile, make, weighing
from octopus_desktop.wire.errors import UserError
from tests.aggregation.strategy_contract import COHORT, EXAMPLES, LOCAL_RATE, STEPS, StrategyContract, facts

SHARES = [n / sum(EXAMPLES) for n in EXAMPLES]


def mean(deltas: list[Any], weights: list[float]) -> Any:
    return sum(w * np.asarray(d) for w, d in zip(weights, deltas, strict=True))


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


class TestFedYogi(StrategyContract):
    name = "fedyogi"
    parameters = {"server_rate": 0.1, "beta1": 0.8, "beta2": 0.95, "tau": 0.01}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        delta = mean(deltas, weights)
        v = state.get("v", 0.01**2)
        state["m"] = 0.8 * state.get("m", 0.0) + 0.2 * delta
        state["v"] = v - 0.05 * delta**2 * np.sign(v - delta**2)
        return x + 0.1 * state["m"] / (np.sqrt(state["v"]) + 0.01)


class TestFedAdagrad(StrategyContract):
    name = "fedadagrad"
    parameters = {"server_rate": 0.1, "beta1": 0.3, "tau": 0.01}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        delta = mean(deltas, weights)
        state["m"] = 0.3 * state.get("m", 0.0) + 0.7 * delta
        state["v"] = state.get("v", 0.01**2) + delta**2
        return x + 0.1 * state["m"] / (np.sqrt(state["v"]) + 0.01)


class TestFedNova(StrategyContract):
    name = "fednova"
    parameters = {"server_rate": 0.9}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        p = np.array(EXAMPLES) / sum(EXAMPLES)
        effective = float(p @ np.array(STEPS))
        return x + 0.9 * effective * sum(p[k] * d / STEPS[k] for k, d in enumerate(deltas))

    def test_equal_steps_make_it_fedavg(self) -> None:
        answers = [AnswerFacts(silo=f"s{i}", examples=n, steps=7) for i, n in enumerate(EXAMPLES)]
        np.testing.assert_allclose(make("fednova", {}).weights(answers), make("fedavg", {}).weights(answers))

    def test_it_corrects_the_inconsistent_objective(self) -> None:
        """The paper's section 3: two quadratic silos ½(w - c)², one takes 10 local steps, the other one. FedAvg ends
        near the busier silo's optimum, FedNova at that of the sum."""
        ends = {}
        for name in ("fedavg", "fednova"):
            strategy, w = make(name, {}, "difference"), np.zeros(1, np.float32)
            for _ in range(200):
                deltas = []
                for centre, steps in ((0.0, 10), (1.0, 1)):
                    local = w.copy()
                    for _ in range(steps):
                        local -= np.float32(0.05) * (local - np.float32(centre))
                    deltas.append(local - w)
                answers = [AnswerFacts(silo=s, examples=1, steps=n) for s, n in (("a", 10), ("b", 1))]
                w = strategy.combine(Tile.of(w, deltas, strategy.weights(answers))).copy()
            ends[name] = float(w[0])
        assert ends["fedavg"] < 0.2
        assert abs(ends["fednova"] - 0.5) < 0.15

    def test_a_silo_without_steps_cannot_be_weighed(self) -> None:
        with pytest.raises(UserError, match="s1 report no local optimiser step") as error:
            make("fednova", {}).weights([AnswerFacts(silo="s1", examples=3)])
        assert error.value.code == "OCT-MODEL-WEIGHT"


class TestFedProx(TestFedAvg):
    name = "fedprox"
    parameters = {"mu": 0.3}

    def test_it_asks_the_silos_to_stay_near(self) -> None:
        assert make("fedprox", {"mu": 0.3}).configure(1) == {"name": "fedprox", "proximal": 0.3}


class TestFedSGD(TestFedAvgWithServerRate):
    name = "fedsgd"

    def test_it_asks_for_one_step_on_all_examples(self) -> None:
        assert make("fedsgd", {}).configure(1) == {"name": "fedsgd", "full_batch": True, "steps": 1}


class TestScaffold(StrategyContract):
    name = "scaffold"
    parameters = {"server_rate": 0.8}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        """By the silos' own control variates, as the algorithm is written."""
        c = state.get("c", np.zeros_like(x))
        own = state.setdefault("own", [np.zeros_like(x) for _ in deltas])
        changes = []
        for k, delta in enumerate(deltas):
            new = own[k] - c - delta / (STEPS[k] * LOCAL_RATE)
            changes.append(new - own[k])
            own[k] = new
        state["c"] = c + sum(changes) / COHORT
        return x + 0.8 * sum(deltas) / len(deltas)

    def test_its_state_follows_the_silos_own(self) -> None:
        """c after each round is the paper's, though no silo sends its c_k."""
        strategy, random = self.make("difference"), np.random.default_rng(2)
        x, state, c = np.zeros(50), {}, np.zeros(50, np.float32)
        for _ in range(5):
            deltas = [random.normal(size=50).astype(np.float32) for _ in STEPS]
            x = self.reference(x, deltas, [], state)
            tile = Tile.of(np.zeros(50, np.float32), deltas, strategy.weights(facts()), slots={"c": c})
            strategy.combine(tile)
            np.testing.assert_allclose(c, state["c"], rtol=1e-4, atol=1e-5)

    def test_a_silo_without_rates_is_named(self) -> None:
        with pytest.raises(UserError, match="s1 report no learning rate"):
            make("scaffold", {}).weights([AnswerFacts(silo="s1", examples=3)])


class TestFedDyn(StrategyContract):
    name = "feddyn"
    rate = "alpha"
    parameters = {"alpha": 0.4}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        state["h"] = state.get("h", 0.0) - 0.4 / COHORT * sum(deltas)
        return x + sum(deltas) / len(deltas) - state["h"] / 0.4


class TestMimeLite(StrategyContract):
    name = "mimelite"
    parameters = {"server_rate": 0.7, "beta1": 0.8}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + 0.7 * mean(deltas, weights)

    def test_its_momentum_is_that_of_the_mean_gradient(self) -> None:
        state = after_one_round(self.make("difference"), [np.float32([1, -2]), np.float32([3, 0]), np.float32([0, 5])])
        np.testing.assert_allclose(state["m"], 0.2 * mean([[1, -2], [3, 0], [0, 5]], SHARES), rtol=1e-5)

    def test_refuses_another_optimiser_and_what_only_adam_has(self) -> None:
        with pytest.raises(UserError, match="optimiser"):
            make(self.name, {"optimiser": "lion"})
        with pytest.raises(UserError, match="no parameter 'tau'"):
            make(self.name, {"tau": 0.1})


class TestMimeWithAdam(StrategyContract):
    name = "mime"
    parameters = {"optimiser": "adam", "beta1": 0.8, "beta2": 0.95, "tau": 0.1}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + mean(deltas, weights)

    def test_its_state_is_adams_and_the_mean_gradient(self) -> None:
        state = after_one_round(self.make("weights"), [np.float32([1, -2]), np.float32([3, 0]), np.float32([0, 5])])
        together = mean([[1, -2], [3, 0], [0, 5]], SHARES)
        np.testing.assert_allclose(state["c"], together, rtol=1e-5)
        np.testing.assert_allclose(state["m"], 0.2 * together, rtol=1e-5)
        np.testing.assert_allclose(state["v"], 0.95 * 0.1**2 + 0.05 * together**2, rtol=1e-5)


def after_one_round(strategy: Any, gradients: list[Any]) -> dict[str, Any]:
    slots = {name: np.full(2, value, np.float32) for name, value in strategy.slots().items()}
    sent = {"gradient": gradients.__getitem__}
    given = strategy.weights(facts())
    updates = [np.zeros(2, np.float32) for _ in gradients]
    strategy.combine(Tile.of(np.zeros(2, np.float32), updates, given, slots=slots, returned=sent))
    return slots


class TestMedian(StrategyContract):
    name = "median"
    parameters = {"server_rate": 0.5}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + 0.5 * np.median(np.stack(deltas), axis=0)

    def test_an_even_number_takes_the_middle_two(self) -> None:
        updates = [np.array([v], np.float32) for v in (9.0, 1.0, 2.0, 4.0)]
        strategy = make("median", {})
        answers = [AnswerFacts(silo=str(i), examples=1) for i in range(4)]
        assert strategy.combine(Tile.of(np.zeros(1, np.float32), updates, strategy.weights(answers)))[0] == 3.0


class TestTrimmedMean(StrategyContract):
    name = "trimmed_mean"
    parameters = {"server_rate": 0.5, "trim": 0.34}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        ordered = np.sort(np.stack(deltas), axis=0)
        return x + 0.5 * ordered[1:-1].mean(axis=0)


def distances(deltas: list[Any]) -> Any:
    return np.array([[float(((a - b) ** 2).sum()) for b in deltas] for a in deltas])


class TestKrum(StrategyContract):
    name = "krum"
    parameters = {"byzantine": 0, "server_rate": 0.5}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        scores = [sorted(row)[1] for row in distances(deltas)]  # n - f - 2 = 1 neighbour
        return x + 0.5 * deltas[int(np.argmin(scores))]

    def test_it_says_how_many_answers_it_needs(self) -> None:
        with pytest.raises(UserError, match="It needs 5 answers for byzantine = 1") as error:
            make("krum", {}).weigh([AnswerFacts(silo=str(i), examples=1) for i in range(4)], np.eye(4))
        assert error.value.code == "OCT-RUN-QUORUM"


class TestMultiKrum(StrategyContract):
    name = "multi_krum"
    parameters = {"byzantine": 0, "keep": 2}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        scores = [sorted(row)[1] for row in distances(deltas)]
        best = np.argsort(scores, kind="stable")[:2]
        return x + (deltas[best[0]] + deltas[best[1]]) / 2


class TestRFA(StrategyContract):
    name = "rfa"
    parameters = {"iterations": 5, "server_rate": 0.5}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        shares = np.array(EXAMPLES) / sum(EXAMPLES)
        v = sum(a * d for a, d in zip(shares, deltas, strict=True))
        for _ in range(5):
            beta = [a / max(1e-6, float(np.sqrt(((v - d) ** 2).sum()))) for a, d in zip(shares, deltas, strict=True)]
            v = sum(b * d for b, d in zip(beta, deltas, strict=True)) / sum(beta)
        return x + 0.5 * v


class TestQFedAvg(StrategyContract):
    name = "qfedavg"
    parameters = {"q": 2.0, "local_rate": 0.2}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        losses, steps, total = (0.5, 1.5, 2.5), 0.0, 0.0
        for loss, delta in zip(losses, deltas, strict=True):
            way = -delta / 0.2  # Δw_k = L (x - y_k)
            steps = steps + loss**2 * way
            total += 2 * loss * float((way**2).sum()) + loss**2 / 0.2
        return x - steps / total

    def test_q_0_is_the_plain_mean(self) -> None:
        answers = [AnswerFacts(silo=str(i), examples=1, metrics={"eval/loss": 1.0 + i}) for i in range(4)]
        np.testing.assert_allclose(make("qfedavg", {"q": 0}).weigh(answers, np.eye(4)), [0.25] * 4)

    def test_a_silo_without_a_loss_is_named(self) -> None:
        with pytest.raises(UserError, match="s1 report no loss"):
            make("qfedavg", {}).weigh([AnswerFacts(silo="s1", examples=3)], np.eye(1))


@pytest.mark.parametrize("name", ["median", "trimmed_mean", "krum", "multi_krum", "rfa"])
def test_one_wild_silo_of_five_does_not_get_its_way(name: str) -> None:
    random = np.random.default_rng(0)
    honest = [random.normal(1.0, 0.1, 500).astype(np.float32) for _ in range(4)]
    wild = np.full(500, 1e6, np.float32)
    for place in range(5):
        updates = [*honest[:place], wild, *honest[place:]]
        answers = [AnswerFacts(silo=str(i), examples=1) for i in range(5)]
        strategy, flat = make(name, {}), np.stack(updates).astype(np.float64)
        given = weighing(strategy, answers)
        weights = given(flat @ flat.T) if callable(given) else given
        got = strategy.combine(Tile.of(np.zeros(500, np.float32), updates, list(weights)))
        assert np.abs(got - 1.0).max() < 0.5


class TestFedAsync(StrategyContract):
    name = "fedasync"
    rate = "mixing"
    updates = ("weights",)
    parameters = {"mixing": 0.5, "staleness": "polynomial", "a": 0.7}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        sent = [x + d for d in deltas]
        for k, model in enumerate(sent):
            alpha = 0.5 * (k + 1) ** -0.7
            x = (1 - alpha) * x + alpha * model
        return x

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            ({"staleness": "constant"}, [1.0, 1.0, 1.0]),
            ({"staleness": "polynomial", "a": 0.5}, [1.0, 3**-0.5, 11**-0.5]),
            ({"staleness": "hinge", "a": 10, "b": 4}, [1.0, 1.0, 1 / 61]),
        ],
    )
    def test_staleness_functions_of_section_5_2(self, words: dict[str, Any], expected: list[float]) -> None:
        strategy = make("fedasync", {"mixing": 1.0, **words})
        answers = [AnswerFacts(silo=str(d), examples=1, staleness=d) for d in (0, 2, 10)]
        np.testing.assert_allclose(strategy.weights(answers), expected)

    def test_an_unknown_function_and_half_a_version_are_refused(self) -> None:
        for words in ({"staleness": "exponential"}, {"max_staleness": 1.5}):
            with pytest.raises(UserError) as error:
                make("fedasync", words)
            assert error.value.code == "OCT-STRATEGY-PARAMETER"


class TestFedBuff(StrategyContract):
    name = "fedbuff"
    updates = ("difference",)
    parameters = {"buffer": 3, "server_rate": 0.5}

    def reference(self, x: Any, deltas: list[Any], weights: list[float], state: dict[str, Any]) -> Any:
        return x + 0.5 * sum(d / np.sqrt(1 + k) for k, d in enumerate(deltas)) / 3


def test_weights_are_shares_of_the_examples() -> None:
    answers = [AnswerFacts(silo="a", examples=30), AnswerFacts(silo="b", examples=10)]
    assert make("fedavg", {}).weights(answers) == [0.75, 0.25]


def test_answers_without_examples_cannot_be_weighed() -> None:
    with pytest.raises(UserError) as error:
        make("fedavg", {}).weights([AnswerFacts(silo="a")])
    assert error.value.code == "OCT-MODEL-WEIGHT"


def test_an_unknown_strategy_or_update_is_refused_with_what_is_known() -> None:
    with pytest.raises(UserError, match="fedadam, fedasync, fedavg"):
        make("fedmagic", {})
    with pytest.raises(UserError, match='"weights" or the "difference"'):
        make("fedavg", {}, "gradients")
