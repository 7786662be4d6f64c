"""How carriers look: their names, the card that lists a federation's, and the steps of a check."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, clear, label, rule, tool_button
from octopus_desktop.gui.widgets.status import Look, StatusBadge, look
from octopus_desktop.wire.pb import local_pb2 as pb

_NAMES = {
    "grpc": "gRPC",
    "mqtt": "MQTT",
    "mqtt_s3": "MQTT + S3",
    "torch_rpc": "PyTorch RPC",
    "mpi": "MPI",
    "loopback": "Loopback",
}


def _tr(text: str) -> str:
    return QCoreApplication.translate("carriers", text)


def carrier_name(name: str) -> str:
    """As people read it; an unknown one shows its own word."""
    return _NAMES.get(name, name) or formats.DASH


def settings_of(view: pb.CarrierView) -> dict[str, Any]:
    return _table(view.settings_json)


def own_of(view: pb.CarrierView) -> dict[str, Any]:
    return _table(view.own_json)


def may_be_unsealed(view: pb.CarrierView) -> bool:
    """Whether the federation offers it with blob bytes in the clear; without this silo's consent they stay sealed."""
    return settings_of(view).get("sealed", True) is False


def is_unsealed(view: pb.CarrierView) -> bool:
    """Whether blob bytes travel in the clear: both sides have chosen so."""
    return may_be_unsealed(view) and bool(own_of(view).get("accept_unsealed"))


def protection(view: pb.CarrierView) -> tuple[str, str]:
    """(tone, words): how what travels is kept from those whose hands it passes through."""
    if is_unsealed(view):
        return "danger", _tr(
            "Blob bytes travel unsealed: whoever can listen in that network can read models and updates. "
            "The federation offers that, and this silo has consented."
        )
    if view.name == "grpc":
        return "", _tr("Mutual TLS 1.3, straight to the federation's server.")
    if view.name == "loopback":
        return "", ""
    return "", _tr("Sealed end to end: the hands that it passes through see sizes and times, and no content.")


def travels_by(federation: pb.Federation | None, config_json: str) -> tuple[str, pb.CarrierView | None, str]:
    """(name, its view, why this silo cannot use it or "") of the carrier that a job's data would take."""
    wanted = str(_table(config_json).get("carrier") or "auto")
    if federation is None:
        return wanted, None, ""
    name = federation.carrier if wanted == "auto" else wanted
    view = next((v for v in federation.carriers if v.name == name), None)
    if view is None:
        return name, None, _tr("The federation does not offer it.") if federation.carriers else ""
    return name, view, view.error if view.link == "refused" else ""


def where(view: pb.CarrierView) -> str:
    """Through what it goes, in a few words; "" for a carrier that goes straight to the server."""
    settings = settings_of(view)
    parts = []
    if settings.get("host"):
        parts.append(f"{settings['host']}:{settings.get('port', '')}")
    if settings.get("bucket"):
        endpoint = str(settings.get("endpoint", "")).partition("://")[2]
        parts.append(_tr("bucket {0} at {1}").format(settings["bucket"], endpoint))
    if settings.get("networks"):
        parts.append(_tr("inside {0}").format(", ".join(settings["networks"])))
    return " · ".join(parts)


def traffic(view: pb.CarrierView) -> str:
    """Round trip and bytes, as far as there are any."""
    parts = []
    if view.link == "up" and view.latency_ms:
        parts.append(_tr("{0} round trip").format(f"{view.latency_ms:.1f} ms"))
    if view.bytes_in or view.bytes_out:
        parts.append(_tr("{0} in").format(formats.size(view.bytes_in)))
        parts.append(_tr("{0} out").format(formats.size(view.bytes_out)))
    if view.bytes_resumed:
        parts.append(_tr("{0} resumed").format(formats.size(view.bytes_resumed)))
    return " · ".join(parts)


def carrier_words(run: pb.Run) -> str:
    """By what a run's data goes, and how that is: link, round trip, bytes, one a line."""
    lines = [carrier_name(run.carrier)]
    if run.link:
        lines.append(_tr("Link: {0}").format(look("link", run.link).text))
    if run.latency_ms:
        lines.append(_tr("{0} round trip").format(f"{run.latency_ms:.1f} ms"))
    lines.append(_tr("{0} in, {1} out").format(formats.size(run.bytes_in), formats.size(run.bytes_out)))
    if run.bytes_resumed:
        lines.append(_tr("{0} were not sent again after a break").format(formats.size(run.bytes_resumed)))
    if run.encoding not in ("", "none"):
        lines.append(_tr("Updates travel as {0}").format(run.encoding))
    return "\n".join(lines)


