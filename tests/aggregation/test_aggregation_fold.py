"""Folding update files: the same bits as torch on whole tensors, bounded memory, unsound updates named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from octopus_desktop.aggregation.fold import Folded, FoldStopped, RejectedUpdates, fold, sweep
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.storage.blobs import BlobStore, file_digest
from octopus_desktop.wire.errors import UserError

WEIGHTS = [0.5, 0.3, 0.2]


def tensors(seed: int, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {
        "conv.weight": torch.randn(33, 7, 3, 3).to(dtype),
        "norm.running_var": torch.rand(33).to(dtype),
        "norm.num_batches_tracked": torch.tensor(10 + seed),
        "mask": torch.tensor([True, seed % 2 == 0, False]),
        "empty": torch.zeros(0, dtype=dtype),
        "head.weight": torch.randn(40, 1001).to(dtype),
    }


class Bench:
    """A global model and three updates on disk."""

    def __init__(self, root: Path, dtype: torch.dtype = torch.float32) -> None:
        self.root, self.store = root, BlobStore(root / "blobs")
        self.values = [tensors(i, dtype) for i in range(4)]
        self.paths = [root / f"{i}.safetensors" for i in range(4)]
        for value, path in zip(self.values, self.paths, strict=True):
            save_file(value, path)

    def rewrite(self, silo: int, **changes: torch.Tensor) -> None:
        save_file({**self.values[silo], **changes}, self.paths[silo])

    def fold(self, strategy: Any = None, **more: Any) -> Folded:
        updates = [(f"silo{i}", self.paths[i]) for i in (1, 2, 3)]
        given = {"model": self.paths[0], "updates": updates, "weights": WEIGHTS, "store": self.store, **more}
        return fold(strategy or make("fedavg", {}), **given)

    def model(self, folded: Folded) -> dict[str, torch.Tensor]:
        return load_file(self.store.path(folded.model.digest))


def plain_sum(values: list[torch.Tensor]) -> torch.Tensor:
    """Σ w u on whole tensors with torch: every product rounded to float32, then added in the silos' order."""
    total = values[0].float() * WEIGHTS[0]
    for value, weight in zip(values[1:], WEIGHTS[1:], strict=True):
        total.add_(value.float() * weight)
    return total.to(values[0].dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_gives_the_bits_of_a_plain_torch_loop(tmp_path: Path, dtype: torch.dtype) -> None:
    bench = Bench(tmp_path, dtype)
    model = bench.model(bench.fold(tile_bytes=4096))
    for name in ("conv.weight", "norm.running_var", "head.weight"):
        assert torch.equal(model[name], plain_sum([v[name] for v in bench.values[1:]])), name


@pytest.mark.parametrize("update", ["weights", "difference"])
def test_inner_products_are_those_of_the_whole_differences(tmp_path: Path, update: str) -> None:
    bench = Bench(tmp_path)
    seen: list[Any] = []

    def weights(products: Any) -> list[float]:
        seen.append(products)
        return WEIGHTS

    folded = bench.fold(make("rfa", {}, update), weights=weights, tile_bytes=4096)
    assert bench.model(folded).keys() == bench.values[0].keys()
    floating = [name for name, t in bench.values[0].items() if t.is_floating_point()]
    rows = []
    for value in bench.values[1:]:
        base = bench.values[0] if update == "weights" else {n: torch.zeros_like(t) for n, t in value.items()}
        rows.append(torch.cat([(value[n].double() - base[n].double()).reshape(-1) for n in floating]))
    want = torch.stack(rows) @ torch.stack(rows).T
    torch.testing.assert_close(torch.from_numpy(seen[0]), want, rtol=1e-9, atol=1e-9)


def test_nan_shows_in_the_inner_products_and_its_silo_is_named(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.rewrite(2, **{"head.weight": torch.full((40, 1001), float("nan"))})
    with pytest.raises(RejectedUpdates) as error:
        bench.fold(make("rfa", {}), weights=lambda products: WEIGHTS)
    assert list(error.value.faults) == ["silo2"]


def test_counts_take_the_largest_and_masks_the_union(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = bench.model(bench.fold())
    assert model["norm.num_batches_tracked"].item() == 13
    assert model["mask"].tolist() == [True, True, False]
    assert model["empty"].numel() == 0


def test_differences_lead_to_the_same_model_as_weights(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    by_weights = bench.model(bench.fold())
    for i in (1, 2, 3):
        new = {n: v if v.dtype == torch.bool else v - bench.values[0][n] for n, v in bench.values[i].items()}
        save_file(new, bench.paths[i])
    by_difference = bench.model(bench.fold(make("fedavg", {}, "difference")))
    for name, value in by_weights.items():
        assert torch.allclose(value.float(), by_difference[name].float(), atol=1e-5), name


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam"])
def test_threads_and_tiles_do_not_change_a_bit(tmp_path: Path, strategy: str) -> None:
    bench, digests = Bench(tmp_path), set()
    for threads, tile_bytes in ((1, 1 << 20), (1, 512), (2, 4096), (4, 1000)):
        folded = bench.fold(make(strategy, {}), threads=threads, tile_bytes=tile_bytes)
        digests.add((folded.model.digest, *(s.digest for s in folded.slots.values())))
    assert len(digests) == 1


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    folded = bench.fold(make("fedadam", {}), tile_bytes=4096)
    for written in (folded.model, *folded.slots.values()):
        path = bench.store.path(written.digest)
        assert file_digest(path) == written.digest
        assert path.stat().st_size == written.size


def test_a_strategy_finds_its_state_again_in_the_next_round(tmp_path: Path) -> None:
    bench, momentum = Bench(tmp_path), make("fedavgm", {"momentum": 0.5})
    first = bench.fold(momentum)
    slots = {"momentum": bench.store.path(first.slots["momentum"].digest)}
    second = bench.fold(momentum, slots=slots, model=bench.store.path(first.model.digest), round=2)
    x0 = bench.values[0]["head.weight"].double()
    mean = sum(w * bench.values[i + 1]["head.weight"].double() for i, w in enumerate(WEIGHTS))
    v1 = mean - x0
    x1 = x0 + v1
    v2 = 0.5 * v1 + (mean - x1)
    assert torch.allclose(bench.model(second)["head.weight"].double(), x1 + v2, atol=1e-5)


def test_nan_and_infinity_are_laid_at_their_silos_doors(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bad = bench.values[2]["head.weight"].clone()
    bad[39, 1000] = float("nan")
    bench.rewrite(2, **{"head.weight": bad})
    bad = bench.values[3]["norm.running_var"].clone()
    bad[0] = -float("inf")
    bench.rewrite(3, **{"norm.running_var": bad})
    with pytest.raises(RejectedUpdates) as error:
        bench.fold(tile_bytes=4096)
    faults = error.value.faults
    assert list(faults) == ["silo2", "silo3"]
    assert {f.code for f in faults.values()} == {"OCT-MODEL-NAN"}
    assert "'head.weight'" in faults["silo2"].why
    assert "'norm.running_var'" in faults["silo3"].why
    assert leftovers(bench) == []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_nan_is_found_in_half_precision(tmp_path: Path, dtype: torch.dtype) -> None:
    bench = Bench(tmp_path, dtype)
    bad = bench.values[1]["conv.weight"].clone()
    bad[0, 0, 0, 0] = float("nan")
    bench.rewrite(1, **{"conv.weight": bad})
    with pytest.raises(RejectedUpdates, match="silo1"):
        bench.fold()


def test_sound_updates_that_overflow_together_are_nobodys_fault(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    for i in (1, 2, 3):
        bench.rewrite(i, **{"norm.running_var": torch.full((33,), 3e38)})
    with pytest.raises(UserError, match="combination is not") as error:
        bench.fold(weights=[1.0, 1.0, 1.0])
    assert error.value.code == "OCT-MODEL-NAN"
    assert leftovers(bench) == []


def test_other_shapes_and_missing_files_are_all_named_before_anything_is_summed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.rewrite(1, **{"conv.weight": torch.zeros(3, 3)})
    bench.paths[2].write_bytes(b"no tensor file")
    bench.paths[3].unlink()
    with pytest.raises(RejectedUpdates) as error:
        bench.fold()
    codes = {silo: fault.code for silo, fault in error.value.faults.items()}
    assert codes == {"silo1": "OCT-MODEL-SHAPE", "silo2": "OCT-MODEL-SHAPE", "silo3": "OCT-BLOB-MISSING"}


def test_what_silos_returned_is_read_beside_their_updates_and_checked_as_they_are(tmp_path: Path) -> None:
    bench, strategy = Bench(tmp_path), make("mimelite", {"beta1": 0.5})
    done = bench.fold(strategy, returned={"gradient": bench.paths[1:]}, tile_bytes=4096)
    momentum = load_file(bench.store.path(done.slots["m"].digest))
    assert torch.equal(momentum["head.weight"], plain_sum([v["head.weight"] for v in bench.values[1:]]) * 0.5)
    again = bench.fold(strategy, returned={"gradient": bench.paths[1:]}, threads=1)
    assert (again.model, again.slots) == (done.model, done.slots)
    plain = bench.fold()
    assert done.model == plain.model, "with momentum as with none, the mean is the mean"
    bad = {**bench.values[2], "head.weight": torch.full((40, 1001), float("nan"))}
    save_file(bad, tmp_path / "bad")
    with pytest.raises(RejectedUpdates) as rejected:
        bench.fold(strategy, returned={"gradient": [bench.paths[1], tmp_path / "bad", bench.paths[3]]})
    assert list(rejected.value.faults) == ["silo2"] and "The gradient of silo2" in str(rejected.value)
    with pytest.raises(RejectedUpdates) as rejected:
        bench.fold(strategy, returned={"gradient": [None, bench.paths[2], bench.paths[3]]})
    assert rejected.value.faults["silo1"].code == "OCT-BLOB-MISSING"
    assert leftovers(bench) == []


def test_a_stopped_fold_leaves_nothing_and_sweep_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(FoldStopped):
        bench.fold(stop=lambda: True)
    assert leftovers(bench) == []
    mine, other = (bench.store.root / "partial" / f"fold-{run}-1-aa" for run in ("run1", "run2"))
    mine.touch()
    other.touch()
    sweep(bench.store, "run1")
    assert leftovers(bench) == [other.name]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    bench = Bench(tmp_path)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError) as error:
        bench.fold()
    assert error.value.code == "OCT-DISK-FULL"
    assert leftovers(bench) == []


def leftovers(bench: Bench) -> list[str]:
    return sorted(p.name for p in (bench.store.root / "partial").iterdir())


MEMORY = """
import json, sys
from pathlib import Path
from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.storage.blobs import BlobStore
root, name = Path(sys.argv[1]), sys.argv[3]
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
before, n, strategy = peak(), int(sys.argv[2]), make(name, {})
beside = {what: [root / "model"] * n for what in strategy.returns}
fold(strategy, returned=beside, model=root / "model", updates=[(str(i), root / "model") for i in range(n)],
     weights=[1 / n] * n,
     store=BlobStore(root / "blobs"))
print(json.dumps(peak() - before))
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(("silos", "strategy"), [(2, "fedavg"), (16, "fedavg"), (2, "fedadam"), (4, "mime")])
def test_memory_grows_neither_with_silos_nor_with_the_model(tmp_path: Path, silos: int, strategy: str) -> None:
    model_bytes = 64 << 20
    save_file({"w": torch.zeros(model_bytes // 4)}, tmp_path / "model")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tmp_path), str(silos), strategy], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 24 << 20


def test_half_precision_rounds_to_nearest_even(tmp_path: Path) -> None:
    from octopus_desktop.aggregation.numbers import narrow

    values = torch.randn(10_000) * torch.logspace(-20, 20, 10_000)
    expected = values.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(narrow(values.numpy(), "BF16"), expected)
