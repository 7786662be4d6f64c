"""``Audit``: the record, and the proof that it is whole."""

from __future__ import annotations

from octopus_desktop.daemon.core import Silo, to_pb
from octopus_desktop.daemon.services.signing import SiloKeys
from octopus_desktop.identity.keys import verify
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

PAGE_MOST = 1000


class AuditApi:
    def __init__(self, silo: Silo, keys: SiloKeys) -> None:
        self._silo, self._keys = silo, keys

    async def Page(self, request: pb.AuditPageRequest) -> pb.AuditPageReply:
        entries, total = self._silo.audit.page(
            before=request.before,
            limit=min(request.limit or 200, PAGE_MOST),
            action=request.action,
            text=request.text,
            subject=request.run_id,
        )
        return pb.AuditPageReply(entries=[to_pb(e) for e in entries], total=total)

    async def Verify(self, request: pb.Empty) -> pb.VerifyReply:
        try:
            public = self._keys.silo.public
        except UserError:  # without the key the chain can still be followed
            public = None
        found = self._silo.audit.verify((lambda data, sig: verify(public, data, sig)) if public else None)
        return pb.VerifyReply(
            whole=found.whole, entries=found.entries, first_bad=found.first_bad, why=found.why, head=found.head
        )