class CarriersCard(Card):
    """A federation's carriers, one row each: state, name, marks, traffic, what is wrong, and a way to set it up.

    ``set_up``: called with a carrier's name.
    """

    def __init__(self, theme: Theme, set_up: Callable[[str], object]) -> None:
        super().__init__(_tr("Carriers"))
        self._theme, self._set_up = theme, set_up
        self._rows = QVBoxLayout()
        self._rows.setSpacing(GRID)
        self.body.addLayout(self._rows)
        self._shown: list[bytes] = []

    def set_carriers(self, carriers: Sequence[pb.CarrierView]) -> None:
        shown = [view.SerializeToString() for view in carriers]
        if shown == self._shown:
            return
        self._shown = shown
        clear(self._rows)
        for number, view in enumerate(carriers):
            if number:
                self._rows.addWidget(rule())
            self._rows.addWidget(self._row(view))
        if not carriers:
            self._rows.addWidget(
                label(
                    _tr("The federation has not said yet what it offers. It does when the link is up."),
                    "muted",
                    wrap=True,
                )
            )

    def _row(self, view: pb.CarrierView) -> QWidget:
        row = QWidget()
        column = QVBoxLayout(row)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID // 2)
        top = QHBoxLayout()
        top.setSpacing(GRID)
        name = label(carrier_name(view.name), "strong")
        name.setToolTip(view.title)
        top.addWidget(name)
        top.addWidget(StatusBadge(self._theme, "link", view.link or "idle"))
        if view.control:
            badge = StatusBadge(self._theme)
            badge.set_look(Look("info", "exchange", _tr("Control")))
            badge.setToolTip(_tr("Offers, decisions and heartbeats go by this carrier"))
            top.addWidget(badge)
        if is_unsealed(view):
            badge = StatusBadge(self._theme)
            badge.set_look(Look("danger", "alert", _tr("Unsealed")))
            badge.setToolTip(_tr("Blob bytes (models, updates) travel in the clear inside that network"))
            top.addWidget(badge)
        top.addStretch(1)
        edit = tool_button(
            self._theme, "edit", _tr("Set up {0}…").format(carrier_name(view.name)), lambda: self._set_up(view.name)
        )
        top.addWidget(edit)
        column.addLayout(top)
        for text in (where(view), traffic(view)):
            if text:
                column.addWidget(label(text, "caption", wrap=True))
        if view.error:
            problem = label(f"{view.error} [{view.error_code}]" if view.error_code else view.error, wrap=True)
            problem.setProperty("tone", "danger" if view.in_use else "warning")
            column.addWidget(problem)
        return row


class CheckCard(Card):
    """The steps of a check, carrier by carrier; hidden until there is one."""

    def __init__(self, theme: Theme) -> None:
        super().__init__(_tr("Check of the links"))
        self._theme = theme
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(GRID)
        self._grid.setVerticalSpacing(GRID // 2)
        self._grid.setColumnStretch(1, 1)
        self._verdict = StatusBadge(theme)
        self.tools.addWidget(self._verdict)
        self._first = label("", wrap=True, selectable=True)  # what matters, before the steps that passed
        self._first.setProperty("tone", "danger")
        self.body.addWidget(self._first)
        self.body.addLayout(self._grid)
        self.hide()

    def show_steps(self, reply: pb.CheckReply) -> None:
        clear(self._grid)
        failed = sum(state_of(step) == "failed" for step in reply.steps)
        words = _tr("1 step failed") if failed == 1 else _tr("{0} steps failed").format(failed)
        untried = any(state_of(step) == "untried" for step in reply.steps)
        good = _tr("No step failed") if untried else _tr("All is well")
        self._verdict.set_look(Look("danger", "error", words) if failed else Look("ok", "check-circle", good))
        self._first.setText("")
        for step in reply.steps:
            if state_of(step) == "failed":
                place = f"{carrier_name(step.carrier)}, {step.name}" if step.carrier else step.name
                next_step = "\n" + _tr("Next: {0}").format(step.next_step) if step.next_step else ""
                self._first.setText(f"{place}: {step.detail}{next_step}")
                break
        self._first.setVisible(bool(self._first.text()))
        row, last = 0, None
        for step in reply.steps:
            if step.carrier != last:
                heading = label(carrier_name(step.carrier) if step.carrier else _tr("In general"), "strong")
                if last is not None:
                    heading.setContentsMargins(0, GRID, 0, 0)
                self._grid.addWidget(heading, row, 0, 1, 3)
                row, last = row + 1, step.carrier
            row = self._step(step, row)
        self.show()

    def _step(self, step: pb.CheckStep, row: int) -> int:
        top = Qt.AlignmentFlag.AlignTop
        self._grid.addWidget(StatusBadge(self._theme, "step", state_of(step)), row, 0, top)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(label(f"{step.name[:1].upper()}{step.name[1:]}"))
        if step.detail:
            words.addWidget(label(step.detail, "caption", wrap=True, selectable=True))
        if step.next_step and state_of(step) == "failed":
            words.addWidget(label(_tr("Next: {0}").format(step.next_step), wrap=True, selectable=True))
        self._grid.addLayout(words, row, 1, top)
        took = label(f"{step.ms:.0f} ms" if step.ms >= 0.5 else "", "caption")
        self._grid.addWidget(took, row, 2, top | Qt.AlignmentFlag.AlignRight)
        return row + 1


def state_of(step: pb.CheckStep) -> str:
    return step.state or ("ok" if step.ok else "failed")


def _table(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
