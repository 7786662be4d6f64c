"""Cuts one dataset into silos, for experiments: CSV, Parquet or NPZ in, a file of the same kind for each silo out.

``by-column:NAME`` (or ``column:NAME``) a silo for each value of a column · ``iid`` equal random shares ·
``dirichlet:ALPHA`` each label spread by a Dirichlet distribution (Hsu, Qi, Brown 2019, section 3) · ``shards:K`` rows
sorted by label, K runs of them for each silo (McMahan et al. 2017, section 3). Rows keep their order. The same
seed gives the same silos.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octopus_desktop.wire.errors import UserError

LABELS = ("label", "labels", "target", "y", "class", "num")
ATTEMPTS = 100
Rows = Sequence[int] | np.ndarray[Any, Any]


class Source:
    """A dataset in memory: some named columns of equal length, that can be cut by rows and written again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Several files of one kind are one dataset, in the given order.

        Raises:
            UserError: OCT-DATA-MISSING, OCT-DATA-KIND, OCT-DATA-COLUMN (the files have different columns).
        """
        for path in paths:
            if not path.is_file():
                raise UserError("OCT-DATA-MISSING", f"There is no file {path}.", "", "Give the path of a data file.")
        self.suffix = paths[0].suffix.lower()
        if self.suffix not in (".csv", ".parquet", ".npz") or any(p.suffix.lower() != self.suffix for p in paths):
            raise _kind(paths[0], "a CSV, Parquet or NPZ file is wanted, and several must be of one kind")
        self.columns = self._read(paths)
        lengths = {len(values) for values in self.columns.values()}
        if len(lengths) != 1 or lengths == {0}:
            raise _kind(paths[0], "its columns or arrays must have the same number of rows, and at least one")
        self.rows = lengths.pop()

    def _read(self, paths: Sequence[Path]) -> dict[str, Any]:
        parts = [_READERS[self.suffix](path) for path in paths]
        names = list(parts[0])
        for path, part in zip(paths, parts, strict=True):
            if list(part) != names:
                raise UserError(
                    "OCT-DATA-COLUMN",
                    f"{path.name} does not have the columns of {paths[0].name}.",
                    f"It has {', '.join(list(part)[:20])}; the other {', '.join(names[:20])}.",
                    "Give files with the same columns in the same order.",
                )
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def column(self, name: str) -> Any:
        if name not in self.columns:
            raise UserError(
                "OCT-DATA-COLUMN",
                f"The data have no column {name!r}.",
                f"They have {', '.join(list(self.columns)[:40])}.",
                "Name one of these.",
            )
        return self.columns[name]

    def label(self, name: str = "") -> Any:
        """The named column, or the first of the usual names, or the last column."""
        usual = [known for known in LABELS if known in self.columns]
        return self.column(name or (usual[0] if usual else list(self.columns)[-1]))

    def write(self, rows: Rows, path: Path) -> Path:
        """These rows as a file; the path gets the source's suffix."""
        target = path.with_name(path.name + self.suffix)
        chosen = {name: values[np.asarray(rows, dtype=np.int64)] for name, values in self.columns.items()}
        if self.suffix == ".npz":
            np.savez(target, **chosen)
        elif self.suffix == ".csv":
            with target.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(chosen)
                writer.writerows(zip(*chosen.values(), strict=True))
        else:
            import pyarrow as pa
            import pyarrow.parquet as pq

            pq.write_table(pa.table({name: pa.array(list(values)) for name, values in chosen.items()}), target)
        return target


