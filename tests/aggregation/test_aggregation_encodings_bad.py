"""Encoded updates that a silo may not send: each is refused by its silo, its tensor and the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octopus_desktop.aggregation.fold import RejectedUpdates, fold
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import make_layout, read_layout
from tests.aggregation.encoded import Desk, a_change, a_model, encoding, parts


class Forged:
    """An encoded update whose parts can be changed."""

    def __init__(self, root: Path, name: str, **more: Any) -> None:
        self.desk, self.how = Desk(root, a_model()), encoding(name, **more)
        self.path = self.desk.encoded(self.how, a_change(), "bad")
        self.good = self.desk.encoded(self.how, a_change(2), "good")
        self.store = BlobStore(root / "blobs")

    def change(self, part: str, place: int, value: Any) -> None:
        spec = next(t for t in read_layout(self.path) if t.name == part)
        raw = bytearray(self.path.read_bytes())
        kind = {"F32": "<f4", "F16": "<f2", "I8": "i1", "U8": "u1", "I32": "<i4", "BF16": "<u2"}[spec.dtype]
        values = np.frombuffer(raw, kind, spec.elements, spec.begin)
        values[place] = value
        self.path.write_bytes(raw)

    def faults(self) -> dict[str, UserError]:
        with pytest.raises(RejectedUpdates) as error:
            fold(
                make("fedavg", {}),
                model=self.desk.model,
                updates=[("ada", self.good), ("eve", self.path)],
                weights=[0.5, 0.5],
                store=self.store,
                encoding=self.how,
                tile_bytes=4096,
            )
        assert list(error.value.faults) == ["eve"], "only the guilty one is rejected"
        assert list((self.store.root / "partial").iterdir()) == []
        return error.value.faults


@pytest.mark.parametrize(
    ("name", "part", "place", "value", "words"),
    [
        ("int8", "head.weight:scale", 3, np.nan, "'head.weight': a scale is NaN"),
        ("int8", "head.weight:scale", 0, np.inf, "'head.weight': a scale is NaN"),
        ("int8", "conv.weight:scale", 0, -1.0, "'conv.weight': a scale is negative"),
        ("int8", "head.weight:int8", 1600, -128, "'head.weight': a code is below -127"),
        ("int4", "head.weight:int4", 700, 0x0F, "'head.weight': a code is below -7"),
        ("int4", "head.weight:int4", -1, 0x99, "'head.weight': the last half byte"),
        ("topk", "head.weight:index", 0, -1, "'head.weight': an index lies outside"),
        ("topk", "head.weight:index", -1, 21 * 77, "'head.weight': an index lies outside"),
        ("topk", "head.weight:index", 3, 0, "'head.weight': its indices do not rise"),
        ("topk", "head.weight:value", 2, np.nan, "'head.weight': a value is NaN"),
    ],
)
def test_tampered_parts_are_refused_with_tensor_and_reason(
    tmp_path: Path, name: str, part: str, place: int, value: Any, words: str
) -> None:
    forged = Forged(tmp_path, name)
    forged.change(part, place, value)
    fault = forged.faults()["eve"]
    assert fault.code == "OCT-ENCODING-BAD"
    assert words in fault.why


def test_a_doubled_index_is_refused(tmp_path: Path) -> None:
    forged = Forged(tmp_path, "topk")
    index = parts(forged.path)["flat:index"][2]
    forged.change("flat:index", 5, index[4])
    assert "do not rise" in forged.faults()["eve"].why


@pytest.mark.parametrize(("name", "part", "value"), [("fp16", "flat:fp16", np.nan), ("bf16", "flat:bf16", 0x7F80)])
def test_nan_in_half_precision_is_laid_at_its_silos_door(tmp_path: Path, name: str, part: str, value: Any) -> None:
    forged = Forged(tmp_path, name)
    forged.change(part, 7, value)
    fault = forged.faults()["eve"]
    assert fault.code == "OCT-MODEL-NAN" and "'flat'" in fault.why


def test_scales_that_overflow_are_laid_at_their_silos_door(tmp_path: Path) -> None:
    forged = Forged(tmp_path, "int8")
    forged.change("flat:scale", 9, 3e38)
    fault = forged.faults()["eve"]
    assert fault.code == "OCT-MODEL-NAN" and "'flat'" in fault.why


@pytest.mark.parametrize("other", [("int8", {"block": 128}), ("int4", {}), ("fp16", {}), ("topk", {"fraction": 0.02})])
def test_another_encoding_or_other_parameters_than_agreed_are_refused(
    tmp_path: Path, other: tuple[str, dict[str, Any]]
) -> None:
    forged = Forged(tmp_path, "int8" if other[0] != "topk" else "topk")
    forged.path = forged.desk.encoded(encoding(other[0], **other[1]), a_change(), "bad")
    fault = forged.faults()["eve"]
    assert fault.code == "OCT-ENCODING-BAD" and "'conv.weight'" in fault.why


def test_wrong_block_counts_other_shapes_and_plain_files_are_refused(tmp_path: Path) -> None:
    forged = Forged(tmp_path, "int8")
    layout = read_layout(forged.path)
    entries = [(t.name, t.dtype, (t.elements - 1,) if t.name == "flat:scale" else t.shape) for t in layout]
    short = make_layout(entries, layout.metadata)
    forged.path.write_bytes(short.header + bytes(short.size - len(short.header)))
    assert "'flat'" in forged.faults()["eve"].why
    forged.path = tmp_path / "bad.plain"
    assert "'conv.weight'" in forged.faults()["eve"].why
    forged.path = tmp_path / "cut"
    forged.path.write_bytes(forged.good.read_bytes()[:-1])
    assert forged.faults()["eve"].code == "OCT-MODEL-SHAPE"
