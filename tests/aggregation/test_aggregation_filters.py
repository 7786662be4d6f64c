"""What leaves a silo is bounded: the norm filter on real files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from octopus_desktop.aggregation import filters
from octopus_desktop.storage.blobs import file_digest
from octopus_desktop.wire.errors import UserError


def files(root: Path, kind: str, scale: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    torch.manual_seed(0)
    base = {"w": torch.randn(300_000), "b": torch.randn(7, dtype=torch.float64), "n": torch.tensor(5)}
    delta = {"w": torch.randn(300_000) * scale, "b": torch.randn(7, dtype=torch.float64) * scale, "n": torch.tensor(2)}
    save_file(base, root / "base")
    save_file({k: base[k] + delta[k] for k in base} if kind == "weights" else delta, root / "update")
    return base, delta


@pytest.mark.parametrize("kind", ["weights", "difference"])
def test_a_long_update_is_cut_to_the_bound_in_its_own_direction(tmp_path: Path, kind: str) -> None:
    base, delta = files(tmp_path, kind, 1.0)
    norm = torch.cat([delta["w"].double(), delta["b"]]).norm().item()
    done = filters.apply(
        filters.make({"clip_norm": 2.0}),
        update=tmp_path / "update",
        base=tmp_path / "base",
        kind=kind,
        out=tmp_path / "out",
    )
    got = load_file(tmp_path / "out")
    for name in ("w", "b"):
        change = got[name] - base[name] if kind == "weights" else got[name]
        assert torch.allclose(change, delta[name] * (2.0 / norm), atol=1e-6)
    assert got["n"] == (7 if kind == "weights" else 2), "counts pass as they are"
    assert done.metrics["filter/norm"] == pytest.approx(norm, rel=1e-6)
    assert done.metrics["filter/clipped"] == 1.0
    assert done.digest == file_digest(tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["base", "out", "update"]


def test_a_short_update_passes_unchanged(tmp_path: Path) -> None:
    files(tmp_path, "difference", 1e-6)
    done = filters.apply(
        filters.make({"clip_norm": 2}),
        update=tmp_path / "update",
        base=tmp_path / "base",
        kind="difference",
        out=tmp_path / "out",
    )
    before, after = load_file(tmp_path / "update"), load_file(tmp_path / "out")
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert done.metrics["filter/clipped"] == 0.0


@pytest.mark.parametrize("privacy", [{"clip": 1.0}, {"clip_norm": 0}, {"clip_norm": "much"}, {"noise": 1.0}])
def test_a_promise_that_cannot_be_kept_is_refused(privacy: dict[str, float]) -> None:
    with pytest.raises(UserError) as error:
        filters.make(privacy)
    assert error.value.code == "OCT-CONFIG-INVALID"


def test_an_update_of_another_form_is_refused(tmp_path: Path) -> None:
    files(tmp_path, "difference", 1.0)
    save_file({"w": torch.zeros(3)}, tmp_path / "update")
    with pytest.raises(UserError) as error:
        filters.apply(
            filters.make({"clip_norm": 1.0}),
            update=tmp_path / "update",
            base=tmp_path / "base",
            kind="difference",
            out=tmp_path / "out",
        )
    assert error.value.code == "OCT-MODEL-SHAPE"
