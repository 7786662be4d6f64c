"""What an administrator reads before deciding: files, findings, changes, data, history, in plain sentences.

Reads package and state; changes nothing but the administrator's own notes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

from octopus_desktop.daemon.core import Silo
from octopus_desktop.daemon.services.matching import matches
from octopus_desktop.daemon.services.packages import Packages
from octopus_desktop.daemon.services.policies import Policies
from octopus_desktop.jobs import package as packages
from octopus_desktop.jobs.manifest import JobManifest
from octopus_desktop.jobs.requirements import needed
from octopus_desktop.jobs.review import diff
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

TEXT_BYTES = 1 << 20
_HISTORY = {
    "offer.received": "offered",
    "offer.tried": "tried",
    "offer.approved": "approved",
    "offer.rejected": "rejected",
    "offer.changes_requested": "changes_requested",
    "offer.expired": "expired",
    "offer.withdrawn": "withdrawn",
    "offer.invalid": "invalid",
    "run.stopped": "revoked",
}


class Reviews:
    """``runtimes``, set by ``app``: where a job could train, and what each environment lacks."""

    def __init__(self, silo: Silo, store: Packages, policies: Policies) -> None:
        self._silo, self._packages, self._policies = silo, store, policies
        self.runtimes: Callable[[JobManifest], list[pb.RuntimeMatch]] = lambda manifest: []

    async def waiting(self) -> list[tuple[str, tuple[str, ...]]]:
        """Jobs that wait for a decision and need packages of their own: (name and version, what they need)."""
        found = {}
        for offer in self._silo.all("offer"):
            if offer.state != "offered":
                continue
            try:
                verified = await self._packages.seen(offer.offer)
            except UserError:
                continue  # the review of that offer says what is wrong with it
            wanted = needed(verified.manifest.trainer, verified.manifest.requirements)
            if wanted:
                found[f"{offer.offer.job_name} {offer.offer.job_version}"] = wanted
        return sorted(found.items())

    async def review(self, run_id: str) -> pb.ReviewReply:
        offer = self._silo.need("offer", run_id)
        reply = pb.ReviewReply(offer=offer, history=self._history(offer))
        if not offer.signature_verified:
            return reply  # nothing of a package that was not verified is shown
        verified = await self._packages.seen(offer.offer)
        reply.manifest_toml = verified.toml
        reply.files.extend(pb.FileEntry(path=f.path, size=f.size, digest=f.digest) for f in verified.files)
        reply.data.extend(matches(verified.manifest.data, self._silo.all("dataset")))
        reply.runtimes.extend(await asyncio.to_thread(self.runtimes, verified.manifest))
        reply.requirements.extend(needed(verified.manifest.trainer, verified.manifest.requirements))
        files = await asyncio.to_thread(packages.read_files, self._packages.path(offer.offer))
        findings, summary = await asyncio.to_thread(self._policies.examine, offer, verified, files)
        reply.findings.extend(findings)
        reply.summary.extend(summary)
        before = self._approved_before(offer)
        if before is not None:
            reply.previous_digest = before.offer.package.digest
            if reply.previous_digest != offer.offer.package.digest:
                old = await asyncio.to_thread(packages.read_files, self._packages.path(before.offer))
                reply.changes.extend(await asyncio.to_thread(diff, old, files))
        return reply

    async def read_file(self, run_id: str, path: str) -> pb.ReadFileReply:
        offer = self._silo.need("offer", run_id)
        if not offer.signature_verified:
            raise UserError(
                "OCT-APPROVAL-STATE",
                "Nothing of this package is shown.",
                "It is not verified." if offer.state == "fetching" else f"It is {offer.state}: {offer.problem}",
                "Wait until it is verified, or ask the coordinator for a valid one.",
            )
        files = await asyncio.to_thread(packages.read_files, self._packages.path(offer.offer))
        if path not in files:
            raise UserError(
                "OCT-JOB-PATH",
                f"The package holds no file {path!r}.",
                f"It holds {', '.join(sorted(files)[:20])}.",
                "Name one of its files.",
            )
        content = files[path]
        return pb.ReadFileReply(content=content[:TEXT_BYTES], binary=_binary(content))

    def note(self, run_id: str, path: str, line: int, text: str) -> None:
        """Keep a note; it stays in this silo."""
        self._silo.need("offer", run_id)
        if not text.strip():
            raise UserError("OCT-CONFIG-INVALID", "The note is empty.", "", "Write something.")
        with self._silo.change():
            self._silo.db.execute(
                "INSERT INTO notes(run_id,path,line,text,who,at) VALUES(?,?,?,?,?,?)",
                run_id,
                path,
                line,
                text.strip(),
                self._silo.administrator,
                time.time(),
            )
            self._silo.record(
                self._silo.administrator, "offer.noted", run_id, {"path": path, "line": line, "text": text.strip()}
            )
            self._silo.answer(pb.Ack())

    def _approved_before(self, offer: pb.SiloOffer) -> pb.SiloOffer | None:
        """The newest approved offer of the same job by the same author, before this one."""
        same = [
            other
            for other in self._silo.all("offer")
            if other.id != offer.id
            and other.state == "approved"
            and other.offer.job_name == offer.offer.job_name
            and other.offer.author_key == offer.offer.author_key
            and other.received_at <= offer.received_at
        ]
        return max(same, key=lambda other: other.decided_at, default=None)

    def _history(self, offer: pb.SiloOffer) -> list[pb.HistoryEntry]:
        """What happened to this job here, this offer and earlier ones; newest first."""
        offers = [
            o
            for o in self._silo.all("offer")
            if o.id == offer.id
            or (o.offer.job_name == offer.offer.job_name and o.offer.author_key == offer.offer.author_key)
        ]
        found = []
        for one in offers:
            entries, _ = self._silo.audit.page(subject=one.id, limit=1000)
            for entry in entries:
                if entry.action in _HISTORY:
                    detail = json.loads(entry.detail_json)
                    text = detail.get("reason") or detail.get("why") or ""
                    found.append(
                        pb.HistoryEntry(
                            at=entry.at,
                            who=entry.actor,
                            what=_HISTORY[entry.action],
                            text=text,
                            digest=one.offer.package.digest,
                        )
                    )
            for path, line, text, who, at in self._silo.db.rows(
                "SELECT path,line,text,who,at FROM notes WHERE run_id=?", one.id
            ):
                place = f"{path}:{line} " if path else ""
                found.append(
                    pb.HistoryEntry(at=at, who=who, what="note", text=f"{place}{text}", digest=one.offer.package.digest)
                )
        return sorted(found, key=lambda e: -e.at)


def _binary(content: bytes) -> bool:
    if b"\0" in content[:8192]:
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return True
    return False
