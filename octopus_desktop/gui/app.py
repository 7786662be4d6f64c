"""``octopus-desktop``: wires client, store, theme and window, and starts the daemon when none runs.

Whatever is slow to import (grpc, pyqtgraph, pages) comes after the first paint.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QTimer
from PySide6.QtNetwork import QLocalServer, QLocalSocket
from PySide6.QtWidgets import QApplication

from octopus_desktop import __version__
from octopus_desktop.gui.client import Client
from octopus_desktop.gui.commands import Commands
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.errors import install_excepthook
from octopus_desktop.gui.models.store import Store
from octopus_desktop.gui.settings import Settings
from octopus_desktop.gui.theme import Theme
from octopus_desktop.gui.window import MainWindow
from octopus_desktop.system.paths import SiloHome, private_dir, silo_home
from octopus_desktop.wire.errors import UserError

GC_MS = 2000
HANDSHAKE_MS = 1000


class App(QObject):
    """One window on one silo's home. ``start`` connects and shows; ``close`` ends everything but the daemon."""

    def __init__(self, qt: QApplication, home: SiloHome, *, starts_daemon: bool = True) -> None:
        super().__init__(qt)
        settings = Settings(private_dir(home.root) / "window.ini")
        theme = Theme(qt, settings.get("appearance"))
        self.context = Context(
            client=Client(home.socket, self),
            store=Store(self),
            theme=theme,
            settings=settings,
            commands=Commands(theme, self),
            home=home.root,
        )
        self._starts_daemon = starts_daemon
        self.context.client.event_received.connect(self.context.store.apply)
        self.context.store.gap.connect(self.context.client.resync)
        self.window = MainWindow(self.context)
        self.window.quit_wanted.connect(qt.quit)
        self.context.client.disconnected.connect(self._on_first_disconnected)
        self._collector = QTimer(self)
        self._collector.timeout.connect(collect)

    def start(self) -> None:
        # Cycles with QObjects must die on this thread, never on the client's.
        gc.disable()
        self._collector.start(GC_MS)
        self.window.show()
        QTimer.singleShot(0, self.context.client.start)

    def close(self) -> None:
        self._collector.stop()
        self.context.client.close()
        self.context.settings.sync()
        gc.enable()

    def open_link(self, link: str) -> None:
        """An ``octopus://`` link: show what it invites to."""
        self.window.raise_up()
        if link:
            self.window.show_page("federations").enrol(link)  # type: ignore[attr-defined]

    def _on_first_disconnected(self, error: UserError) -> None:
        self.context.client.disconnected.disconnect(self._on_first_disconnected)
        if self._starts_daemon and error.code == "OCT-DAEMON-AWAY" and not self.context.store.loaded:
            self.window.starter.start()


class SingleInstance(QObject):
    """One window per home: the first listens, a second one sends it its link and ends."""

    def __init__(self, home: SiloHome, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._name = str(private_dir(home.runtime) / "window.sock")
        self._server: QLocalServer | None = None

    def hand_over(self, link: str) -> bool:
        """Give ``link`` to a running window; False when there is none."""
        socket = QLocalSocket()
        socket.connectToServer(self._name)
        if not socket.waitForConnected(HANDSHAKE_MS):
            return False
        socket.write(link.encode() + b"\n")
        socket.waitForBytesWritten(HANDSHAKE_MS)
        socket.disconnectFromServer()
        return True

    def listen(self, app: App) -> None:
        """Be the one window of this home."""
        QLocalServer.removeServer(self._name)  # left over from a window that was killed
        self._server = QLocalServer(self)
        self._server.setSocketOptions(QLocalServer.SocketOption.UserAccessOption)
        self._server.listen(self._name)

        def on_connection() -> None:
            socket = self._server.nextPendingConnection() if self._server is not None else None
            if socket is None:
                return

            def on_ready() -> None:
                if socket.canReadLine():
                    app.open_link(bytes(socket.readLine().data()).decode().strip())
                    socket.deleteLater()

            socket.readyRead.connect(on_ready)
            on_ready()

        self._server.newConnection.connect(on_connection)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None


def collect() -> None:
    """What the automatic collector would do, on the thread that calls."""
    counts, limits = gc.get_count(), gc.get_threshold()
    for generation in (2, 1, 0):
        if counts[generation] > limits[generation]:
            gc.collect(generation)
            return


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="octopus-desktop", description="The window of a silo's administrator.")
    parser.add_argument("--home", type=Path, help="the silo's directory (default: OCTOPUS_HOME or the platform's)")
    parser.add_argument("--no-start", action="store_true", help="do not start the daemon when none runs")
    parser.add_argument("--version", action="version", version=f"octopus-desktop {__version__}")
    parser.add_argument("link", nargs="?", default="", help="an octopus:// link or an invitation's text")
    given = parser.parse_args(arguments)
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # its INFO lines about a daemon that goes are no news
    QApplication.setApplicationName("Octopus Desktop")
    QApplication.setDesktopFileName("octopus-desktop")
    qt = QApplication(sys.argv[:1])
    try:
        home = silo_home(given.home)
        private_dir(home.root)
        single = SingleInstance(home, qt)
    except OSError as error:
        print(f"{error}\nNext: give another directory with --home [OCT-CONFIG-INVALID]", file=sys.stderr)
        return 1
    if single.hand_over(given.link):
        return 0
    qt.setQuitOnLastWindowClosed(False)
    app = App(qt, home, starts_daemon=not given.no_start)
    install_excepthook(app.context.show_error)
    single.listen(app)
    app.start()
    if given.link:
        QTimer.singleShot(0, lambda: app.open_link(given.link))
    code = qt.exec()
    single.close()
    app.close()
    return code


if __name__ == "__main__":
    sys.exit(main())
