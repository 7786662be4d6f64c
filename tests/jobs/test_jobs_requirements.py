"""What a job needs against what an environment has."""

from __future__ import annotations

import pytest

from octopus_desktop.jobs import toml
from octopus_desktop.jobs.approval import Conditions, Statement
from octopus_desktop.jobs.requirements import lacking, needed
from octopus_desktop.wire.errors import UserError

HAS = {"scipy": "1.11.4", "scikit-learn": "1.5.0", "odd": "not a version"}


@pytest.mark.parametrize(
    ("requirement", "why"),
    [
        ("scipy", ""),
        ("SciPy>=1.11,<2", ""),
        ("scipy>=1.12", "1.11.4 is installed"),
        ("Scikit_Learn==1.5.*", ""),
        ("pandas", "not installed"),
        ('pandas; python_version < "3.9"', ""),
        ('pandas; python_version >= "3.9"', "not installed"),
        ("odd", ""),
        ("odd>=1", "not a version is installed"),
        ("nonsense >>", "it cannot be read"),
        ("far @ https://example.org/far.whl", "it cannot be read"),
    ],
)
def test_a_requirement_is_met_or_the_reason_is_told(requirement: str, why: str) -> None:
    assert [lack.why for lack in lacking([requirement], HAS, "3.12.1")] == ([why] if why else [])


def test_a_kind_of_trainer_implies_its_package_once() -> None:
    assert needed("flower:app", ("scipy",)) == ("scipy", "flwr")
    assert needed("flower:app", ("flwr>=1.20",)) == ("flwr>=1.20",)
    assert needed("fedml:trainer", ()) == ("fedml",) and needed("trainer:Trainer", ()) == ()


def test_a_requirement_that_cannot_be_read_is_a_mistake_with_its_place() -> None:
    text = '[job]\nname = "a"\nversion = "1"\ntrainer = "t:T"\nrequirements = ["scipy>=", "x @ https://e.org/x.whl"]\n'
    with pytest.raises(UserError) as caught:
        toml.parse(text)
    assert "line 5" in caught.value.what and "'scipy>='" in caught.value.what and "an address" in caught.value.why


def test_an_approval_without_a_runtime_has_the_bytes_it_always_had() -> None:
    plain = Statement(run_id="r", verdict="approved", package_digest="p", config_digest="c")
    assert b"runtime" not in plain.to_bytes() and Statement.from_bytes(plain.to_bytes()) == plain
    chosen = Statement(
        run_id="r", verdict="approved", package_digest="p", config_digest="c", conditions=Conditions(runtime="v1")
    )
    assert Statement.from_bytes(chosen.to_bytes()).conditions.runtime == "v1"
