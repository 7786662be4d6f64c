"""Registered datasets: what they hold, and whether they are still what was registered. Knows no job.

Their content is read by ``daemon.inspect`` in a process of its own."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.inspect import KINDS
from octopus_desktop.daemon.marks import quick_mark
from octopus_desktop.system.processes import leashed
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
ACTIVE = ("approved", "preparing", "training", "exchanging", "paused")


class Datasets:
    """The noun ``dataset``. States: ok | missing | changed | unreadable; ``digest`` stays the registered one."""

    def __init__(self, silo: Silo) -> None:
        self._silo = silo
        self.changed: Callable[[], None] = lambda: None
        self._one_at_a_time = asyncio.Semaphore(1)

    async def probe(self, path: str, kind: str) -> pb.Dataset:
        """What is there, without registering it."""
        return _filled(pb.Dataset(path=path, state="ok"), await self._inspect(path, kind))

    async def register(self, alias: str, path: str, kind: str, description: str) -> pb.Dataset:
        if not _ALIAS.fullmatch(alias):
            raise UserError(
                "OCT-DATA-ALIAS",
                f"{alias!r} cannot be a dataset's alias.",
                "Allowed are 1 to 64 letters, digits, '_', '-' and '.', beginning with a letter.",
                "Choose another alias.",
            )
        self._must_be_free(alias)
        facts = await self._inspect(path, kind)
        self._must_be_free(alias)
        dataset = pb.Dataset(id=new_id("d"), alias=alias, description=description, path=path, state="ok")
        dataset.registered_at = round(time.time(), 3)
        _filled(dataset, facts)
        with self._silo.change():
            self._store(dataset, facts["mark"])
            self._silo.record(
                self._silo.administrator,
                "dataset.registered",
                dataset.id,
                {"alias": alias, "kind": dataset.kind, "digest": dataset.digest, "rows": dataset.rows},
            )
            self._silo.answer(dataset)
        return dataset

    async def check(self, dataset_id: str) -> pb.Dataset:
        """Read it again and compare with what was registered."""
        dataset = self._silo.need("dataset", dataset_id)
        try:
            facts = await self._inspect(dataset.path, dataset.kind)
        except UserError as error:
            return self._set_state(dataset_id, _state_of(error), error)
        if facts["digest"] != dataset.digest:
            return self._set_state(dataset_id, "changed", changed(dataset))
        with self._silo.change():
            dataset = self._silo.need("dataset", dataset_id)
            _settle(dataset, "ok", None)
            self._store(dataset, facts["mark"])
        return dataset

    async def relocate(self, dataset_id: str, path: str) -> pb.Dataset:
        """It lies elsewhere now, or its new content is meant: take what is there as the registered content."""
        dataset = self._silo.need("dataset", dataset_id)
        facts = await self._inspect(path, dataset.kind)
        with self._silo.change():
            dataset = self._silo.need("dataset", dataset_id)
            before = {"path": dataset.path, "digest": dataset.digest}
            dataset.path = path
            _settle(dataset, "ok", None)
            self._store(_filled(dataset, facts), facts["mark"])
            self._silo.record(
                self._silo.administrator,
                "dataset.relocated",
                dataset_id,
                {"before": before, "path": path, "digest": dataset.digest, "rows": dataset.rows},
            )
            self._silo.answer(dataset)
        return dataset

    def remove(self, dataset_id: str) -> None:
        """Forget it; the file stays. Not while a run that was approved for it goes on."""
        dataset = self._silo.need("dataset", dataset_id)
        using = [r for r in self._silo.all("run") if r.state in ACTIVE and dataset_id in r.datasets]
        if using:
            raise UserError(
                "OCT-RUN-STATE",
                f"{dataset.alias} is in use.",
                f"{len(using)} run(s) that use it have not ended.",
                "Stop the runs first.",
            )
        with self._silo.change():
            self._silo.drop("dataset", dataset_id)
            self._silo.db.execute("DELETE FROM dataset_marks WHERE dataset_id=?", dataset_id)
            self._silo.record(self._silo.administrator, "dataset.removed", dataset_id, {"alias": dataset.alias})
            self._silo.answer(pb.Ack())

    async def still_the_same(self, dataset_id: str) -> pb.Dataset:
        """The dataset, when its content is the registered one; cheap while its mark has not moved.

        Raises OCT-DATA-MISSING, OCT-DATA-CHANGED or OCT-DATA-KIND, and says so in the dataset's state.
        """
        dataset = self._silo.need("dataset", dataset_id)
        row = self._silo.db.one("SELECT mark FROM dataset_marks WHERE dataset_id=?", dataset_id)
        try:
            mark = await asyncio.to_thread(quick_mark, Path(dataset.path))
        except OSError:
            mark = ""
        if dataset.state == "ok" and row and mark and row[0] == mark:
            return dataset
        dataset = await self.check(dataset_id)
        if dataset.state != "ok":
            raise UserError(
                dataset.error_code,
                f"Dataset {dataset.alias!r} is not what was approved.",
                dataset.error,
                "Restore it, or relocate it and decide anew.",
            )
        return dataset

    def link_run(self, dataset_id: str, run_id: str) -> None:
        """Note that a run was approved for this dataset. Inside ``change``."""
        dataset = self._silo.need("dataset", dataset_id)
        if run_id not in dataset.runs:
            dataset.runs.append(run_id)
            self._silo.put("dataset", dataset)

    def _must_be_free(self, alias: str) -> None:
        if any(d.alias == alias for d in self._silo.all("dataset")):
            raise UserError(
                "OCT-DATA-ALIAS",
                f"The alias {alias!r} is taken.",
                "Another dataset bears it.",
                "Choose another alias, or relocate the dataset that has it.",
            )

    def _store(self, dataset: pb.Dataset, mark: str) -> None:
        dataset.checked_at = round(time.time(), 3)
        self._silo.put("dataset", dataset)
        self._silo.db.execute("INSERT OR REPLACE INTO dataset_marks VALUES(?,?)", dataset.id, mark)
        self._silo.afterwards(self.changed)

    def _set_state(self, dataset_id: str, state: str, error: UserError) -> pb.Dataset:
        with self._silo.change():
            dataset = self._silo.need("dataset", dataset_id)
            moved = dataset.state != state
            _settle(dataset, state, error)
            dataset.checked_at = round(time.time(), 3)
            self._silo.put("dataset", dataset)
            if moved:
                self._silo.record("daemon", f"dataset.{state}", dataset_id, {"alias": dataset.alias, "why": error.why})
                self._silo.notify("warning", error.code, f"{dataset.alias}: {error.what}", "dataset", dataset_id)
        return dataset

    async def _inspect(self, path: str, kind: str) -> dict[str, Any]:
        if kind and kind not in KINDS:
            raise UserError(
                "OCT-DATA-KIND", f"{kind!r} is no kind of dataset.", "", f"The kinds are {', '.join(KINDS)}."
            )
        if not Path(path).is_absolute():
            raise UserError(
                "OCT-DATA-MISSING",
                f"{path!r} is no absolute path.",
                "The daemon does not know from where it is meant.",
                "Give the whole path, beginning with the root.",
            )
        async with self._one_at_a_time:
            child = await asyncio.create_subprocess_exec(
                *leashed("octopus_desktop.daemon.inspect", path, kind),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            try:
                out, problems = await child.communicate()
            finally:
                if child.returncode is None:
                    child.kill()
        if child.returncode != 0:
            last = problems.decode(errors="replace").strip().splitlines()[-1:]
            raise UserError(
                "OCT-DATA-KIND",
                f"{Path(path).name} could not be read.",
                f"The reader ended with {child.returncode}: {' '.join(last)}",
                "Look whether the file is whole and fits into memory piece by piece.",
            )
        facts: dict[str, Any] = json.loads(out)
        if "fault" in facts:
            raise UserError(*facts["fault"])
        return facts


def changed(dataset: pb.Dataset) -> UserError:
    return UserError(
        "OCT-DATA-CHANGED",
        f"{dataset.alias} changed since it was registered.",
        "Its content has another digest now.",
        "Restore the content, or relocate the dataset to register the new one; approvals for the old one end.",
    )


def _state_of(error: UserError) -> str:
    return {"OCT-DATA-MISSING": "missing", "OCT-DATA-CHANGED": "changed"}.get(error.code, "unreadable")


def _settle(dataset: pb.Dataset, state: str, error: UserError | None) -> None:
    dataset.state = state
    dataset.error_code = error.code if error else ""
    dataset.error = f"{error.what} {error.why}".strip() if error else ""


def _filled(dataset: pb.Dataset, facts: dict[str, Any]) -> pb.Dataset:
    del dataset.columns[:]
    dataset.columns.extend(pb.Column(**column) for column in facts["columns"])
    dataset.kind, dataset.rows, dataset.bytes = facts["kind"], facts["rows"], facts["bytes"]
    dataset.digest = facts["digest"]
    return dataset
