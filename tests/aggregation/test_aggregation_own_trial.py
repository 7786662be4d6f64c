"""What a researcher is told of a strategy of their own before anybody else sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from octopus_desktop.aggregation.own.trial import try_out
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError
from tests.aggregation.own_strategies import CLIPPED, LAGGING, NESTEROV, combining, make_package


@pytest.mark.parametrize(
    ("source", "name", "run"),
    [
        (NESTEROV, "Nesterov", {}),
        (CLIPPED, "Clipped", {"update": "difference"}),
        (LAGGING, "Lagging", {"mode": "async", "update": "difference"}),
        (combining("s = tile.stack(); s.sort(axis=0); return s[len(s) // 2]"), "Mine", {}),
    ],
)
def test_a_sound_one_passes(tmp_path: Path, source: str, name: str, run: dict[str, str]) -> None:
    try_out(RunConfig(strategy=f"strategy:{name}", **run), make_package(tmp_path, source))  # type: ignore[arg-type]


MEMORY = """
from octopus_desktop.aggregation.sdk import *

rounds = []

class Mine(Synchronous):
    def combine(self, tile):
        if tile.round == 1:
            rounds.clear()
        if tile.round not in rounds:
            rounds.append(tile.round)
        return weighted_sum(tile) * len(rounds)
"""


CASES = [
    (combining("return tile.current + np.random.normal()"), "other numbers"),
    (combining("return weighted_sum(tile) - tile.read(0).mean()"), "how the model is cut into tiles"),
    (MEMORY, "remembers something"),
    (combining("u = list(tile.updates()); return sum(u[1:], start=u[0].copy())"), "after the next one was read"),
    (combining("return tile.current / (tile.current - tile.current)"), "NaN or infinity"),
]


@pytest.mark.parametrize(("source", "words"), CASES, ids=[words for _, words in CASES])
def test_each_breach_of_the_contract_is_named(tmp_path: Path, source: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        try_out(RunConfig(strategy="strategy:Mine"), make_package(tmp_path, source))
    assert error.value.code == "OCT-JOB-STRATEGY"
    assert words in f"{error.value.what} {error.value.why}" and error.value.next_step


def test_its_mistakes_are_told_with_their_lines(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        try_out(RunConfig(strategy="strategy:Mine"), make_package(tmp_path, combining("return tile.missing")))
    assert "code/strategy.py, line 6, in combine: AttributeError" in error.value.why
