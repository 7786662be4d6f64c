"""The daemon's snapshot and what its events made of it: the window's picture of the world. Pages never write it."""

from __future__ import annotations

from typing import Any, Final

from PySide6.QtCore import QObject, Signal

from octopus_desktop.wire.pb import local_pb2 as pb

KINDS: Final = {
    "federation": "federations",
    "node": "nodes",
    "dataset": "datasets",
    "offer": "offers",
    "run": "runs",
    "policy": "policies",
    "runtime": "runtimes",
    "slurm_profile": "slurm_profiles",
}
AUDIT_TAIL = 10
ACTIVE_RUNS: Final = frozenset({"approved", "preparing", "training", "exchanging", "paused"})
WAITING_OFFERS: Final = frozenset({"offered"})


class Store(QObject):
    """Protobuf messages by id, kept current.

    Attributes: ``daemon`` (DaemonStatus), ``federations``, ``nodes``, ``datasets``, ``offers``, ``runs``, ``policies``,
    ``runtimes``, ``slurm_profiles`` (dicts by id), ``audit_tail`` (newest last), ``loaded`` (a snapshot has arrived).
    Signals: ``reset()`` after a snapshot; ``changed(kind, id)`` and ``removed(kind, id)`` with kinds federation | node
    | dataset | offer | run | policy | runtime | slurm_profile | daemon | audit; ``notice(Notice)``;
    ``logs(LogPageReply)``; ``gap()`` when an event was missed: nothing is taken in until the next snapshot.
    """

    reset = Signal()
    changed = Signal(str, str)
    removed = Signal(str, str)
    notice = Signal(object)
    logs = Signal(object)
    gap = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.daemon = pb.DaemonStatus()
        self.federations: dict[str, pb.Federation] = {}
        self.nodes: dict[str, pb.Node] = {}
        self.datasets: dict[str, pb.Dataset] = {}
        self.offers: dict[str, pb.SiloOffer] = {}
        self.runs: dict[str, pb.Run] = {}
        self.policies: dict[str, pb.Policy] = {}
        self.runtimes: dict[str, pb.Runtime] = {}
        self.slurm_profiles: dict[str, pb.SlurmProfile] = {}
        self.audit_tail: list[pb.AuditEntry] = []
        self.loaded = False
        self._number = 0
        self._needs_snapshot = True

    def apply(self, event: pb.Event) -> None:
        """Take in one event of the watch."""
        what = event.WhichOneof("what")
        if what == "snapshot":
            self._number, self._needs_snapshot = event.number, False
            self._take_snapshot(event.snapshot)
            return
        if self._needs_snapshot:
            return
        if event.number != self._number + 1:
            self._needs_snapshot = True
            self.gap.emit()
            return
        self._number = event.number
        if what is not None:
            self._take(what, getattr(event, what))

    def waiting(self) -> list[pb.SiloOffer]:
        """Offers that wait for a decision, oldest first."""
        found = (offer for offer in self.offers.values() if offer.state in WAITING_OFFERS)
        return sorted(found, key=lambda offer: offer.received_at)

    def active_runs(self) -> list[pb.Run]:
        """Runs that are not ended, newest first."""
        found = (run for run in self.runs.values() if run.state in ACTIVE_RUNS)
        return sorted(found, key=lambda run: -run.approved_at)

    def of(self, kind: str) -> dict[str, Any]:
        """The dict of a kind."""
        found: dict[str, Any] = getattr(self, KINDS[kind])
        return found

    def _take_snapshot(self, snapshot: pb.Snapshot) -> None:
        self.daemon = snapshot.daemon
        for plural in KINDS.values():
            setattr(self, plural, {item.id: item for item in getattr(snapshot, plural)})
        self.audit_tail = sorted(snapshot.audit_tail, key=lambda entry: entry.seq)
        self.loaded = True
        self.reset.emit()

    def _take(self, what: str, value: Any) -> None:
        if what == "daemon":
            self.daemon = value
            self.changed.emit("daemon", "")
        elif what in KINDS:
            self.of(what)[value.id] = value
            self.changed.emit(what, value.id)
        elif what == "audit":
            self.audit_tail = [*self.audit_tail, value][-AUDIT_TAIL:]
            self.changed.emit("audit", str(value.seq))
        elif what == "removed":
            if value.kind in KINDS and self.of(value.kind).pop(value.id, None) is not None:
                self.removed.emit(value.kind, value.id)
        elif what == "notice":
            self.notice.emit(value)
        elif what == "logs":
            self.logs.emit(value)
