"""Which run still needs which blob, so that what nobody needs goes. Knows no envelope."""

from __future__ import annotations

from octopus_desktop.daemon.core import Silo
from octopus_desktop.storage.blobs import BlobStore

MODELS_KEPT = 3


class BlobUses:
    """Kinds: package | model (of a round's task) | final | update (of the newest round's answer)."""

    def __init__(self, silo: Silo, blobs: BlobStore) -> None:
        self._silo, self._blobs = silo, blobs

    def add(self, run_id: str, kind: str, round_: int, digest: str) -> None:
        """Inside ``change`` or ``transaction``."""
        self._silo.db.execute("INSERT OR IGNORE INTO blob_uses VALUES(?,?,?,?)", digest, run_id, kind, round_)

    def drop_before(self, run_id: str, round_: int) -> None:
        """Keep the newest MODELS_KEPT rounds' models of a run, this round's update, for which a new lease may ask, and
        the one before, which may still be on its way: a late answer may count."""
        self._drop("run_id=? AND kind='model' AND round<=?", run_id, round_ - MODELS_KEPT)
        self._drop("run_id=? AND kind='update' AND round<?", run_id, round_ - 1)

    def drop_updates(self, run_id: str) -> None:
        self._drop("run_id=? AND kind='update'", run_id)

    def _drop(self, where: str, *values: object) -> None:
        db = self._silo.db
        digests = [digest for (digest,) in db.rows(f"SELECT DISTINCT digest FROM blob_uses WHERE {where}", *values)]
        if not digests:
            return
        with db.transaction():
            db.execute(f"DELETE FROM blob_uses WHERE {where}", *values)
        for digest in digests:
            if not db.one("SELECT 1 FROM blob_uses WHERE digest=?", digest):
                self._blobs.remove(digest)
