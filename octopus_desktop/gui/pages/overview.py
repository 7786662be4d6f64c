"""Overview: is all well, what needs me? Health, decisions, running runs, load, the last events."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from PySide6.QtCore import QEvent, QTimer
from PySide6.QtGui import QShowEvent
from PySide6.QtWidgets import QGridLayout, QHBoxLayout, QLabel, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.names import action_words, detail_of, subject_name
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, ElidedLabel, Figure, PageHeader, button, label, page_layout, scroll
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.pb import local_pb2 as pb

REFRESH_MS = 200
CERTIFICATE_SOON_S = 14 * 86_400
SHOWN_WAITING, SHOWN_RUNS, SHOWN_NODES, SHOWN_EVENTS = 4, 5, 4, 10


class OverviewPage(QWidget):
    """Repaints at most five times a second, and only while it is seen."""

    icon = "overview"

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self.title = self.tr("Overview")
        column = page_layout(self)
        self._header = PageHeader(self.title, "")
        column.addWidget(self._header)
        self._figures = {
            "waiting": Figure(self.tr("WAITING FOR YOU")),
            "running": Figure(self.tr("RUNNING")),
            "out": Figure(self.tr("LEFT TODAY")),
            "links": Figure(self.tr("FEDERATIONS")),
        }
        figures = QHBoxLayout()
        figures.setSpacing(2 * GRID)
        for figure in self._figures.values():
            figures.addWidget(figure, 1)
        column.addLayout(figures)
        body = QWidget()
        grid = QGridLayout(body)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(2 * GRID)
        grid.setColumnStretch(0, 3)
        grid.setColumnStretch(1, 2)
        left, right = QVBoxLayout(), QVBoxLayout()
        for side in (left, right):
            side.setSpacing(2 * GRID)
        grid.addLayout(left, 0, 0)
        grid.addLayout(right, 0, 1)
        self._problems = _Lines(self.tr("Needs attention"), lambda: _ProblemLine(context), "")
        self._waiting = _Lines(
            self.tr("Waiting for your decision"),
            lambda: _OfferLine(context),
            self.tr(
                "Nothing waits. A job that a federation offers appears here, and nothing of it runs before you approve."
            ),
        )
        self._runs = _Lines(
            self.tr("Running now"), lambda: _RunLine(context), self.tr("No run is active. Approved jobs train here.")
        )
        self._nodes = _Lines(
            self.tr("Nodes"), lambda: _NodeLine(context), self.tr("No machine is registered yet: see the page Nodes.")
        )
        self._events = _Lines(self.tr("Last events"), lambda: _EventLine(context), self.tr("Nothing has happened yet."))
        self._steps = _Lines(self.tr("Next steps"), lambda: _StepLine(context), "")
        for card in (self._steps, self._waiting, self._runs, self._events):
            left.addWidget(card)
        left.addStretch(1)
        for card in (self._problems, self._nodes):
            right.addWidget(card)
        right.addStretch(1)
        column.addWidget(scroll(body), 1)
        self._soon = QTimer(self)
        self._soon.setSingleShot(True)
        self._soon.setInterval(REFRESH_MS)
        self._soon.timeout.connect(self.refresh)
        store = context.store
        for signal in (
            store.reset,
            store.changed,
            store.removed,
            context.client.connected,
            context.client.disconnected,
        ):
            signal.connect(self._on_changed)
        self.refresh()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self.refresh()

    def refresh(self) -> None:
        """Show the store as it is now."""
        store, client = self._context.store, self._context.client
        waiting, active = store.waiting(), store.active_runs()
        daemon = store.daemon
        if not store.loaded:
            self._header.set_subtitle(self.tr("Waiting for the daemon"))
        elif not daemon.configured:
            self._header.set_subtitle(self.tr("This silo is not set up yet"))
        else:
            self._header.set_subtitle(f"{daemon.organisation} · {daemon.administrator}")
        oldest = (
            self.tr("oldest {0}").format(formats.age(waiting[0].received_at)) if waiting else self.tr("all decided")
        )
        self._figures["waiting"].set_value(str(len(waiting)), oldest, "warning" if waiting else "")
        paused = sum(run.state == "paused" for run in active)
        self._figures["running"].set_value(
            str(len(active) - paused), self.tr("{0} paused").format(paused) if paused else self.tr("none paused")
        )
        whole = sum(federation.bytes_out for federation in store.federations.values())
        self._figures["out"].set_value(
            formats.size(daemon.bytes_out_today), self.tr("{0} in all").format(formats.size(whole))
        )
        up = sum(federation.link == "up" for federation in store.federations.values())
        count = len(store.federations)
        self._figures["links"].set_value(
            f"{up} / {count}" if count else "0",
            (self.tr("all connected") if up == count else self.tr("{0} away").format(count - up))
            if count
            else self.tr("not enrolled yet"),
            "warning" if up < count else "",
        )
        self._steps.set_items(next_steps(self._context))
        self._steps.setVisible(self._steps.count > 0)
        self._problems.set_items(problems(self._context) if client.is_connected else [])
        self._problems.setVisible(self._problems.count > 0)
        self._waiting.set_items(waiting[:SHOWN_WAITING])
        self._runs.set_items(active[:SHOWN_RUNS])
        self._nodes.set_items(sorted(store.nodes.values(), key=lambda n: (not n.local, n.name))[:SHOWN_NODES])
        self._events.set_items(list(reversed(store.audit_tail))[:SHOWN_EVENTS])

    def _on_changed(self, *_what: object) -> None:
        if self.isVisible() and not self._soon.isActive():
            self._soon.start()

    def event(self, event: QEvent) -> bool:
        if event.type() == QEvent.Type.WindowActivate:
            self._on_changed()
        return super().event(event)


def problems(context: Context) -> list[tuple[str, str, str, str, str]]:
    """What is not in order: (tone, text, detail, kind, id)."""
    tr, store, found = context.client.tr, context.store, []
    now = time.time()
    for federation in store.federations.values():
        if federation.link in ("down", "revoked"):
            text = (
                tr("{0} is away").format(federation.name)
                if federation.link == "down"
                else tr("{0} has revoked our certificate").format(federation.name)
            )
            found.append(("warning", text, federation.error, "federation", federation.id))
        left = federation.certificate_expires - now
        if federation.certificate_expires and federation.link not in ("left", "revoked") and left < CERTIFICATE_SOON_S:
            text = tr("Our certificate at {0} expires {1}").format(
                federation.name, formats.until(federation.certificate_expires)
            )
            found.append(("warning", text, tr("Renew it on the page Federations."), "federation", federation.id))
    for dataset in store.datasets.values():
        if dataset.state != "ok":
            words = {"missing": tr("is missing"), "changed": tr("has changed")}.get(dataset.state, tr("is unreadable"))
            tone = "warning" if dataset.state == "changed" else "danger"
            found.append((tone, f"{dataset.alias} {words}", dataset.error, "dataset", dataset.id))
    for node in store.nodes.values():
        if node.state == "offline":
            text = tr("{0} is offline").format(node.name)
            found.append(("warning", text, tr("seen {0}").format(formats.age(node.seen_at)), "node", node.id))
    return found


def next_steps(context: Context) -> list[tuple[str, str, str]]:
    """What a new silo still lacks: (text, button, command id)."""
    store, tr = context.store, context.client.tr
    if not store.loaded:
        return []
    if not store.daemon.configured:
        return [(tr("Name your organisation and make your key."), tr("Set up…"), "setup")]
    steps = []
    if not store.nodes:
        steps.append((tr("Register this machine, so that jobs can train on it."), tr("Register…"), "node register"))
    if not store.datasets:
        steps.append((tr("Register a dataset that jobs may ask for."), tr("Register…"), "dataset register"))
    if not store.federations:
        steps.append((tr("Enrol in a federation with its invitation."), tr("Enrol…"), "federation enrol"))
    return steps


class _Lines(Card):
    """A card with one line widget per item; the widgets are reused, so that nothing flickers."""

    def __init__(self, title: str, make: Callable[[], Any], empty: str) -> None:
        super().__init__(title, spacing=GRID + GRID // 2)
        self._make, self._lines = make, list[Any]()
        self._empty = label(empty, "muted", wrap=True)
        self.body.addWidget(self._empty)

    @property
    def count(self) -> int:
        return sum(not line.isHidden() for line in self._lines)

    def set_items(self, items: Sequence[Any]) -> None:
        while len(self._lines) < len(items):
            line = self._make()
            self._lines.append(line)
            self.body.addWidget(line)
        for at, line in enumerate(self._lines):
            line.setVisible(at < len(items))
            if at < len(items):
                line.set_item(items[at])
        self._empty.setVisible(not items)


class _Line(QWidget):
    def __init__(self) -> None:
        super().__init__()
        self.row = QHBoxLayout(self)
        self.row.setContentsMargins(0, 0, 0, 0)
        self.row.setSpacing(GRID + GRID // 2)


class _StepLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._command = ""
        self._text = label("", wrap=True)
        self._button = button(context.theme, "", lambda: context.commands.run(self._command), kind="primary")
        self.row.addWidget(self._text, 1)
        self.row.addWidget(self._button)

    def set_item(self, item: tuple[str, str, str]) -> None:
        text, act, self._command = item
        self._text.setText(text)
        self._button.setText(act)


class _ProblemLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context, self._target = context, ("", "")
        self._picture = QLabel()
        self._text = ElidedLabel("", "strong")
        self._detail = ElidedLabel("", "muted")
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._text)
        words.addWidget(self._detail)
        self.row.addWidget(self._picture)
        self.row.addLayout(words, 1)
        self.row.addWidget(button(context.theme, self.tr("Show"), lambda: context.open(*self._target)))

    def set_item(self, item: tuple[str, str, str, str, str]) -> None:
        tone, text, detail, kind, item_id = item
        self._target = (kind, item_id)
        self._context.theme.bind_pixmap(self._picture, "error" if tone == "danger" else "alert", 20, tone)
        self._text.set_text(text)
        self._detail.set_text(detail)


class _OfferLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._id = ""
        self._name = ElidedLabel("", "strong")
        self._purpose = ElidedLabel("", "muted")
        self._age = label("", "caption")
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(self._name)
        words.addWidget(self._purpose)
        self.row.addLayout(words, 1)
        self.row.addWidget(self._age)
        self.row.addWidget(
            button(context.theme, self.tr("Review"), lambda: context.open("offer", self._id), kind="primary")
        )

    def set_item(self, offer: pb.SiloOffer) -> None:
        self._id = offer.id
        asked = offer.offer
        self._name.set_text(f"{asked.job_name} {asked.job_version} · {asked.federation}")
        self._purpose.set_text(asked.purpose or asked.author)
        expires = formats.until(asked.expires_at)
        self._age.setText(self.tr("expires {0}").format(expires) if asked.expires_at else "")


class _RunLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._id = ""
        self._name = button(context.theme, "", lambda: context.open("run", self._id), kind="link")
        self._badge = StatusBadge(context.theme)
        self._round = label("")
        self._bar = QProgressBar()
        self._bar.setTextVisible(False)
        self._bar.setRange(0, 1000)
        self._metrics = ElidedLabel("", "muted")
        words = QVBoxLayout()
        words.setSpacing(GRID // 2)
        top = QHBoxLayout()
        top.setSpacing(GRID)
        top.addWidget(self._name)
        top.addWidget(self._badge)
        top.addStretch(1)
        top.addWidget(self._round)
        words.addLayout(top)
        words.addWidget(self._bar)
        words.addWidget(self._metrics)
        self.row.addLayout(words, 1)

    def set_item(self, run: pb.Run) -> None:
        self._id = run.id
        self._name.setText(f"{run.job_name} {run.job_version}")
        self._badge.set_state("run", run.state)
        self._round.setText(self.tr("Round {0} of {1}").format(run.round, run.rounds))
        done = (max(0, run.round - 1) + run.fraction) / run.rounds if run.rounds else 0.0
        self._bar.setValue(round(1000 * done))
        self._bar.setAccessibleName(self.tr("Progress of {0}").format(run.job_name))
        parts = [f"{name.split('/')[-1]} {formats.number(value)}" for name, value in sorted(run.metrics.items())[:3]]
        if run.eta_s:
            parts.append(self.tr("about {0} left").format(formats.duration(run.eta_s)))
        parts.append(self.tr("{0} of {1} silos").format(len(run.silos_present), len(run.silos)))
        self._metrics.set_text(" · ".join(parts))


class _NodeLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._id = ""
        self._name = button(context.theme, "", lambda: context.open("node", self._id), kind="link")
        self._badge = StatusBadge(context.theme)
        self._bars = []
        words = QVBoxLayout()
        words.setSpacing(GRID // 2)
        top = QHBoxLayout()
        top.addWidget(self._name)
        top.addStretch(1)
        top.addWidget(self._badge)
        words.addLayout(top)
        bars = QGridLayout()
        bars.setHorizontalSpacing(GRID)
        bars.setVerticalSpacing(2)
        for at, name in enumerate((self.tr("CPU"), self.tr("RAM"), self.tr("GPU"))):
            bar = QProgressBar()
            bar.setTextVisible(False)
            bar.setRange(0, 100)
            bar.setMinimumWidth(24)
            bar.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
            value = label("", "caption")
            bars.addWidget(label(name, "caption"), 0, 3 * at)
            bars.addWidget(bar, 0, 3 * at + 1)
            bars.addWidget(value, 0, 3 * at + 2)
            bars.setColumnStretch(3 * at + 1, 1)
            bars.setColumnMinimumWidth(3 * at + 2, 40)
            bar.setAccessibleName(name)
            self._bars.append((bar, value))
        words.addLayout(bars)
        self.row.addLayout(words, 1)

    def set_item(self, node: pb.Node) -> None:
        self._id = node.id
        self._name.setText(node.name)
        self._badge.set_state("node", node.state)
        offline = node.state == "offline"
        gpu = sum(g.utilisation for g in node.gpus) / len(node.gpus) if node.gpus else None
        ram = node.ram_used / node.ram_total if node.ram_total else None
        for (bar, value), share in zip(self._bars, (node.cpu_load, ram, gpu), strict=True):
            known = share is not None and not offline
            bar.setValue(round(100 * share) if known and share is not None else 0)
            value.setText(formats.percent(share) if known and share is not None else formats.DASH)


class _EventLine(_Line):
    def __init__(self, context: Context) -> None:
        super().__init__()
        self._store = context.store
        self.row.setSpacing(GRID)
        self._at = label("", "caption")
        self._at.setFixedWidth(104)
        self._text = ElidedLabel("")
        self.row.addWidget(self._at)
        self.row.addWidget(self._text, 1)

    def set_item(self, entry: pb.AuditEntry) -> None:
        self._at.setText(formats.clock(entry.at))
        self._at.setToolTip(formats.instant_utc(entry.at))
        self._text.set_text(f"{subject_name(self._store, entry)}: {action_words(entry)} · {entry.actor}")
        self._text.setToolTip("\n".join(f"{name}: {value}" for name, value in detail_of(entry).items()))
