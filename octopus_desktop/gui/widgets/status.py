"""How each state looks: a tone, an icon and a word, so that colour is never the only sign. The one place for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PySide6.QtCore import QCoreApplication, QRect, QSize, Qt
from PySide6.QtGui import QColor, QFont, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from octopus_desktop.gui.theme import Theme


@dataclass(frozen=True, slots=True)
class Look:
    """``tone``: ok | info | warning | danger | neutral."""

    tone: str
    icon: str
    text: str


_LOOKS: Final[dict[tuple[str, str], tuple[str, str, str]]] = {
    ("run", "approved"): ("info", "clock", "Approved"),
    ("run", "preparing"): ("info", "layers", "Preparing"),
    ("run", "training"): ("info", "play", "Training"),
    ("run", "exchanging"): ("info", "exchange", "Exchanging"),
    ("run", "paused"): ("warning", "pause-circle", "Paused"),
    ("run", "completed"): ("ok", "check-circle", "Completed"),
    ("run", "stopped"): ("neutral", "stop-circle", "Stopped"),
    ("run", "failed"): ("danger", "error", "Failed"),
    ("offer", "fetching"): ("info", "download", "Fetching"),
    ("offer", "offered"): ("warning", "question", "Needs decision"),
    ("offer", "approved"): ("ok", "check-circle", "Approved"),
    ("offer", "rejected"): ("danger", "error", "Rejected"),
    ("offer", "changes_requested"): ("info", "note", "Changes asked"),
    ("offer", "expired"): ("neutral", "clock", "Expired"),
    ("offer", "withdrawn"): ("neutral", "minus-circle", "Withdrawn"),
    ("offer", "revoked"): ("danger", "stop-circle", "Revoked"),
    ("offer", "invalid"): ("danger", "alert", "Invalid"),
    ("link", "up"): ("ok", "link", "Connected"),
    ("link", "connecting"): ("info", "refresh", "Connecting"),
    ("link", "down"): ("warning", "unlink", "Away"),
    ("link", "revoked"): ("danger", "error", "Revoked"),
    ("link", "idle"): ("neutral", "pause-circle", "Idle"),
    ("link", "refused"): ("warning", "alert", "Not usable"),
    ("link", "left"): ("neutral", "minus-circle", "Left"),
    ("node", "ready"): ("ok", "check-circle", "Ready"),
    ("node", "draining"): ("warning", "drain", "Draining"),
    ("node", "drained"): ("neutral", "pause-circle", "Drained"),
    ("node", "offline"): ("danger", "unlink", "Offline"),
    ("node", "asking"): ("warning", "question", "Asks to join"),
    ("runtime", "ok"): ("ok", "check-circle", "In order"),
    ("runtime", "broken"): ("danger", "error", "Broken"),
    ("dataset", "ok"): ("ok", "check-circle", "In order"),
    ("dataset", "missing"): ("danger", "question", "Missing"),
    ("dataset", "changed"): ("warning", "alert", "Changed"),
    ("dataset", "unreadable"): ("danger", "error", "Unreadable"),
    ("verdict", "allowed"): ("ok", "check-circle", "Allowed"),
    ("verdict", "ask"): ("warning", "question", "Your decision"),
    ("verdict", "forbidden"): ("danger", "error", "Forbidden"),
    ("verdict", "cannot"): ("danger", "unlink", "Not possible"),
    ("finding", "info"): ("info", "info", "Note"),
    ("finding", "warning"): ("warning", "alert", "Warning"),
    ("finding", "high"): ("danger", "error", "Serious"),
    ("finding", "danger"): ("danger", "error", "Serious"),
    ("signature", "verified"): ("ok", "check-circle", "Signature verified"),
    ("signature", "unverified"): ("danger", "error", "Not verified"),
    ("policy", "on"): ("ok", "check-circle", "On"),
    ("policy", "off"): ("neutral", "minus-circle", "Off"),
    ("step", "ok"): ("ok", "check-circle", "Passed"),
    ("step", "failed"): ("danger", "error", "Failed"),
    ("step", "untried"): ("neutral", "minus-circle", "Not tried"),
    ("level", "debug"): ("neutral", "dot", "Debug"),
    ("level", "info"): ("info", "info", "Info"),
    ("level", "warning"): ("warning", "alert", "Warning"),
    ("level", "error"): ("danger", "error", "Error"),
    ("level", "critical"): ("danger", "error", "Critical"),
}


def look(kind: str, state: str) -> Look:
    """Kinds: run | offer | link | node | dataset | verdict | finding | signature | policy | step | level. An unknown
    state shows its own word, so that a newer daemon is not hidden."""
    tone, icon, text = _LOOKS.get((kind, state), ("neutral", "dot", state.replace("_", " ").capitalize() or "–"))
    return Look(tone, icon, QCoreApplication.translate("states", text))


def paint_badge(painter: QPainter, rect: QRect, theme: Theme, shown: Look, font: QFont) -> None:
    """Draw a state as icon and word on its soft ground, left-aligned and centred vertically within ``rect``."""
    painter.save()
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setFont(font)
    metrics = painter.fontMetrics()
    height = metrics.height() + 6
    width = min(rect.width(), 16 + 4 + metrics.horizontalAdvance(shown.text) + 16)
    left, top = rect.left(), rect.top() + (rect.height() - height) // 2
    painter.setPen(Qt.PenStyle.NoPen)
    painter.setBrush(theme.colour(f"{shown.tone}_soft"))
    painter.drawRoundedRect(left, top, width, height, height / 2, height / 2)
    theme.icon(shown.icon, shown.tone).paint(painter, left + 6, top + (height - 14) // 2, 14, 14)
    painter.setPen(QColor(theme.name(shown.tone)))
    room = width - 24 - 8
    text = metrics.elidedText(shown.text, Qt.TextElideMode.ElideRight, room)
    painter.drawText(left + 24, top, room, height, Qt.AlignmentFlag.AlignVCenter | Qt.AlignmentFlag.AlignLeft, text)
    painter.restore()


class StatusBadge(QWidget):
    """A state as icon, word and tone. ``set_state(kind, state)`` or ``set_look(look)``."""

    def __init__(self, theme: Theme, kind: str = "", state: str = "", parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme, self._look = theme, look(kind, state)
        self.setFont(theme.font("caption", bold=True))
        self.setSizePolicy(QSizePolicy.Policy.Fixed, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self.update)
        self.set_look(self._look)

    def set_state(self, kind: str, state: str) -> None:
        self.set_look(look(kind, state))

    def set_look(self, shown: Look) -> None:
        self._look = shown
        self.setAccessibleName(shown.text)
        self.updateGeometry()
        self.update()

    @property
    def text(self) -> str:
        return self._look.text

    def sizeHint(self) -> QSize:
        metrics = self.fontMetrics()
        return QSize(36 + metrics.horizontalAdvance(self._look.text), metrics.height() + 6)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def paintEvent(self, _event: QPaintEvent) -> None:
        painter = QPainter(self)
        paint_badge(painter, self.rect(), self._theme, self._look, self.font())
        painter.end()
