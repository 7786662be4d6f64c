"""Work that would hold the window up (opening the key store, scrypt, a large file) on a pool thread, with its result on
the GUI thread. Knows nothing of what the work is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6.QtCore import QObject, QRunnable, Qt, QThreadPool, Signal, Slot

from octopus_desktop.wire.errors import UserError

_running: set[_Task] = set()


class _Task(QObject):
    ended = Signal(object, object)

    def __init__(self, then: Callable[[Any], None], failed: Callable[[UserError], None], owner: QObject | None) -> None:
        super().__init__()
        self._then, self._failed, self._owner = then, failed, owner
        self.ended.connect(self._on_ended, Qt.ConnectionType.QueuedConnection)

    @Slot(object, object)
    def _on_ended(self, value: Any, error: BaseException | None) -> None:
        _running.discard(self)
        if self._owner is not None and not shiboken6.isValid(self._owner):
            return
        if error is None:
            self._then(value)
        elif isinstance(error, UserError):
            self._failed(error)
        else:
            raise error


class _Work(QRunnable):
    def __init__(self, work: Callable[[], Any], task: _Task) -> None:
        super().__init__()
        self._work, self._task = work, task

    def run(self) -> None:
        try:
            value = self._work()
        except BaseException as error:
            self._task.ended.emit(None, error)
        else:
            self._task.ended.emit(value, None)


def run_task(
    work: Callable[[], Any],
    then: Callable[[Any], None],
    failed: Callable[[UserError], None],
    owner: QObject | None = None,
) -> None:
    """Run ``work`` on a pool thread; ``then(result)`` or ``failed(UserError)`` follow on the GUI thread, unless
    ``owner`` is gone by then. Any other exception of the work is raised on the GUI thread: it is a bug."""
    task = _Task(then, failed, owner)
    _running.add(task)
    QThreadPool.globalInstance().start(_Work(work, task))