def partition(source: Source, how: str, silos: int, *, seed: int = 0, label: str = "") -> dict[str, Rows]:
    """Silo name to its rows.

    Args:
        how: as in the module's text. silos: how many; with ``by-column:NAME`` 0 means one for each value, and another
            number keeps the largest ones.

    Raises:
        UserError: OCT-CLI-USAGE for an unknown way or an impossible number, OCT-DATA-COLUMN.
    """
    way, _, argument = how.partition(":")
    random = np.random.default_rng(seed)
    if way in ("by-column", "column"):
        return _by_column(source, argument, silos)
    if silos < 1 or silos > source.rows:
        raise _usage(f"{source.rows} rows cannot be cut into {silos} silos.", "Choose a smaller number of silos.")
    if way == "iid" and not argument:
        parts: list[Rows] = [np.sort(part) for part in np.array_split(random.permutation(source.rows), silos)]
    elif way == "dirichlet":
        parts = _dirichlet(source.label(label), _number(how, argument), silos, random)
    elif way == "shards":
        parts = _shards(source.label(label), int(_number(how, argument)), silos, random)
    else:
        raise _usage(
            f"There is no way {how!r} to cut data into silos.",
            "Write by-column:NAME, iid, dirichlet:ALPHA (say dirichlet:0.5) or shards:K (say shards:2).",
        )
    return {f"silo-{number}": part for number, part in enumerate(parts, 1)}


def _by_column(source: Source, name: str, silos: int) -> dict[str, Rows]:
    values = np.array([str(value) for value in source.column(name)])
    found, counts = np.unique(values, return_counts=True)
    largest = sorted(found, key=lambda value: (-counts[np.searchsorted(found, value)], value))[: silos or None]
    names = {value: re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-") or "empty" for value in largest}
    if len(set(names.values())) < len(names):
        names = {value: f"{names[value]}-{number}" for number, value in enumerate(largest, 1)}
    return {names[value]: np.flatnonzero(values == value) for value in largest}


def _dirichlet(labels: Any, alpha: float, silos: int, random: np.random.Generator) -> list[Rows]:
    for _ in range(ATTEMPTS):  # a small alpha may leave a silo empty: draw again
        owner = np.empty(len(labels), dtype=np.int64)
        for value in np.unique(labels):
            mine = random.permutation(np.flatnonzero(labels == value))
            cuts = (np.cumsum(random.dirichlet([alpha] * silos))[:-1] * len(mine)).astype(np.int64)
            for silo, part in enumerate(np.split(mine, cuts)):
                owner[part] = silo
        if len(np.unique(owner)) == silos:
            return [np.flatnonzero(owner == silo) for silo in range(silos)]
    raise _usage("Some silo stays without a row.", "Choose fewer silos or a larger alpha.")


def _shards(labels: Any, each: int, silos: int, random: np.random.Generator) -> list[Rows]:
    if each * silos > len(labels):
        raise _usage(f"{len(labels)} rows cannot make {each * silos} shards.", "Choose fewer shards or silos.")
    shards = np.array_split(np.argsort(labels, kind="stable"), each * silos)
    chosen = np.array_split(random.permutation(len(shards)), silos)
    return [np.sort(np.concatenate([shards[i] for i in mine])) for mine in chosen]


def _read_csv(path: Path) -> dict[str, Any]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2 or any(len(row) != len(rows[0]) for row in rows):
        raise _kind(path, "a header and rows of equal length are wanted")
    return {name: np.array([row[i] for row in rows[1:]], dtype=object) for i, name in enumerate(rows[0])}


def _read_parquet(path: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    columns = {}
    for name in table.column_names:
        values = table.column(name).to_pylist()
        columns[name] = np.empty(len(values), dtype=object)
        columns[name][:] = values
    return columns


def _read_npz(path: Path) -> dict[str, Any]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise _kind(path, "it holds one bare array; save it with numpy.savez")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, EOFError) as error:
        raise _kind(path, str(error)) from error


_READERS = {".csv": _read_csv, ".parquet": _read_parquet, ".npz": _read_npz}


def _number(how: str, argument: str) -> float:
    try:
        value = float(argument)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise _usage(f"{how!r} lacks its number.", "Write dirichlet:0.5 or shards:2.")
    return value


def _usage(what: str, next_step: str) -> UserError:
    return UserError("OCT-CLI-USAGE", what, "", next_step)


def _kind(path: Path, why: str) -> UserError:
    return UserError("OCT-DATA-KIND", f"{path.name} cannot be cut into silos.", f"{why}.", "Check the file.")
