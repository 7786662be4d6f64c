"""A run may bound how far one update moves the model ([run] most_norm): who goes beyond is named, whatever was sent."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from octopus_desktop.aggregation.encodings.encode import encode
from octopus_desktop.aggregation.fold import FoldStopped, RejectedUpdates, fold
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.jobs.manifest import RunConfig
from octopus_desktop.jobs.toml import apply_overrides
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from tests.aggregation.encoded import encoding

MODEL = {"a": np.full((300, 7), 100.0, np.float32), "b": np.arange(50, dtype=np.float64), "n": np.array([3, 4])}
LENGTHS = {"near": 2.0, "far": 40.0, "also near": 3.0}


def change(length: float, seed: int = 0) -> dict[str, np.ndarray]:
    """A difference of this length over the floating tensors."""
    random = np.random.default_rng(seed)
    delta = {name: random.normal(size=MODEL[name].shape) for name in "ab"}
    whole = math.sqrt(sum(float((d**2).sum()) for d in delta.values()))
    return {name: d * length / whole for name, d in delta.items()}


def write(path: Path, start: dict[str, np.ndarray] | None, delta: dict[str, np.ndarray]) -> Path:
    """Weights from ``start`` on, or the difference alone."""
    zero = {name: np.zeros_like(value) for name, value in MODEL.items()}
    values = {name: value.copy() for name, value in (start or zero).items()}
    for name, d in delta.items():
        values[name] = (values[name] + d).astype(MODEL[name].dtype)
    save_file(values, path)
    return path


def fold_all(root: Path, updates: dict[str, Path], most: float, strategy: str = "fedavg", **more: object):
    save_file(MODEL, root / "model")
    return fold(
        make(strategy, {}, "difference" if strategy == "fedbuff" else "weights"),
        model=root / "model",
        updates=list(updates.items()),
        weights=[1 / len(updates)] * len(updates),
        store=BlobStore(root / "blobs"),
        most_norm=most,
        tile_bytes=512,
        **more,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("sent", ["weights", "difference", "int8"])
def test_who_goes_too_far_is_named_with_the_length_and_the_rest_fold_as_without_a_bound(
    tmp_path: Path, sent: str
) -> None:
    save_file(MODEL, tmp_path / "model")
    updates, more = {}, {}
    for seed, (silo, length) in enumerate(LENGTHS.items()):
        path = tmp_path / f"{silo}.file"
        updates[silo] = write(path, None if sent == "difference" else MODEL, change(length, seed))
        if sent == "int8":
            how, out = encoding("int8"), tmp_path / f"{silo}.int8"
            encode(how, update=path, base=tmp_path / "model", kind="weights", out=out)
            updates[silo], more = out, {"encoding": how}
    strategy = "fedbuff" if sent == "difference" else "fedavg"
    with pytest.raises(RejectedUpdates) as error:
        fold_all(tmp_path, updates, 10.0, strategy, **more)
    (fault,) = error.value.faults.values()
    assert list(error.value.faults) == ["far"] and fault.code == "OCT-MODEL-NORM"
    assert "40" in fault.why and "most_norm allows 10" in fault.why and fault.next_step
    del updates["far"]
    bounded = fold_all(tmp_path, updates, 10.0, strategy, **more)
    assert bounded.model.digest == fold_all(tmp_path, updates, 0.0, strategy, **more).model.digest


def test_a_late_comers_length_is_measured_from_the_model_that_it_had(tmp_path: Path) -> None:
    before = {name: value + 500 if name in "ab" else value for name, value in MODEL.items()}
    save_file(before, tmp_path / "before")
    old = write(tmp_path / "old", before, change(2.0))
    new = write(tmp_path / "new", MODEL, change(2.0, 1))
    fold_all(tmp_path, {"old": old, "new": new}, 10.0, "fedasync", bases=[tmp_path / "before", None])
    with pytest.raises(RejectedUpdates) as error:
        fold_all(tmp_path, {"old": old, "new": new}, 10.0, "fedasync", bases=[None, tmp_path / "before"])
    assert set(error.value.faults) == {"old", "new"}


def test_nan_is_still_called_by_its_name_and_a_stopped_look_stops(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad", MODEL, {"a": np.full((300, 7), np.nan)})
    with pytest.raises(RejectedUpdates) as error:
        fold_all(tmp_path, {"bad": bad}, 10.0)
    assert error.value.faults["bad"].code == "OCT-MODEL-NAN"
    with pytest.raises(FoldStopped):
        fold_all(tmp_path, {"bad": bad}, 10.0, stop=lambda: True)


def test_the_bound_is_a_key_of_run_and_leaves_other_configurations_their_digest() -> None:
    config = apply_overrides(RunConfig(), {"run": {"most_norm": 25}}, strategies=("fedavg",))
    assert config.most_norm == 25.0 and config.digest() != RunConfig().digest()
    assert "most_norm" not in RunConfig().to_json()
    with pytest.raises(UserError, match="run"):
        apply_overrides(RunConfig(), {"run": {"most_norm": -1}}, strategies=("fedavg",))


def test_of_an_encoded_update_the_tensors_that_are_sent_whole_count_by_their_change_too(tmp_path: Path) -> None:
    """Small tensors are not encoded: as weights they are whole, and q-FedAvg and the bound want their difference."""
    save_file(MODEL, tmp_path / "model")
    how, seen, updates = encoding("int8"), [], {}
    for seed, (silo, length) in enumerate(LENGTHS.items()):
        path = write(tmp_path / silo, MODEL, change(length, seed))
        updates[silo] = tmp_path / f"{silo}.int8"
        encode(how, update=path, base=tmp_path / "model", kind="weights", out=updates[silo])

    def weigh(products: np.ndarray) -> list[float]:
        seen.append(np.sqrt(np.diagonal(products)))
        return [1 / 3] * 3

    strategy = make("qfedavg", {})
    fold(
        strategy, model=tmp_path / "model", updates=list(updates.items()), weights=weigh,
        store=BlobStore(tmp_path / "blobs"), encoding=how,
    )  # fmt: skip
    np.testing.assert_allclose(seen[0], list(LENGTHS.values()), rtol=0.02)
