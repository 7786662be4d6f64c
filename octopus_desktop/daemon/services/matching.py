"""Which registered dataset can serve which need of a job. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from octopus_desktop.jobs.manifest import DataNeed
from octopus_desktop.wire.pb import local_pb2 as pb

_KINDS = {"table": ("csv", "parquet"), "arrays": ("npz",), "folder": ("folder",)}
_SERVES = {
    "number": ("number", "integer"),
    "integer": ("integer",),
    "text": ("text",),
    "any": ("number", "integer", "text", "boolean", "other"),
}


def problem(need: DataNeed, dataset: pb.Dataset) -> str:
    """Why this dataset cannot serve the need; "" when it can."""
    if dataset.state != "ok":
        return f"{dataset.alias} is {dataset.state}"
    kinds = _KINDS.get(need.kind, (need.kind,))
    if dataset.kind not in kinds:
        return f"{dataset.alias} is {dataset.kind}, the job needs {' or '.join(kinds)}"
    if dataset.rows < need.min_rows:
        return f"{dataset.alias} has {dataset.rows} rows, the job needs {need.min_rows}"
    types = {column.name: column.type for column in dataset.columns}
    for name, wanted in need.columns.items():
        if name not in types:
            return f"{dataset.alias} lacks the column {name!r}"
        if types[name] not in _SERVES.get(wanted, (wanted,)) and not _all_missing(dataset, name):
            return f"{dataset.alias} has {name!r} as {types[name]}, the job needs {wanted}"
    return ""


def matches(needs: Iterable[DataNeed], datasets: Iterable[pb.Dataset]) -> list[pb.DataMatch]:
    """Each need against each dataset; those that fit first, then by alias equal to the need's."""
    found = []
    registered = list(datasets)
    for need in needs:
        rows = [
            pb.DataMatch(need=need.alias, dataset_id=d.id, fits=not (why := problem(need, d)), problem=why,
                         columns=list(need.columns))
            for d in registered
        ]  # fmt: skip
        names = {d.id: d.alias for d in registered}
        rows.sort(key=lambda m: (not m.fits, names[m.dataset_id] != need.alias, names[m.dataset_id]))
        found += rows or [pb.DataMatch(need=need.alias, problem="no dataset is registered", columns=list(need.columns))]
    return found


def _all_missing(dataset: pb.Dataset, name: str) -> bool:
    return any(c.name == name and c.missing >= dataset.rows for c in dataset.columns)
