"""One dataset cut into silos: nothing lost, nothing twice, the same by the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from octopus_desktop.simulation import layout
from octopus_desktop.simulation.baselines import pool
from octopus_desktop.simulation.jobs import open_job
from octopus_desktop.simulation.partition import Source, partition
from octopus_desktop.wire.errors import UserError

ROWS = 300


def npz(root: Path) -> Source:
    random = np.random.default_rng(0)
    np.savez(root / "d.npz", images=random.normal(size=(ROWS, 4)), labels=random.integers(0, 10, ROWS))
    return Source([root / "d.npz"])


def table(root: Path, name: str = "d.csv", rows: int = 10) -> Path:
    lines = [f"{i},{'Café Ü' if i % 3 else ''},{i % 2}" for i in range(rows)]
    (root / name).write_text("a,site,label\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return root / name


@pytest.mark.parametrize(
    "how", ["iid", "dirichlet:0.5", "dirichlet:100", "shards:2", "column:labels", "by-column:labels"]
)
def test_every_row_goes_to_one_silo_and_the_seed_decides(tmp_path: Path, how: str) -> None:
    source = npz(tmp_path)
    parts = partition(source, how, 0 if "column" in how else 4, seed=1)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(ROWS))
    again = partition(source, how, 0 if "column" in how else 4, seed=1)
    assert all(np.array_equal(parts[name], again[name]) for name in parts)
    assert min(len(rows) for rows in parts.values()) > 0


def test_dirichlet_and_shards_make_silos_unequal_in_their_labels(tmp_path: Path) -> None:
    source = npz(tmp_path)

    def kinds(how: str) -> float:
        parts = partition(source, how, 5, seed=2)
        return float(np.mean([len(np.unique(source.columns["labels"][rows])) for rows in parts.values()]))

    assert kinds("iid") == 10.0
    assert kinds("dirichlet:0.1") < 7
    assert kinds("shards:2") <= 4.0


def test_a_column_names_the_silos_and_a_number_keeps_the_largest(tmp_path: Path) -> None:
    source = Source([table(tmp_path)])
    assert {name: list(rows) for name, rows in partition(source, "column:site", 0).items()} == {
        "caf": [1, 2, 4, 5, 7, 8],
        "empty": [0, 3, 6, 9],
    }
    parts = partition(source, "column:site", 1)
    assert [list(rows) for rows in parts.values()] == [[1, 2, 4, 5, 7, 8]]


def test_what_is_written_is_what_was_read(tmp_path: Path) -> None:
    source = Source([table(tmp_path)])
    text = source.write([0, 1, 9], tmp_path / "part").read_text(encoding="utf-8").splitlines()
    assert text == ["a,site,label", "0,,0", "1,Café Ü,1", "9,,1"]
    arrays = npz(tmp_path)
    with np.load(arrays.write([5, 7], tmp_path / "part")) as archive:
        assert np.array_equal(archive["images"], arrays.columns["images"][[5, 7]])
        assert archive["labels"].dtype == arrays.columns["labels"].dtype


def test_parquet_is_cut_as_well(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": [1, None, 3], "label": ["x", "y", "x"]}), tmp_path / "d.parquet")
    source = Source([tmp_path / "d.parquet"])
    part = pq.read_table(source.write([1, 2], tmp_path / "part"))
    assert part.to_pydict() == {"a": [None, 3], "label": ["y", "x"]}


@pytest.mark.parametrize(
    ("how", "silos", "code"),
    [
        ("by-magic", 2, "OCT-CLI-USAGE"),
        ("dirichlet", 2, "OCT-CLI-USAGE"),
        ("dirichlet:-1", 2, "OCT-CLI-USAGE"),
        ("dirichlet:0.001", 200, "OCT-CLI-USAGE"),
        ("shards:1000", 2, "OCT-CLI-USAGE"),
        ("iid", 0, "OCT-CLI-USAGE"),
        ("iid", ROWS + 1, "OCT-CLI-USAGE"),
        ("column:nothing", 2, "OCT-DATA-COLUMN"),
    ],
)
def test_what_cannot_be_cut_is_told(tmp_path: Path, how: str, silos: int, code: str) -> None:
    with pytest.raises(UserError) as error:
        partition(npz(tmp_path), how, silos)
    assert error.value.code == code


def test_files_that_do_not_fit_together_are_told(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "ragged.csv").write_text("a,b\n1\n")
    (tmp_path / "text.txt").write_text("a")
    np.savez(tmp_path / "uneven.npz", a=np.zeros(3), b=np.zeros(4))
    np.save(tmp_path / "bare.npy", np.zeros(3))
    (tmp_path / "bare.npy").rename(tmp_path / "bare.npz")
    for names, code in (
        (["nothing.csv"], "OCT-DATA-MISSING"),
        (["text.txt"], "OCT-DATA-KIND"),
        (["ragged.csv"], "OCT-DATA-KIND"),
        (["uneven.npz"], "OCT-DATA-KIND"),
        (["bare.npz"], "OCT-DATA-KIND"),
    ):
        with pytest.raises(UserError) as error:
            Source([tmp_path / name for name in names])
        assert error.value.code == code, names
    with pytest.raises(UserError) as error:
        Source([table(tmp_path), tmp_path / "other.csv"])
    assert error.value.code == "OCT-DATA-COLUMN"


JOB = """
[job]
name = "j"
version = "1"
trainer = "t:T"

[[data]]
alias = "rows"
"""


def test_a_folder_of_files_is_a_silo_each_and_pooling_puts_them_together_again(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    (folder / "code").mkdir(parents=True)
    (folder / "job.toml").write_text(JOB)
    (folder / "code" / "t.py").write_text("class T: pass\n")
    data = tmp_path / "silos"
    data.mkdir()
    table(data, "north.csv", 4)
    table(data, "south.csv", 3)
    (data / "deep").mkdir()
    table(data / "deep", "rows.csv", 2)
    with open_job(folder, tmp_path / "opened") as job:
        silos = layout.choose(job, str(data), [], "", tmp_path / "work")
        assert {name: Path(s["rows"].path).name for name, s in silos.items()} == {
            "deep": "rows.csv",
            "north": "north.csv",
            "south": "south.csv",
        }
        assert silos["north"]["rows"].kind == "csv"
        whole = pool(silos, tmp_path)
        assert len(Path(whole["rows"].path).read_text(encoding="utf-8").splitlines()) == 1 + 2 + 4 + 3
        with pytest.raises(UserError, match="no silos"):
            layout.choose(job, str(tmp_path / "opened" / "package" / "code"), [], "", tmp_path / "work")
