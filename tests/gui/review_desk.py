"""A desk for the tests of Approvals and Runs: sample daemon, client, store and theme, wired as in the window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PySide6.QtWidgets import QApplication

from octopus_desktop.gui.client import Client
from octopus_desktop.gui.commands import Commands
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.store import Store
from octopus_desktop.gui.settings import Settings
from octopus_desktop.gui.theme import Theme
from octopus_desktop.system.paths import silo_home
from octopus_desktop.wire.errors import UserError
from tests.gui.sample_daemon import SampleDaemon


class Desk:
    """Attributes: ``context``, ``daemon``, ``toasts`` and ``errors`` (what pages told), ``opened`` (where they led)."""

    def __init__(self, home: Path, choice: str = "light", empty: bool = False) -> None:
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        home.mkdir(parents=True, exist_ok=True)
        self.daemon = SampleDaemon(silo_home(home).socket, empty)
        self.theme = Theme(app, choice)
        self.toasts: list[tuple[str, str]] = []
        self.errors: list[UserError] = []
        self.opened: list[tuple[str, str]] = []
        self.client = Client(silo_home(home).socket)
        self.store = Store()
        self.client.event_received.connect(self.store.apply)
        self.context = Context(
            client=self.client,
            store=self.store,
            theme=self.theme,
            settings=Settings(home / "window.ini"),
            commands=Commands(self.theme),
            home=home,
            open=lambda kind, item: self.opened.append((kind, item)),
            toast=lambda level, text: self.toasts.append((level, text)),
            show_error=self.errors.append,
        )


@contextmanager
def desk(qtbot: Any, home: Path, **kind: Any) -> Iterator[Desk]:
    """A desk whose snapshot has arrived; closed at the end."""
    made = Desk(home, **kind)
    made.daemon.start()
    made.client.start()
    try:
        qtbot.waitUntil(lambda: made.store.loaded, timeout=10_000)
        yield made
    finally:
        made.client.close()
        made.daemon.stop()


@contextmanager
def real_desk(qtbot: Any, home: Path) -> Iterator[Desk]:
    """A desk at a silo whose daemon runs already; the sample daemon stays unused."""
    made = Desk(home)
    made.client.start()
    try:
        qtbot.waitUntil(lambda: made.store.loaded, timeout=20_000)
        yield made
    finally:
        made.client.close()
