"""An approved dataset as a trainer sees it: columns, arrays or a folder, read once and kept. No torch, no pickle.

Only the columns that the job declared are read. What is handed out is read-only, so that a round cannot change what the
next one sees. Knows nothing of rounds, models or processes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from octopus_desktop.training import npz
from octopus_desktop.training.spec import DataSource
from octopus_desktop.wire.errors import UserError

NULLS = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "?"]
TABLES = ("csv", "parquet")
SMALL_BYTES = 4 << 20  # an NPZ up to here is read while it is open for its names


class SiloDataset:
    """One dataset under the alias that the job uses.

    Attributes:
        alias: the job's name for it.
        kind: csv | parquet | npz | folder.
        path: the file or folder itself, for trainers that read it their own way.
    """

    def __init__(self, source: DataSource) -> None:
        """Raises UserError: OCT-DATA-MISSING (nothing is there), OCT-DATA-KIND (it cannot be read as its kind),
        OCT-DATA-COLUMN (a declared column or array is not in it)."""
        self._source = source
        self.alias, self.kind, self.path = source.alias, source.kind, Path(source.path)
        if not self.path.exists():
            raise UserError(
                "OCT-DATA-MISSING",
                f"The data for {self.alias!r} is not where it was registered.",
                f"There is nothing at {self.path}.",
                "Put the file back, or relocate the dataset (octopus dataset relocate).",
            )
        if self.kind not in (*TABLES, "npz", "folder"):
            raise self._unreadable(f"the kind {self.kind!r} is not known")
        if (self.kind == "folder") != self.path.is_dir():
            raise self._unreadable("a folder was expected" if self.kind == "folder" else "it is a folder")
        self._columns: dict[str, np.ndarray[Any, Any]] = {}
        self._arrays: dict[str, np.ndarray[Any, Any]] | None = None
        self._table: Any = self._read_table() if self.kind in TABLES else None
        if self.kind == "npz" and not self._read_small():
            with self._open_npz() as archive:
                self._require(archive.files)
                if self.path.stat().st_size <= SMALL_BYTES:
                    self._read_arrays(archive)

    @property
    def rows(self) -> int:
        """Rows of a table, length of the first array, or files in a folder (all levels)."""
        if self._table is not None:
            return int(self._table.num_rows)
        if self.kind == "npz":
            first = next(iter(self.arrays().values()), None)
            return 0 if first is None or first.ndim == 0 else len(first)
        return sum(1 for p in self.path.rglob("*") if p.is_file())

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns or arrays that can be asked for."""
        if self._table is not None:
            return tuple(self._table.column_names)
        return tuple(self.arrays()) if self.kind == "npz" else ()

    def columns(self, names: Sequence[str] | None = None) -> dict[str, np.ndarray[Any, Any]]:
        """Columns of a table as read-only arrays of shape (rows,).

        Numbers and booleans come as float64 with NaN where a value is missing; integers without gaps as int64; text as
        an object array of ``str`` with "" where it is missing.
        """
        if self._table is None:
            raise self._unreadable(f"it is of the kind {self.kind}, which has no columns")
        wanted = list(self.names if names is None else names)
        unknown = [n for n in wanted if n not in self.names]
        if unknown:
            raise self._no_columns(unknown, self.names)
        for name in wanted:
            if name not in self._columns:
                self._columns[name] = _frozen(self._convert(name))
        return {name: self._columns[name] for name in wanted}

    def arrays(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """The arrays of an NPZ file (all, or those the job declared), read-only; of a table: its columns."""
        if self._table is not None:
            return self.columns()
        if self.kind != "npz":
            raise self._unreadable("a folder has no arrays")
        if self._arrays is None:
            with self._open_npz() as archive:
                self._read_arrays(archive)
        assert self._arrays is not None
        return self._arrays

    def _read_small(self) -> bool:
        """At once, where the file is small and plain."""
        try:
            there = npz.read(self.path) if self.path.stat().st_size <= SMALL_BYTES else None
        except OSError:
            return False
        if there is None:
            return False
        self._require(list(there))
        self._arrays = {n: _frozen(there[n]) for n in (list(self._source.columns) or there)}
        return True

    def _read_arrays(self, archive: Any) -> None:
        try:
            self._arrays = {n: _frozen(archive[n]) for n in (list(self._source.columns) or archive.files)}
        except (ValueError, OSError, zipfile.BadZipFile) as error:  # object arrays would need pickle
            raise self._unreadable(str(error)) from error

    def _read_table(self) -> Any:
        import pyarrow as pa

        wanted = dict(self._source.columns)
        try:
            if self.kind == "csv":
                return self._read_csv(wanted)
            import pyarrow.parquet as pq

            with pq.ParquetFile(self.path) as file:
                self._require(file.schema_arrow.names)
                return file.read(columns=list(wanted) or None, use_threads=False)
        except (pa.ArrowInvalid, pa.ArrowKeyError, OSError, UnicodeDecodeError) as error:
            raise self._unreadable(str(error).splitlines()[0]) from error

    def _read_csv(self, wanted: dict[str, str]) -> Any:
        import pyarrow as pa
        from pyarrow import csv

        with csv.open_csv(self.path, read_options=csv.ReadOptions(use_threads=False)) as reader:
            self._require(reader.schema.names)
        return csv.read_csv(
            self.path,
            read_options=csv.ReadOptions(use_threads=False),
            convert_options=csv.ConvertOptions(
                include_columns=list(wanted) or None,
                column_types={n: pa.string() for n, kind in wanted.items() if kind == "text"},
                null_values=NULLS,
                strings_can_be_null=True,
            ),
        )

    def _convert(self, name: str) -> np.ndarray[Any, Any]:
        import pyarrow as pa

        column = self._table.column(name).combine_chunks()
        kind = self._source.columns.get(name, "any")
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if kind == "text":
            column = column.cast(pa.string())
        numeric = any(
            test(column.type)
            for test in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_null)
        )
        if kind in ("number", "integer") and not numeric:
            raise UserError(
                "OCT-DATA-COLUMN",
                f"Column {name!r} of {self.alias!r} holds {column.type}, where the job needs a {kind}.",
                f"{self.path.name} has a value in that column that is no number.",
                "Correct the file, or approve another dataset for this job.",
            )
        if not numeric:
            values = column.to_pylist()
            text = np.empty(len(values), dtype=object)
            text[:] = ["" if v is None else str(v) for v in values]
            return text
        if pa.types.is_integer(column.type) and column.null_count == 0:
            return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
        return np.asarray(column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False))

    def _open_npz(self) -> Any:
        try:
            archive = np.load(self.path, allow_pickle=False)
        except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
            raise self._unreadable(str(error)) from error
        if not hasattr(archive, "files"):
            raise self._unreadable("it holds one bare array; save it with numpy.savez")
        return archive

    def _require(self, there: Sequence[str]) -> None:
        lacking = [n for n in self._source.columns if n not in there]
        if lacking:
            raise self._no_columns(lacking, there)

    def _no_columns(self, lacking: Sequence[str], there: Sequence[str]) -> UserError:
        what = "array" if self.kind == "npz" else "column"
        return UserError(
            "OCT-DATA-COLUMN",
            f"The data for {self.alias!r} lacks the {what}{'s' if len(lacking) > 1 else ''} "
            + ", ".join(repr(n) for n in lacking)
            + ".",
            f"{self.path.name} has: {', '.join(list(there)[:40])}.",
            "Rename or add it in the file, or approve another dataset for this job.",
        )

    def _unreadable(self, why: str) -> UserError:
        return UserError(
            "OCT-DATA-KIND",
            f"The data for {self.alias!r} cannot be used as {self.kind}.",
            f"{self.path.name}: {why}.",
            "Check the file, or register it under its real kind.",
        )


def _frozen(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if array.flags.writeable:
        array.flags.writeable = False
    return array
