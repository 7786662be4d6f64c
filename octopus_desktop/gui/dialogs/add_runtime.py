"""The dialog that registers a Python environment: choose it, see what is in it as it is found, name it. And the one
that only looks at one.
"""

from __future__ import annotations

import re
from pathlib import Path

from PySide6.QtCore import Qt, QTimer
from PySide6.QtWidgets import QFileDialog, QHBoxLayout, QLineEdit, QWidget

from octopus_desktop.gui.client import Subscription
from octopus_desktop.gui.context import Context
from octopus_desktop.gui.dialogs.form import FormDialog
from octopus_desktop.gui.theme import GRID
from octopus_desktop.gui.widgets.parts import button, scroll
from octopus_desktop.gui.widgets.steps import StepLines
from octopus_desktop.wire.errors import UserError
from octopus_desktop.wire.pb import local_pb2 as pb

LOOK_DELAY_MS = 500
NEEDED = ("Python", "torch", "training")  # without these nothing can train in it
LINES_PX = 300


class LookDialog(FormDialog):
    """Shows what is in an environment, line by line. ``look`` begins; a look that goes on ends with the dialog."""

    def __init__(self, context: Context, parent: QWidget, title: str, text: str, act: str) -> None:
        super().__init__(context.theme, parent, title, text, act)
        self._context = context
        self._looking: Subscription | None = None
        self.setMinimumWidth(640)
        self.lines = StepLines(context.theme)
        area = scroll(self.lines)
        area.setMinimumHeight(LINES_PX)
        self.body.addWidget(area, 1)
        self.finished.connect(lambda _code: self._stop())

    def look(self, path: str = "", runtime_id: str = "") -> None:
        """Look at the environment at ``path``, a registered one, or with neither the built-in one."""
        self._stop()
        self.lines.begin()
        self.problem.tell(None)
        self._looking = self._context.client.stream(
            "Runtimes.Look",
            pb.LookRuntimeRequest(path=path, id=runtime_id),
            self._on_step,
            self._on_ended,
            owner=self,
        )
        self._judge()

    def _stop(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self.lines.end()

    def _on_step(self, step: pb.CheckStep) -> None:
        self.lines.add(step)
        self._judge()

    def _on_ended(self, error: UserError | None) -> None:
        self.lines.end()
        if error is not None:
            self.tell(error)
        self._judge()

    def _judge(self) -> None:
        """Something was found."""


class LookAtBuiltIn(LookDialog):
    """What is in the environment that comes with Octopus Desktop."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        text = parent.tr("Jobs train in it unless another one is chosen at the approval.")
        super().__init__(context, parent, parent.tr("The built-in environment"), text, parent.tr("Close"))
        self.cancel.hide()
        self.look()


class AddRuntime(LookDialog):
    """Looks while one types; nothing is registered before the last button."""

    def __init__(self, context: Context, parent: QWidget) -> None:
        tr = parent.tr
        super().__init__(
            context,
            parent,
            tr("Add a Python environment"),
            tr(
                "Jobs that need packages beside PyTorch can train in it. It stays as it is: nothing is installed into "
                "it, and you answer for what is in it."
            ),
            tr("Add"),
        )
        self.path, self.name = QLineEdit(), QLineEdit()
        self.path.setPlaceholderText(tr("Folder of a virtual environment, or its Python"))
        self.name.setPlaceholderText(tr("The name by which it is chosen at an approval"))
        where = QHBoxLayout()
        where.setSpacing(GRID)
        where.addWidget(self.path, 1)
        folder = button(context.theme, tr("Folder…"), lambda: self._choose(QFileDialog.FileMode.Directory))
        python = button(context.theme, tr("Python…"), lambda: self._choose(QFileDialog.FileMode.ExistingFile))
        where.addWidget(folder)
        where.addWidget(python)
        self.form.addRow(tr("&Where"), where)
        self.form.addRow(tr("&Name"), self.name)
        self.form.labelForField(where).setBuddy(self.path)  # type: ignore[attr-defined]
        self._timer = QTimer(self, singleShot=True, interval=LOOK_DELAY_MS)
        self._timer.timeout.connect(self._on_typed)
        self.path.textChanged.connect(lambda _text: self._on_edited())
        self.name.textChanged.connect(lambda _text: self._judge())
        self._named = ""  # the name that was proposed; another one is the person's own
        self._judge()

    def _on_edited(self) -> None:
        self._stop()
        self.lines.clear()
        self.problem.tell(None)
        self._timer.start()
        self._judge()

    def _on_typed(self) -> None:
        path = self.path.text().strip()
        if path:
            self.look(path)

    def _judge(self) -> None:
        able = all(self.lines.state(name) == "ok" for name in NEEDED)
        if able and self.name.text() == self._named:
            self._named = proposed(self.path.text().strip())
            self.name.setText(self._named)
        self.act.setEnabled(able and not self.lines.is_busy and bool(self.name.text().strip()))

    def _on_act(self) -> None:
        self.problem.tell(None)
        self.set_busy(self.tr("Registering…"))
        request = pb.AddRuntimeRequest(name=self.name.text().strip(), path=self.path.text().strip())
        self._context.client.call("Runtimes.Add", request, self._on_added, self.tell, owner=self)

    def _on_added(self, made: pb.Runtime) -> None:
        self._context.toast("ok", self.tr("Jobs can train in “{0}” now").format(made.name))
        self.accept()

    def _choose(self, mode: QFileDialog.FileMode) -> None:
        chooser = QFileDialog(self, self.tr("Choose the Python environment"))
        chooser.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        chooser.setFileMode(mode)
        chooser.setOption(QFileDialog.Option.DontResolveSymlinks)  # a link is how an environment knows where it belongs
        chooser.fileSelected.connect(self.path.setText)
        chooser.open()


def proposed(path: str) -> str:
    """A name for an environment, from where it lies: that of its folder."""
    place = Path(path)
    if place.name.startswith("python") and place.parent.name in ("bin", "Scripts"):
        place = place.parent.parent
    name = place.parent.name if place.name in (".venv", "venv", "env") else place.name
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:64]
