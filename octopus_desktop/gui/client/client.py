"""``Client``: what the rest of the window sees of the daemon. It lives on the GUI thread; ``connection`` does the work.

Whatever arrives is handed over by one queued signal, so callbacks always run on the GUI thread and in order of arrival.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import shiboken6
from PySide6.QtCore import QObject, Qt, Signal

from octopus_desktop.gui.client.connection import PROTOCOL, Connection
from octopus_desktop.wire.canonical import new_id
from octopus_desktop.wire.errors import UserError

__all__ = ["PROTOCOL", "Call", "Client", "Subscription"]

# Calls that change nothing: allowed while versions do not fit.
READS = frozenset(
    {
        "Daemon.Hello",
        "Federations.Inspect",
        "Federations.Check",
        "Datasets.Probe",
        "Approvals.Review",
        "Approvals.ReadFile",
        "Runs.Detail",
        "Runs.Follow",
        "Runtimes.Look",
        "Nodes.Codes",
        "Policies.List",
        "Audit.Page",
        "Audit.Verify",
        "Logs.Page",
        "Logs.Tail",
    }
)


class Call:
    """A call under way. Its callbacks stay away after ``cancel`` and once ``owner`` is gone."""

    def __init__(self, owner: QObject | None, cancel: Callable[[], None] | None = None) -> None:
        self._owner, self._cancel, self.done = owner, cancel, False

    def cancel(self) -> None:
        """Stop it at the other side as well, where that still helps. Idempotent."""
        if not self.done:
            self.done = True
            if self._cancel is not None:
                self._cancel()

    @property
    def wanted(self) -> bool:
        return not self.done and (self._owner is None or shiboken6.isValid(self._owner))


Subscription = Call


class Client(QObject):
    """Calls, streams and the watch of one daemon.

    Attributes: ``is_connected``, ``is_read_only``, ``boot_id``, ``version`` (the daemon's). Signals: ``connected()``
    after a successful Hello; ``disconnected(UserError)`` once when the daemon goes away (and once at start, when there
    is none); ``read_only(str)`` when versions do not fit; ``event_received(Event)`` for each event of the watch;
    ``failed(UserError)`` for a call that nobody handles.
    """

    connected = Signal()
    disconnected = Signal(object)
    read_only = Signal(str)
    event_received = Signal(object)
    failed = Signal(object)
    _arrived = Signal(object, object)

    def __init__(self, socket: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.is_connected, self.is_read_only, self.boot_id, self.version = False, False, "", ""
        self._closed = False
        self._arrived.connect(self._on_arrived, Qt.ConnectionType.QueuedConnection)
        self._connection = Connection(
            socket,
            deliver=self._arrived.emit,
            on_connected=self._on_connected,
            on_disconnected=self._on_disconnected,
            on_read_only=self._on_read_only,
            on_event=self.event_received.emit,
        )

    def start(self) -> None:
        """Begin to connect, and keep trying."""
        self._connection.start()

    def close(self) -> None:
        """End the thread. No callback runs afterwards."""
        self._closed = True
        self._connection.close()

    def retry(self) -> None:
        """Try to connect now rather than at the next attempt."""
        self._connection.retry()

    def resync(self) -> None:
        """Ask for a fresh snapshot: an event was missed."""
        self._connection.resync()

    def call(
        self,
        method: str,
        request: Any,
        then: Callable[[Any], None] | None = None,
        failed: Callable[[UserError], None] | None = None,
        owner: QObject | None = None,
    ) -> Call:
        """Run a unary call such as ``"Runs.Pause"``; ``then(reply)`` or ``failed(UserError)`` follow on this thread.

        A request's empty ``request_id`` is filled in. Without ``failed`` the error goes out as the signal ``failed``.
        With ``owner``, nothing is called back once that object is gone.
        """
        call = self._prepare(method, request, failed, owner)
        if call is not None:
            call._cancel = self._connection.call(
                method,
                request,
                self._guard(call, then, ends=True),
                self._guard(call, failed or self.failed.emit, ends=True),
            )
        return call or Call(owner)

    def stream(
        self,
        method: str,
        request: Any,
        each: Callable[[Any], None],
        ended: Callable[[UserError | None], None] | None = None,
        owner: QObject | None = None,
    ) -> Subscription:
        """Follow a stream like ``"Runs.Follow"`` until ``cancel()``. ``ended`` gets None when the daemon ended it."""
        call = self._prepare(method, request, ended, owner)
        if call is not None:
            call._cancel = self._connection.stream(
                method, request, self._guard(call, each), self._guard(call, ended, ends=True)
            )
        return call or Call(owner)

    def _prepare(
        self, method: str, request: Any, failed: Callable[[UserError], None] | None, owner: QObject | None
    ) -> Call | None:
        if "request_id" in request.DESCRIPTOR.fields_by_name and not request.request_id:
            request.request_id = new_id()
        if self.is_read_only and method not in READS:
            error = UserError(
                "OCT-DAEMON-PROTOCOL",
                self.tr("This window can only read."),
                self.tr("Window and daemon are of versions that do not fit."),
                self.tr("Restart whichever is older, then try again."),
            )
            self._arrived.emit(failed or self.failed.emit, error)
            return None
        return Call(owner)

    def _guard(self, call: Call, then: Callable[[Any], None] | None, ends: bool = False) -> Callable[[Any], None]:
        def arrive(value: Any) -> None:
            if not call.wanted:
                return
            call.done = ends
            if then is not None:
                then(value)

        return arrive

    def _on_arrived(self, then: Callable[[Any], None], value: Any) -> None:
        if not self._closed:
            then(value)

    def _on_connected(self, hello: Any) -> None:
        self.is_connected, self.boot_id, self.version = True, hello.boot_id, hello.version
        self.is_read_only = False
        self.connected.emit()

    def _on_disconnected(self, error: UserError) -> None:
        self.is_connected = False
        self.disconnected.emit(error)

    def _on_read_only(self, why: str) -> None:
        self.is_read_only = True
        self.read_only.emit(why)
