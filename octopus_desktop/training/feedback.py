"""What encodings left out of a run's updates so far (``aggregation.encodings``: error feedback), kept at the silo.

One file for each round that was answered last, below the run's directory; the run's journal names the one that counts.
The runner writes a round's file, makes it durable, and names it in the transaction that posts the round's answer:

    killed before: the journal still names the file of the round before; the round is trained and encoded again from
        there, and its unfinished file is written over;
    killed after: the round is answered and is never trained again; the next one finds its file.

So what was left out is applied once. When the server did not use an update (late, refused, or its round failed), what
the encoding left out of it is added to the next one all the same: as with plain updates, the rest of an unused update
is not sent again, since training begins anew from the model that came in its place. A round that fails in the silo
changes nothing. The files end with the run: they are as secret as an update and never leave.

Knows the run's mailbox and files. No torch, no NumPy.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from octopus_desktop.storage.blobs import disk_errors
from octopus_desktop.storage.mailbox import Mailbox

KEY = "feedback"
PREFIX = "left-out-"


class Feedback:
    """The residuals of one run. ``folder``: where the job's code cannot write."""

    def __init__(self, folder: Path, mailbox: Mailbox) -> None:
        self._folder, self._mailbox = folder, mailbox

    def before(self) -> Path | None:
        """What was left out until now; None before the first round, or when the file is gone (see ``lost``)."""
        path = self._named()
        return path if path and path.exists() else None

    @property
    def lost(self) -> bool:
        """The journal names a file that is not there: somebody removed it."""
        path = self._named()
        return path is not None and not path.exists()

    def after(self, round_: int) -> Path:
        """Where a round's residual is to be written: a new name for each round."""
        return self._folder / f"{PREFIX}{round_}.safetensors"

    def keep(self, path: Path) -> None:
        """From now on this one counts. Call inside the transaction that posts the answer, after ``durable``."""
        self._mailbox.write(KEY, json.dumps({"file": path.name}).encode())

    def tidy(self) -> None:
        """Remove every file but the one that counts."""
        kept = self._named()
        for path in self._folder.glob(f"{PREFIX}*"):
            if path != kept:
                path.unlink(missing_ok=True)

    def _named(self) -> Path | None:
        raw = self._mailbox.read(KEY)
        return self._folder / str(json.loads(raw)["file"]) if raw else None


def durable(path: Path) -> None:
    """A file's bytes and its name onto the disk."""
    with disk_errors(path):
        for place in (path, path.parent):
            if os.name == "nt" and place.is_dir():
                continue
            fd = os.open(place, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
