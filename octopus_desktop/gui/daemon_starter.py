"""Starts the silo's daemon off the GUI thread, asking for a passphrase where one seals its secrets. Knows no page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PySide6.QtCore import QObject, Signal
from PySide6.QtWidgets import QWidget

from octopus_desktop.gui.dialogs.background import run_task
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError


class DaemonStarter(QObject):
    """Signals: ``started()`` once its local API answers; ``failed(UserError)``. Attribute: ``is_busy``."""

    began = Signal()
    started = Signal()
    failed = Signal(object)

    def __init__(self, home: Path, ask: Callable[[str, Callable[[str], None]], None], parent: QWidget) -> None:
        """``ask(problem, then)`` gets a passphrase from a person and passes it to ``then``."""
        super().__init__(parent)
        self._home, self._ask, self.is_busy = home, ask, False

    def start(self, passphrase: str | None = None) -> None:
        """Start it, unless that is under way."""
        if self.is_busy:
            return
        self.is_busy = True
        self.began.emit()
        run_task(
            lambda: start_daemon(self._home, passphrase),
            self._on_started,
            lambda error: self._on_failed(error, passphrase),
            owner=self,
        )

    def unlock(self, problem: str = "") -> None:
        """Ask for the passphrase and start the running daemon anew with it."""

        def go(passphrase: str) -> None:
            self.is_busy = True
            self.began.emit()
            run_task(lambda: restart_daemon(self._home, passphrase), self._on_started, failed, owner=self)

        def failed(error: UserError) -> None:
            self.is_busy = False
            self.failed.emit(error)
            if error.code == "OCT-SECRET-PASSPHRASE":
                self.unlock(error.what)

        self._ask(problem, go)

    def _on_started(self, _pid: int) -> None:
        self.is_busy = False
        self.started.emit()

    def _on_failed(self, error: UserError, tried: str | None) -> None:
        self.is_busy = False
        if error.code == "OCT-SECRET-PASSPHRASE":
            self._ask(error.what if tried else "", self.start)
        self.failed.emit(error)


def restart_daemon(home: Path, passphrase: str) -> int:
    """Stop the daemon of ``home`` and start it with its secrets open. Slow; not for the GUI thread.

    Raises OCT-SECRET-PASSPHRASE before anything is stopped when the passphrase is wrong.
    """
    from octopus_desktop.identity.secrets import open_store
    from octopus_desktop.system import service

    silo = silo_home(home)
    open_store(silo.secrets, passphrase=passphrase)
    service.stop_daemon(silo)
    return start_daemon(home, passphrase)


def start_daemon(home: Path, passphrase: str | None = None) -> int:
    """Start the daemon of ``home`` and return its process id. Slow; not for the GUI thread."""
    from octopus_desktop.system import service

    silo = silo_home(home)
    return service.start_daemon(silo) if passphrase is None else service.start_unlocked(silo, passphrase)
