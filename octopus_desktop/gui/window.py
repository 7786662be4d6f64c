"""The main window: rail, pages made when first shown, banner, status bar, menus. Wires pages together, knows none."""

from __future__ import annotations

from collections.abc import Callable

from PySide6.QtCore import Qt, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QKeySequence
from PySide6.QtWidgets import (
    QHBoxLayout,
    QMainWindow,
    QMessageBox,
    QStackedWidget,
    QStatusBar,
    QVBoxLayout,
    QWidget,
)

from octopus_desktop import __version__
from octopus_desktop.gui.commands import Command
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.daemon_starter import DaemonStarter
from octopus_desktop.gui.errors import error_dialog
from octopus_desktop.gui.pages import PageSpec, pages
from octopus_desktop.gui.palette import Palette
from octopus_desktop.gui.rail import Rail
from octopus_desktop.gui.tray import Tray
from octopus_desktop.gui.widgets.parts import Banner, Toasts, button
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

FIRST_SIZE = (1366, 768)


class MainWindow(QMainWindow):
    """Signals: ``quit_wanted()`` when the person ends the window (not the daemon)."""

    quit_wanted = Signal()

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._specs: dict[str, PageSpec] = {spec.key: spec for spec in pages()}
        self._pages: dict[str, QWidget] = {}
        self._quitting = False
        self._wizard: QWidget | None = None
        self._offered_wizard = False
        self.setWindowTitle("Octopus Desktop")
        context.theme.bind(self, lambda me=self: me.setWindowIcon(me._context.theme.icon("octopus", "accent")))
        self._toasts = Toasts(context.theme, self)
        context.open, context.toast, context.show_error = self.open_item, self._toasts.show, self.show_error
        self.starter = DaemonStarter(context.home, self._ask_passphrase, self)
        self._add_commands()
        self._build()
        self.tray = Tray(context, self)
        self._connect()
        self.resize(*FIRST_SIZE)
        if (geometry := context.settings.get("geometry")) is not None:
            self.restoreGeometry(geometry)
        key = context.settings.get("page")
        self.show_page(key if key in self._specs else next(iter(self._specs)))

    # Navigation

    def show_page(self, key: str) -> QWidget:
        """Show a page, building it the first time."""
        if key not in self._pages:
            page = self._specs[key].make(self._context)
            self._pages[key] = page
            self._stack.addWidget(page)
        page = self._pages[key]
        self._stack.setCurrentWidget(page)
        self._rail.set_current(key)
        self._context.settings.put("page", key)
        return page

    def open_item(self, kind: str, item_id: str) -> None:
        """Show the page that holds items of this kind, with the item chosen."""
        if kind == "page":
            self.show_page(item_id)
            return
        for spec in self._specs.values():
            if kind in spec.kinds:
                self.show_page(spec.key).show_item(item_id)  # type: ignore[attr-defined]
                return

    def show_error(self, error: UserError) -> None:
        error_dialog(self, error).open()

    def show_palette(self) -> None:
        Palette(self._context, self).show()

    def show_wizard(self) -> None:
        """Open the first-run wizard."""
        from octopus_desktop.gui.wizards.first_run import FirstRun

        if self._wizard is None:
            wizard = FirstRun(self._context, self)
            wizard.finished.connect(self._on_wizard_finished)
            self._wizard = wizard
            wizard.open()

    def raise_up(self) -> None:
        self.showNormal() if self.isMinimized() else self.show()
        self.raise_()
        self.activateWindow()

    def quit(self) -> None:
        """End the window; the daemon goes on."""
        self._quitting = True
        self.close()
        self.quit_wanted.emit()

    def closeEvent(self, event: QCloseEvent) -> None:
        self._context.settings.put("geometry", self.saveGeometry())
        self._context.settings.sync()
        if not self._quitting and self.tray.available and self._context.settings.get("close_to_tray"):
            event.ignore()
            self.hide()
            return
        event.accept()
        if not self._quitting:
            self._quitting = True
            self.quit_wanted.emit()

    # Building

    def _build(self) -> None:
        theme = self._context.theme
        self._rail = Rail(theme, list(self._specs.values()), self.show_page)
        self._stack = QStackedWidget()
        self.banner = Banner(theme)
        self.banner.acted.connect(self._on_banner_acted)
        right = QVBoxLayout()
        right.setContentsMargins(0, 0, 0, 0)
        right.setSpacing(0)
        right.addWidget(self.banner)
        right.addWidget(self._stack, 1)
        row = QHBoxLayout()
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(0)
        row.addWidget(self._rail)
        row.addLayout(right, 1)
        middle = QWidget()
        middle.setLayout(row)
        self.setCentralWidget(middle)
        bar = QStatusBar()
        bar.setSizeGripEnabled(False)
        self._link = button(theme, "", lambda: self.show_page("federations"), icon="unlink")
        self._waiting = button(theme, "", lambda: self.show_page("approvals"), icon="approvals")
        self._running = button(theme, "", lambda: self.show_page("runs"), icon="runs")
        bar.addWidget(self._link)
        bar.addPermanentWidget(self._waiting)
        bar.addPermanentWidget(self._running)
        self.setStatusBar(bar)
        for group, title in (
            ("file", self.tr("&Octopus")),
            ("view", self.tr("&View")),
            ("silo", self.tr("&Silo")),
            ("help", self.tr("&Help")),
        ):
            self.menuBar().addMenu(title).addActions(self._context.commands.actions(group))

    def _add_commands(self) -> None:
        add, client, store = self._context.commands.add, self._context.client, self._context.store

        def connected() -> bool:
            return client.is_connected and not client.is_read_only

        def some(*states: str) -> Callable[[], bool]:
            return lambda: connected() and any(run.state in states for run in store.runs.values())

        def page_does(page: str, act: str) -> Callable[[], None]:
            return lambda: getattr(self.show_page(page), act)()

        for spec in self._specs.values():
            add(
                Command(
                    id=f"page {spec.key}",
                    text=spec.title,
                    run=lambda key=spec.key: self.show_page(key),
                    shortcut=spec.shortcut,
                    icon=spec.icon,
                    group="view",
                )
            )
        rows = [
            ("palette", self.tr("Command palette…"), self.show_palette, "Ctrl+K", "search", "file", None),
            ("setup", self.tr("Set up this silo…"), self.show_wizard, "", "home", "file", None),
            ("window quit", self.tr("Quit the window"), self.quit, "Ctrl+Q", "close", "file", None),
            ("federation enrol", self.tr("Enrol in a federation…"), page_does("federations", "enrol"), "", "key",
             "silo", connected),
            ("dataset register", self.tr("Register a dataset…"), page_does("datasets", "register"), "", "datasets",
             "silo", connected),
            ("node register", self.tr("Register this machine…"), page_does("nodes", "register"), "", "nodes", "silo",
             connected),
            ("runtime add", self.tr("Add a Python environment…"), page_does("runtimes", "add"), "", "code", "silo",
             connected),
            ("audit verify", self.tr("Verify the audit record"), page_does("audit", "verify"), "", "audit", "silo",
             connected),
            ("runs pause-all", self.tr("Pause all runs"), self._pause_all, "", "pause", "silo",
             some("approved", "preparing", "training", "exchanging")),
            ("runs resume-all", self.tr("Resume all runs"), self._resume_all, "", "play", "silo", some("paused")),
            ("daemon start", self.tr("Start the daemon"), self.starter.start, "", "power", "silo",
             lambda: not client.is_connected and not self.starter.is_busy),
            ("daemon stop", self.tr("Stop the daemon…"), self._stop_daemon, "", "stop", "silo",
             lambda: client.is_connected),
            ("about", self.tr("About Octopus Desktop"), self._about, "", "info", "help", None),
        ]  # fmt: skip
        for id, text, run, shortcut, icon, group, enabled in rows:
            more = {} if enabled is None else {"enabled": enabled}
            add(Command(id=id, text=text, run=run, shortcut=shortcut, icon=icon, group=group, **more))
        self._context.commands.action("window quit").setShortcut(QKeySequence(QKeySequence.StandardKey.Quit))

    def _connect(self) -> None:
        client, store = self._context.client, self._context.store
        client.connected.connect(self._on_connected)
        client.disconnected.connect(self._on_disconnected)
        client.read_only.connect(self._on_read_only)
        client.failed.connect(self.show_error)
        store.reset.connect(self._on_reset)
        store.changed.connect(lambda _kind, _id: self._soon.start())
        store.removed.connect(lambda _kind, _id: self._soon.start())
        store.notice.connect(self._on_notice)
        self.starter.began.connect(self._on_starting)
        self.starter.started.connect(client.retry)
        self.starter.failed.connect(self._on_start_failed)
        self._soon = QTimer(self)  # many events in a burst ask for one refresh
        self._soon.setSingleShot(True)
        self._soon.setInterval(50)
        self._soon.timeout.connect(self._refresh)
        self._refresh()

    # What happened

    def _on_connected(self) -> None:
        self.banner.hide()
        self._refresh()

    def _on_disconnected(self, error: UserError) -> None:
        if not self.starter.is_busy:
            self.banner.tell("warning", error.what, error.why, self.tr("Start the daemon"))
        self._refresh()

    def _on_read_only(self, why: str) -> None:
        text = self.tr("Window and daemon are of versions that do not fit: reading only.")
        self.banner.tell("danger", text, self.tr("{0} Restart whichever is older.").format(why))
        self._refresh()

    def _on_starting(self) -> None:
        self.banner.tell("info", self.tr("The daemon is starting…"))
        self._refresh()

    def _on_start_failed(self, error: UserError) -> None:
        if not self._context.client.is_connected:
            self.banner.tell("danger", error.what, error.why or error.next_step, self.tr("Start the daemon"))
        else:
            self._tell_locked()

    def _on_banner_acted(self) -> None:
        if self._context.client.is_connected:
            self.starter.unlock()
        else:
            self.starter.start()

    def _on_reset(self) -> None:
        self._refresh()
        self._tell_locked()
        if not self._context.store.daemon.configured and not self._offered_wizard:
            self._offered_wizard = True
            self.show_wizard()

    def _tell_locked(self) -> None:
        daemon, client = self._context.store.daemon, self._context.client
        if (
            client.is_connected
            and daemon.configured
            and daemon.secrets.startswith("locked")
            and not client.is_read_only
        ):
            text = self.tr("The daemon's secrets are locked: it reaches no federation.")
            why = self.tr("It was started without the passphrase that seals them.")
            self.banner.tell("warning", text, why, self.tr("Unlock…"))

    def _on_notice(self, notice: pb.Notice) -> None:
        tone = {"error": "danger", "warning": "warning"}.get(notice.level, "info")
        self._toasts.show(tone, notice.text)

    def _on_wizard_finished(self) -> None:
        if self._wizard is not None:
            self._wizard.deleteLater()
            self._wizard = None

    def _refresh(self) -> None:
        client, store = self._context.client, self._context.store
        waiting, running = len(store.waiting()), len([r for r in store.active_runs() if r.state != "paused"])
        theme = self._context.theme
        if client.is_connected:
            away = [f for f in store.federations.values() if f.link != "up"]
            text = self.tr("Daemon {0}").format(client.version)
            if store.federations:
                text += " · " + (
                    self.tr("{0} of {1} federations away").format(len(away), len(store.federations))
                    if away
                    else self.tr("all federations connected")
                )
            theme.bind_icon(self._link, "alert" if away else "link", "warning" if away else "ok")
        else:
            text = self.tr("Starting the daemon…") if self.starter.is_busy else self.tr("No daemon")
            theme.bind_icon(self._link, "unlink", "danger")
        self._link.setText(text)
        self._waiting.setText(
            self.tr("{0} waiting for you").format(waiting) if waiting else self.tr("Nothing waits for you")
        )
        theme.bind_icon(self._waiting, "question" if waiting else "check", "warning" if waiting else "muted")
        self._running.setText(self.tr("{0} running").format(running) if running else self.tr("Nothing runs"))
        theme.bind_icon(self._running, "play" if running else "runs", "info" if running else "muted")
        self._rail.set_count("approvals", waiting)
        self._rail.set_organisation(store.daemon.organisation)
        self._context.commands.refresh()

    # Acts

    def _pause_all(self) -> None:
        for run in self._context.store.active_runs():
            if run.state != "paused":
                self._context.client.call("Runs.Pause", pb.ById(id=run.id))

    def _resume_all(self) -> None:
        for run in self._context.store.active_runs():
            if run.state == "paused":
                self._context.client.call("Runs.Resume", pb.ById(id=run.id))

    def _stop_daemon(self) -> None:
        box = QMessageBox(
            QMessageBox.Icon.Question,
            self.tr("Stop the daemon"),
            self.tr("Stop the daemon of this silo?"),
            parent=self,
        )
        running = len(self._context.store.active_runs())
        box.setInformativeText(
            self.tr("{0} runs stand still until it is started again, and federations see this silo as away.").format(
                running
            )
            if running
            else self.tr("Federations see this silo as away until it is started again.")
        )
        stop = box.addButton(self.tr("Stop the daemon"), QMessageBox.ButtonRole.DestructiveRole)
        box.setDefaultButton(box.addButton(QMessageBox.StandardButton.Cancel))
        stop.clicked.connect(lambda: self._context.client.call("Daemon.Shutdown", pb.ShutdownRequest()))
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()

    def _ask_passphrase(self, problem: str, then: Callable[[str], None]) -> None:
        from octopus_desktop.gui.dialogs.signing import PassphraseDialog

        dialog = PassphraseDialog(self, problem)
        dialog.accepted.connect(lambda: then(dialog.take()))
        dialog.open()

    def _about(self) -> None:
        text = self.tr("Octopus Desktop {0}").format(__version__)
        box = QMessageBox(QMessageBox.Icon.NoIcon, self.tr("About"), text, parent=self)
        box.setIconPixmap(self._context.theme.icon("octopus", "accent").pixmap(48, 48))
        box.setInformativeText(
            self.tr(
                "A data silo's own desk in cross-silo federated learning. Apache-2.0.\nThis silo's home: {0}"
            ).format(self._context.home)
        )
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()
