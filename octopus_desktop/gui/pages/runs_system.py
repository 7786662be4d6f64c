"""A run's System: how busy the machines are that it may train on, and how its bytes move, while the window looks."""

from __future__ import annotations

import json
import time

from PySide6.QtCore import QTimer
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QGridLayout, QStackedWidget, QVBoxLayout, QWidget

from octopus_desktop.gui.context import Context
from octopus_desktop.gui.models.load import LoadHistory
from octopus_desktop.gui.models.store import ACTIVE_RUNS
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets import formats
from octopus_desktop.gui.widgets.parts import Card, EmptyState, label, scroll
from octopus_desktop.gui.widgets.spark import Spark
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.pb import local_pb2 as pb

SHOW_MS = 1000
SPARK_PX = 176  # at least, each
HOTTEST_C = 110.0


class SystemTab(QWidget):
    """Attributes: ``history``: what was seen so far; ``cards``: by the node's id, and "" for the run's own."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._context = context
        self._run = pb.Run()
        self.history = LoadHistory()
        self.cards: dict[str, _Machine] = {}
        self._stack = QStackedWidget()
        self._stack.addWidget(
            EmptyState(
                context.theme,
                "nodes",
                self.tr("No machine is registered"),
                self.tr("Load, memory and temperature of the machines that train appear here."),
                self.tr("Go to Nodes"),
                lambda: context.open("page", "nodes"),
            )
        )
        content = QWidget()
        self._column = QVBoxLayout(content)
        self._column.setContentsMargins(0, GRID, GRID, GRID)
        self._column.setSpacing(2 * GRID)
        self._told = label("", "caption", wrap=True)
        self._column.addWidget(self._told)
        self._column.addStretch(1)
        self._stack.addWidget(scroll(content))
        outer = QVBoxLayout(self)
        outer.setContentsMargins(0, 0, 0, 0)
        outer.addWidget(self._stack)
        self._soon = QTimer(self, singleShot=True, interval=SHOW_MS)
        self._soon.timeout.connect(self.show_now)
        store = context.store
        store.changed.connect(self._on_changed)
        store.removed.connect(lambda kind, _id: self.show_now() if kind == "node" else None)
        store.reset.connect(self._on_reset)
        self._on_reset()

    def set_run(self, run: pb.Run) -> None:
        other = run.id != self._run.id
        self._run = run
        if other:
            self.show_now()

    def show_now(self) -> None:
        """Bring the cards up to date with the store and the history."""
        nodes = self.nodes() if self._run.id else []
        self._stack.setCurrentIndex(1 if nodes else 0)
        wanted = ["", *(node.id for node in nodes)] if nodes else []
        for key in [key for key in self.cards if key not in wanted]:
            card = self.cards.pop(key)
            self._column.removeWidget(card)
            card.hide()
            card.deleteLater()
        for place, key in enumerate(wanted):
            if key not in self.cards:
                self.cards[key] = _Machine(self._context)
                self._column.insertWidget(1 + place, self.cards[key])
        if nodes:
            self.cards[""].show_run(self._run, self.history)
        for node in nodes:
            self.cards[node.id].show_node(node, self.history)
        active = self._run.state in ACTIVE_RUNS
        now = self.tr("What these machines do now, for this run and for others.")
        self._told.setText(
            now if active else self.tr("The run is over: this is what its machines do now, not what they did for it.")
        )

    def nodes(self) -> list[pb.Node]:
        """The machines that the approval names, else this one; those that are asking are none yet."""
        try:
            named = json.loads(self._run.conditions_json or "{}").get("nodes") or []
        except (ValueError, AttributeError):
            named = []
        every = [node for node in self._context.store.nodes.values() if node.state != "asking"]
        found = [node for node in every if node.id in named] if named else [node for node in every if node.local]
        return sorted(found, key=lambda node: (not node.local, node.name))

    def _on_reset(self) -> None:
        now = time.time()
        for node in self._context.store.nodes.values():
            self.history.node(node, node.seen_at or now)
        for run in self._context.store.runs.values():
            if run.state in ACTIVE_RUNS:
                self.history.run(run, now)
        self.show_now()

    def _on_changed(self, kind: str, item_id: str) -> None:
        now = time.time()
        if kind == "node":
            node = self._context.store.nodes[item_id]
            self.history.node(node, node.seen_at or now)
        elif kind == "run":
            self.history.run(self._context.store.runs[item_id], now)
        else:
            return
        if self.isVisible() and not self._soon.isActive():
            self._soon.start()

    def showEvent(self, event: object) -> None:
        super().showEvent(event)  # type: ignore[arg-type]
        self.show_now()


class _Machine(Card):
    """One machine, or the run's own traffic: a heading and its sparks, as many beside each other as there is room."""

    def __init__(self, context: Context) -> None:
        super().__init__(" ")
        self.sparks: dict[str, Spark] = {}
        self._badge = StatusBadge(context.theme)
        self.tools.addWidget(self._badge)
        self._facts = label("", "caption", wrap=True)
        self.body.addWidget(self._facts)
        self._grid = QGridLayout()
        self._grid.setHorizontalSpacing(2 * GRID)
        self._grid.setVerticalSpacing(2 * GRID)
        self.body.addLayout(self._grid)
        self._across = 0

    def show_run(self, run: pb.Run, history: LoadHistory) -> None:
        self._head(self.tr("Traffic of this run"), "")
        self._badge.hide()
        total = self.tr("{0} sent and {1} received so far")
        self._facts.setText(total.format(formats.size(run.bytes_out), formats.size(run.bytes_in)))
        rate = self.tr("{0}/s")
        for key, name in (("out", self.tr("Sent")), ("in", self.tr("Received"))):
            self._spark(key, name, lambda v: rate.format(formats.size(v))).show_track(history.track(run.id, key))
        self._arrange()

    def show_node(self, node: pb.Node, history: LoadHistory) -> None:
        tr = self.tr
        self._head(node.name, tr("this machine") if node.local else "")
        self._badge.set_state("node", node.state)
        facts = [
            node.cpu_model,
            tr("CPUs: {0}").format(node.cpu_count),
            tr("workers: {0}").format(node.workers_running),
        ]
        self._facts.setText(" · ".join(fact for fact in (*facts, node.fault) if fact))
        away = node.state == "offline"
        used = f"{formats.size(node.ram_used)} / {formats.size(node.ram_total)}"
        free = tr("{0} free").format(formats.size(node.disk_free))
        rows = [("cpu", tr("Processors"), 1.0, ""), ("ram", tr("Memory"), 1.0, used), ("disk", tr("Disk"), 1.0, free)]
        for gpu in node.gpus:
            name, memory = f"GPU {gpu.index}", f"{formats.size(gpu.memory_used)} / {formats.size(gpu.memory_total)}"
            rows += [
                (f"gpu {gpu.index} load", tr("{0} load").format(name), 1.0, ""),
                (f"gpu {gpu.index} memory", tr("{0} memory").format(name), 1.0, memory),
                (f"gpu {gpu.index} temperature", tr("{0} temperature").format(name), HOTTEST_C,
                 f"{gpu.temperature_c:.0f} °C"),
                (f"gpu {gpu.index} power", tr("{0} power").format(name), 0.0, f"{gpu.power_w:.0f} W"),
            ]  # fmt: skip
        for key, name, most, said in rows:
            spark = self._spark(key, name, formats.percent, most)
            spark.show_track(history.track(node.id, key), formats.DASH if away else said)
        self._arrange()

    def _head(self, name: str, more: str) -> None:
        if self.title is not None:
            self.title.setText(f"{name} · {more}" if more else name)

    def _spark(self, key: str, name: str, words: object, most: float = 0.0) -> Spark:
        if key not in self.sparks:
            self.sparks[key] = Spark(name, words, most)  # type: ignore[arg-type]
            self._across = 0
        return self.sparks[key]

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        across = max(1, min(4, (self.width() - 4 * GRID) // (SPARK_PX + 2 * GRID)))
        if across == self._across or not self.sparks:
            return
        self._across = across
        first = [key for key in self.sparks if not key.startswith("gpu ")]
        rows = [first[at : at + across] for at in range(0, len(first), across)]
        rest = [key for key in self.sparks if key.startswith("gpu ")]
        rows += [rest[at : at + across] for at in range(0, len(rest), across)]
        for row, keys in enumerate(rows):
            for column, key in enumerate(keys):
                self._grid.addWidget(self.sparks[key], row, column)
        for column in range(4):
            self._grid.setColumnStretch(column, 1 if column < across else 0)
