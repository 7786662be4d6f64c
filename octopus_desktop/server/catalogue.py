"""The jobs that researchers submitted: checked to the last byte, signed by an author whom the federation knows.

Knows no runs. A package is a blob; its row is written when the blob is whole.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from octopus_desktop.jobs.package import LIMITS, VerifiedPackage, require_signature, verify
from octopus_desktop.storage.blobs import BlobStore
from octopus_desktop.storage.federation_db import FederationDb, JobRow
from octopus_desktop.wire.canonical import fingerprint
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb.federation_pb2 import Chunk, JobInfo


class Catalogue:
    """Submitted jobs, newest first."""

    def __init__(self, db: FederationDb, blobs: BlobStore) -> None:
        self._db, self._blobs = db, blobs

    async def submit(self, chunks: AsyncIterator[Chunk]) -> JobInfo:
        """Take a package; the same package again gives the same row. Raises what ``jobs.package.verify`` raises,
        OCT-JOB-UNSIGNED, OCT-JOB-AUTHOR, or OCT-JOB-TOO-LARGE before more is written than a package may have."""
        with self._blobs.create() as new:
            async for chunk in chunks:
                if new.size + len(chunk.data) > LIMITS.packed:
                    raise UserError(
                        "OCT-JOB-TOO-LARGE",
                        "The package is over the limit.",
                        f"{LIMITS.packed >> 20} MiB are allowed.",
                        "Leave data and models out of the package; data belongs to the silos.",
                    )
                new.write(chunk.data)
        digest = new.digest
        known = self._db.job(digest)
        if known:
            return to_info(known)
        try:
            package = await asyncio.to_thread(self._check, self._blobs.path(digest))
        except BaseException:
            if not self._db.is_kept(digest):
                self._blobs.remove(digest)
            raise
        self._db.add_job(
            JobRow(
                digest=digest,
                name=package.manifest.name,
                version=package.manifest.version,
                author=package.author,
                author_fingerprint=fingerprint(package.author_key),
                author_key=package.author_key,
                submitted_at=time.time(),
                size=new.size,
                purpose=package.manifest.purpose,
            )
        )
        return self.infos(digest)[0]

    def find(self, wanted: str) -> JobRow:
        """By digest, by a digest's unique beginning, or by name or name@version (the newest). OCT-JOB-UNKNOWN."""
        jobs = self._db.jobs()
        name, _, version = wanted.partition("@")
        by_name = [j for j in jobs if j.name == name and version in ("", j.version)]
        by_digest = [j for j in jobs if wanted and j.digest.startswith(wanted)]
        if by_name:
            return by_name[0]
        if len(by_digest) == 1:
            return by_digest[0]
        raise UserError(
            "OCT-JOB-UNKNOWN",
            f"{'More than one job fits' if by_digest else 'No job fits'} {wanted!r}.",
            f"Submitted: {', '.join(f'{j.name}@{j.version} ({j.digest[:12]})' for j in jobs[:20]) or 'none'}.",
            "Submit it with 'octopus jobs submit', or give another name.",
        )

    def infos(self, digest: str = "") -> list[JobInfo]:
        return [to_info(job) for job in self._db.jobs() if digest in ("", job.digest)]

    def package(self, job: JobRow) -> VerifiedPackage:
        """The package, checked again. Blocks: call it in a thread."""
        return self._check(self._blobs.path(job.digest))

    def _check(self, path: Path) -> VerifiedPackage:
        package = require_signature(verify(path))
        active = {author.key for author in self._db.authors() if author.state == "active"}
        if package.author_key not in active:
            raise UserError(
                "OCT-JOB-AUTHOR",
                f"The author of {package.manifest.name} is not known to the federation.",
                f"The package is signed by {package.author!r} with the key {fingerprint(package.author_key)}.",
                "Let the coordinator add the key ('octopus server authors add'), or enrol as an author.",
            )
        return package


def to_info(job: JobRow) -> JobInfo:
    return JobInfo(
        digest=job.digest,
        name=job.name,
        version=job.version,
        author=job.author,
        author_fingerprint=job.author_fingerprint,
        submitted_at=job.submitted_at,
        size=job.size,
        purpose=job.purpose,
    )
