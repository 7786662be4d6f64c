"""Nothing that a configuration promises is passed over."""

from __future__ import annotations

from typing import Any

import pytest

from octopus_desktop.aggregation.runnable import require_runnable
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.wire.errors import UserError


@pytest.mark.parametrize(
    ("wish", "code"),
    [
        ({"mode": "turns"}, "OCT-CONFIG-INVALID"),
        ({"mode": "async", "strategy": "fedavg"}, "OCT-STRATEGY-PARAMETER"),
        ({"mode": "async", "strategy": "fedasync", "per_round": 2}, "OCT-CONFIG-INVALID"),
        ({"mode": "sync", "strategy": "fedasync"}, "OCT-STRATEGY-PARAMETER"),
        ({"mode": "async", "strategy": "fedbuff", "update": "weights"}, "OCT-STRATEGY-PARAMETER"),
        ({"encoding": "int3"}, "OCT-CONFIG-INVALID"),
        ({"encoding": "int8", "encoding_parameters": {"block": 100}}, "OCT-CONFIG-INVALID"),
        ({"encoding": "fp16", "encoding_parameters": {"fraction": 0.1}}, "OCT-CONFIG-INVALID"),
        ({"privacy": {"epsilon": 1.0}}, "OCT-CONFIG-INVALID"),
        ({"strategy": "fedmagic"}, "OCT-STRATEGY-PARAMETER"),
        ({"strategy_parameters": {"server_rate": -1}}, "OCT-STRATEGY-PARAMETER"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(wish: dict[str, Any], code: str) -> None:
    with pytest.raises(UserError) as error:
        require_runnable(RunConfig(**wish))
    assert error.value.code == code


def test_what_can_be_kept_gives_the_strategy() -> None:
    wish = RunConfig(strategy="fedadam", privacy={"clip_norm": 1.0}, encoding="topk")
    assert require_runnable(wish).name == "fedadam"
