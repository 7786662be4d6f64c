"""The steps of a check, line by line as they come: what was looked at, what was found, and what to do about it."""

from __future__ import annotations

from PySide6.QtCore import QCoreApplication, Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QHBoxLayout, QProgressBar, QSizePolicy, QVBoxLayout, QWidget

from octopus_desktop.gui.theme import GRID, Theme
from octopus_desktop.gui.widgets.carriers import state_of
from octopus_desktop.gui.widgets.parts import label, tool_button
from octopus_desktop.gui.widgets.status import StatusBadge
from octopus_desktop.wire.pb import local_pb2 as pb


class StepLines(QWidget):
    """Attributes: ``steps``: those that have come, ``is_busy``: more are to come."""

    def __init__(self, theme: Theme) -> None:
        super().__init__()
        self._theme = theme
        self.steps: list[pb.CheckStep] = []
        self.is_busy = False
        self._lines = QVBoxLayout()
        self._lines.setSpacing(GRID)
        self._bar = QProgressBar(maximum=0, textVisible=False)
        self._bar.setAccessibleName(self.tr("Looking"))
        self._bar.hide()
        column = QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(GRID)
        column.addLayout(self._lines)
        column.addWidget(self._bar)
        column.addStretch(1)

    def begin(self) -> None:
        """Forget what was found before; lines are about to come."""
        self.clear()
        self.is_busy = True
        self._bar.show()

    def clear(self) -> None:
        self.steps, self.is_busy = [], False
        while (item := self._lines.takeAt(0)) is not None:
            if (widget := item.widget()) is not None:
                widget.hide()
                widget.deleteLater()
        self._bar.hide()

    def add(self, step: pb.CheckStep) -> None:
        self.steps.append(step)
        self._lines.addWidget(self._line(step))

    def end(self) -> None:
        self.is_busy = False
        self._bar.hide()

    def state(self, name: str) -> str:
        """A step's state, "" while it has not come."""
        return next((state_of(step) for step in self.steps if step.name == name), "")

    def _line(self, step: pb.CheckStep) -> QWidget:
        line = QWidget()
        row = QHBoxLayout(line)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(GRID)
        badge = StatusBadge(self._theme, "step", state_of(step))
        badge.setMinimumWidth(88)
        row.addWidget(badge, 0, Qt.AlignmentFlag.AlignTop)
        words = QVBoxLayout()
        words.setSpacing(0)
        words.addWidget(label(step_title(step.name), "strong", wrap=True))
        if step.detail:
            words.addWidget(label(step.detail, "muted", wrap=True, selectable=True))
        row.addLayout(words, 1)
        line.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        if step.next_step and state_of(step) == "failed":
            words.addWidget(label(self.tr("Next: {0}").format(step.next_step), wrap=True, selectable=True))
            name = self.tr("Copy what to do next")
            copied = tool_button(self._theme, "copy", name, lambda: QGuiApplication.clipboard().setText(step.next_step))
            row.addWidget(copied, 0, Qt.AlignmentFlag.AlignTop)
        line.setAccessibleName(f"{step_title(step.name)}: {step.detail}")
        return line


def step_title(name: str) -> str:
    """A step's name as a heading; a job's name stays as it is."""
    known = {
        "Python": QCoreApplication.translate("steps", "Python"),
        "packages": QCoreApplication.translate("steps", "Packages"),
        "torch": QCoreApplication.translate("steps", "PyTorch and GPUs"),
        "training": QCoreApplication.translate("steps", "Training part of Octopus Desktop"),
    }
    return known.get(name) or QCoreApplication.translate("steps", "For the waiting job {0}").format(name)
