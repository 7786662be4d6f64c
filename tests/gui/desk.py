"""Builders: a whole window on a sample daemon, and the parts that need no window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from octopus_desktop.gui.app import App
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.window import MainWindow
from octopus_desktop.system.paths import SiloHome, silo_home
from tests.gui.sample_daemon import SampleDaemon


@dataclass
class Desk:
    """A window and the daemon that it talks to."""

    qtbot: QtBot
    home: SiloHome
    daemon: SampleDaemon
    app: App

    @property
    def window(self) -> MainWindow:
        return self.app.window

    @property
    def context(self) -> Context:
        return self.app.context

    def page(self, key: str) -> Any:
        return self.window.show_page(key)

    def until(self, holds: Any, ms: int = 15_000) -> None:
        self.qtbot.waitUntil(lambda: bool(holds()), timeout=ms)

    def called(self, method: str) -> list[Any]:
        return [request for name, request in self.daemon.calls if name == method]


@contextmanager
def make_desk(
    qtbot: QtBot, tmp_path: Path, *, empty: bool = False, configured: bool = True, running: bool = True
) -> Iterator[Desk]:
    """``empty``: a silo without anything; ``running``: whether its daemon answers."""
    home = silo_home(tmp_path / "silo")
    daemon = SampleDaemon(home.socket, empty=empty)
    daemon.snapshot.daemon.configured = configured
    if running:
        daemon.start()
    qt = QApplication.instance()
    assert isinstance(qt, QApplication)
    app = App(qt, home, starts_daemon=False)
    app.start()
    desk = Desk(qtbot, home, daemon, app)
    try:
        if running:
            desk.until(lambda: app.context.store.loaded)
        yield desk
    finally:
        app.close()
        app.window.hide()
        app.window.deleteLater()
        app.deleteLater()
        qt.sendPostedEvents()
        qt.processEvents()
        daemon.stop()
