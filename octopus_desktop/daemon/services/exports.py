"""Writes a run's models to where the administrator wants them. Decides nothing about runs."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.blob_uses import MODELS_KEPT
from octopus_desktop.daemon.services.record import Record
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.training.spec import KEPT_MODEL
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb


class Exports:
    def __init__(self, silo: Silo, record: Record, blobs: BlobStore) -> None:
        self._silo, self._record, self._blobs = silo, record, blobs

    async def export(self, request: pb.ExportRequest) -> None:
        """Write the global model after a round (0: the newest), or the silo's own model, as a safetensors file; never
        over another file."""
        run = self._silo.need("run", request.id)
        source, what = self._own(request.id) if request.personal else self._of_round(run, request.round)
        target = Path(request.path)
        if not target.is_absolute() or not target.parent.is_dir():
            raise UserError(
                "OCT-CONFIG-INVALID",
                f"{request.path} cannot be written.",
                "Its folder does not exist.",
                "Give a whole path.",
            )

        def write() -> None:
            with open(target, "xb") as out, open(source, "rb") as model:
                shutil.copyfileobj(model, out, 1 << 20)

        try:
            await asyncio.to_thread(write)
        except FileExistsError as error:
            raise UserError(
                "OCT-STATE-EXISTS",
                f"{request.path} exists already.",
                "Nothing is written over it.",
                "Choose another name.",
            ) from error
        except OSError as error:
            raise UserError(
                "OCT-CONFIG-INVALID", f"{request.path} cannot be written.", str(error), "Choose another place."
            ) from error
        with self._silo.change():
            self._silo.record(self._silo.administrator, "model.exported", request.id, {**what, "path": request.path})
            self._silo.answer(pb.Ack())

    def _of_round(self, run: pb.Run, round_: int) -> tuple[Path, dict[str, Any]]:
        detail = self._record.detail(run, "")
        found = [r for r in detail.rounds if r.model_digest and (not round_ or r.round == round_)]
        held = [r for r in found if self._blobs.has(r.model_digest)]
        if not held:
            raise UserError(
                "OCT-BLOB-MISSING",
                "That model is not kept here." if found else "There is no such model yet.",
                f"The models of the last {MODELS_KEPT} rounds and the final one are kept.",
                "Choose a later round, or ask the coordinator for it.",
            )
        last = held[-1]
        return self._blobs.path(last.model_digest), {"round": last.round, "digest": last.model_digest}

    def _own(self, run_id: str) -> tuple[Path, dict[str, Any]]:
        place = self._silo.home.run(run_id) / KEPT_MODEL
        if not place.exists():
            raise UserError(
                "OCT-BLOB-MISSING",
                "There is no model of this silo's own.",
                "The job does not ask to keep one ([personal] keep), or the run has not come to its last evaluation.",
                "Export the federation's model, or wait for the run's end.",
            )
        return place, {"personal": True}
