"""The tray icon and desktop notifications: idle, training, waiting, paused, disconnected, trouble. Knows no page."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QObject, QPoint, QRect, Qt
from PySide6.QtGui import QColor, QIcon, QPainter, QPixmap
from PySide6.QtWidgets import QApplication, QMenu, QSystemTrayIcon, QWidget

from octopus_desktop.gui import icons
from octopus_desktop.gui.context import Context
from octopus_desktop.wire.pb import local_pb2 as pb


@dataclass(frozen=True, slots=True)
class TrayState:
    """``name``: idle | training | waiting | paused | disconnected | trouble."""

    name: str
    text: str
    tone: str
    count: int = 0


def state_of(context: Context) -> TrayState:
    """What the tray should say now; what needs a person comes before what merely goes on."""
    tr = QApplication.translate
    store = context.store
    if not context.client.is_connected:
        return TrayState("disconnected", tr("tray", "The daemon does not answer"), "neutral")
    if waiting := len(store.waiting()):
        text = tr("tray", "{0} waiting for your decision").format(waiting)
        return TrayState("waiting", text, "warning", waiting)
    broken = [f.name for f in store.federations.values() if f.link in ("down", "revoked")]
    broken += [d.alias for d in store.datasets.values() if d.state in ("missing", "unreadable")]
    if broken:
        return TrayState("trouble", tr("tray", "Trouble with {0}").format(", ".join(broken[:3])), "danger")
    active = store.active_runs()
    if active and all(run.state == "paused" for run in active):
        return TrayState("paused", tr("tray", "Paused"), "warning")
    if active:
        run = next(run for run in active if run.state != "paused")
        text = tr("tray", "{0}: round {1} of {2}").format(run.job_name, run.round, run.rounds)
        return TrayState("training", text, "info")
    return TrayState("idle", tr("tray", "Idle"), "ok")


class Tray(QObject):
    """Shows itself where the desktop has a tray; notifies in any case, where it can.

    Attribute: ``available``.
    """

    def __init__(self, context: Context, window: QWidget) -> None:
        super().__init__(window)
        self._context, self._window = context, window
        self.available = QSystemTrayIcon.isSystemTrayAvailable()
        self._icon = QSystemTrayIcon(self)
        self._menu = QMenu(window)
        self._menu.aboutToShow.connect(self.fill_menu)
        self._icon.setContextMenu(self._menu)
        self._icon.activated.connect(self._on_activated)
        self._icon.messageClicked.connect(self._on_message_clicked)
        self._known = set[str]()
        self._target = ("page", "overview")
        store = context.store
        store.reset.connect(self._on_reset)
        store.changed.connect(self._on_changed)
        store.removed.connect(lambda *_: self.refresh())
        store.notice.connect(self._on_notice)
        context.client.connected.connect(self.refresh)
        context.client.disconnected.connect(lambda _error: self.refresh())
        context.theme.changed.connect(self.refresh)
        self._shown: TrayState | None = None
        self.refresh()
        if self.available:
            self._icon.show()

    @property
    def state(self) -> TrayState:
        return state_of(self._context)

    def refresh(self) -> None:
        state = self.state
        if state != self._shown:
            self._shown = state
            self._icon.setIcon(_picture(self._context, state))
            self._icon.setToolTip(f"Octopus Desktop\n{state.text}")

    def notify(self, title: str, text: str, kind: str, item_id: str) -> None:
        """Raise a desktop notification; clicking it opens the item."""
        self._target = (kind, item_id)
        if self._context.settings.get("notifications") and self.available:
            self._icon.showMessage(title, text, _picture(self._context, self.state), 10_000)

    def fill_menu(self) -> None:
        """The menu of this moment."""
        menu, commands, store = self._menu, self._context.commands, self._context.store
        menu.clear()
        menu.addAction(self._context.theme.icon("octopus"), self.tr("Open Octopus Desktop"), self._raise)
        menu.addSeparator()
        for run in store.active_runs()[:3]:
            text = self.tr("{0}: round {1} of {2}").format(run.job_name, run.round, run.rounds)
            menu.addAction(text, lambda id=run.id: self._open("run", id))
        for offer in store.waiting()[:5]:
            text = self.tr("Decide on {0} {1}…").format(offer.offer.job_name, offer.offer.job_version)
            menu.addAction(text, lambda id=offer.id: self._open("offer", id))
        menu.addSeparator()
        for name in ("runs pause-all", "runs resume-all"):
            menu.addAction(commands.action(name))
        menu.addSeparator()
        for name in ("window quit", "daemon stop"):
            menu.addAction(commands.action(name))

    def _on_reset(self) -> None:
        fresh = {offer.id for offer in self._context.store.waiting()}
        self._known = fresh
        self.refresh()

    def _on_changed(self, kind: str, item_id: str) -> None:
        if kind == "offer":
            offer = self._context.store.offers[item_id]
            if offer.state == "offered" and item_id not in self._known:
                self._known.add(item_id)
                self._tell_offer(offer)
        if kind in ("offer", "run", "federation", "dataset"):
            self.refresh()

    def _tell_offer(self, offer: pb.SiloOffer) -> None:
        asked = offer.offer
        title = self.tr("{0} asks to train on your data").format(asked.author or asked.federation)
        text = self.tr("{0} {1}: {2}").format(asked.job_name, asked.job_version, asked.purpose)
        self.notify(title, text, "offer", offer.id)

    def _on_notice(self, notice: pb.Notice) -> None:
        if notice.level in ("warning", "error"):
            self.notify("Octopus Desktop", notice.text, notice.subject_kind or "page", notice.subject_id or "overview")

    def _on_message_clicked(self) -> None:
        self._open(*self._target)

    def _open(self, kind: str, item_id: str) -> None:
        self._raise()
        self._context.open(kind, item_id)

    def _on_activated(self, reason: QSystemTrayIcon.ActivationReason) -> None:
        if reason == QSystemTrayIcon.ActivationReason.Trigger:
            self._raise()

    def _raise(self) -> None:
        self._window.showNormal() if self._window.isMinimized() else self._window.show()
        self._window.raise_()
        self._window.activateWindow()


def _picture(context: Context, state: TrayState) -> QIcon:
    """The mark with a dot, or the count, in the state's tone; legible on light and dark panels."""
    made = QIcon()
    for size in (22, 44):
        picture = QPixmap(size, size)
        picture.fill(Qt.GlobalColor.transparent)
        painter = QPainter(picture)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.drawPixmap(QPoint(0, 0), icons.pixmap("octopus", context.theme.name("muted"), size))
        tone = QColor(context.theme.name(state.tone))
        spot = QRect(size // 2, size // 2, size // 2, size // 2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(tone)
        if state.count:
            painter.drawEllipse(spot)
            painter.setPen(context.theme.colour("window"))
            font = context.theme.font("caption", bold=True)
            font.setPixelSize(size * 2 // 5)
            painter.setFont(font)
            text = str(state.count) if state.count < 10 else "+"
            painter.drawText(spot, Qt.AlignmentFlag.AlignCenter, text)
        elif state.name == "paused":
            painter.drawRect(spot.left(), spot.top(), size // 6, size // 2)
            painter.drawRect(spot.left() + size // 3, spot.top(), size // 6, size // 2)
        elif state.name != "idle":
            painter.drawEllipse(spot.adjusted(size // 8, size // 8, 0, 0))
        painter.end()
        made.addPixmap(picture)
    return made
