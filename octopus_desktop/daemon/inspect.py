"""Reads one dataset and tells what it holds: ``python -m octopus_desktop.daemon.inspect PATH KIND``, JSON on stdout.

A short-lived process of its own, so that the daemon stays small whatever the data does to a parser. Memory does not
grow with the number of rows (CSV and Parquet go batch by batch; NPZ array by array). Pickled content is refused.

Answer: {"kind", "columns": [{"name", "type", "missing"}], "rows", "bytes", "digest", "mark"} or {"fault": {…}}.
Column types: number | integer | boolean | text | other. A folder has one row for each file and no columns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.marks import quick_mark
from octopus_desktop.storage.content import content_digest, files_below
from octopus_desktop.wire.errors import UserError

KINDS = ("csv", "parquet", "npz", "folder")
_SUFFIXES = {".csv": "csv", ".parquet": "parquet", ".pq": "parquet", ".npz": "npz"}
_ORDER = ("integer", "number", "text")


def main() -> None:
    path, kind = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""
    try:
        answer = inspect(path, kind)
    except UserError as error:
        answer = {"fault": [error.code, error.what, error.why, error.next_step]}
    sys.stdout.write(json.dumps(answer))


def inspect(path: Path, kind: str = "") -> dict[str, Any]:
    """Everything about the dataset at ``path``. ``kind`` "" is guessed from the name.

    Raises OCT-DATA-MISSING, OCT-DATA-KIND, and OCT-DATA-CHANGED when the file changes while it is read.
    """
    try:
        mark = quick_mark(path)
        kind = kind or guess_kind(path)
        columns, rows = _READERS[kind](path)
        content, size = content_digest(path, kind)
        if quick_mark(path) != mark:
            raise UserError(
                "OCT-DATA-CHANGED",
                f"{path.name} changed while it was read.",
                "Somebody writes to it just now.",
                "Wait until it is complete, then try again.",
            )
    except FileNotFoundError as error:
        raise UserError(
            "OCT-DATA-MISSING",
            f"There is nothing at {path}.",
            "The file or folder does not exist.",
            "Look for where it went, and relocate the dataset.",
        ) from error
    except PermissionError as error:
        raise UserError(
            "OCT-DATA-KIND",
            f"{path} may not be read.",
            str(error),
            "Give the daemon's user the right to read it.",
        ) from error
    return {"kind": kind, "columns": columns, "rows": rows, "bytes": size, "digest": content, "mark": mark}


def guess_kind(path: Path) -> str:
    kind = "folder" if path.is_dir() else _SUFFIXES.get(path.suffix.lower(), "")
    if not kind:
        raise UserError(
            "OCT-DATA-KIND",
            f"What {path.name} holds is not known.",
            f"Its name ends in {path.suffix or 'nothing'}.",
            f"Say the kind: {', '.join(KINDS)}.",
        )
    return kind


def _unreadable(path: Path, kind: str, why: object) -> UserError:
    return UserError(
        "OCT-DATA-KIND",
        f"{path.name} cannot be read as {kind}.",
        " ".join(str(why).split())[:300],
        "Look whether the file is whole and of this kind.",
    )


def _must_be_file(path: Path, kind: str) -> None:
    if path.is_dir():
        raise _unreadable(path, kind, "it is a folder")


def _csv(path: Path) -> tuple[list[dict[str, Any]], int]:
    import pyarrow as pa
    from pyarrow import csv

    _must_be_file(path, "csv")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            import csv as plain

            names = next(plain.reader(file), [])
        if not names or any(not name.strip() for name in names):
            raise ValueError("the first line does not name every column")
        if len(set(names)) != len(names):
            raise ValueError("two columns bear the same name")
        convert = csv.ConvertOptions(
            column_types={name: pa.string() for name in names},
            strings_can_be_null=True,
            quoted_strings_can_be_null=True,
        )
        types, missing, rows = dict.fromkeys(names, ""), dict.fromkeys(names, 0), 0
        with csv.open_csv(path, convert_options=convert) as reader:
            for batch in reader:
                rows += batch.num_rows
                for name, column in zip(batch.schema.names, batch.columns, strict=True):
                    missing[name] += column.null_count
                    types[name] = _widen(types[name], column)
    except (pa.ArrowInvalid, UnicodeDecodeError, ValueError, plain.Error) as error:
        raise _unreadable(path, "csv", error) from error
    return [{"name": n, "type": types[n] or "text", "missing": missing[n]} for n in names], rows


def _widen(known: str, column: Any) -> str:
    """The narrowest of integer, number, text that holds what was seen so far and this column of strings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count == len(column):
        return known
    for name, kind in (("integer", pa.int64()), ("number", pa.float64())):
        if known and _ORDER.index(name) < _ORDER.index(known):
            continue
        try:
            pc.cast(column, kind)
            return name
        except pa.ArrowInvalid:
            continue
    return "text"


def _parquet(path: Path) -> tuple[list[dict[str, Any]], int]:
    import pyarrow as pa
    from pyarrow import parquet

    _must_be_file(path, "parquet")
    try:
        with parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            missing = dict.fromkeys(schema.names, 0)
            for batch in file.iter_batches():
                for name, column in zip(schema.names, batch.columns, strict=True):
                    missing[name] += column.null_count
            rows = file.metadata.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _unreadable(path, "parquet", error) from error
    return [{"name": f.name, "type": _arrow_type(f.type), "missing": missing[f.name]} for f in schema], rows


def _arrow_type(kind: Any) -> str:
    import pyarrow.types as t

    if t.is_boolean(kind):
        return "boolean"
    if t.is_integer(kind):
        return "integer"
    if t.is_floating(kind) or t.is_decimal(kind):
        return "number"
    return "text" if t.is_string(kind) or t.is_large_string(kind) or t.is_dictionary(kind) else "other"


def _npz(path: Path) -> tuple[list[dict[str, Any]], int]:
    import zipfile

    import numpy as np

    _must_be_file(path, "npz")
    columns, lengths = [], {}
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if not hasattr(arrays, "files"):
                raise ValueError("it is a single array, not an archive of named arrays")
            for name in arrays.files:
                values = arrays[name]
                missing = int(np.isnan(values).sum()) if values.dtype.kind in "fc" else 0
                kind = {"b": "boolean", "i": "integer", "u": "integer", "f": "number", "U": "text"}
                columns.append({"name": name, "type": kind.get(values.dtype.kind, "other"), "missing": missing})
                if values.ndim:
                    lengths[name] = values.shape[0]
    except (ValueError, EOFError, zipfile.BadZipFile, OSError, TypeError) as error:
        if isinstance(error, FileNotFoundError | PermissionError):
            raise
        raise _unreadable(path, "npz", error) from error
    return columns, min(lengths.values(), default=0)


def _folder(path: Path) -> tuple[list[dict[str, Any]], int]:
    if not path.is_dir():
        raise _unreadable(path, "folder", "it is a file")
    return [], sum(1 for _ in files_below(path))


_READERS = {"csv": _csv, "parquet": _parquet, "npz": _npz, "folder": _folder}


if __name__ == "__main__":
    main()
