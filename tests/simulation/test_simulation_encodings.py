"""What encodings do to real jobs: the examples reach what they reach in float32, and error feedback is why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from octopus_desktop.simulation import example_data, layout
from octopus_desktop.simulation.jobs import Job, open_job
from octopus_desktop.simulation.simulator import SimulationResult, simulate
from octopus_desktop.wire.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "resources" / "examples"


class Example:
    """One example job with its real data, run in float32 once."""

    def __init__(self, job: Job, root: Path, words: list[str]) -> None:
        self.job, self._root, self._words = job, root, words
        self._plain: SimulationResult | None = None

    def run(self, encoding: str, parameters: dict[str, Any] | None = None, **more: Any) -> SimulationResult:
        data = layout.explicit(self.job, self._words)
        work = self._root / f"run-{len(list(self._root.glob('run-*')))}"
        run = {"encoding": encoding, **more.pop("run", {})}
        return simulate(self.job, data, {"run": run, "encoding": parameters or {}, **more}, work=work)

    @property
    def plain(self) -> SimulationResult:
        if self._plain is None:
            self._plain = self.run("none")
        return self._plain


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    root = tmp_path_factory.mktemp("digits")
    words = [f"{silo}:digits={path}" for silo, path in example_data.digits(root / "data").items()]
    with open_job(EXAMPLES / "digits", root) as job:
        yield Example(job, root, words)


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Example]:
    root = tmp_path_factory.mktemp("heart")
    words = [f"{silo}:patients={path}" for silo, path in example_data.heart(root / "data").items()]
    with open_job(EXAMPLES / "heart", root) as job:
        yield Example(job, root, words)


@pytest.mark.parametrize(
    ("example", "encoding", "parameters", "distance", "accuracy"),
    [
        ("digits", "fp16", {}, 0.001, 0.005),
        ("digits", "bf16", {}, 0.002, 0.005),
        ("digits", "int8", {}, 0.002, 0.005),
        ("digits", "int4", {}, 0.005, 0.005),
        ("digits", "topk", {"fraction": 0.1}, 0.03, 0.02),
        ("digits", "topk", {"fraction": 0.1, "values": "fp16"}, 0.03, 0.02),
        ("heart", "int8", {}, 0.002, 0.005),
        ("heart", "int4", {}, 0.005, 0.01),
        ("heart", "topk", {"fraction": 0.1}, 0.02, 0.01),
    ],
)
def test_an_encoded_run_ends_where_the_plain_one_does(
    example: str, encoding: str, parameters: dict[str, Any], distance: float, accuracy: float, request: Any
) -> None:
    """``distance``: of the final loss to float32's, over the same rounds and seeds."""
    lab: Example = request.getfixturevalue(example)
    plain, encoded = lab.plain.metrics, lab.run(encoding, parameters).metrics
    assert encoded["eval/loss"] == pytest.approx(plain["eval/loss"], abs=distance)
    assert encoded["eval/accuracy"] >= plain["eval/accuracy"] - accuracy


def test_feedback_is_what_makes_topk_learn(digits: Example) -> None:
    kept = digits.run("topk", {"fraction": 0.01}).metrics
    lost = digits.run("topk", {"fraction": 0.01, "feedback": False}).metrics
    assert kept["eval/loss"] < 0.7 * lost["eval/loss"]
    assert kept["eval/accuracy"] > lost["eval/accuracy"] + 0.05


def test_what_leaves_is_as_small_as_said(digits: Example) -> None:
    up = {name: _up(digits.run(name, run={"rounds": 1})) for name in ("none", "fp16", "int8", "int4", "topk")}
    share = {name: count / up["none"] for name, count in up.items()}
    assert share["fp16"] < 0.6 and share["int8"] < 0.36 and share["int4"] < 0.24 and share["topk"] < 0.12


def _up(result: SimulationResult) -> int:
    """Bytes that went up in one round: two models came down to each silo, one of them to be evaluated only."""
    return result.transferred - 2 * result.size * len(result.silos)


@pytest.mark.parametrize("encoding", ["int8", "topk"])
def test_the_same_seeds_give_the_same_bits(digits: Example, encoding: str) -> None:
    first, again = (digits.run(encoding, run={"rounds": 3}) for _ in range(2))
    assert first.digest == again.digest


@pytest.mark.parametrize(
    ("strategy", "update", "encoding"), [("fedasync", "weights", "int8"), ("fedbuff", "difference", "topk")]
)
def test_asynchronous_runs_decode_by_the_model_that_each_silo_had(
    digits: Example, strategy: str, update: str, encoding: str
) -> None:
    wish = {"mode": "async", "update": update, "rounds": 12}
    parameters = {"fraction": 0.2} if encoding == "topk" else {}
    plain = digits.run("none", strategy=strategy, run=wish).metrics
    encoded = digits.run(encoding, parameters, strategy=strategy, run=wish).metrics
    assert encoded["train/staleness"] > 0
    assert encoded["eval/loss"] == pytest.approx(plain["eval/loss"], abs=0.02 if encoding == "int8" else 0.3)


def test_a_silo_that_is_drawn_now_and_then_keeps_its_rest(digits: Example) -> None:
    result = digits.run("topk", {"fraction": 0.05}, run={"per_round": 2, "rounds": 6})
    assert result.metrics["eval/loss"] < result.first["eval/loss"]


def test_order_statistics_and_topk_are_refused_together(digits: Example) -> None:
    with pytest.raises(UserError, match="cannot be used with the encoding") as error:
        digits.run("topk", strategy="median")
    assert error.value.code == "OCT-CONFIG-INVALID"
    assert digits.run("int8", strategy="median", run={"rounds": 1}).rounds
