"""Encodings of updates: their bytes, their bounds, what they leave out, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from octopus_desktop.aggregation.encodings import Encoding
from octopus_desktop.aggregation.encodings.base import TILE_ELEMENTS
from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.numbers import Array
from octopus_desktop.aggregation.strategies import make
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.tensors import described, read_layout
from tests.aggregation.encoded import ALL, Desk, a_change, a_model, encoding, parts

VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("fp16", {}),
    ("bf16", {}),
    ("int8", {}),
    ("int8", {"block": 128}),
    ("int4", {}),
    ("int4", {"block": 128}),
    ("topk", {}),
    ("topk", {"fraction": 0.2, "values": "fp16"}),
]
IDS = ["-".join([name, *map(str, given.values())]) for name, given in VARIANTS]


@pytest.fixture(params=VARIANTS, ids=IDS)
def how(request: pytest.FixtureRequest) -> Encoding:
    name, parameters = request.param
    return encoding(name, **parameters)


# the bytes, computed by hand


def small(tmp_path: Path, name: str, change: list[float], **parameters: Any) -> dict[str, Any]:
    delta = np.array([change], np.float32)
    desk = Desk(tmp_path, {"w": np.ones_like(delta), "n": np.array(3), "b": np.ones(2, np.float32)})
    how = encoding(name, **parameters)
    whole = {"w": delta, "n": np.array(2), "b": np.array([0.5, -0.5], np.float32)}
    found = parts(desk.encoded(how, whole))
    assert found.pop("n") == ("I64", [], [2]), "integers pass as they are"
    assert found.pop("b") == ("F32", [2], [0.5, -0.5]), "short vectors pass as they are"
    return found


def test_fp16_is_binary16_and_bf16_the_upper_half_rounded_to_nearest_even(tmp_path: Path) -> None:
    change = [1.0, -2.0, 0.333251953125, 1.00390625, 1.01171875, 3e-8]
    assert small(tmp_path, "fp16", change) == {
        "w:fp16": ("F16", [1, 6], [1.0, -2.0, 0.333251953125, 1.00390625, 1.01171875, 5.960464477539063e-08]),
    }
    # 1 + 2^-8 is half way between 0x3f80 and 0x3f81 and goes to the even one; 1 + 3 * 2^-8 to 0x3f82
    found = small(tmp_path, "bf16", change)
    assert found == {"w:bf16": ("BF16", [1, 6], [0x3F80, 0xC000, 0x3EAB, 0x3F80, 0x3F82, 0x3301])}


def test_int8_is_whole_multiples_of_a_scale_for_each_block(tmp_path: Path) -> None:
    first = [127.0, -127.0, 0.5, 1.5, 2.5, -0.4] + [0.0] * 58
    second = [0.0] * 64
    third = [-254.0, 100.0]
    found = small(tmp_path, "int8", first + second + third)
    assert found == {
        "w:int8": ("I8", [1, 130], [127, -127, 0, 2, 2, 0] + [0] * 122 + [-127, 50]),
        "w:scale": ("F32", [3], [1.0, 0.0, 2.0]),
    }


def test_int4_puts_two_elements_into_a_byte_the_first_in_the_low_half(tmp_path: Path) -> None:
    found = small(tmp_path, "int4", [7.0, -7.0, 1.0, 0.0, 2.6, -3.4, 5.0], block=128)
    halves = [15, 1, 9, 8, 11, 5, 13, 8]  # q + 8; the last half is no element
    packed = [low | high << 4 for low, high in zip(halves[::2], halves[1::2], strict=True)]
    assert found == {"w:int4": ("U8", [4], packed), "w:scale": ("F32", [1], [1.0])}


def test_topk_names_the_largest_in_rising_order_and_of_equal_ones_the_first(tmp_path: Path) -> None:
    change = [0.0, 3.0, -5.0, 3.0, 1.0, -3.0, 0.5, 0.25, 0.0, 0.0]
    assert small(tmp_path, "topk", change, fraction=0.3) == {
        "w:index": ("I32", [3], [1, 2, 3]),
        "w:value": ("F32", [3], [3.0, -5.0, 3.0]),
    }
    assert small(tmp_path, "topk", change, fraction=0.01, values="fp16") == {
        "w:index": ("I32", [1], [2]),
        "w:value": ("F16", [1], [-5.0]),
    }


def test_the_file_is_whole_for_safetensors_and_tells_of_the_models_tensors(tmp_path: Path, how: Encoding) -> None:
    path = Desk(tmp_path, a_model()).encoded(how, a_change())
    with safe_open(path, "numpy") as file:
        assert file.metadata()["encoding"] == how.name
        assert "conv.bias" in file.keys()  # noqa: SIM118
    model = read_layout(tmp_path / "model.safetensors")
    assert described(read_layout(path)) == [(t.name, t.dtype, t.shape) for t in model]


@pytest.mark.parametrize(("name", "share"), [("fp16", 0.5), ("int8", 0.2657), ("int4", 0.1407), ("topk", 0.02)])
def test_sizes_are_what_the_review_says(tmp_path: Path, name: str, share: float) -> None:
    from octopus_desktop.jobs import encodings as words

    model = {"w": np.zeros((512, 512), np.float32)}
    path = Desk(tmp_path, model).encoded(encoding(name), model)
    assert path.stat().st_size / (4 << 18) == pytest.approx(words.share(name, {}), rel=0.03)
    assert words.share(name, {}) == pytest.approx(share, rel=0.01)


# bounds

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32)
ROWS = hnp.arrays(np.float32, st.tuples(st.just(3), st.integers(1, 150)), elements=FLOATS)
CLOSE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def through(root: Path, how: Encoding, delta: Array) -> Array:
    desk = Desk(root, {"w": np.zeros_like(delta)})
    return desk.decoded(how, desk.encoded(how, {"w": delta}), cut=37)["w"]


@CLOSE
@given(hnp.arrays(np.float32, (2, 50), elements=st.floats(-65000, 65000, width=32)))
def test_fp16_is_off_by_half_a_unit_in_the_last_place(tmp_path: Path, delta: Array) -> None:
    error = np.abs(through(tmp_path, encoding("fp16"), delta) - delta)
    assert (error <= np.maximum(np.abs(delta) * 2.0**-11, 2.0**-25)).all()


@CLOSE
@given(ROWS)
def test_bf16_is_off_by_half_a_unit_in_the_last_place(tmp_path: Path, delta: Array) -> None:
    error = np.abs(through(tmp_path, encoding("bf16"), delta).astype(np.float64) - delta)
    assert (error <= np.maximum(np.abs(delta) * 2.0**-8, 1e-40)).all()


@pytest.mark.parametrize(("name", "levels"), [("int8", 127), ("int4", 7)])
@pytest.mark.parametrize("block", [64, 128])
@CLOSE
@given(delta=ROWS)
def test_blocks_are_off_by_half_a_step_of_their_own_scale(
    tmp_path: Path, name: str, levels: int, block: int, delta: Array
) -> None:
    got = through(tmp_path, encoding(name, block=block), delta).reshape(-1)
    flat = delta.reshape(-1).astype(np.float64)
    for start in range(0, len(flat), block):
        own = slice(start, start + block)
        step = np.abs(flat[own]).max() / levels
        assert (np.abs(got[own] - flat[own]) <= step * 0.5001 + levels * 1.2e-38).all()


@CLOSE
@given(ROWS, st.sampled_from([0.01, 0.1, 0.5]))
def test_topk_keeps_exactly_the_largest_and_nothing_else(tmp_path: Path, delta: Array, fraction: float) -> None:
    got, flat = through(tmp_path, encoding("topk", fraction=fraction), delta).reshape(-1), delta.reshape(-1)
    count = max(1, round(fraction * len(flat)))
    order = np.argsort(-np.abs(flat), kind="stable")[:count]
    expected = np.zeros_like(flat)
    expected[order] = flat[order]
    assert np.array_equal(got, expected)


def test_topk_over_many_tiles_is_topk_of_the_whole_tensor(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    delta = draw.integers(-40, 40, size=(5, TILE_ELEMENTS // 2 + 11)).astype(np.float32)  # so that many are equal
    got, flat = through_in_tiles(tmp_path, delta), delta.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")[: round(0.01 * len(flat))]
    expected = np.zeros_like(flat)
    expected[order] = flat[order]
    assert np.array_equal(got, expected)


def through_in_tiles(root: Path, delta: Array) -> Array:
    desk, how = Desk(root, {"w": np.zeros_like(delta)}), encoding("topk")
    return desk.decoded(how, desk.encoded(how, {"w": delta}), cut=100_000)["w"].reshape(-1)


@pytest.mark.parametrize("name", ALL)
def test_float64_models_are_encoded_too(tmp_path: Path, name: str) -> None:
    draw = np.random.default_rng(0)
    delta = draw.normal(size=(30, 40))
    how = encoding(name, **({"fraction": 0.5} if name == "topk" else {}))
    got = through(tmp_path, how, delta)
    assert got.dtype == np.float64
    relative = np.abs(got - delta)[got != 0] / np.abs(delta).max()
    assert relative.max() < {"fp16": 1e-3, "bf16": 4e-3, "int8": 4e-3, "int4": 0.072, "topk": 1e-6}[name]


def test_half_precision_models_are_summed_before_they_are_rounded(tmp_path: Path) -> None:
    model = {"w": np.full((4, 64), 1.0, np.float16)}
    desk, how = Desk(tmp_path, model), encoding("int8")
    change = np.full((4, 64), 0.0009765625, np.float16)
    paths = [desk.encoded(how, {"w": change}, f"u{i}") for i in range(2)]
    store = BlobStore(tmp_path / "blobs")
    updates = [(f"s{i}", path) for i, path in enumerate(paths)]
    done = fold(make("fedavg", {}), model=desk.model, updates=updates, weights=[0.5, 0.5], store=store, encoding=how)
    assert np.array_equal(load_file(store.path(done.model.digest))["w"], model["w"] + change)


# the same however it is read, and what the fold makes of it


def test_what_is_decoded_does_not_depend_on_where_it_is_cut(tmp_path: Path, how: Encoding) -> None:
    desk = Desk(tmp_path, a_model())
    path = desk.encoded(how, a_change())
    whole = desk.decoded(how, path)
    for cut in (1, 63, 64, 1000):
        again = desk.decoded(how, path, cut=cut)
        assert all(np.array_equal(whole[name], again[name]) for name in whole)


def test_the_same_update_gives_the_same_bytes_as_weights_and_as_difference(tmp_path: Path, how: Encoding) -> None:
    zeros = {name: np.zeros_like(value) for name, value in a_model().items()}
    desk = Desk(tmp_path, zeros)
    change = {**a_change(), "norm.num_batches_tracked": np.array(2)}
    one = desk.encoded(how, change, "one").read_bytes()
    assert desk.encoded(how, change, "two").read_bytes() == one
    assert desk.encoded(how, change, "three", kind="weights").read_bytes() == one


@pytest.mark.parametrize("strategy", ["fedavg", "fedadam", "trimmed_mean", "scaffold"])
@pytest.mark.parametrize("update", ["weights", "difference"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_folding_encoded_updates_is_to_the_bit_folding_the_decoded_ones(
    tmp_path: Path, how: Encoding, strategy: str, update: str, dtype: Any
) -> None:
    desk, store = Desk(tmp_path, a_model(dtype=dtype)), BlobStore(tmp_path / "blobs")
    encoded, plain = [], []
    for i in range(3):
        path = desk.encoded(how, a_change(i + 1, dtype=dtype), f"u{i}", kind=update)
        encoded.append((f"s{i}", path))
        plain.append((f"s{i}", tmp_path / f"decoded{i}"))
        save_file(desk.decoded(how, path, lift=update == "weights"), tmp_path / f"decoded{i}")
    # what passes unencoded is in the form that ``update`` says already, so it must not be lifted
    for i, (_, path) in enumerate(encoded):
        with safe_open(path, "numpy") as file:
            passed = {name: file.get_tensor(name) for name in file.keys() if ":" not in name}  # noqa: SIM118
        save_file({**load_file(plain[i][1]), **passed}, plain[i][1])
    digests = set()
    given: dict[str, Any] = {"model": desk.model, "weights": [0.5, 0.3, 0.2], "store": store}
    for threads, tile_bytes in ((1, 1 << 20), (2, 4096), (3, 1000)):
        done = fold(
            make(strategy, {}, update), updates=encoded, encoding=how, threads=threads, tile_bytes=tile_bytes, **given
        )
        digests.add((done.model.digest, *(slot.digest for slot in done.slots.values())))
    done = fold(make(strategy, {}, update), updates=plain, **given)
    digests.add((done.model.digest, *(slot.digest for slot in done.slots.values())))
    assert len(digests) == 1


def test_a_stale_difference_becomes_weights_by_the_model_it_came_from(tmp_path: Path) -> None:
    how, store = encoding("int8"), BlobStore(tmp_path / "blobs")
    old, new = Desk(tmp_path / "old", a_model()), Desk(tmp_path / "new", a_model(7))
    paths = [old.encoded(how, a_change(1), kind="weights"), new.encoded(how, a_change(2), kind="weights")]
    done = fold(
        make("fedasync", {}, "weights"),
        model=new.model,
        updates=[("ada", paths[0]), ("bob", paths[1])],
        weights=[1.0, 0.5],  # ada's model replaces everything, then half of bob's
        store=store,
        encoding=how,
        bases=[old.model, None],
    )
    got = load_file(store.path(done.model.digest))["head.weight"]
    first = old.decoded(how, paths[0], lift=True)["head.weight"]
    second = new.decoded(how, paths[1], lift=True)["head.weight"]
    assert np.allclose(got, (first + second) / 2, atol=1e-6)


def test_a_longer_header_shifts_no_element(tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "blobs")
    values = {"w": np.arange(200, dtype=np.float32).reshape(2, 100)}
    desk = Desk(tmp_path, {"w": np.zeros((2, 100), np.float32)})
    save_file(values, tmp_path / "told", metadata={"note": "x" * 3000})
    done = fold(make("fedavg", {}), model=desk.model, updates=[("ada", tmp_path / "told")], weights=[1.0], store=store)
    assert np.array_equal(load_file(store.path(done.model.digest))["w"], values["w"])


# error feedback


@pytest.mark.parametrize(("name", "more"), [("int8", {}), ("int4", {}), ("topk", {"fraction": 0.1, "values": "fp16"})])
def test_over_the_rounds_nothing_is_lost(tmp_path: Path, name: str, more: dict[str, Any]) -> None:
    """Σ sent_t + e_T+1 = Σ Δ_t."""
    desk, how = Desk(tmp_path, a_model()), encoding(name, **more)
    before: Path | None = None
    changes, sent = [], []
    for round_ in range(1, 9):
        changes.append(a_change(round_)["head.weight"])
        after = tmp_path / f"left-{round_}"
        path = desk.encoded(how, a_change(round_), before=before, after=after)
        sent.append(desk.decoded(how, path)["head.weight"])
        before = after
    assert before is not None
    left = load_file(before)["head.weight"]
    assert left.dtype == np.float32
    assert np.allclose(sum(sent) + left, sum(changes), atol=1e-7)
    assert np.abs(sum(sent) - sum(changes)).max() > 1e-7, "and something was left out"


def test_a_residual_of_another_model_is_refused(tmp_path: Path) -> None:
    desk, how = Desk(tmp_path, a_model()), encoding("int4")
    save_file({"w": np.zeros(3, np.float32)}, tmp_path / "strange")
    with pytest.raises(UserError, match="does not fit") as error:
        desk.encoded(how, a_change(), before=tmp_path / "strange", after=tmp_path / "after")
    assert error.value.code == "OCT-ENCODING-BAD"
    assert not (tmp_path / "update.encoded").exists() and not (tmp_path / "after").exists()


# what cannot be encoded


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_change_that_is_no_number_never_leaves(tmp_path: Path, how: Encoding, value: float) -> None:
    change = a_change()
    change["head.weight"][20, 76] = value
    with pytest.raises(UserError, match=r"head\.weight") as error:
        Desk(tmp_path, a_model()).encoded(how, change)
    assert error.value.code == "OCT-MODEL-NAN"
    assert not (tmp_path / "update.encoded").exists()


@pytest.mark.parametrize(
    ("name", "more", "value"),
    [
        ("fp16", {}, 7e4),
        ("topk", {"values": "fp16"}, 7e4),
        ("bf16", {}, 3.4e38),
        ("int8", {}, 1e300),
        ("topk", {}, 1e300),
    ],
)
def test_a_change_that_the_encoding_cannot_hold_is_told_and_not_bent(
    tmp_path: Path, name: str, more: dict[str, Any], value: float
) -> None:
    dtype = np.float64 if value > 1e38 and name != "bf16" else np.float32
    change = a_change(dtype=dtype)
    change["head.weight"][0, 0] = value
    with pytest.raises(UserError, match="too large for the encoding") as error:
        Desk(tmp_path, a_model(dtype=dtype)).encoded(encoding(name, **more), change)
    assert error.value.code == "OCT-ENCODING-BAD"


def test_a_model_with_the_name_of_an_encoded_part_is_refused(tmp_path: Path) -> None:
    model = {"w": np.zeros((2, 2), np.float32), "w:scale": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="that of another tensor") as error:
        Desk(tmp_path, model).encoded(encoding("int8"), model)
    assert error.value.code == "OCT-ENCODING-BAD"


# memory

MEMORY = """
import json, sys
from pathlib import Path
from octopus_desktop.aggregation.encodings import make
from octopus_desktop.aggregation.encodings.encode import encode
from octopus_desktop.aggregation.fold import fold
from octopus_desktop.aggregation.strategies import make as strategy
from octopus_desktop.storage.blobs import BlobStore
root, name = Path(sys.argv[1]), sys.argv[2]
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
how, before = make(name, {}), peak()
encode(how, update=root / "model", base=root / "model", kind="difference", out=root / "e", after=root / "r")
encode(how, update=root / "model", base=root / "model", kind="weights", out=root / "e", before=root / "r")
updates = [(str(i), root / "e") for i in range(8)]
fold(strategy("fedavg", {}), model=root / "model", updates=updates, weights=[1 / 8] * 8,
     store=BlobStore(root / "blobs"), encoding=how)
print(json.dumps(peak() - before))
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize("name", ["int4", "topk"])
def test_memory_grows_neither_with_silos_nor_with_the_model(tmp_path: Path, name: str) -> None:
    save_file({"w": np.ones((4096, 4096), np.float32)}, tmp_path / "model")
    command = [sys.executable, "-c", MEMORY, str(tmp_path), name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) < 32 << 20
