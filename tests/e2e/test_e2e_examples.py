"""What the clinical example promises: together the hospitals do better than any of them alone."""

from __future__ import annotations

import json

import pytest

from octopus_desktop.cli.demo import HOSPITALS
from octopus_desktop.cli.local_federation import octopus
from tests.e2e.house import heart_job


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_the_federated_model_beats_each_hospital_alone_on_everyones_test_rows() -> None:
    simulated = json.loads(octopus("simulate", str(heart_job()), "--silos", "heart", "--baselines").stdout)
    scores = {name: one["eval/accuracy"] for name, one in simulated["baselines"].items()}
    assert set(scores) == {"federated", "pooled", *HOSPITALS}
    assert all(scores["federated"] > scores[name] for name in HOSPITALS)
