"""Datasets as trainers see them: what is read, what is told when something is off, and that nobody can change them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from octopus_desktop.training.data import SiloDataset
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

CSV = "age,sex,fbs,chol,num\n63,Male,TRUE,233,0\n41,Female,,?,1\n55,,FALSE,0,2\n"


def open_data(path: Path, kind: str = "csv", **columns: str) -> SiloDataset:
    return SiloDataset(DataSource(alias="rows", path=str(path), kind=kind, digest="", columns=columns))


def csv_file(folder: Path, text: str = CSV) -> Path:
    path = folder / "rows.csv"
    path.write_text(text)
    return path


def test_a_table_gives_numbers_with_gaps_and_text_as_written(tmp_path: Path) -> None:
    data = open_data(csv_file(tmp_path), age="number", sex="text", fbs="text", chol="number", num="integer")
    columns = data.columns(["age", "sex", "fbs", "chol", "num"])
    assert data.rows == 3
    assert columns["num"].dtype == np.int64 and columns["chol"].dtype == np.float64
    assert np.isnan(columns["chol"][1]) and columns["chol"][0] == 233
    assert list(columns["sex"]) == ["Male", "Female", ""]
    assert list(columns["fbs"]) == ["TRUE", "", "FALSE"]
    undeclared = open_data(csv_file(tmp_path)).columns(["fbs"])["fbs"]
    assert undeclared[0] == 1.0 and np.isnan(undeclared[1])


def test_only_declared_columns_are_seen(tmp_path: Path) -> None:
    data = open_data(csv_file(tmp_path), age="number")
    assert data.names == ("age",)
    with pytest.raises(UserError, match="OCT-DATA-COLUMN"):
        data.columns(["num"])


def test_parquet_reads_like_csv(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1.0, None], "b": ["x", None], "c": [1, 2]}), tmp_path / "t.parquet")
    columns = open_data(tmp_path / "t.parquet", "parquet", a="number", b="text").columns()
    assert np.isnan(columns["a"][1]) and list(columns["b"]) == ["x", ""] and "c" not in columns


def test_what_is_handed_out_cannot_be_changed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros((4, 2)), y=np.arange(4))
    for array in (
        open_data(csv_file(tmp_path)).columns(["age"])["age"],
        open_data(tmp_path / "a.npz", "npz").arrays()["x"],
    ):
        with pytest.raises(ValueError):
            array[0] = 1
    assert open_data(tmp_path / "a.npz", "npz").rows == 4
    assert set(open_data(tmp_path / "a.npz", "npz", y="integer").arrays()) == {"y"}


def test_an_npz_that_would_need_pickle_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError) as caught:
        open_data(tmp_path / "o.npz", "npz").arrays()
    assert caught.value.code == "OCT-DATA-KIND"


def test_a_folder_counts_its_files_and_gives_its_path(tmp_path: Path) -> None:
    (tmp_path / "f" / "deep").mkdir(parents=True)
    (tmp_path / "f" / "deep" / "one.png").write_bytes(b"x")
    data = open_data(tmp_path / "f", "folder")
    assert data.rows == 1 and data.path == tmp_path / "f"
    for ask in (data.columns, data.arrays):
        with pytest.raises(UserError, match="OCT-DATA-KIND"):
            ask()


@pytest.mark.parametrize(
    ("name", "content", "kind", "columns", "code", "told"),
    [
        ("gone.csv", None, "csv", {}, "OCT-DATA-MISSING", "gone.csv"),
        ("a.csv", CSV, "csv", {"weight": "number"}, "OCT-DATA-COLUMN", "weight"),
        ("a.csv", CSV, "csv", {"sex": "number"}, "OCT-DATA-COLUMN", "string"),
        ("a.csv", CSV, "excel", {}, "OCT-DATA-KIND", "excel"),
        ("a.csv", CSV, "folder", {}, "OCT-DATA-KIND", "folder"),
        ("a.csv", CSV, "parquet", {}, "OCT-DATA-KIND", "a.csv"),
        ("a.csv", CSV, "npz", {}, "OCT-DATA-KIND", "a.csv"),
        ("a.csv", "a,b\n1,2\n1,2,3\n", "csv", {}, "OCT-DATA-KIND", "a.csv"),
        ("a.csv", "", "csv", {}, "OCT-DATA-KIND", "a.csv"),
    ],
)
def test_bad_data_is_told_with_its_code(
    tmp_path: Path, name: str, content: str | None, kind: str, columns: dict[str, str], code: str, told: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)

    def use() -> Any:
        return open_data(tmp_path / name, kind, **columns).columns()

    with pytest.raises(UserError) as caught:
        use()
    assert caught.value.code == code and told in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["plain", "compressed"])
def test_a_small_npz_reads_as_numpy_reads_it(tmp_path: Path, save: Any) -> None:
    wanted = {
        "images": np.arange(12, dtype=np.float32).reshape(3, 4),
        "labels": np.array([1, 2, 3]),
        "names": np.array(["a", "bc", "d"]),
        "turned": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "one": np.array(5),
        "none": np.zeros((0, 4)),
    }
    for names in (list(wanted), ["images", "labels", "names", "one", "none"]):  # the second can be read in one go
        path = tmp_path / "a.npz"
        save(path, **{name: wanted[name] for name in names})
        found = SiloDataset(DataSource(alias="x", path=str(path), kind="npz", digest="", columns={})).arrays()
        assert list(found) == names
        for name in names:
            assert found[name].dtype == wanted[name].dtype and not found[name].flags.writeable
            np.testing.assert_array_equal(found[name], wanted[name])


def test_a_small_npz_whose_bytes_were_changed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, images=np.arange(1000.0))
    raw = bytearray(path.read_bytes())
    raw[4000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(UserError) as error:
        SiloDataset(DataSource(alias="x", path=str(path), kind="npz", digest="", columns={}))
    assert error.value.code == "OCT-DATA-KIND"
